//! Which writes have to wait for which.
//!
//! A write that covers part of a block reads the block, changes it and writes it back. Between its read and its write no other
//! write may touch the block, or that one would be lost although its bytes were never overwritten. Writes of whole blocks need
//! no such order among themselves.

use std::collections::VecDeque;
use std::ops::Range;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Claim {
    job: u64,
    sectors: Range<u64>,
    partial: bool,
}

impl Claim {
    fn excludes(&self, other: &Self) -> bool {
        (self.partial || other.partial)
            && self.sectors.start < other.sectors.end
            && other.sectors.start < self.sectors.end
    }
}

/// The writes that go on and those that wait, in the order they came.
#[derive(Default, Debug)]
pub(crate) struct Overlap {
    active: Vec<Claim>,
    waiting: VecDeque<Claim>,
}

impl Overlap {
    /// Asks for `sectors`; `true` if the write may start now, otherwise [`leave`](Self::leave) names it later.
    pub(crate) fn enter(&mut self, job: u64, sectors: Range<u64>, partial: bool) -> bool {
        let claim = Claim {
            job,
            sectors,
            partial,
        };
        if self
            .active
            .iter()
            .chain(&self.waiting)
            .any(|other| claim.excludes(other))
        {
            self.waiting.push_back(claim);
            return false;
        }
        self.active.push(claim);
        true
    }

    /// Ends a write and calls `start` for every one that may start now.
    pub(crate) fn leave(&mut self, job: u64, mut start: impl FnMut(u64)) {
        self.active.retain(|claim| claim.job != job);
        if self.waiting.is_empty() {
            return;
        }
        for claim in std::mem::take(&mut self.waiting) {
            // `waiting` holds those before it that still wait: nobody overtakes.
            let blocked = self
                .active
                .iter()
                .chain(&self.waiting)
                .any(|other| claim.excludes(other));
            if blocked {
                self.waiting.push_back(claim);
            } else {
                start(claim.job);
                self.active.push(claim);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(overlap: &mut Overlap, job: u64) -> Vec<u64> {
        let mut started = Vec::new();
        overlap.leave(job, |job| started.push(job));
        started
    }

    #[test]
    fn whole_blocks_never_wait_for_each_other() {
        let mut overlap = Overlap::default();
        assert!(overlap.enter(1, 0..8, false));
        assert!(overlap.enter(2, 0..8, false));
    }

    #[test]
    fn a_partial_write_excludes_what_it_overlaps_in_the_order_of_arrival() {
        let mut overlap = Overlap::default();
        assert!(overlap.enter(1, 0..8, false));
        assert!(!overlap.enter(2, 7..9, true));
        assert!(!overlap.enter(3, 8..10, false), "it would overtake 2");
        assert!(overlap.enter(4, 10..11, true), "it touches neither");
        assert!(
            left(&mut overlap, 4).is_empty(),
            "1 still excludes 2, and 2 excludes 3"
        );
        assert_eq!(left(&mut overlap, 1), [2]);
        assert_eq!(left(&mut overlap, 2), [3]);
    }
}
