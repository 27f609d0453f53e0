//! The user's side of a disk.

use alloc::boxed::Box;
use alloc::sync::Arc;

use ringfence_core::ids::{Sector, SectorCount};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{Convention, Op, SectorUnits};
use thiserror::Error;

use super::{DiskIo, Done, Geometry, Io, IoOp};
use crate::error::Refusal;
use crate::stats::Stats;

/// Why a disk did not take a request; the request comes back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Rejected {
    /// No room: reap first.
    #[error("disk is busy")]
    Busy(Io),
    /// The disk cannot do that.
    #[error("{why}")]
    Refused {
        /// The request.
        io: Io,
        /// Why.
        #[source]
        why: Refusal,
    },
}

/// A disk, for those who use one: checks every range and the read-only flag, and counts.
pub struct Disk {
    io: Box<dyn DiskIo>,
    geometry: Geometry,
    units: SectorUnits,
    stats: Arc<Stats>,
}

/// What is known of a disk beside what does the work.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) geometry: Geometry,
    units: SectorUnits,
    stats: Arc<Stats>,
}

impl Disk {
    /// A disk with counters of its own.
    pub fn new(io: Box<dyn DiskIo>) -> Self {
        Self::with_stats(io, Arc::default())
    }

    /// A disk that counts into `stats`.
    pub fn with_stats(io: Box<dyn DiskIo>, stats: Arc<Stats>) -> Self {
        let geometry = io.geometry();
        Self {
            io,
            geometry,
            units: SectorUnits::PLAIN,
            stats,
        }
    }

    /// What does the work, and the rest.
    pub(super) fn into_parts(self) -> (Box<dyn DiskIo>, Manner) {
        let manner = Manner {
            geometry: self.geometry,
            units: self.units,
            stats: self.stats,
        };
        (self.io, manner)
    }

    pub(super) fn from_parts(io: Box<dyn DiskIo>, manner: Manner) -> Self {
        let Manner {
            geometry,
            units,
            stats,
        } = manner;
        Self {
            io,
            geometry,
            units,
            stats,
        }
    }

    /// The same disk, never to be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.geometry.read_only = true;
        self
    }

    /// The same disk, of which nothing is ever given back.
    #[must_use]
    pub fn without_discard(mut self) -> Self {
        self.geometry.discard = None;
        self
    }

    /// The same disk, for a frontend that counts its sectors in this way.
    #[must_use]
    pub fn counted(mut self, convention: Convention) -> Self {
        self.units = SectorUnits::new(convention, self.geometry.logical);
        self
    }

    /// In which units the frontend counts. What is submitted here is in units of 512 bytes always.
    pub const fn units(&self) -> SectorUnits {
        self.units
    }

    /// What the disk is like.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Looks again how large the disk is; see [`DiskIo::refresh`].
    pub fn refresh(&mut self) -> &Geometry {
        self.geometry.sectors = self.io.refresh().sectors;
        &self.geometry
    }

    /// Its counters.
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Whether buffers carry data at all; see [`DiskIo::touches_data`].
    pub fn touches_data(&self) -> bool {
        self.io.touches_data()
    }

    /// Submits a request.
    pub fn submit(&mut self, io: Io) -> Result<(), Rejected> {
        match self.check(&io) {
            Ok(()) => self.io.submit(io).map_err(Rejected::Busy),
            Err(why) => Err(Rejected::Refused { io, why }),
        }
    }

    fn check(&self, io: &Io) -> Result<(), Refusal> {
        let bytes = u64::try_from(io.buffer.len()).unwrap_or(u64::MAX);
        let count = SectorCount::new(bytes.div_ceil(Sector::BYTES));
        match io.op {
            IoOp::Read(sector) => self.geometry.check(sector, count),
            IoOp::Write(sector) => {
                self.check_writable(Op::WRITE)?;
                self.geometry.check(sector, count)
            }
            IoOp::Flush => Ok(()),
            IoOp::Discard {
                sector,
                count,
                secure,
            } => {
                self.check_writable(Op::DISCARD)?;
                self.geometry.check_discard(sector, count, secure)
            }
        }
    }

    fn check_writable(&self, op: Op) -> Result<(), Refusal> {
        if self.geometry.read_only && !weakened!("blk_read_only") {
            return Err(Refusal::ReadOnly(op));
        }
        Ok(())
    }

    /// Makes sure that everything submitted is on its way.
    pub fn kick(&mut self) {
        self.io.kick();
    }

    /// The next finished request.
    pub fn reap(&mut self) -> Option<Done> {
        let mut done = self.io.reap()?;
        if done.io.op == IoOp::Flush && self.geometry.read_only {
            // Nothing was written that could be lost.
            done.result = Ok(());
        }
        if done.result.is_ok() {
            let bytes = u64::try_from(done.io.buffer.len()).unwrap_or(u64::MAX);
            match done.io.op {
                IoOp::Read(_) => {
                    self.stats.reads.add(1);
                    self.stats.read_bytes.add(bytes);
                }
                IoOp::Write(_) => {
                    self.stats.writes.add(1);
                    self.stats.write_bytes.add(bytes);
                }
                IoOp::Flush => self.stats.flushes.add(1),
                IoOp::Discard { count, .. } => {
                    self.stats.discards.add(1);
                    self.stats
                        .discarded_bytes
                        .add(count.bytes().unwrap_or(u64::MAX));
                }
            }
        }
        Some(done)
    }

    /// The descriptor to wait on; see [`DiskIo::wake`].
    pub fn wake(&self) -> Option<i32> {
        self.io.wake()
    }
}

impl core::fmt::Debug for Disk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Disk")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}
