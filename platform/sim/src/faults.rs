//! Failures on order.

use ringfence_core::platform::GrantStatus;

/// One failure to come. `nth` counts from the injection, over the whole world, and 0 is the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// `alloc` (or `grant_in_place`) fails in the system.
    Alloc {
        /// Calls that succeed before.
        nth: u32,
        /// The error number, e.g. 12 for `ENOMEM`.
        errno: i32,
    },
    /// One element of a batch of maps is refused, whatever it is.
    Map {
        /// Elements (not batches) that are looked at before.
        nth: u32,
        /// Its status.
        status: GrantStatus,
    },
    /// A whole `map` call fails in the system, and nothing is mapped.
    MapCall {
        /// Calls that succeed before.
        nth: u32,
        /// The error number.
        errno: i32,
    },
    /// One element of a batch of copies is refused, whatever it is.
    Copy {
        /// Elements that are looked at before.
        nth: u32,
        /// Its status.
        status: GrantStatus,
    },
    /// A whole `copy` call fails in the system, and no status is set.
    CopyCall {
        /// Calls that succeed before.
        nth: u32,
        /// The error number.
        errno: i32,
    },
    /// `alloc_unbound` fails in the system.
    AllocUnbound {
        /// Calls that succeed before.
        nth: u32,
        /// The error number.
        errno: i32,
    },
    /// `bind` fails in the system.
    Bind {
        /// Calls that succeed before.
        nth: u32,
        /// The error number.
        errno: i32,
    },
    /// `notify` fails in the system, and the peer is not rung.
    Notify {
        /// Calls that succeed before.
        nth: u32,
        /// The error number.
        errno: i32,
    },
}

/// The place that a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Alloc,
    Map,
    MapCall,
    Copy,
    CopyCall,
    AllocUnbound,
    Bind,
    Notify,
}

#[derive(Debug)]
struct Armed {
    place: Place,
    left: u32,
    /// An error number or a status.
    code: i32,
}

#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Armed>);

impl Faults {
    pub(crate) fn inject(&mut self, fault: Fault) {
        let (place, left, code) = match fault {
            Fault::Alloc { nth, errno } => (Place::Alloc, nth, errno),
            Fault::Map { nth, status } => (Place::Map, nth, status.get().into()),
            Fault::MapCall { nth, errno } => (Place::MapCall, nth, errno),
            Fault::Copy { nth, status } => (Place::Copy, nth, status.get().into()),
            Fault::CopyCall { nth, errno } => (Place::CopyCall, nth, errno),
            Fault::AllocUnbound { nth, errno } => (Place::AllocUnbound, nth, errno),
            Fault::Bind { nth, errno } => (Place::Bind, nth, errno),
            Fault::Notify { nth, errno } => (Place::Notify, nth, errno),
        };
        self.0.push(Armed { place, left, code });
    }

    pub(crate) const fn waiting(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Something happens at `place`: the code of the fault that strikes it.
    pub(crate) fn strike(&mut self, place: Place) -> Option<i32> {
        let mut struck = None;
        self.0.retain_mut(|armed| {
            if armed.place != place {
                return true;
            }
            match armed.left.checked_sub(1) {
                Some(left) => armed.left = left,
                None if struck.is_none() => {
                    struck = Some(armed.code);
                    return false;
                }
                // Two for the same moment: the second one strikes the next time.
                None => {}
            }
            true
        });
        struck
    }

    /// As [`strike`](Self::strike), for places whose code is a status.
    pub(crate) fn strike_status(&mut self, place: Place) -> Option<GrantStatus> {
        let code = self.strike(place)?;
        Some(i16::try_from(code).map_or(GrantStatus::GENERAL_ERROR, GrantStatus::new))
    }
}
