//! The constants.

use super::{Fact, Layout};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::wire::{blkif, event_channel as evtchn, grant_table as gnttab, xs_wire};

pub(super) fn facts() -> Vec<Fact> {
    let mut facts: Vec<Fact> = [
        blkif_numbers(),
        grant_numbers(),
        event_numbers(),
        store_numbers(),
    ]
    .into_iter()
    .flatten()
    .map(|(c, ours)| Fact::number(Layout::Native, c.to_owned(), ours))
    .collect();
    for (c, ours) in [
        ("XEN_IO_PROTO_ABI_X86_32", blkif::PROTOCOL_X86_32),
        ("XEN_IO_PROTO_ABI_X86_64", blkif::PROTOCOL_X86_64),
        ("XEN_IO_PROTO_ABI_ARM", blkif::PROTOCOL_ARM),
    ] {
        let (c, ours) = (c.to_owned(), ours.to_owned());
        facts.push(Fact {
            layout: Layout::Native,
            c,
            is_text: true,
            ours,
        });
    }
    facts.extend(store_errors());
    facts
}

type Numbers = Vec<(&'static str, i128)>;

fn blkif_numbers() -> Numbers {
    let mut numbers = vec![
        (
            "BLKIF_MAX_SEGMENTS_PER_REQUEST",
            blkif::MAX_SEGMENTS_PER_REQUEST as i128,
        ),
        (
            "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST",
            blkif::MAX_INDIRECT_PAGES_PER_REQUEST as i128,
        ),
        ("BLKIF_DISCARD_SECURE", blkif::DISCARD_SECURE.into()),
        ("VDISK_CDROM", blkif::VDISK_CDROM.into()),
        ("VDISK_REMOVABLE", blkif::VDISK_REMOVABLE.into()),
        ("VDISK_READONLY", blkif::VDISK_READONLY.into()),
    ];
    numbers.extend(blkif::Op::NAMED.iter().map(|(c, op)| (*c, op.0.into())));
    numbers.extend(
        blkif::Status::NAMED
            .iter()
            .map(|(c, status)| (*c, status.0.into())),
    );
    numbers.extend(
        XenbusState::NAMED
            .iter()
            .map(|(c, state)| (*c, state.number().into())),
    );
    numbers
}

fn grant_numbers() -> Numbers {
    let mut numbers = vec![
        (
            "GNTTAB_NR_RESERVED_ENTRIES",
            gnttab::NR_RESERVED_ENTRIES.into(),
        ),
        ("GNTTAB_RESERVED_CONSOLE", gnttab::RESERVED_CONSOLE.into()),
        ("GNTTAB_RESERVED_XENSTORE", gnttab::RESERVED_XENSTORE.into()),
        ("GTF_invalid", gnttab::GTF_INVALID.into()),
        ("GTF_permit_access", gnttab::GTF_PERMIT_ACCESS.into()),
        ("GTF_accept_transfer", gnttab::GTF_ACCEPT_TRANSFER.into()),
        ("GTF_transitive", gnttab::GTF_TRANSITIVE.into()),
        ("GTF_type_mask", gnttab::GTF_TYPE_MASK.into()),
        ("GTF_readonly", gnttab::GTF_READONLY.into()),
        ("GTF_reading", gnttab::GTF_READING.into()),
        ("GTF_writing", gnttab::GTF_WRITING.into()),
        ("GTF_PWT", gnttab::GTF_PWT.into()),
        ("GTF_PCD", gnttab::GTF_PCD.into()),
        ("GTF_PAT", gnttab::GTF_PAT.into()),
        ("GTF_sub_page", gnttab::GTF_SUB_PAGE.into()),
        ("GNTMAP_device_map", gnttab::GNTMAP_DEVICE_MAP.into()),
        ("GNTMAP_host_map", gnttab::GNTMAP_HOST_MAP.into()),
        ("GNTMAP_readonly", gnttab::GNTMAP_READONLY.into()),
        (
            "GNTMAP_application_map",
            gnttab::GNTMAP_APPLICATION_MAP.into(),
        ),
        ("GNTMAP_contains_pte", gnttab::GNTMAP_CONTAINS_PTE.into()),
        ("GNTCOPY_source_gref", gnttab::GNTCOPY_SOURCE_GREF.into()),
        ("GNTCOPY_dest_gref", gnttab::GNTCOPY_DEST_GREF.into()),
    ];
    numbers.extend(gnttab::Op::NAMED.iter().map(|(c, op)| (*c, op.0.into())));
    numbers.extend(
        gnttab::Status::NAMED
            .iter()
            .map(|(c, status)| (*c, status.0.into())),
    );
    numbers
}

fn event_numbers() -> Numbers {
    let mut numbers = vec![
        (
            "EVTCHN_2L_NR_CHANNELS",
            evtchn::TWO_LEVEL_NR_CHANNELS.into(),
        ),
        // The same macro, with the `unsigned long` of a 32-bit domain.
        (
            "sizeof(uint32_t) * sizeof(uint32_t) * 64",
            evtchn::TWO_LEVEL_NR_CHANNELS_32.into(),
        ),
        ("BIND_PIRQ__WILL_SHARE", evtchn::BIND_PIRQ_WILL_SHARE.into()),
        ("EVTCHN_FIFO_PENDING", evtchn::FIFO_PENDING.into()),
        ("EVTCHN_FIFO_MASKED", evtchn::FIFO_MASKED.into()),
        ("EVTCHN_FIFO_LINKED", evtchn::FIFO_LINKED.into()),
        ("EVTCHN_FIFO_BUSY", evtchn::FIFO_BUSY.into()),
        ("EVTCHN_FIFO_LINK_BITS", evtchn::FIFO_LINK_BITS.into()),
        ("EVTCHN_FIFO_LINK_MASK", evtchn::FIFO_LINK_MASK.into()),
        ("EVTCHN_FIFO_NR_CHANNELS", evtchn::FIFO_NR_CHANNELS.into()),
        ("EVTCHN_FIFO_PRIORITY_MAX", evtchn::FIFO_PRIORITY_MAX.into()),
        (
            "EVTCHN_FIFO_PRIORITY_DEFAULT",
            evtchn::FIFO_PRIORITY_DEFAULT.into(),
        ),
        ("EVTCHN_FIFO_PRIORITY_MIN", evtchn::FIFO_PRIORITY_MIN.into()),
        ("EVTCHN_FIFO_MAX_QUEUES", evtchn::FIFO_MAX_QUEUES as i128),
    ];
    numbers.extend(evtchn::Op::NAMED.iter().map(|(c, op)| (*c, op.0.into())));
    numbers.extend(
        evtchn::State::NAMED
            .iter()
            .map(|(c, state)| (*c, state.0.into())),
    );
    numbers
}

fn store_numbers() -> Numbers {
    macro_rules! ops {
        ($($c:literal = $ours:ident),+ $(,)?) => { [$(($c, i128::from(xs_wire::Op::$ours.get()))),+] };
    }
    let ops = ops!(
        "XS_CONTROL" = CONTROL,
        "XS_DIRECTORY" = DIRECTORY,
        "XS_READ" = READ,
        "XS_GET_PERMS" = GET_PERMS,
        "XS_WATCH" = WATCH,
        "XS_UNWATCH" = UNWATCH,
        "XS_TRANSACTION_START" = TRANSACTION_START,
        "XS_TRANSACTION_END" = TRANSACTION_END,
        "XS_INTRODUCE" = INTRODUCE,
        "XS_RELEASE" = RELEASE,
        "XS_GET_DOMAIN_PATH" = GET_DOMAIN_PATH,
        "XS_WRITE" = WRITE,
        "XS_MKDIR" = MKDIR,
        "XS_RM" = RM,
        "XS_SET_PERMS" = SET_PERMS,
        "XS_WATCH_EVENT" = WATCH_EVENT,
        "XS_ERROR" = ERROR,
        "XS_IS_DOMAIN_INTRODUCED" = IS_DOMAIN_INTRODUCED,
        "XS_RESUME" = RESUME,
        "XS_SET_TARGET" = SET_TARGET,
        "XS_RESET_WATCHES" = RESET_WATCHES,
        "XS_DIRECTORY_PART" = DIRECTORY_PART,
        "XS_TYPE_COUNT" = TYPE_COUNT,
        "XS_INVALID" = INVALID,
    );
    let mut numbers = vec![
        ("XENSTORE_RING_SIZE", xs_wire::RING_SIZE as i128),
        ("XENSTORE_PAYLOAD_MAX", xs_wire::PAYLOAD_MAX as i128),
        ("XENSTORE_ABS_PATH_MAX", xs_wire::ABS_PATH_MAX as i128),
        ("XENSTORE_REL_PATH_MAX", xs_wire::REL_PATH_MAX as i128),
        (
            "XENSTORE_SERVER_FEATURE_RECONNECTION",
            xs_wire::FEATURE_RECONNECTION.into(),
        ),
        (
            "XENSTORE_SERVER_FEATURE_ERROR",
            xs_wire::FEATURE_ERROR.into(),
        ),
        ("XENSTORE_CONNECTED", xs_wire::CONNECTED.into()),
        ("XENSTORE_RECONNECT", xs_wire::RECONNECT.into()),
        ("XENSTORE_ERROR_NONE", xs_wire::ERROR_NONE.into()),
        ("XENSTORE_ERROR_COMM", xs_wire::ERROR_COMM.into()),
        ("XENSTORE_ERROR_RINGIDX", xs_wire::ERROR_RINGIDX.into()),
        ("XENSTORE_ERROR_PROTO", xs_wire::ERROR_PROTO.into()),
    ];
    numbers.extend(ops);
    numbers
}

/// The table of error names: the same number of entries, each with its name and number.
fn store_errors() -> Vec<Fact> {
    let count = "sizeof(xsd_errors) / sizeof(xsd_errors[0])".to_owned();
    let ours = xs_wire::Errno::ALL.len() as i128;
    let mut facts = vec![Fact::number(Layout::Native, count, ours)];
    for (place, errno) in xs_wire::Errno::ALL.iter().enumerate() {
        let number = format!("xsd_errors[{place}].errnum");
        facts.push(Fact::number(Layout::Native, number, errno.number().into()));
        let c = format!("xsd_errors[{place}].errstring");
        let ours = errno.name().to_owned();
        facts.push(Fact {
            layout: Layout::Native,
            c,
            is_text: true,
            ours,
        });
    }
    facts
}
