//! What can go wrong, sorted by whose fault it is.

use core::fmt;

use ringfence_core::platform::{EvtchnError, GrantError, Platform, PlatformError};
use ringfence_core::store::{FieldError, StoreError};
use ringfence_core::wire::blkif;
use ringfence_core::{DomId, Sector, SectorCount};
use ringfence_ring::AttachError;
use thiserror::Error;

use crate::{Buffer, MAX_PAGES};

/// The system failed us; nobody lied. Trying again later may help.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A node could not be read because the store failed.
    #[error(transparent)]
    Field(FieldError),
    /// There was no page for the ring.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// There was no port.
    #[error(transparent)]
    Evtchn(#[from] EvtchnError),
    /// A page of the platform's does not hold a ring.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// The backend broke the protocol of the ring. Latched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// Its index cannot be.
    #[error(transparent)]
    Ring(#[from] ringfence_ring::PeerFault),
    /// An id that no request of ours can have.
    #[error("response with id {id:#x}, whose slot is beyond {slots}")]
    IdOutOfRange {
        /// The id.
        id: u64,
        /// Slots there are.
        slots: usize,
    },
    /// The request of that id is answered already, not published yet, or never was.
    #[error("response with id {id:#x}, which is not in flight")]
    NotInFlight {
        /// The id.
        id: u64,
    },
    /// The response is to another operation than the request.
    #[error("response with id {id:#x} to {got}, but the request was {sent}")]
    Operation {
        /// The id.
        id: u64,
        /// What we asked for.
        sent: blkif::Op,
        /// What it says we asked for.
        got: blkif::Op,
    },
    /// A status that `blkif.h` does not know.
    #[error("response with id {id:#x} and status {status}")]
    Status {
        /// The id.
        id: u64,
        /// The status.
        status: blkif::Status,
    },
}

/// What the store says about the device makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum NegotiateError {
    /// A node is missing, unreadable or garbage.
    #[error(transparent)]
    Field(FieldError),
    /// `backend` is not a path below the home of domain `backend-id` (XSA-175).
    #[error("backend is not a path below /local/domain/{domid}, which backend-id names")]
    BackendPath {
        /// `backend-id`.
        domid: DomId,
    },
    /// The backend's `frontend` or `frontend-id` does not name us (XSA-175).
    #[error("{field} of the backend does not point back at this device")]
    NotOurs {
        /// Which node.
        field: &'static str,
    },
    /// `sector-size` is not a power of two from 512 to 4096.
    #[error("sector-size {0} is not a power of two from 512 to 4096")]
    SectorSize(u32),
    /// `physical-sector-size` is not a power of two from `sector-size` on.
    #[error("physical-sector-size {physical} is not a power of two from {logical} on")]
    PhysicalSectorSize {
        /// What it says.
        physical: u32,
        /// `sector-size`.
        logical: u32,
    },
    /// `sectors`, in the backend's units, is more bytes than 2^64.
    #[error("sectors {0} is beyond 2^64 bytes")]
    Sectors(SectorCount),
    /// The backend's `state` is garbage, or one that a disk's backend never has.
    #[error("the backend's state is garbage")]
    State,
}

/// Why a device is disabled.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// On the ring.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// In the store.
    #[error(transparent)]
    Negotiate(#[from] NegotiateError),
}

