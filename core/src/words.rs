//! Memory of our own that outlives the process.

/// Words of 64 bits that the next process finds as this one left them, wherever this one was killed.
///
/// Unlike [`SharedMem`](crate::SharedMem) nobody else writes here while we do; but what an earlier process left may be anything.
/// Places are counted in words. Beyond the end every word is 0 and cannot be changed, so that no place is a reason to panic.
pub trait Words: Send + Sync {
    /// How many words there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Loads one word, with acquire ordering.
    fn load(&self, at: usize) -> u64;

    /// Stores one word at once, with release ordering: who finds it finds all that was stored before.
    fn store(&self, at: usize, value: u64);

    /// Stores words one after the other, in any order, from `at` on.
    fn fill(&self, at: usize, values: &[u64]) {
        for (place, value) in (at..).zip(values) {
            self.store(place, *value);
        }
    }
}

impl<W: Words + ?Sized> Words for &W {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn load(&self, at: usize) -> u64 {
        (**self).load(at)
    }
    fn store(&self, at: usize, value: u64) {
        (**self).store(at, value);
    }
    fn fill(&self, at: usize, values: &[u64]) {
        (**self).fill(at, values);
    }
}
