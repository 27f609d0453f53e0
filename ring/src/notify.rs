//! The event indices: who must be woken, and who may sleep.

use crate::RingIndex;

/// Whether the peer asked to be woken for what was just published.
#[must_use = "a notification that is not sent leaves the peer asleep"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// Ring the doorbell.
    Yes,
    /// The peer is awake, or asked to be woken later.
    No,
}

impl Notify {
    /// Whether to ring the doorbell.
    #[inline]
    #[must_use]
    pub const fn is_needed(self) -> bool {
        matches!(self, Self::Yes)
    }

    /// The decision of `RING_PUSH_*_AND_CHECK_NOTIFY`: yes iff publishing moved the index over the one the peer waits for.
    #[inline]
    pub(crate) const fn decide(event: RingIndex, old: RingIndex, new: RingIndex) -> Self {
        if new.since(event) < new.since(old) {
            Self::Yes
        } else {
            Self::No
        }
    }
}

/// What to do after the event index was set.
#[must_use = "sleeping after `Again` loses a wake-up"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Armed {
    /// There was nothing; the peer will ring the doorbell when there is.
    Sleep,
    /// Something arrived meanwhile, or the peer is at fault: take again.
    Again,
}

#[cfg(test)]
mod tests {
    use super::Notify;
    use crate::RingIndex;

    fn decide(event: u32, old: u32, new: u32) -> bool {
        Notify::decide(
            RingIndex::new(event),
            RingIndex::new(old),
            RingIndex::new(new),
        )
        .is_needed()
    }

    #[test]
    fn only_the_push_that_passes_the_event_notifies() {
        assert!(decide(1, 0, 1));
        assert!(!decide(1, 1, 2));
        assert!(decide(3, 1, 4));
        assert!(!decide(5, 1, 4));
        assert!(!decide(1, 1, 1));
        assert!(decide(0, u32::MAX, 1));
        assert!(!decide(u32::MAX, u32::MAX, 1));
    }
}
