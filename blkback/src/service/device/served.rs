//! Which rings are looked at, and what that brings, for whoever decides when the next look comes.

/// Which of a device's rings to serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service) enum Rings {
    All,
    /// The others stay as they are.
    Only(u16),
    /// Those without requests that have to be alone with the process.
    Plain,
}

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
