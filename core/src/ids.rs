//! Numbers that have a unit: one newtype each, no arithmetic, no conversion that hides which one it is.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the raw number.
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }
            /// The raw number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A domain's number, `domid_t` of `xen/xen.h`. 0 is dom0; `0x7FF0` and above are reserved.
    DomId(u16)
}
id! {
    /// An index into the granting domain's grant table, `grant_ref_t` of `xen/grant_table.h`.
    GrantRef(u32)
}
id! {
    /// A local event channel, `evtchn_port_t` of `xen/event_channel.h`. 0 is never a valid port.
    EvtchnPort(u32)
}
id! {
    /// The id a frontend puts into a request and finds in its response; opaque to the backend.
    RequestId(u64)
}
id! {
    /// A device's number within its class (`vdev` of a disk, `handle` of a network interface).
    Handle(u16)
}
id! {
    /// A position on a disk in units of 512 bytes, whatever the disk's logical sector size.
    Sector(u64)
}
id! {
    /// A length on a disk in units of 512 bytes.
    SectorCount(u64)
}

impl DomId {
    /// The control domain.
    pub const DOM0: Self = Self(0);
    /// `DOMID_FIRST_RESERVED` of `xen/xen.h`: numbers from here on name no domain.
    pub const FIRST_RESERVED: Self = Self(0x7FF0);
}

impl Sector {
    /// Bytes in a sector of the wire.
    pub const BYTES: u64 = 512;

    /// The first sector after `count` sectors from here, or `None` past 2^64.
    pub const fn end(self, count: SectorCount) -> Option<Self> {
        match self.0.checked_add(count.0) {
            Some(end) => Some(Self(end)),
            None => None,
        }
    }

    /// The position in bytes, or `None` past 2^64.
    pub const fn byte_offset(self) -> Option<u64> {
        self.0.checked_mul(Self::BYTES)
    }
}

impl SectorCount {
    /// The length in bytes, or `None` past 2^64.
    pub const fn bytes(self) -> Option<u64> {
        self.0.checked_mul(Sector::BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_range_never_wraps() {
        assert_eq!(Sector::new(u64::MAX).end(SectorCount::new(1)), None);
        assert_eq!(
            Sector::new(8).end(SectorCount::new(8)),
            Some(Sector::new(16))
        );
        assert_eq!(Sector::new(1 << 55).byte_offset(), None);
    }
}
