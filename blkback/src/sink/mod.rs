//! Where the data of a disk lives.
//!
//! [`DiskIo`] is the implementor's trait; `tests/src/disk_conformance.rs` says in tests what it promises. Whoever uses a disk
//! does so through [`Disk`], which has checked every range before the implementor sees it.

#[cfg(feature = "std")]
mod crash;
#[cfg(feature = "std")]
mod delay;
#[cfg(feature = "std")]
mod discard;
mod disk;
mod fault;
#[cfg(feature = "std")]
mod file;
#[cfg(feature = "std")]
mod layers;
mod memory;
#[cfg(feature = "std")]
mod nbd;
mod null;
#[cfg(feature = "std")]
mod qcow2;
#[cfg(feature = "std")]
mod raw;
mod read_only;
mod split;
#[cfg(feature = "std")]
mod throttle;
#[cfg(feature = "std")]
mod timer;
#[cfg(feature = "std")]
mod trace;
#[cfg(feature = "std")]
mod tray;
#[cfg(feature = "std")]
mod uring;
#[cfg(feature = "std")]
mod worker;

#[cfg(feature = "std")]
pub use crash::Crash;
#[cfg(feature = "std")]
pub use delay::{Delay, Delays};
pub use disk::{Disk, Rejected};
pub use fault::{Fault, Faults, Ops};
#[cfg(feature = "std")]
pub use file::File;
#[cfg(feature = "std")]
pub(crate) use layers::time;
#[cfg(feature = "std")]
pub use layers::{LayerError, Layers};
pub use memory::Memory;
#[cfg(feature = "std")]
pub use nbd::{Nbd, NbdError, NbdLook, NbdOpening};
pub use null::Null;
#[cfg(feature = "std")]
pub use qcow2::{Below, Qcow2, Qcow2Error};
#[cfg(feature = "std")]
pub use raw::OpenError;
pub use read_only::ReadOnly;
pub use split::Split;
#[cfg(feature = "std")]
pub use throttle::{Limit, Limits, Rate, Throttle};
#[cfg(feature = "std")]
pub(crate) use timer::wake_fd;
#[cfg(feature = "std")]
pub use trace::{TARGET, Trace};
#[cfg(feature = "std")]
pub use tray::Tray;
#[cfg(feature = "std")]
pub use uring::{Uring, UringFile};

use crate::buffer::Buffer;
use crate::error::{IoError, Refusal};
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::Op;

/// What a disk is like. Fixed while it is open, but for the size: see [`DiskIo::refresh`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Size.
    pub sectors: SectorCount,
    /// Bytes in a logical sector: a power of two of at least 512. Transfers are multiples of it.
    pub logical: u32,
    /// Bytes in a physical sector: a multiple of `logical`.
    pub physical: u32,
    /// Whether nothing may change it.
    pub read_only: bool,
    /// Whether it can make writes durable.
    pub flush: bool,
    /// How it can be told that sectors are no longer needed, if it can.
    pub discard: Option<Discard>,
}

/// What a disk that can discard says of it, in bytes: `discard-granularity`, `discard-alignment` and `discard-secure` of
/// `xen/io/blkif.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discard {
    /// The unit in which storage is given back: a multiple of the logical sector. What does not fill a unit may stay.
    pub granularity: u32,
    /// Where the first unit begins, relative to the start of the disk.
    pub alignment: u32,
    /// Whether it can also make the data unrecoverable.
    pub secure: bool,
}

impl Discard {
    /// In units of this many bytes from the start of the disk on, and no more than a hint.
    pub const fn new(granularity: u32) -> Self {
        Self {
            granularity,
            alignment: 0,
            secure: false,
        }
    }
}

impl Geometry {
    /// A writable disk of `sectors` with sectors of 512 bytes.
    pub const fn new(sectors: SectorCount) -> Self {
        Self {
            sectors,
            logical: 512,
            physical: 512,
            read_only: false,
            flush: true,
            discard: None,
        }
    }

