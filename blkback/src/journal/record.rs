//! The words of one device's journal, shared by its queues.

use alloc::sync::Arc;
use core::fmt;

use ringfence_core::Words;

/// Words that a supervisor keeps. Clones are handles of the same ones.
#[derive(Clone)]
pub struct Record(Arc<dyn Words>);

impl Record {
    /// Shares these words.
    pub fn new(words: impl Words + 'static) -> Self {
        Self(Arc::new(words))
    }
}

impl Words for Record {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load(&self, at: usize) -> u64 {
        self.0.load(at)
    }
    fn store(&self, at: usize, value: u64) {
        self.0.store(at, value);
    }
    // Passed on as a whole: one call, not one for every word.
    fn fill(&self, at: usize, values: &[u64]) {
        self.0.fill(at, values);
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} words)", self.len())
    }
}
