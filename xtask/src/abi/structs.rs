//! The structs: sizes and offsets.

use super::{Fact, Layout};
use ringfence_core::wire::{blkif, event_channel as evtchn, grant_table as gnttab, xs_wire};
use ringfence_ring::layout as ring;
use std::mem::{offset_of, size_of};

/// `OURS = "theirs", layout { field = "their field", … }` for each struct.
macro_rules! structs {
    ($($ours:ty = $c:literal, $layout:ident { $($field:ident = $c_field:literal),+ $(,)? })+) => {
        vec![$(
            Fact::number(Layout::$layout, format!("sizeof({})", $c), size_of::<$ours>() as i128),
            $(Fact::number(
                Layout::$layout,
                format!("offsetof({}, {})", $c, $c_field),
                offset_of!($ours, $field) as i128,
            ),)+
        )+]
    };
}

pub(super) fn facts() -> Vec<Fact> {
    let mut facts = blkif();
    facts.extend(grants());
    facts.extend(events());
    facts.extend(store());
    facts.extend(rings());
    facts
}

fn blkif() -> Vec<Fact> {
    structs! {
        blkif::Segment = "struct blkif_request_segment", Native {
            gref = "gref", first_sect = "first_sect", last_sect = "last_sect",
        }
        blkif::RequestNative = "struct blkif_request", Native {
            operation = "operation", nr_segments = "nr_segments", handle = "handle", id = "id",
            sector_number = "sector_number", seg = "seg",
        }
        blkif::RequestDiscardNative = "struct blkif_request_discard", Native {
            operation = "operation", flag = "flag", handle = "handle", id = "id",
            sector_number = "sector_number", nr_sectors = "nr_sectors",
        }
        blkif::RequestIndirectNative = "struct blkif_request_indirect", Native {
            operation = "operation", indirect_op = "indirect_op", nr_segments = "nr_segments", id = "id",
            sector_number = "sector_number", handle = "handle", indirect_grefs = "indirect_grefs",
        }
        blkif::ResponseNative = "struct blkif_response", Native {
            id = "id", operation = "operation", status = "status",
        }
        blkif::Segment = "struct blkif_request_segment", X86_32 {
            gref = "gref", first_sect = "first_sect", last_sect = "last_sect",
        }
        blkif::RequestX86_32 = "struct blkif_request", X86_32 {
            operation = "operation", nr_segments = "nr_segments", handle = "handle", id = "id",
            sector_number = "sector_number", seg = "seg",
        }
        blkif::RequestDiscardX86_32 = "struct blkif_request_discard", X86_32 {
            operation = "operation", flag = "flag", handle = "handle", id = "id",
            sector_number = "sector_number", nr_sectors = "nr_sectors",
        }
        blkif::RequestIndirectX86_32 = "struct blkif_request_indirect", X86_32 {
            operation = "operation", indirect_op = "indirect_op", nr_segments = "nr_segments", id = "id",
            sector_number = "sector_number", handle = "handle", indirect_grefs = "indirect_grefs",
        }
        blkif::ResponseX86_32 = "struct blkif_response", X86_32 {
            id = "id", operation = "operation", status = "status",
        }
    }
}

fn grants() -> Vec<Fact> {
    structs! {
        gnttab::EntryV1 = "struct grant_entry_v1", Native { flags = "flags", domid = "domid", frame = "frame" }
        gnttab::EntryV2FullPage = "union grant_entry_v2", Native {
            flags = "full_page.hdr.flags", domid = "full_page.hdr.domid", frame = "full_page.frame",
        }
        gnttab::EntryV2SubPage = "union grant_entry_v2", Native {
            flags = "sub_page.hdr.flags", domid = "sub_page.hdr.domid", page_off = "sub_page.page_off",
            length = "sub_page.length", frame = "sub_page.frame",
        }
        gnttab::EntryV2Transitive = "union grant_entry_v2", Native {
            flags = "transitive.hdr.flags", domid = "transitive.hdr.domid",
            trans_domid = "transitive.trans_domid", gref = "transitive.gref",
        }
        gnttab::MapGrantRef = "struct gnttab_map_grant_ref", Native {
            host_addr = "host_addr", flags = "flags", gref = "ref", dom = "dom", status = "status",
            handle = "handle", dev_bus_addr = "dev_bus_addr",
        }
        gnttab::UnmapGrantRef = "struct gnttab_unmap_grant_ref", Native {
            host_addr = "host_addr", dev_bus_addr = "dev_bus_addr", handle = "handle", status = "status",
        }
        gnttab::CopyPtr = "struct gnttab_copy_ptr", Native { frame = "u", domid = "domid", offset = "offset" }
        gnttab::GrantCopy = "struct gnttab_copy", Native {
            source = "source", dest = "dest", len = "len", flags = "flags", status = "status",
        }
        gnttab::QuerySize = "struct gnttab_query_size", Native {
            dom = "dom", nr_frames = "nr_frames", max_nr_frames = "max_nr_frames", status = "status",
        }
        gnttab::GetVersion = "struct gnttab_get_version", Native { dom = "dom", version = "version" }
    }
}

