//! Whether a device is looked at without being rung, because its configuration has it so.

use std::time::Duration;

use super::super::waiting::Waiting;

/// Which rings of a device to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// Those that have something to do.
    Due,
    /// All, without asking to be rung: the next look comes soon.
    Poll,
    /// All, asking to be rung: before sleeping after [`Poll`](Self::Poll).
    Arm,
}

/// How one device waits, and where it is in that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    waiting: Waiting,
    /// Nothing more is taken.
    ended: bool,
    /// When it last had work.
    worked: Option<Duration>,
    /// Its doorbells may be unarmed: one more look before anybody sleeps.
    unarmed: bool,
}

impl Waits {
    pub(super) const fn new(waiting: Waiting) -> Self {
        Self {
            waiting,
            ended: false,
            worked: None,
            unarmed: false,
        }
    }

    /// A frontend is connected.
    pub(super) fn begin(&mut self) {
        self.ended = false;
        self.worked = None;
        self.unarmed = self.waiting == Waiting::Poll;
    }

    /// Nobody waits for new requests until the next connection.
    pub(super) const fn end(&mut self) {
        self.ended = true;
    }

    /// There was work.
    pub(super) fn worked(&mut self, now: Duration) {
        self.worked = Some(now);
        self.unarmed |= self.spins(now);
    }

    /// Whether the device is to be looked at though nobody rings.
    pub(super) const fn is_due(&self) -> bool {
        self.unarmed
    }

    /// Whether the next look comes soon in any case.
    pub(super) fn spins(&self, now: Duration) -> bool {
        match (self.waiting, self.worked) {
            _ if self.ended => false,
            (Waiting::Poll, _) => true,
            (Waiting::Spin(time), Some(worked)) => now.saturating_sub(worked) < time,
            (Waiting::Spin(_), None) | (Waiting::Block, _) => false,
        }
    }

    /// The kind of this look.
    pub(super) fn look(&mut self, now: Duration) -> Look {
        let spins = self.spins(now);
        let unarmed = core::mem::replace(&mut self.unarmed, spins);
        match (spins, unarmed) {
            (true, _) => Look::Poll,
            (false, true) => Look::Arm,
            (false, false) => Look::Due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn who_spins_arms_once_before_sleeping() {
        let mut waits = Waits::new(Waiting::Spin(at(50)));
        waits.begin();
        assert_eq!(waits.look(at(0)), Look::Due);
        assert!(!waits.is_due());
        waits.worked(at(10));
        assert!(waits.is_due());
        assert_eq!(waits.look(at(59)), Look::Poll);
        assert!(waits.is_due());
        assert_eq!(waits.look(at(60)), Look::Arm);
        assert!(!waits.is_due());
        assert_eq!(waits.look(at(61)), Look::Due);
    }

    #[test]
    fn who_polls_sleeps_when_nothing_more_is_taken() {
        let mut waits = Waits::new(Waiting::Poll);
        waits.begin();
        assert!(waits.is_due());
        assert_eq!(waits.look(at(1 << 40)), Look::Poll);
        waits.end();
        assert_eq!(waits.look(at(1 << 40)), Look::Arm);
        assert!(!waits.is_due());
        waits.begin();
        assert_eq!(waits.look(at(0)), Look::Poll);
    }

    #[test]
    fn who_blocks_is_never_looked_at_for_nothing() {
        let mut waits = Waits::new(Waiting::Block);
        waits.begin();
        waits.worked(at(1));
        assert!(!waits.is_due());
        assert_eq!(waits.look(at(1)), Look::Due);
    }
}
