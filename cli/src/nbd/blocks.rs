//! What the server needs of a disk.

use std::fmt;
use std::os::fd::BorrowedFd;

/// Which request a completion belongs to. Chosen by the server, opaque to the disk; no two in flight are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// Which job.
    pub(crate) job: u64,
    /// Which of its requests.
    pub(crate) piece: u32,
}

/// The shape of a disk, fixed while it is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Length in units of 512 bytes.
    pub sectors: u64,
    /// What requests must be a multiple of, in bytes: a power of two, at least 512.
    pub block_bytes: u32,
    /// The most bytes of one request: a multiple of `block_bytes`.
    pub request_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether there is a cache that [`Blocks::submit_flush`] empties.
    pub flush: bool,
    /// What is served beyond reads, writes and flushes.
    pub offers: Offers,
}

/// What an export may offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offers {
    /// Trims, for [`Blocks::submit_discard`].
    pub trim: bool,
    /// Writes of zeros, which become writes.
    pub zeroes: bool,
    /// Answers that wait until what was written is durable, for [`Blocks::submit_flush`].
    pub durable: bool,
}

impl Offers {
    /// Nothing more.
    pub const NONE: Self = Self {
        trim: false,
        zeroes: false,
        durable: false,
    };
}

/// Why a request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many requests in flight as there can be: reap, then try again.
    #[error("the disk's queue is full")]
    Full,
    /// The disk takes no more requests, ever.
    #[error("the disk is gone")]
    Gone,
}

/// A request that the disk answered with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The backend failed it.
    #[error("the disk failed the request")]
    Failed,
    /// The connection to the backend ended with the request in flight, and the disk comes back: it may have been done or not.
    #[error("the connection ended before the answer")]
    Aborted,
    /// The disk went away with the request in flight.
    #[error("the disk is gone")]
    Gone,
}

/// What a read brought, to be copied out at an offset in bytes.
pub type Data<'a> = &'a dyn Fn(usize, &mut [u8]);

/// A disk with many requests in flight that are answered in any order.
///
/// One owner, one loop: submit, [`kick`](Self::kick), [`reap`](Self::reap) until [`arm`](Self::arm) says that nothing is left,
/// then sleep on [`wake`](Self::wake).
pub trait Blocks {
    /// The shape.
    fn geometry(&self) -> Geometry;

    /// Queues a read of `bytes` bytes at `sector` (512 bytes each), both multiples of the block size and within the disk.
    fn submit_read(&mut self, token: Token, sector: u64, bytes: u32) -> Result<(), SubmitError>;

    /// Queues a write; `data` is copied before this returns.
    fn submit_write(&mut self, token: Token, sector: u64, data: &[u8]) -> Result<(), SubmitError>;

    /// Queues a flush of everything answered so far.
    fn submit_flush(&mut self, token: Token) -> Result<(), SubmitError>;

    /// Queues a discard of whole blocks within the disk, if [`Offers::trim`] says that it can.
    fn submit_discard(&mut self, _: Token, _: u64, _: u64) -> Result<(), SubmitError> {
        Err(SubmitError::Gone)
    }

    /// Makes what was queued visible to the backend, with at most one notification.
    fn kick(&mut self);

    /// Hands every answer to `done`, each once. Only a read has [`Data`] worth looking at.
    fn reap(&mut self, done: &mut dyn FnMut(Token, Result<Data<'_>, BlockError>));

    /// Asks to be woken; `false` if there is something to reap already.
    fn arm(&mut self) -> bool;

    /// What becomes readable when there is something to reap.
    fn wake(&self) -> Vec<BorrowedFd<'_>>;
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job, self.piece)
    }
}
