//! `xen/event_channel.h`: the doorbells between domains.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Ports of the 2-level layout in a 64-bit domain, `EVTCHN_2L_NR_CHANNELS`.
pub const TWO_LEVEL_NR_CHANNELS: u32 = 4096;
/// Ports of the 2-level layout in a 32-bit domain.
pub const TWO_LEVEL_NR_CHANNELS_32: u32 = 1024;

/// Bit of an event word, `EVTCHN_FIFO_PENDING`.
pub const FIFO_PENDING: u32 = 31;
/// Bit of an event word, `EVTCHN_FIFO_MASKED`.
pub const FIFO_MASKED: u32 = 30;
/// Bit of an event word, `EVTCHN_FIFO_LINKED`.
pub const FIFO_LINKED: u32 = 29;
/// Bit of an event word, `EVTCHN_FIFO_BUSY`.
pub const FIFO_BUSY: u32 = 28;
/// Bits of an event word that link to the next port, `EVTCHN_FIFO_LINK_BITS`.
pub const FIFO_LINK_BITS: u32 = 17;
/// `EVTCHN_FIFO_LINK_MASK`.
pub const FIFO_LINK_MASK: u32 = (1 << FIFO_LINK_BITS) - 1;
/// Ports of the FIFO layout, `EVTCHN_FIFO_NR_CHANNELS`.
pub const FIFO_NR_CHANNELS: u32 = 1 << FIFO_LINK_BITS;
/// The most urgent priority, `EVTCHN_FIFO_PRIORITY_MAX`.
pub const FIFO_PRIORITY_MAX: u32 = 0;
/// The priority of a new port, `EVTCHN_FIFO_PRIORITY_DEFAULT`.
pub const FIFO_PRIORITY_DEFAULT: u32 = 7;
/// The least urgent priority, `EVTCHN_FIFO_PRIORITY_MIN`.
pub const FIFO_PRIORITY_MIN: u32 = 15;
/// Queues of a processor, one for each priority, `EVTCHN_FIFO_MAX_QUEUES`.
pub const FIFO_MAX_QUEUES: usize = 16;

/// `BIND_PIRQ__WILL_SHARE`: the interrupt may be shared.
pub const BIND_PIRQ_WILL_SHARE: u32 = 1;

open_enum! {
    /// `EVTCHNOP_*`, the operation of the event channel hypercall.
    Op(u32) {
        /// [`BindInterdomain`].
        BIND_INTERDOMAIN = 0, "EVTCHNOP_bind_interdomain";
        /// [`BindVirq`].
        BIND_VIRQ = 1, "EVTCHNOP_bind_virq";
        /// [`BindPirq`].
        BIND_PIRQ = 2, "EVTCHNOP_bind_pirq";
        /// [`Port`].
        CLOSE = 3, "EVTCHNOP_close";
        /// [`Port`].
        SEND = 4, "EVTCHNOP_send";
        /// [`PortStatus`].
        STATUS = 5, "EVTCHNOP_status";
        /// [`AllocUnbound`].
        ALLOC_UNBOUND = 6, "EVTCHNOP_alloc_unbound";
        /// [`BindIpi`].
        BIND_IPI = 7, "EVTCHNOP_bind_ipi";
        /// [`BindVcpu`].
        BIND_VCPU = 8, "EVTCHNOP_bind_vcpu";
        /// [`Port`].
        UNMASK = 9, "EVTCHNOP_unmask";
        /// Close all of a domain's ports.
        RESET = 10, "EVTCHNOP_reset";
        /// [`InitControl`].
        INIT_CONTROL = 11, "EVTCHNOP_init_control";
        /// [`ExpandArray`].
        EXPAND_ARRAY = 12, "EVTCHNOP_expand_array";
        /// [`SetPriority`].
        SET_PRIORITY = 13, "EVTCHNOP_set_priority";
    }
}

open_enum! {
    /// `EVTCHNSTAT_*`, what a port is.
    State(u32) {
        /// Free.
        CLOSED = 0, "EVTCHNSTAT_closed";
        /// Waiting for the peer to bind; also what it becomes when a bound peer closes.
        UNBOUND = 1, "EVTCHNSTAT_unbound";
        /// Bound to a port of another domain.
        INTERDOMAIN = 2, "EVTCHNSTAT_interdomain";
        /// Bound to a physical interrupt.
        PIRQ = 3, "EVTCHNSTAT_pirq";
        /// Bound to a virtual interrupt.
        VIRQ = 4, "EVTCHNSTAT_virq";
        /// Bound to an interrupt between processors.
        IPI = 5, "EVTCHNSTAT_ipi";
    }
}

impl Default for State {
    fn default() -> Self {
        Self::CLOSED
    }
}

