//! What can be wrong with a journal that an earlier process left.

use ringfence_ring::RingIndex;
use thiserror::Error;

/// Why a journal says nothing about this connection, or nothing that can be. Whoever finds this ends the connection of that one
/// device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Nobody got as far as a whole header.
    #[error("journal: header is incomplete")]
    Incomplete,
    /// Something else than a journal.
    #[error("journal: magic {0:#x}")]
    Magic(u64),
    /// Another layout.
    #[error("journal: version {0} is not {version}", version = super::layout::VERSION)]
    Version(u64),
    /// No domain has this number.
    #[error("journal: frontend {0}")]
    Frontend(u32),
    /// More queues than there is room for.
    #[error("journal: {0} queues")]
    Queues(u64),
    /// More pages than a ring has.
    #[error("journal: queue {queue}: {pages} pages")]
    Pages {
        /// Which queue.
        queue: u16,
        /// How many.
        pages: u32,
    },
    /// A number of entries that no ring has.
    #[error("journal: queue {queue}: {slots} entries")]
    Slots {
        /// Which queue.
        queue: u16,
        /// How many.
        slots: u32,
    },
    /// It belongs to another connection than the nodes describe.
    #[error("journal: {field} is not that of the nodes")]
    Stranger {
        /// What differs.
        field: &'static str,
    },
    /// Response indices further apart than the ring is long.
    #[error("journal: publish from {old} to {new} in a ring of {size}")]
    Publish {
        /// From here.
        old: RingIndex,
        /// To here.
        new: RingIndex,
        /// Entries of the ring.
        size: u32,
    },
    /// The ring's response index is neither what it was nor what it was to be.
    #[error("rsp_prod {rsp_prod} with publish from {old} to {new} in the journal")]
    ResponseIndex {
        /// As found on the ring.
        rsp_prod: RingIndex,
        /// As noted.
        old: RingIndex,
        /// As noted.
        new: RingIndex,
    },
    /// An entry whose index is none that the ring can have open.
    #[error("journal: entry {number}: index {index} with req_cons {req_cons}")]
    Index {
        /// Which entry.
        number: u16,
        /// Its ring index.
        index: RingIndex,
        /// How far requests were taken.
        req_cons: RingIndex,
    },
    /// Two entries for one request.
    #[error("journal: two entries for index {index}")]
    Twice {
        /// Their ring index.
        index: RingIndex,
    },
    /// An answer that is not the next one, or none that the ring can have.
    #[error("journal: entry {number}: answer at {answer} with rsp_prod {rsp_prod}")]
    Answer {
        /// Which entry.
        number: u16,
        /// Where its answer goes.
        answer: RingIndex,
        /// As found on the ring.
        rsp_prod: RingIndex,
    },
    /// Not as many entries as the ring has open.
    #[error("journal: {entries} entries for {open} open requests")]
    Count {
        /// Entries that are left.
        entries: usize,
        /// What the indices say.
        open: u32,
    },
}
