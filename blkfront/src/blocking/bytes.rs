//! `embedded-io`: a disk as bytes.

use core::fmt;

use embedded_io::{Error, ErrorKind, ErrorType, Read, Seek, SeekFrom, Write};
use ringfence_core::platform::Platform;
use ringfence_core::{PAGE, Sector};

use super::{Blocking, BlockingError};
use crate::{Frontend, IoError, MAX_PAGES, Reason, SLOTS};

/// A disk with a place in it. What begins or ends within a sector is done on a copy of that sector.
pub struct Bytes<P: Platform, W, const DEPTH: usize = SLOTS, const PAGES: usize = MAX_PAGES> {
    disk: Blocking<P, W, DEPTH, PAGES>,
    position: u64,
}

impl<E: fmt::Debug + fmt::Display> Error for BlockingError<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected(Reason::NotConnected) => ErrorKind::NotConnected,
            Self::Rejected(Reason::ReadOnly) => ErrorKind::PermissionDenied,
            Self::Rejected(Reason::Unsupported) | Self::Io(IoError::Unsupported) => {
                ErrorKind::Unsupported
            }
            Self::Rejected(Reason::OutOfRange { .. } | Reason::Misaligned { .. }) => {
                ErrorKind::InvalidInput
            }
            Self::Io(IoError::Aborted) => ErrorKind::ConnectionAborted,
            Self::Peer(_) => ErrorKind::InvalidData,
            Self::Buffer(_) => ErrorKind::OutOfMemory,
            _ => ErrorKind::Other,
        }
    }
}

/// Where a part of a disk is.
struct Part {
    /// The first of its sectors.
    sector: Sector,
    /// Where it begins in it.
    offset: usize,
    /// Bytes.
    len: usize,
    /// Bytes of a sector.
    unit: usize,
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> Bytes<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
{
    /// At the disk's first byte.
    pub const fn new(disk: Blocking<P, W, DEPTH, PAGES>) -> Self {
        Self { disk, position: 0 }
    }

    /// The disk.
    pub const fn disk(&mut self) -> &mut Blocking<P, W, DEPTH, PAGES> {
        &mut self.disk
    }

    fn size(&self) -> Result<u64, BlockingError<E>> {
        Ok(self.disk.info()?.sectors.bytes().unwrap_or(u64::MAX))
    }

    /// What one request can do of `len` bytes from here: whole sectors, or a part of one. `None` at the end.
    fn part(&self, len: usize) -> Result<Option<Part>, BlockingError<E>> {
        let left = self.size()?.saturating_sub(self.position);
        let len = usize::try_from(left).map_or(len, |left| left.min(len));
        if len == 0 {
            return Ok(None);
        }
        let unit = u64::from(self.disk.info()?.sector_size).max(Sector::BYTES);
        let inside = self.position.checked_rem(unit).unwrap_or(0);
        let first = self.position.saturating_sub(inside) / Sector::BYTES;
        // From 512 to 4096.
        let (unit, offset) = (
            usize::try_from(unit).unwrap_or(PAGE),
            usize::try_from(inside).unwrap_or(0),
        );
        let whole = len.saturating_sub(len.checked_rem(unit).unwrap_or(0));
        let len = if offset > 0 || whole == 0 {
            len.min(unit.saturating_sub(offset))
        } else {
            whole
        };
        Ok(Some(Part {
            sector: Sector::new(first),
            offset,
            len,
            unit,
        }))
    }

    fn advance(&mut self, bytes: usize) -> usize {
        let more = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.position = self.position.saturating_add(more);
        bytes
    }
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> ErrorType for Bytes<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
    E: fmt::Debug + fmt::Display,
{
    type Error = BlockingError<E>;
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> Read for Bytes<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
    E: fmt::Debug + fmt::Display,
{
    fn read(&mut self, dst: &mut [u8]) -> Result<usize, Self::Error> {
        let Some(part) = self.part(dst.len())? else {
            return Ok(0);
        };
        let dst = dst.get_mut(..part.len).unwrap_or_default();
        if part.len.is_multiple_of(part.unit) {
            self.disk.read(part.sector, dst)?;
        } else {
            let mut copy = [0; PAGE];
            let copy = copy.get_mut(..part.unit).unwrap_or_default();
            self.disk.read(part.sector, copy)?;
            for (to, from) in dst.iter_mut().zip(copy.iter().skip(part.offset)) {
                *to = *from;
            }
        }
        Ok(self.advance(part.len))
    }
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> Write for Bytes<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
    E: fmt::Debug + fmt::Display,
{
    fn write(&mut self, src: &[u8]) -> Result<usize, Self::Error> {
        let Some(part) = self.part(src.len())? else {
            return Ok(0);
        };
        let src = src.get(..part.len).unwrap_or_default();
        if part.len.is_multiple_of(part.unit) {
            self.disk.write(part.sector, src)?;
        } else {
            let mut copy = [0; PAGE];
            let copy = copy.get_mut(..part.unit).unwrap_or_default();
            self.disk.read(part.sector, copy)?;
            for (to, from) in copy.iter_mut().skip(part.offset).zip(src) {
                *to = *from;
            }
            self.disk.write(part.sector, copy)?;
        }
        Ok(self.advance(part.len))
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        self.disk.flush()
    }
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> Seek for Bytes<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
    E: fmt::Debug + fmt::Display,
{
    /// Also past the end, where nothing can be read or written. Before the beginning is the beginning.
    fn seek(&mut self, to: SeekFrom) -> Result<u64, Self::Error> {
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => self.size()?.saturating_add_signed(by),
            SeekFrom::Current(by) => self.position.saturating_add_signed(by),
        };
        Ok(self.position)
    }
}
