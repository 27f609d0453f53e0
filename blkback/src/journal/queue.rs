//! The journal of one queue, over words that outlive the process.

use ringfence_core::Words;
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{RequestNative, Status};
use ringfence_ring::RingIndex;
use zerocopy::transmute;

use super::layout::{
    self, AT_FLUSH_LOST, CRASHES, ENTRY_ANSWER, ENTRY_INDEX, ENTRY_REQUEST, HEAD_PUBLISH,
    HEAD_REQ_CONS, REQUEST, USED, WAITING, pair,
};
use super::{Found, Journal, Slot, header};

/// Where the status lies in the word of an answer.
const STATUS: u32 = 48;

/// One queue's part of a device's journal. Every call is a few stores, and what they must not overtake comes before them.
#[derive(Clone, Debug)]
pub struct Queue<W> {
    words: W,
    queue: u16,
}

impl<W: Words> Queue<W> {
    /// Queue number `queue` of the journal in `words`, whose header says that there is such a queue.
    pub const fn new(words: W, queue: u16) -> Self {
        Self { words, queue }
    }

    /// The words of the whole journal.
    pub const fn words(&self) -> &W {
        &self.words
    }

    /// Which queue.
    pub const fn number(&self) -> u16 {
        self.queue
    }

    const fn head(&self, part: usize) -> usize {
        layout::head(self.queue).saturating_add(part)
    }

    const fn entry(&self, number: u16, part: usize) -> usize {
        layout::entry(self.queue, number).saturating_add(part)
    }
}

impl<W: Words> Journal for Queue<W> {
    fn start(&mut self, at: RingIndex) {
        header::start(&self.words, self.queue, at);
    }

    fn take(&mut self, number: u16, index: RingIndex, request: &RequestNative) -> Slot {
        let slot: [u64; REQUEST] = transmute!(*request);
        // The entry is free until its first word says otherwise.
        self.words.fill(self.entry(number, ENTRY_REQUEST), &slot);
        self.words.store(self.entry(number, ENTRY_ANSWER), 0);
        self.words.store(
            self.entry(number, ENTRY_INDEX),
            USED | u64::from(index.get()),
        );
        Slot::new(number)
    }

    fn commit(&mut self, req_cons: RingIndex) {
        if weakened!("journal_commit") {
            return;
        }
        self.words
            .store(self.head(HEAD_REQ_CONS), u64::from(req_cons.get()));
    }

    fn wait(&mut self, slot: &Slot, crashes: u8) {
        let at = self.entry(slot.number(), ENTRY_INDEX);
        let rest = self.words.load(at) & !(0xFF << CRASHES);
        let word = rest | WAITING | u64::from(crashes) << CRASHES;
        self.words.store(at, word);
    }

    fn rest(&mut self, slot: &Slot) {
        let at = self.entry(slot.number(), ENTRY_INDEX);
        self.words.store(at, self.words.load(at) | WAITING);
    }

    fn restart(&mut self, slot: &Slot) {
        let at = self.entry(slot.number(), ENTRY_INDEX);
        self.words.store(at, self.words.load(at) & !WAITING);
    }

    fn answer(&mut self, slot: &Slot, rsp: RingIndex, status: Status) {
        if weakened!("journal_answer") {
            return;
        }
        let status = u64::from(status.0.cast_unsigned());
        self.words.store(
            self.entry(slot.number(), ENTRY_ANSWER),
            status << STATUS | USED | u64::from(rsp.get()),
        );
    }

    fn publish(&mut self, old: RingIndex, new: RingIndex) {
        if weakened!("journal_publish") {
            return;
        }
        self.words
            .store(self.head(HEAD_PUBLISH), pair(old.get(), new.get()));
    }

    fn clear(&mut self, slot: Slot) {
        self.words.store(self.entry(slot.number(), ENTRY_INDEX), 0);
    }

    fn flush_lost(&mut self) {
        self.words.store(AT_FLUSH_LOST, 1);
    }

    fn is_flush_lost(&self) -> bool {
        header::is_flush_lost(&self.words)
    }

    fn req_cons(&self) -> Option<RingIndex> {
        let word = self.words.load(self.head(HEAD_REQ_CONS));
        Some(RingIndex::new(layout::low(word)))
    }

    fn found(&self, size: u16) -> Found {
        Found::read(&self.words, self.queue, size)
    }
}