/// Why a request was not submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Reason {
    /// There is no backend now.
    #[error("not connected")]
    NotConnected,
    /// As many requests are in flight as there can be: reap first.
    #[error("{open} requests are in flight")]
    Full {
        /// How many, those of ended connections included.
        open: usize,
    },
    /// What an ended connection left unanswered is being put on the ring first, in its order: reap first.
    #[error("{waiting} requests of an ended connection come first")]
    Repeating {
        /// How many are not on the ring yet; 0 if the disk's other queues are to be waited for.
        waiting: usize,
    },
    /// The disk is read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The buffer's length is zero.
    #[error("the buffer is empty")]
    Empty,
    /// Start or length is no multiple of the disk's logical sector.
    #[error("sector {sector} and {count} more are not multiples of {sector_size} bytes")]
    Misaligned {
        /// The start.
        sector: Sector,
        /// The length.
        count: SectorCount,
        /// `sector-size`.
        sector_size: u32,
    },
    /// Part of the request is beyond the disk's end.
    #[error("sector {sector} and {count} more are beyond the disk's {sectors}")]
    OutOfRange {
        /// The start.
        sector: Sector,
        /// The length.
        count: SectorCount,
        /// The disk.
        sectors: SectorCount,
    },
    /// The buffer is granted to another domain, or to nobody any more.
    #[error("the buffer is not granted to domain {peer}")]
    ForeignBuffer {
        /// The backend's domain.
        peer: DomId,
    },
    /// The backend does not do this operation.
    #[error("the backend does not support this operation")]
    Unsupported,
    /// A barrier is one request, and has no more pages than the segments in it. Anything else is cut into several.
    #[error("a barrier of {count} sectors, more than {max}")]
    Barrier {
        /// Its length.
        count: SectorCount,
        /// What fits.
        max: SectorCount,
    },
}

/// A request that was not submitted, with its buffer.
pub struct Rejected<P: Platform, const PAGES: usize = MAX_PAGES> {
    /// As it was given.
    pub buffer: Buffer<P, PAGES>,
    /// Why.
    pub reason: Reason,
}

impl<P: Platform, const PAGES: usize> fmt::Debug for Rejected<P, PAGES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rejected").field(&self.reason).finish()
    }
}

impl<P: Platform, const PAGES: usize> fmt::Display for Rejected<P, PAGES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<P: Platform, const PAGES: usize> core::error::Error for Rejected<P, PAGES> {}

/// How a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum IoError {
    /// `BLKIF_RSP_ERROR`.
    #[error("the backend failed the request")]
    Failed,
    /// `BLKIF_RSP_EOPNOTSUPP`.
    #[error("the backend does not support the operation")]
    Unsupported,
    /// The connection ended first, and the request is not repeated: the device is closed, repeating is
    /// [off](crate::Queue::set_replay) or given [up](crate::Queue::abandon), or there is no page left that could be
    /// granted to the next backend. It may have been done or not.
    #[error("the connection ended before the answer")]
    Aborted,
    /// The connection ended first, and the disk of the next one cannot do the request. The last one may have done it or not.
    #[error("the connection ended before the answer, and on the next one: {0}")]
    NotRepeated(Reason),
}

/// Why there is no such buffer, or no such part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum BufferError {
    /// There is no backend that pages could be granted to.
    #[error("no backend to grant pages to")]
    NoBackend,
    /// No page, or more than the buffer's type has room for.
    #[error("{pages} pages, not 1 to {max}")]
    Pages {
        /// How many were asked for.
        pages: usize,
        /// How many there can be.
        max: usize,
    },
    /// Not a multiple of 512 bytes, or more than the pages hold.
    #[error("a length of {bytes} bytes in {capacity} bytes of pages")]
    Length {
        /// The length.
        bytes: usize,
        /// What the pages hold.
        capacity: usize,
    },
    /// Beyond the buffer's end.
    #[error("{bytes} bytes at {offset} in a buffer of {len}")]
    OutOfRange {
        /// Where.
        offset: usize,
        /// How many.
        bytes: usize,
        /// The buffer's length.
        len: usize,
    },
    /// The platform has none to give.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

/// Sorts a failed read of a node: the store's failure is ours, everything else the peer's.
pub(crate) fn field(error: FieldError) -> Result<NegotiateError, Error> {
    match error {
        FieldError::Store { .. } => Err(Error::Field(error)),
        error => Ok(NegotiateError::Field(error)),
    }
}

/// Ringing the doorbell, or asking whether it rang, failed.
pub(crate) type Doorbell<T> = Result<T, PlatformError>;
