//! The table under a model checker: what several processes and threads do to one entry at the same moment (XSA-406).
//!
//! The table is the shipped one; only the memory is the model's.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use ringfence_core::platform::{Access, GrantStatus};

use super::{Entries, Table};

/// One entry, and what the owner's page holds.
struct Memory {
    entry: AtomicU64,
    content: AtomicU64,
}

impl Entries for Memory {
    fn load(&self, _: u32) -> u64 {
        self.entry.load(Ordering::Acquire)
    }
    fn replace(&self, _: u32, old: u64, new: u64) -> Result<(), u64> {
        let replaced = (self.entry).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
        replaced.map(|_| ())
    }
}

const PAGE: u32 = 7;

fn world() -> Arc<Memory> {
    let memory = Arc::new(Memory {
        entry: AtomicU64::new(0),
        content: AtomicU64::new(0),
    });
    let table = Table(&*memory);
    table
        .permit(PAGE, Access::ReadWrite)
        .expect("nobody else is there");
    memory
}

/// Every interleaving with at most three preemptions.
fn explore(world: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(world);
}

#[test]
fn xsa_406_uses_of_two_threads_are_all_counted() {
    explore(|| {
        let memory = world();
        let users: Vec<_> = [Access::ReadOnly, Access::ReadWrite]
            .into_iter()
            .map(|access| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    let table = Table(&*memory);
                    table.acquire(PAGE, access).expect("granted");
                    // In use by this thread at least, whatever the other one does.
                    let refused = table.revoke(PAGE);
                    assert_eq!(refused, Err(GrantStatus::GENERAL_ERROR));
                    table.release(PAGE, access);
                })
            })
            .collect();
        for user in users {
            user.join().expect("no panic");
        }
        let table = Table(&*memory);
        table.revoke(PAGE).expect("nobody uses it any more");
        assert!(!table.is_used(PAGE));
    });
}

#[test]
fn xsa_406_a_page_that_was_taken_back_is_used_by_nobody() {
    explore(|| {
        let memory = world();
        let user = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let table = Table(&*memory);
                if table.acquire(PAGE, Access::ReadOnly).is_ok() {
                    let seen = memory.content.load(Ordering::Relaxed);
                    assert_eq!(seen, 0, "what the owner keeps there afterwards");
                    table.release(PAGE, Access::ReadOnly);
                }
            })
        };
        if Table(&*memory).revoke(PAGE).is_ok() {
            memory.content.store(1, Ordering::Relaxed);
        }
        user.join().expect("no panic");
    });
}
