//! A disk in memory: gone with the process.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use ringfence_core::ids::{Sector, SectorCount};

use super::{Discard, DiskIo, Done, Geometry, Io, IoOp};
use crate::error::IoError;

/// Requests that may wait for [`DiskIo::reap`].
const QUEUE: usize = 256;

/// A disk of zeros that remembers what is written to it.
#[derive(Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    done: VecDeque<Done>,
}

impl Memory {
    /// A disk of `sectors` zeros.
    ///
    /// # Errors
    /// The size back if this host cannot hold it.
    pub fn new(sectors: SectorCount) -> Result<Self, SectorCount> {
        let len = sectors
            .bytes()
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or(sectors)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| sectors)?;
        bytes.resize(len, 0);
        Ok(Self::from_bytes(bytes))
    }

    /// A disk that begins with these bytes; a last part of less than a sector is not part of the disk.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            done: VecDeque::with_capacity(QUEUE),
        }
    }

    fn range(&mut self, sector: Sector, len: usize) -> Result<&mut [u8], IoError> {
        let start = sector.byte_offset().and_then(|at| usize::try_from(at).ok());
        let start = start.ok_or(IoError::Range)?;
        let end = start.checked_add(len).ok_or(IoError::Range)?;
        self.bytes.get_mut(start..end).ok_or(IoError::Range)
    }
}

impl DiskIo for Memory {
    fn geometry(&self) -> Geometry {
        let bytes = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        let sectors = bytes.checked_div(Sector::BYTES).unwrap_or(0);
        Geometry {
            discard: Some(Discard {
                secure: true,
                ..Discard::new(512)
            }),
            ..Geometry::new(SectorCount::new(sectors))
        }
    }

    fn submit(&mut self, mut io: Io) -> Result<(), Io> {
        if self.done.len() >= QUEUE {
            return Err(io);
        }
        let len = io.buffer.len();
        let result = match io.op {
            IoOp::Read(sector) => self
                .range(sector, len)
                .map(|bytes| io.buffer.bytes_mut().copy_from_slice(bytes)),
            IoOp::Write(sector) => self
                .range(sector, len)
                .map(|bytes| bytes.copy_from_slice(io.buffer.bytes())),
            IoOp::Flush => Ok(()),
            IoOp::Discard { sector, count, .. } => count
                .bytes()
                .and_then(|bytes| usize::try_from(bytes).ok())
                .ok_or(IoError::Range)
                .and_then(|len| self.range(sector, len))
                .map(|bytes| bytes.fill(0)),
        };
        self.done.push_back(Done { io, result });
        Ok(())
    }

    fn kick(&mut self) {}

    fn reap(&mut self) -> Option<Done> {
        self.done.pop_front()
    }
}
