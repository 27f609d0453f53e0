//! What a barrier asks of all rings of a device, and a suspicious request of all threads of a process: nothing new is started
//! before everything older is done.
//!
//! A barrier orders against all writes of the disk that were issued before, not only those of its own ring. The ring that takes
//! one raises the epoch; each other ring, when its owner next looks, finishes what was on it by then, says so, and starts
//! nothing more until the epoch is lowered again. Nobody waits: who cannot go on looks again when called.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};
use ringfence_core::weakened;

/// A number that the rings' owners share, each in its own thread. What was done before a store is seen after the load that
/// reads it.
pub trait Shared: Default {
    /// The number.
    fn load(&self) -> u32;
    /// Sets it.
    fn store(&self, value: u32);
    /// Sets it if it is `old`; whether it was.
    fn replace(&self, old: u32, new: u32) -> bool;
}

impl Shared for AtomicU32 {
    fn load(&self) -> u32 {
        self.load(Ordering::Acquire)
    }
    fn store(&self, value: u32) {
        self.store(value, Ordering::Release);
    }
    fn replace(&self, old: u32, new: u32) -> bool {
        let done = self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
        done.is_ok()
    }
}

/// The barriers of one device, counted. At most one is open.
#[derive(Debug)]
pub struct Epoch<A = AtomicU32> {
    /// Barriers that were begun.
    raised: A,
    /// Barriers that are over.
    lowered: A,
    /// For each ring, the last barrier for which it has finished everything older.
    drained: Box<[A]>,
    /// For each ring, whether it is gone for good, which is 1.
    gone: Box<[A]>,
}

impl<A: Shared> Epoch<A> {
    /// For a device with this many rings.
    pub fn new(rings: u16) -> Self {
        Self {
            raised: A::default(),
            lowered: A::default(),
            drained: (0..rings).map(|_| A::default()).collect(),
            gone: (0..rings).map(|_| A::default()).collect(),
        }
    }

    /// Begins a barrier on ring `own`; `None` while another one is open.
    pub fn begin(&self, own: u16) -> Option<u32> {
        let old = self.lowered.load();
        let new = old.wrapping_add(1);
        if !self.raised.replace(old, new) {
            return None;
        }
        self.drain(own, new);
        Some(new)
    }

    /// The barrier that is open, if one is.
    pub fn open(&self) -> Option<u32> {
        let lowered = self.lowered.load();
        let raised = self.raised.load();
        (raised != lowered).then_some(raised)
    }

    /// Says that ring `own` has finished everything older than this barrier, and will start nothing before it is over.
    pub fn drain(&self, own: u16, barrier: u32) {
        if let Some(drained) = self.drained.get(usize::from(own)) {
            drained.store(barrier);
        }
    }

    /// Whether ring `own` has said so.
    pub fn has_drained(&self, own: u16, barrier: u32) -> bool {
        let drained = self.drained.get(usize::from(own));
        drained.is_some_and(|drained| drained.load() == barrier)
    }

    /// Says that ring `own` has finished everything and will never start anything again.
    pub fn leave(&self, own: u16) {
        if let Some(gone) = self.gone.get(usize::from(own)) {
            gone.store(1);
        }
    }

    /// Whether all rings have said so.
    pub fn is_drained(&self, barrier: u32) -> bool {
        let mut rings = self.drained.iter().zip(&self.gone);
        weakened!("blk_barrier_rings")
            || rings.all(|(drained, gone)| drained.load() == barrier || gone.load() == 1)
    }

    /// The barrier is over.
    pub fn end(&self, barrier: u32) {
        self.lowered.store(barrier);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_barrier_at_a_time_and_each_waits_for_all_rings() {
        let epoch = Epoch::<AtomicU32>::new(3);
        assert_eq!(epoch.open(), None);
        let first = epoch.begin(1).unwrap();
        assert_eq!((epoch.open(), epoch.begin(2)), (Some(first), None));
        epoch.drain(0, first);
        assert!(!epoch.is_drained(first));
        epoch.drain(2, first);
        assert!(epoch.is_drained(first));
        epoch.end(first);
        assert_eq!(epoch.open(), None);
        let second = epoch.begin(2).unwrap();
        assert!(!epoch.is_drained(second), "what was said of the first");
        epoch.leave(0);
        epoch.drain(1, second);
        assert!(epoch.is_drained(second), "nobody waits for who left");
    }
}
