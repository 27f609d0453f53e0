//! How much of a round is whose.
//!
//! A round gives every device the same, however many rings it has and however much it asks for. What is counted is the time
//! that requests cost, roughly: each counts as one, or as much as its data does. A device that has taken too much in one round, for
//! nobody knows how large a request is before it was taken, takes the less in the following ones.

use ringfence_core::weakened;
use std::time::Duration;

use crate::engine::Progress;

/// Bytes of data that cost as much as a request does by itself: more than one has that carries its segments.
const UNIT: u64 = 64 << 10;

/// One look at the devices.
#[derive(Clone, Copy, Debug)]
pub(in crate::service) struct Round {
    /// Which one.
    pub(in crate::service) number: u64,
    /// What each device may take.
    pub(in crate::service) budget: u32,
    /// What time it is.
    pub(in crate::service) now: Duration,
    /// When the thread woke, if no time to speak of has passed since, by the clock of the statistics.
    pub(in crate::service) woke: Option<u64>,
}

/// What one device has taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    round: u64,
    spent: u64,
}

impl Share {
    /// How many requests the device may still take.
    pub(super) fn left(&mut self, round: &Round) -> u32 {
        let budget = u64::from(round.budget);
        let rounds = round.number.saturating_sub(self.round);
        self.round = round.number;
        self.spent = self.spent.saturating_sub(rounds.saturating_mul(budget));
        if weakened!("blk_device_share") {
            return round.budget;
        }
        u32::try_from(budget.saturating_sub(self.spent)).unwrap_or(u32::MAX)
    }

    /// Counts what was taken.
    pub(super) fn spend(&mut self, progress: &Progress) {
        let data = progress.bytes.checked_div(UNIT).unwrap_or(0);
        let cost = u64::from(progress.taken).max(data);
        self.spent = self.spent.saturating_add(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn round(number: u64) -> Round {
        Round {
            number,
            budget: 32,
            now: Duration::ZERO,
            woke: None,
        }
    }

    fn took(taken: u32, bytes: u64) -> Progress {
        Progress {
            taken,
            bytes,
            ..Progress::default()
        }
    }

    #[test]
    fn a_round_has_one_share() {
        let mut share = Share::default();
        assert_eq!(share.left(&round(1)), 32);
        share.spend(&took(20, 0));
        assert_eq!(share.left(&round(1)), 12);
        share.spend(&took(12, 0));
        assert_eq!(share.left(&round(1)), 0);
        assert_eq!(share.left(&round(2)), 32);
    }

    #[test]
    fn who_took_too_much_waits_and_no_longer_than_that() {
        let mut share = Share::default();
        assert_eq!(share.left(&round(1)), 32);
        share.spend(&took(32, 32 << 20));
        let waits = (2..).find(|number| share.left(&round(*number)) > 0);
        assert_eq!(waits, Some(17), "512 of data, 32 a round");
        share.spend(&took(32, 32 << 20));
        assert_eq!(share.left(&round(1000)), 32, "but not while others rested");
        assert_eq!(share.left(&round(1001)), 32, "and nothing is saved up");
    }
}