/// `struct evtchn_alloc_unbound`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AllocUnbound {
    /// Whose port it will be.
    pub dom: u16,
    /// Who may bind to it.
    pub remote_dom: u16,
    /// Out: the new port.
    pub port: u32,
}
layout!(AllocUnbound, 8 { dom @ 0, remote_dom @ 2, port @ 4 });

/// `struct evtchn_bind_interdomain`. The new port starts pending: the first event means nothing.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BindInterdomain {
    /// Whose port.
    pub remote_dom: u16,
    /// Padding.
    pub pad: [u8; 2],
    /// The unbound port there.
    pub remote_port: u32,
    /// Out: the new port here.
    pub local_port: u32,
}
layout!(BindInterdomain, 12 { remote_dom @ 0, remote_port @ 4, local_port @ 8 });

/// `struct evtchn_bind_virq`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BindVirq {
    /// `VIRQ_*` of `xen/xen.h`.
    pub virq: u32,
    /// The processor.
    pub vcpu: u32,
    /// Out: the new port.
    pub port: u32,
}
layout!(BindVirq, 12 { virq @ 0, vcpu @ 4, port @ 8 });

/// `struct evtchn_bind_pirq`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BindPirq {
    /// The interrupt.
    pub pirq: u32,
    /// 0 or [`BIND_PIRQ_WILL_SHARE`].
    pub flags: u32,
    /// Out: the new port.
    pub port: u32,
}
layout!(BindPirq, 12 { pirq @ 0, flags @ 4, port @ 8 });

/// `struct evtchn_bind_ipi`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BindIpi {
    /// The processor.
    pub vcpu: u32,
    /// Out: the new port.
    pub port: u32,
}
layout!(BindIpi, 8 { vcpu @ 0, port @ 4 });

/// `struct evtchn_close`, `evtchn_send` and `evtchn_unmask`, which are the same.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Port {
    /// The port.
    pub port: u32,
}
layout!(Port, 4 { port @ 0 });

/// `struct evtchn_status`; its union as in `interdomain`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PortStatus {
    /// Whose port.
    pub dom: u16,
    /// Padding.
    pub pad: [u8; 2],
    /// The port.
    pub port: u32,
    /// Out: what it is.
    pub status: State,
    /// Out: the processor it interrupts.
    pub vcpu: u32,
    /// Out, unbound and interdomain: the peer.
    pub remote_dom: u16,
    /// Padding.
    pub pad2: [u8; 2],
    /// Out, interdomain: the port of the peer.
    pub remote_port: u32,
}
layout!(PortStatus, 24 { dom @ 0, port @ 4, status @ 8, vcpu @ 12, remote_dom @ 16, remote_port @ 20 });

/// `struct evtchn_bind_vcpu`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BindVcpu {
    /// The port.
    pub port: u32,
    /// The processor.
    pub vcpu: u32,
}
layout!(BindVcpu, 8 { port @ 0, vcpu @ 4 });

/// `struct evtchn_init_control`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InitControl {
    /// The frame of the control block.
    pub control_gfn: u64,
    /// Where in the frame.
    pub offset: u32,
    /// The processor.
    pub vcpu: u32,
    /// Out: bits of a link.
    pub link_bits: u8,
    /// Padding.
    pub pad: [u8; 7],
}
layout!(InitControl, 24 { control_gfn @ 0, offset @ 8, vcpu @ 12, link_bits @ 16 });

/// `struct evtchn_expand_array`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ExpandArray {
    /// The frame of 1024 more event words.
    pub array_gfn: u64,
}
layout!(ExpandArray, 8 { array_gfn @ 0 });

/// `struct evtchn_set_priority`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SetPriority {
    /// The port.
    pub port: u32,
    /// 0 to 15.
    pub priority: u32,
}
layout!(SetPriority, 8 { port @ 0, priority @ 4 });

/// `struct evtchn_fifo_control_block`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FifoControlBlock {
    /// A bit for each queue that has events.
    pub ready: u32,
    /// `_rsvd` of the header.
    pub reserved: u32,
    /// The first port of each queue.
    pub head: [u32; FIFO_MAX_QUEUES],
}
layout!(FifoControlBlock, 72 { ready @ 0, reserved @ 4, head @ 8 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_an_event_word_leave_the_link_alone() {
        let flags = [FIFO_PENDING, FIFO_MASKED, FIFO_LINKED, FIFO_BUSY]
            .iter()
            .fold(0u32, |word, bit| word | 1 << bit);
        assert_eq!(flags & FIFO_LINK_MASK, 0);
        assert_eq!(flags.count_ones(), 4);
    }

    #[test]
    fn operations_have_the_names_of_the_header() {
        assert_eq!(Op::ALLOC_UNBOUND.name(), Some("EVTCHNOP_alloc_unbound"));
        assert_eq!(
            Op(14).name(),
            None,
            "reset_cont is internal to the hypervisor"
        );
        assert_eq!(State::UNBOUND.name(), Some("EVTCHNSTAT_unbound"));
    }
}
