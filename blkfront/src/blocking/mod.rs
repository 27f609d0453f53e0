//! A disk for those who wait: each call ends when the request has.
//!
//! What the traits of other crates ask for is here, without a thread or an executor: [`Blocking`] takes a frontend, and from
//! its user a function that lets time pass until something may have happened. With the feature `embedded-io` it reads, writes
//! and seeks by bytes; with `embedded-sdmmc` it is a block device for that crate's FAT file systems.

#[cfg(feature = "embedded-io")]
mod bytes;
#[cfg(feature = "embedded-sdmmc")]
mod card;

#[cfg(feature = "embedded-io")]
pub use bytes::Bytes;
#[cfg(feature = "embedded-sdmmc")]
pub use card::Card;

use ringfence_core::platform::{Platform, PlatformError};
use ringfence_core::{PAGE, Sector, SectorCount};
use ringfence_ring::Armed;
use thiserror::Error;

use crate::{
    Buffer, BufferError, Frontend, Info, IoError, MAX_PAGES, Op, PeerFault, Reason, SLOTS, Tag,
};

/// Why a call failed. `E` is what the user's own function says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum BlockingError<E> {
    /// The request was not submitted.
    #[error(transparent)]
    Rejected(#[from] Reason),
    /// The request failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// There are no pages for the data.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The backend lied.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// The doorbell failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Waiting failed.
    #[error("waiting: {0}")]
    Wait(E),
}

/// A frontend of which each call ends when its request has.
///
/// `wait` is called when nothing is there and the backend was asked to ring. It waits for the
/// [channel](crate::Queue::channel), or for the store where [`Frontend::step`] is to be called, or simply lets the backend run;
/// too short a wait does no harm. Unless it fails, a request that a closing backend left unanswered is waited for until the next
/// backend has answered it.
pub struct Blocking<P: Platform, W, const DEPTH: usize = SLOTS, const PAGES: usize = MAX_PAGES> {
    front: Frontend<P, DEPTH, PAGES>,
    wait: W,
    /// Used again while it can be.
    spare: Option<Buffer<P, PAGES>>,
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> Blocking<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
{
    /// Takes a frontend, connected or not. Completions of what it has in flight are dropped when they come.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::{Blocking, BlockingError, Reason};
    /// use ringfence_core::Sector;
    ///
    /// let Rig { front, .. } = Rig::new();
    /// let mut disk = Blocking::new(front, |_| Err("nobody comes"));
    /// let error = disk.read(Sector::new(0), &mut [0; 512]).unwrap_err();
    /// assert_eq!(error, BlockingError::Rejected(Reason::NotConnected));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn new(front: Frontend<P, DEPTH, PAGES>, wait: W) -> Self {
        Self {
            front,
            wait,
            spare: None,
        }
    }

    /// The frontend, for its control plane.
    pub const fn front(&mut self) -> &mut Frontend<P, DEPTH, PAGES> {
        &mut self.front
    }

    /// The frontend back.
    pub fn into_front(self) -> Frontend<P, DEPTH, PAGES> {
        self.front
    }

    /// The disk.
    ///
    /// # Errors
    /// It is not connected.
    pub fn info(&self) -> Result<Info, BlockingError<E>> {
        Ok(self.front.info().ok_or(Reason::NotConnected)?)
    }

    /// Fills `dst`, a multiple of the disk's sector size, from `sector` on (in units of 512 bytes).
    ///
    /// # Errors
    /// [`BlockingError`]; what `dst` holds then is not said.
    pub fn read(&mut self, sector: Sector, dst: &mut [u8]) -> Result<(), BlockingError<E>> {
        let mut at = sector;
        for part in dst.chunks_mut(PAGES.saturating_mul(PAGE)) {
            let buffer = self.buffer(part.len())?;
            let buffer = self.transfer(Op::Read, at, buffer)?;
            if let Some(buffer) = buffer {
                buffer.read_at(0, part)?;
                self.spare = Some(buffer);
            }
            at = after(at, part.len());
        }
        Ok(())
    }

