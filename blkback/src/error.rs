//! What can go wrong: with a request (an answer), with the peer (the end of the device), below us (the system).

use ringfence_core::platform::{EvtchnError, GrantError, GrantStatus, PlatformError};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_ring::PeerFault;
use thiserror::Error;

use crate::journal::JournalError;

/// Why a request fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An operation that this backend does not offer, or that nobody defined.
    #[error("operation {0} is not offered")]
    Operation(Op),
    /// A write to a disk that may not be written.
    #[error("{0} on a read-only disk")]
    ReadOnly(Op),
    /// A read or write with no segment or more than a request holds, or a flush with any.
    #[error("nr_segments {0}")]
    Segments(u16),
    /// An indirect request for anything but a read or a write.
    #[error("indirect_op {0}")]
    IndirectOperation(Op),
    /// A page of segments could not be copied.
    #[error("indirect_grefs[{index}]: grant copy: {status}")]
    IndirectGrant {
        /// Which page.
        index: usize,
        /// What the grant table said.
        status: GrantStatus,
    },
    /// A discard with a flag that nobody defined.
    #[error("discard flag {0:#x}")]
    DiscardFlag(u8),
    /// A segment that does not lie within its page, or ends before it begins.
    #[error("segment {index}: first_sect {first} and last_sect {last}")]
    Segment {
        /// Which one.
        index: usize,
        /// Its `first_sect`.
        first: u8,
        /// Its `last_sect`.
        last: u8,
    },
    /// More bytes than there are numbers for, where one counts for more than 512.
    #[error("{field} {value} in units of {unit} sectors")]
    Units {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// How many times 512 bytes one is.
        unit: u64,
    },
    /// Sectors that the disk does not have.
    #[error("sector_number {sector} and {count} sectors on a disk of {capacity}")]
    Range {
        /// The first, in units of 512 bytes.
        sector: u64,
        /// How many.
        count: u64,
        /// How many the disk has.
        capacity: u64,
    },
    /// Not a multiple of the disk's logical sector.
    #[error("sector_number {sector} and {count} sectors with logical sectors of {logical} bytes")]
    Alignment {
        /// The first, in units of 512 bytes.
        sector: u64,
        /// How many.
        count: u64,
        /// Bytes in a logical sector.
        logical: u32,
    },
    /// A page of the request could not be copied.
    #[error("segment {index}: grant copy: {status}")]
    Grant {
        /// Which segment.
        index: usize,
        /// What the grant table said.
        status: GrantStatus,
    },
    /// The copy as a whole failed.
    #[error(transparent)]
    Copy(#[from] PlatformError),
    /// The disk did not do it.
    #[error(transparent)]
    Disk(#[from] IoError),
    /// In flight at one crash after the other, the last time alone: it is not tried again.
    #[error("started {0} times after a crash, and there was another each time")]
    Poisoned(u8),
    /// Nothing left to work with; the request may come again.
    #[error("out of buffers")]
    Exhausted,
}

impl Refusal {
    /// What the frontend is told.
    pub const fn status(&self) -> Status {
        match self {
            Self::Operation(_) | Self::Disk(IoError::Unsupported) => Status::EOPNOTSUPP,
            _ => Status::ERROR,
        }
    }
}

/// Why the disk did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum IoError {
    /// The system failed.
    #[error("{op} failed: errno {errno}")]
    System {
        /// The system call.
        op: &'static str,
        /// The positive error number.
        errno: i32,
    },
    /// The file ended before the disk does.
    #[error("end of file after {done} of {len} bytes")]
    EndOfFile {
        /// How many bytes there were.
        done: usize,
        /// How many were wanted.
        len: usize,
    },
    /// Sectors that the disk does not have.
    #[error("out of range")]
    Range,
    /// A write to a disk that may not be written.
    #[error("read-only")]
    ReadOnly,
    /// The storage turned out not to be able to do that.
    #[error("not supported by the storage")]
    Unsupported,
    /// An earlier flush failed: what was written before it may be lost, so no later flush can succeed.
    #[error("an earlier flush failed")]
    FlushLost,
}

/// Why an engine could not be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The ring page could not be mapped.
    #[error("ring-ref: {0}")]
    Map(#[from] GrantError),
    /// What is on it is no ring.
    #[error("ring: {0}")]
    Ring(#[from] ringfence_ring::AttachError),
    /// The event channel could not be bound.
    #[error("event-channel: {0}")]
    Bind(#[from] EvtchnError),
    /// The ring is not the one that an earlier process had: the frontend has made another.
    #[error("ring: made anew since")]
    AnotherRing,
    /// What an earlier process left cannot be, or is about something else.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The frontend could not be told that somebody is back.
    #[error("event-channel: {0}")]
    Doorbell(#[from] PlatformError),
}

/// Why an engine takes no more requests. Those it took are finished and answered all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The frontend broke the protocol of the ring: retire the device.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// The doorbell could not be rung.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}
