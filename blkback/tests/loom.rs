//! What two threads of the backend share, under a model checker.
//!
//! First the epoch of barriers: two rings of one device, each with its own thread.
//! The epoch is the shipped one; only the atomics are the model's. With one weaker ordering the model must find that a ring's
//! work is not seen by the barrier: that is what shows that the test looks at the right thing. Then the statistics, which a
//! reader sees while one device makes room for another.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ringfence_blkback::epoch::{Epoch, Shared};
use ringfence_blkback::stats::{layout, owner};
use ringfence_core::Words;

struct Model<const WEAK: bool>(AtomicU32);

impl<const WEAK: bool> Default for Model<WEAK> {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl<const WEAK: bool> Shared for Model<WEAK> {
    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
    fn store(&self, value: u32) {
        let order = if WEAK {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.0.store(value, order);
    }
    fn replace(&self, old: u32, new: u32) -> bool {
        let done = (self.0).compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
        done.is_ok()
    }
}

struct Device<const WEAK: bool> {
    epoch: Epoch<Model<WEAK>>,
    /// Requests of the other ring that were started and that have ended, as its disk sees them.
    started: AtomicU32,
    ended: AtomicU32,
    /// What the barrier has written.
    written: AtomicU32,
}

/// The ring without the barrier: two requests, each only where no barrier forbids it.
fn other<const WEAK: bool>(device: &Device<WEAK>) {
    let mut left = 2;
    let mut said = 0;
    while left > 0 {
        if let Some(barrier) = device.epoch.open() {
            // Nothing is in flight between two requests of this ring.
            if said != barrier {
                said = barrier;
                device.epoch.drain(1, barrier);
            }
            thread::yield_now();
            continue;
        }
        if said > 0 {
            assert_eq!(
                device.written.load(Ordering::Relaxed),
                1,
                "after the barrier"
            );
        }
        device.started.fetch_add(1, Ordering::Relaxed);
        device.ended.fetch_add(1, Ordering::Relaxed);
        left -= 1;
    }
    // The owner goes on looking for barriers, also when its ring is empty.
    while device.written.load(Ordering::Relaxed) == 0 {
        if let Some(barrier) = device.epoch.open() {
            device.epoch.drain(1, barrier);
        }
        thread::yield_now();
    }
}

fn check<const WEAK: bool>() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let device = Arc::new(Device {
            epoch: Epoch::<Model<WEAK>>::new(2),
            started: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            written: AtomicU32::new(0),
        });
        let theirs = device.clone();
        let ring = thread::spawn(move || other(&theirs));
        let barrier = device.epoch.begin(0).expect("no other barrier");
        while !device.epoch.is_drained(barrier) {
            thread::yield_now();
        }
        let before = device.started.load(Ordering::Relaxed);
        let ended = device.ended.load(Ordering::Relaxed);
        assert_eq!(ended, before, "everything older has ended");
        device.written.store(1, Ordering::Relaxed);
        let after = device.started.load(Ordering::Relaxed);
        assert_eq!(after, before, "nothing starts meanwhile");
        device.epoch.end(barrier);
        ring.join().expect("the other ring");
    });
}

#[test]
fn nothing_of_another_ring_crosses_a_barrier() {
    check::<false>();
}

#[test]
fn the_model_notices_a_store_without_release() {
    let found = catch_unwind(AssertUnwindSafe(check::<true>));
    assert!(found.is_err(), "the model let a weak store pass");
}

/// The words of one device, as few as there can be.
struct Page([loom::sync::atomic::AtomicU64; 3]);

impl Words for Page {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::Acquire)
    }
    fn store(&self, at: usize, value: u64) {
        self.0[at].store(value, Ordering::Release);
    }
}

/// Device 1 has counted up to 7; then the words are device 2's, which counts from 0 to 1. A reader looks meanwhile; with `naive`
/// it takes what it finds.
fn statistics(naive: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let page = Arc::new(Page([2, 1, 7].map(loom::sync::atomic::AtomicU64::new)));
        let writers = page.clone();
        let writer = thread::spawn(move || {
            owner::enter(&*writers, 2);
            writers.0[layout::STATE].fetch_add(1, Ordering::Relaxed);
        });
        let count = |page: &Page| page.load(layout::STATE);
        let found = match naive {
            true => Some((page.load(layout::OWNER), count(&page))),
            false => owner::look(&*page, count),
        };
        match found {
            None | Some((1, 7) | (2, 0 | 1)) => {}
            Some((owner, count)) => panic!("device {owner} has counted to {count}"),
        }
        writer.join().expect("the writer");
    });
}

#[test]
fn nobody_is_told_the_numbers_of_another_device() {
    statistics(false);
}

#[test]
fn the_model_notices_a_reader_that_does_not_look_twice() {
    let found = catch_unwind(AssertUnwindSafe(|| statistics(true)));
    assert!(found.is_err(), "the model let a torn read pass");
}