    /// Writes `src`, a multiple of the disk's sector size, from `sector` on (in units of 512 bytes). It survives the backend
    /// then; [`flush`](Self::flush) is for what the disk keeps.
    ///
    /// # Errors
    /// [`BlockingError`]; what the sectors hold then is not said.
    pub fn write(&mut self, sector: Sector, src: &[u8]) -> Result<(), BlockingError<E>> {
        let mut at = sector;
        for part in src.chunks(PAGES.saturating_mul(PAGE)) {
            let mut buffer = self.buffer(part.len())?;
            buffer.write_at(0, part)?;
            self.spare = self.transfer(Op::Write, at, buffer)?;
            at = after(at, part.len());
        }
        Ok(())
    }

    /// Makes durable what was written. A disk that does not know flushes has nothing to do.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn flush(&mut self) -> Result<(), BlockingError<E>> {
        if !self.info()?.flush {
            return Ok(());
        }
        let tag = self.front.flush()?;
        match self.end_of(tag)?.1 {
            // The backend says only now that there is nothing to do.
            Err(IoError::Unsupported) => Ok(()),
            result => Ok(result?),
        }
    }

    /// A buffer of so many bytes.
    fn buffer(&mut self, bytes: usize) -> Result<Buffer<P, PAGES>, BlockingError<E>> {
        if self.front.info().is_none() {
            return Err(Reason::NotConnected.into());
        }
        let spare = self.spare.take();
        let mut buffer = match spare.filter(|spare| spare.capacity() >= bytes) {
            Some(spare) => spare,
            None => self.front.buffer(bytes.div_ceil(PAGE))?,
        };
        buffer.set_len(bytes)?;
        Ok(buffer)
    }

    /// Gives the buffer back if it can be used again.
    fn transfer(
        &mut self,
        op: Op,
        sector: Sector,
        buffer: Buffer<P, PAGES>,
    ) -> Result<Option<Buffer<P, PAGES>>, BlockingError<E>> {
        let tag = match self.front.submit(op, sector, buffer) {
            Ok(tag) => tag,
            // Of an earlier backend: once more, with pages that this one may use.
            Err(rejected) if matches!(rejected.reason, Reason::ForeignBuffer { .. }) => {
                return self.again(op, sector, &rejected.buffer);
            }
            Err(rejected) => return Err(rejected.reason.into()),
        };
        let (buffer, result) = self.end_of(tag)?;
        result?;
        Ok(buffer)
    }

    fn again(
        &mut self,
        op: Op,
        sector: Sector,
        old: &Buffer<P, PAGES>,
    ) -> Result<Option<Buffer<P, PAGES>>, BlockingError<E>> {
        let mut buffer = self.front.buffer(old.len().div_ceil(PAGE))?;
        buffer.set_len(old.len())?;
        if op == Op::Write {
            let mut bytes = [0; 512];
            for offset in (0..old.len()).step_by(bytes.len()) {
                old.read_at(offset, &mut bytes)?;
                buffer.write_at(offset, &bytes)?;
            }
        }
        let tag = match self.front.submit(op, sector, buffer) {
            Ok(tag) => tag,
            Err(rejected) => return Err(rejected.reason.into()),
        };
        let (buffer, result) = self.end_of(tag)?;
        result?;
        Ok(buffer)
    }

    /// Waits until this request is over.
    #[expect(
        clippy::type_complexity,
        reason = "a buffer, perhaps, and how it ended"
    )]
    fn end_of(
        &mut self,
        tag: Tag,
    ) -> Result<(Option<Buffer<P, PAGES>>, Result<(), IoError>), BlockingError<E>> {
        self.front.kick()?;
        loop {
            while let Some(done) = self.front.reap()? {
                if done.tag == tag {
                    return Ok((done.buffer, done.result));
                }
            }
            // A request longer than the backend takes goes on in pieces.
            self.front.kick()?;
            if self.front.arm() == Armed::Sleep {
                (self.wait)(&mut self.front).map_err(BlockingError::Wait)?;
            }
        }
    }
}

fn after(sector: Sector, bytes: usize) -> Sector {
    let count = u64::try_from(bytes).unwrap_or(u64::MAX) / Sector::BYTES;
    // Past the end of what can be counted there is no disk: the request is refused.
    sector
        .end(SectorCount::new(count))
        .unwrap_or(Sector::new(u64::MAX))
}