    /// Checks that the disk can discard these sectors. That it may be written is another question.
    pub fn check_discard(
        &self,
        sector: Sector,
        count: SectorCount,
        secure: bool,
    ) -> Result<(), Refusal> {
        match self.discard {
            Some(discard) if discard.secure || !secure => {}
            _ => return Err(Refusal::Operation(Op::DISCARD)),
        }
        if count.get() == 0 {
            return Err(Refusal::Range {
                sector: sector.get(),
                count: 0,
                capacity: self.sectors.get(),
            });
        }
        self.check(sector, count)
    }

    /// Checks that the disk has these sectors and that they are whole logical ones.
    pub fn check(&self, sector: Sector, count: SectorCount) -> Result<(), Refusal> {
        let inside = if weakened!("blk_lba_overflow") {
            sector.get().wrapping_add(count.get()) <= self.sectors.get()
        } else {
            sector
                .end(count)
                .is_some_and(|end| end <= Sector::new(self.sectors.get()))
        };
        if !(weakened!("blk_lba_range") || inside) {
            return Err(Refusal::Range {
                sector: sector.get(),
                count: count.get(),
                capacity: self.sectors.get(),
            });
        }
        let unit = u64::from(self.logical)
            .checked_div(Sector::BYTES)
            .unwrap_or(1)
            .max(1);
        if sector.get().is_multiple_of(unit) && count.get().is_multiple_of(unit) {
            return Ok(());
        }
        Err(Refusal::Alignment {
            sector: sector.get(),
            count: count.get(),
            logical: self.logical,
        })
    }
}

/// Whose request it is: our slot number. The disk hands it back unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag(u16);

impl Tag {
    /// Wraps the raw number.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What to do with the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoOp {
    /// Fill the buffer from this sector on.
    Read(Sector),
    /// Write the buffer from this sector on.
    Write(Sector),
    /// Make every write that completed before durable; the buffer is empty.
    Flush,
    /// These sectors are no longer needed: what is read from them afterwards is either what they held or zeros, until they are
    /// written again. The buffer is empty.
    Discard {
        /// The first.
        sector: Sector,
        /// How many; at least one.
        count: SectorCount,
        /// Whether the data must be unrecoverable afterwards, which is more than a hint.
        secure: bool,
    },
}

/// A request to the disk. Owns its buffer, so that nothing else can touch the bytes while the kernel or a device does.
#[must_use = "a request that is dropped is never answered"]
#[derive(Debug)]
pub struct Io {
    /// Whose it is.
    pub tag: Tag,
    /// What to do.
    pub op: IoOp,
    /// The bytes; their number is the transfer's length.
    pub buffer: Buffer,
}

/// A finished request.
#[must_use = "a request that is dropped is never answered"]
#[derive(Debug)]
pub struct Done {
    /// The request with its buffer.
    pub io: Io,
    /// What became of it. A read that failed may have filled any part of the buffer.
    pub result: Result<(), IoError>,
}

/// A disk, for those who implement one. Completion-based: nothing blocks for longer than a system call takes.
///
/// The caller keeps to the geometry: ranges lie inside, nothing is written to a read-only disk, nothing is discarded where
/// `discard` does not say so. Requests may finish in any
/// order; those that overlap may be done in any order as well. A flush covers all writes that were reaped before it was
/// submitted.
pub trait DiskIo {
    /// What the disk is like.
    fn geometry(&self) -> Geometry;

    /// Whether reads fill the buffer and writes look at it. Where not, the engine does not copy either: pages keep what they
    /// had.
    fn touches_data(&self) -> bool {
        true
    }

    /// Looks again how large the disk is, and says what it is like from now on; nothing but `sectors` changes. Requests in flight
    /// are not disturbed; those behind a new end fail.
    fn refresh(&mut self) -> Geometry {
        self.geometry()
    }

    /// Takes a request, or gives it back when there is no room before something was reaped.
    fn submit(&mut self, io: Io) -> Result<(), Io>;

    /// Makes sure that everything submitted is on its way: one system call, or none.
    fn kick(&mut self);

    /// The next finished request.
    fn reap(&mut self) -> Option<Done>;

    /// The descriptor that is readable when [`reap`](Self::reap) may have something; `None` if everything is finished by
    /// the time [`kick`](Self::kick) returns.
    fn wake(&self) -> Option<i32> {
        None
    }
}
