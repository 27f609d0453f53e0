//! What outlives the process: which requests were taken, and what was answered.
//!
//! The engine calls in this order, so that a process that dies between any two calls leaves a state from which the next one
//! can go on:
//!
//! 1. *Take*: [`take`](Journal::take) copies the request into the entry of our slot number; [`commit`](Journal::commit) makes
//!    it count; only then is anything submitted or answered.
//! 2. *Answer*: [`answer`](Journal::answer) notes status and place; the response is written into the ring;
//!    [`publish`](Journal::publish) notes where the ring's index goes; the ring publishes; [`clear`](Journal::clear) frees
//!    the entries; the doorbell rings.
//! 3. *Recover*, in the next process: [`Found::plan`] compares the entries with the ring's response index. What was shown is
//!    dropped, what was answered and not shown is shown, what is left is done again in the order of the ring.
//!
//! Entries are keyed by *our* slot number, never by the frontend's id: answers go out of order and ids repeat.
//!
//! Executing twice is harmless only until the answer is visible; after that the frontend has used id, grants and page again, and
//! a stale entry would write other data to an old sector.

mod error;
mod found;
mod header;
mod layout;
mod queue;
mod record;
#[cfg(test)]
mod tests;

pub use error::JournalError;
pub use found::{Entry, Found, Plan};
pub use header::{
    Header, QueueHeader, begin_recovery, complete, end_recovery, generation, is_empty,
    is_flush_lost, is_untouched, next_generation, told, was_killed,
};
pub use layout::{AT_KILLED, BYTES, MAX_PAGES, MAX_QUEUES, MAX_SLOTS, STAMP, VERSION};
pub use queue::Queue;
pub use record::Record;

use ringfence_core::wire::blkif::{RequestNative, Status};
use ringfence_ring::RingIndex;

/// One entry of the journal: our slot number. Given out by [`Journal::take`], taken back by [`Journal::clear`].
#[must_use = "an entry that is never cleared is replayed after a restart"]
#[derive(PartialEq, Eq, Debug)]
pub struct Slot(u16);

impl Slot {
    /// The entry with this number; for implementors of [`Journal`].
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number, which is also the request's place in the engine's table.
    pub const fn number(&self) -> u16 {
        self.0
    }
}

/// A record of the requests in flight that survives the process. Calls never block and never fail: a journal that breaks
/// retires its device by other means.
pub trait Journal {
    /// The ring stands at `at`, and nothing is open.
    fn start(&mut self, at: RingIndex);

    /// Copies the request found at `index` of the ring into entry `number`. It does not exist before [`commit`](Self::commit).
    fn take(&mut self, number: u16, index: RingIndex, request: &RequestNative) -> Slot;

    /// Makes every entry below `req_cons` count.
    fn commit(&mut self, req_cons: RingIndex);

    /// Notes that a request of an earlier process waits for its turn, and at how many crashes it was in flight.
    fn wait(&mut self, slot: &Slot, crashes: u8);

    /// Notes that a request waits for others: until it goes on, a crash is not its.
    fn rest(&mut self, slot: &Slot);

    /// Notes that a request that waited is about to be done, or goes on.
    fn restart(&mut self, slot: &Slot);

    /// Notes that the entry's answer goes to `rsp` of the ring, before it is written there.
    fn answer(&mut self, slot: &Slot, rsp: RingIndex, status: Status);

    /// Notes that the ring's response index is about to go from `old` to `new`.
    fn publish(&mut self, old: RingIndex, new: RingIndex);

    /// Frees an entry whose answer is published.
    fn clear(&mut self, slot: Slot);

    /// Notes that a flush failed, before anything else is done about it: the kernel tells that only once.
    fn flush_lost(&mut self);

    /// Whether a flush failed in this process or in an earlier one.
    fn is_flush_lost(&self) -> bool;

    /// How far requests were taken; `None` if that is not known.
    fn req_cons(&self) -> Option<RingIndex>;

    /// What an earlier process left of a ring with `size` entries.
    fn found(&self, size: u16) -> Found;
}

/// No journal: what was in flight when the process dies is lost with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unjournaled;

impl Journal for Unjournaled {
    fn start(&mut self, _: RingIndex) {}
    fn take(&mut self, number: u16, _: RingIndex, _: &RequestNative) -> Slot {
        Slot::new(number)
    }
    fn commit(&mut self, _: RingIndex) {}
    fn wait(&mut self, _: &Slot, _: u8) {}
    fn rest(&mut self, _: &Slot) {}
    fn restart(&mut self, _: &Slot) {}
    fn answer(&mut self, _: &Slot, _: RingIndex, _: Status) {}
    fn publish(&mut self, _: RingIndex, _: RingIndex) {}
    fn clear(&mut self, _: Slot) {}
    fn flush_lost(&mut self) {}
    fn is_flush_lost(&self) -> bool {
        false
    }
    fn req_cons(&self) -> Option<RingIndex> {
        None
    }
    fn found(&self, _: u16) -> Found {
        Found::default()
    }
}

/// A journal if there is one.
impl<J: Journal> Journal for Option<J> {
    fn start(&mut self, at: RingIndex) {
        if let Some(journal) = self {
            journal.start(at);
        }
    }
    fn take(&mut self, number: u16, index: RingIndex, request: &RequestNative) -> Slot {
        match self {
            Some(journal) => journal.take(number, index, request),
            None => Slot::new(number),
        }
    }
    fn commit(&mut self, req_cons: RingIndex) {
        if let Some(journal) = self {
            journal.commit(req_cons);
        }
    }
    fn wait(&mut self, slot: &Slot, crashes: u8) {
        if let Some(journal) = self {
            journal.wait(slot, crashes);
        }
    }
    fn rest(&mut self, slot: &Slot) {
        if let Some(journal) = self {
            journal.rest(slot);
        }
    }
    fn restart(&mut self, slot: &Slot) {
        if let Some(journal) = self {
            journal.restart(slot);
        }
    }
    fn answer(&mut self, slot: &Slot, rsp: RingIndex, status: Status) {
        if let Some(journal) = self {
            journal.answer(slot, rsp, status);
        }
    }
    fn publish(&mut self, old: RingIndex, new: RingIndex) {
        if let Some(journal) = self {
            journal.publish(old, new);
        }
    }
    fn clear(&mut self, slot: Slot) {
        if let Some(journal) = self {
            journal.clear(slot);
        }
    }
    fn flush_lost(&mut self) {
        if let Some(journal) = self {
            journal.flush_lost();
        }
    }
    fn is_flush_lost(&self) -> bool {
        self.as_ref().is_some_and(Journal::is_flush_lost)
    }
    fn req_cons(&self) -> Option<RingIndex> {
        self.as_ref()?.req_cons()
    }
    fn found(&self, size: u16) -> Found {
        self.as_ref()
            .map_or_else(Found::default, |journal| journal.found(size))
    }
}
