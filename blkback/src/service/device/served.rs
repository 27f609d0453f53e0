//! What looks at rings bring, for whoever decides when the next one comes.

/// What one look at the ring brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::service) struct Served {
    /// Requests were taken.
    pub(in crate::service) worked: bool,
    /// There is more to do at once.
    pub(in crate::service) again: bool,
    /// Nobody rings: the next look comes soon.
    pub(in crate::service) spins: bool,
    /// The state machine wants to look: drained, or failed.
    pub(in crate::service) control: bool,
}

impl Served {
    /// What two looks brought together.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            worked: self.worked || other.worked,
            again: self.again || other.again,
            spins: self.spins || other.spins,
            control: self.control || other.control,
        }
    }
}
