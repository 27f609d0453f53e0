//! Where things lie in a journal, in words of 64 bits.
//!
//! One page holds the header and a head for every queue; the entries of a queue lie together behind it. Places do not depend on
//! how many queues there are or how long their rings are, and pages that nobody touches take no memory.

use ringfence_core::PAGE;

/// The most queues of a device.
pub const MAX_QUEUES: usize = 16;
/// The most entries of a queue: what a ring of 16 pages holds.
pub const MAX_SLOTS: u16 = 512;
/// The most pages of a queue's ring.
pub const MAX_PAGES: usize = 16;
/// Length of a journal in bytes.
pub const BYTES: usize = PAGE * (1 + MAX_QUEUES * PAGES_OF_ENTRIES);

/// Bytes in a word.
const WORD: usize = size_of::<u64>();
/// Words in a page.
const WORDS_OF_PAGE: usize = PAGE / WORD;
/// Pages that the entries of one queue may take.
const PAGES_OF_ENTRIES: usize = MAX_SLOTS as usize * ENTRY * WORD / PAGE;

/// `RFJOURNL`, in the order of the bytes.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"RFJOURNL");
/// The version of everything in this file.
pub const VERSION: u64 = 1;

/// The first two words of every journal, of this and of any version: what it is, and its version.
pub const STAMP: [u64; 2] = [MAGIC, VERSION];

// The header.
pub(super) const AT_MAGIC: usize = 0;
pub(super) const AT_VERSION: usize = 1;
/// 1 while the rest of the header is complete, [`UNTOUCHED`] while rings that the frontend made anew are being connected, else 0.
pub(super) const AT_COMPLETE: usize = 2;
/// The frontend began anew without us, and no process has taken anything since.
pub(super) const UNTOUCHED: u64 = 2;
/// Frontend's domain, device number from bit 32.
pub(super) const AT_DEVICE: usize = 3;
pub(super) const AT_GENERATION: usize = 4;
/// Two words.
pub(super) const AT_IMAGE: usize = 5;
/// Protocol, features from bit 32.
pub(super) const AT_PROTOCOL: usize = 7;
pub(super) const AT_QUEUES: usize = 8;
/// 1 once a flush has failed.
pub(super) const AT_FLUSH_LOST: usize = 9;
/// Recoveries that were begun since the last one that ended.
pub(super) const AT_ATTEMPTS: usize = 10;
/// 1 if the last process was killed from outside, which whoever keeps the journal writes whenever one ended: the place is the same
/// in every version.
pub const AT_KILLED: usize = 31;

/// Words before the first queue's head.
const HEADER: usize = 32;
/// Words in a queue's head.
const HEAD: usize = 16;

// A queue's head.
/// Port, pages of the ring from bit 32, entries from bit 48.
pub(super) const HEAD_PORT: usize = 0;
/// Two references in a word.
pub(super) const HEAD_REFS: usize = 1;
pub(super) const HEAD_REQ_CONS: usize = 9;
/// The old index, the new one from bit 32.
pub(super) const HEAD_PUBLISH: usize = 10;

/// Words in an entry: two and a request.
pub(super) const ENTRY: usize = 16;
/// Ring index, [`USED`], [`WAITING`], crashes from bit 40.
pub(super) const ENTRY_INDEX: usize = 0;
/// Ring index of the answer, [`USED`], status from bit 48.
pub(super) const ENTRY_ANSWER: usize = 1;
pub(super) const ENTRY_REQUEST: usize = 2;
/// Words in a request.
pub(super) const REQUEST: usize = 14;
/// What the rest of the word says counts.
pub(super) const USED: u64 = 1 << 32;
/// Nobody is at work on it: an earlier process left it and nothing was done about it since, or it waits for others.
pub(super) const WAITING: u64 = 1 << 33;
/// Where an entry's number of crashes lies in its first word.
pub(super) const CRASHES: u32 = 40;

const _: () = assert!(AT_KILLED < HEADER);
const _: () = assert!(HEADER + MAX_QUEUES * HEAD <= WORDS_OF_PAGE);
const _: () = assert!(ENTRY_REQUEST + REQUEST == ENTRY);
const _: () = assert!(HEAD_REFS + MAX_PAGES / 2 == HEAD_REQ_CONS);

/// The head of queue `queue`.
pub(super) const fn head(queue: u16) -> usize {
    HEADER.saturating_add((queue as usize).saturating_mul(HEAD))
}

/// Entry `number` of queue `queue`.
pub(super) const fn entry(queue: u16, number: u16) -> usize {
    let page = (queue as usize)
        .saturating_mul(PAGES_OF_ENTRIES)
        .saturating_add(1);
    page.saturating_mul(WORDS_OF_PAGE)
        .saturating_add((number as usize).saturating_mul(ENTRY))
}

/// The low half of a word.
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
pub(super) const fn low(word: u64) -> u32 {
    word as u32
}

/// The high half of a word.
pub(super) const fn high(word: u64) -> u32 {
    low(word >> 32)
}

/// A word of two halves.
pub(super) const fn pair(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_ends_where_the_journal_does() {
        let last = entry(MAX_QUEUES as u16 - 1, MAX_SLOTS - 1);
        assert_eq!((last + ENTRY) * WORD, BYTES);
        assert_eq!(entry(0, 0) * WORD, PAGE);
        assert_eq!(entry(1, 0), entry(0, MAX_SLOTS - 1) + ENTRY);
    }
}
