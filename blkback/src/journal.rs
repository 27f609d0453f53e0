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
//!
//! Entries are keyed by *our* slot number, never by the frontend's id: answers go out of order and ids repeat.

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
    /// Copies the request found at `index` of the ring into entry `number`. It does not exist before [`commit`](Self::commit).
    fn take(&mut self, number: u16, index: RingIndex, request: &RequestNative) -> Slot;

    /// Makes every entry below `req_cons` count.
    fn commit(&mut self, req_cons: RingIndex);

    /// Notes that the entry's answer goes to `rsp` of the ring, before it is written there.
    fn answer(&mut self, slot: &Slot, rsp: RingIndex, status: Status);

    /// Notes that the ring's response index is about to go from `old` to `new`.
    fn publish(&mut self, old: RingIndex, new: RingIndex);

    /// Frees an entry whose answer is published.
    fn clear(&mut self, slot: Slot);
}

/// No journal: what was in flight when the process dies is lost with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unjournaled;

impl Journal for Unjournaled {
    fn take(&mut self, number: u16, _: RingIndex, _: &RequestNative) -> Slot {
        Slot::new(number)
    }
    fn commit(&mut self, _: RingIndex) {}
    fn answer(&mut self, _: &Slot, _: RingIndex, _: Status) {}
    fn publish(&mut self, _: RingIndex, _: RingIndex) {}
    fn clear(&mut self, _: Slot) {}
}