fn events() -> Vec<Fact> {
    structs! {
        evtchn::AllocUnbound = "struct evtchn_alloc_unbound", Native {
            dom = "dom", remote_dom = "remote_dom", port = "port",
        }
        evtchn::BindInterdomain = "struct evtchn_bind_interdomain", Native {
            remote_dom = "remote_dom", remote_port = "remote_port", local_port = "local_port",
        }
        evtchn::BindVirq = "struct evtchn_bind_virq", Native { virq = "virq", vcpu = "vcpu", port = "port" }
        evtchn::BindPirq = "struct evtchn_bind_pirq", Native { pirq = "pirq", flags = "flags", port = "port" }
        evtchn::BindIpi = "struct evtchn_bind_ipi", Native { vcpu = "vcpu", port = "port" }
        evtchn::Port = "struct evtchn_close", Native { port = "port" }
        evtchn::Port = "struct evtchn_send", Native { port = "port" }
        evtchn::Port = "struct evtchn_unmask", Native { port = "port" }
        evtchn::PortStatus = "struct evtchn_status", Native {
            dom = "dom", port = "port", status = "status", vcpu = "vcpu",
            remote_dom = "u.interdomain.dom", remote_port = "u.interdomain.port",
        }
        evtchn::BindVcpu = "struct evtchn_bind_vcpu", Native { port = "port", vcpu = "vcpu" }
        evtchn::InitControl = "struct evtchn_init_control", Native {
            control_gfn = "control_gfn", offset = "offset", vcpu = "vcpu", link_bits = "link_bits", pad = "_pad",
        }
        evtchn::ExpandArray = "struct evtchn_expand_array", Native { array_gfn = "array_gfn" }
        evtchn::SetPriority = "struct evtchn_set_priority", Native { port = "port", priority = "priority" }
        evtchn::FifoControlBlock = "struct evtchn_fifo_control_block", Native {
            ready = "ready", reserved = "_rsvd", head = "head",
        }
    }
}

fn store() -> Vec<Fact> {
    structs! {
        xs_wire::SockMsg = "struct xsd_sockmsg", Native {
            op = "type", req_id = "req_id", tx_id = "tx_id", len = "len",
        }
        xs_wire::DomainInterface = "struct xenstore_domain_interface", Native {
            req = "req", rsp = "rsp", req_cons = "req_cons", req_prod = "req_prod", rsp_cons = "rsp_cons",
            rsp_prod = "rsp_prod", server_features = "server_features", connection = "connection",
            error = "error",
        }
    }
}

fn rings() -> Vec<Fact> {
    let mut facts = Vec::new();
    for (layout, stride) in [
        (Layout::Native, size_of::<blkif::RequestNative>()),
        (Layout::X86_32, size_of::<blkif::RequestX86_32>()),
    ] {
        for (field, ours) in [
            ("req_prod", ring::REQ_PROD),
            ("req_event", ring::REQ_EVENT),
            ("rsp_prod", ring::RSP_PROD),
            ("rsp_event", ring::RSP_EVENT),
            ("pvt", ring::PRIVATE),
            ("ring", ring::HEADER),
        ] {
            let c = format!("offsetof(struct blkif_sring, {field})");
            facts.push(Fact::number(layout, c, ours as i128));
        }
        let c = "sizeof(union blkif_sring_entry)".to_owned();
        facts.push(Fact::number(layout, c, stride as i128));
        for order in 0..=4 {
            let bytes = 4096 << order;
            let c = format!("__CONST_RING_SIZE(blkif, {bytes})");
            let ours = ring::ring_size(bytes, stride).map_or(0, i128::from);
            facts.push(Fact::number(layout, c, ours));
        }
    }
    facts
}
