//! A disk in memory that answers late and out of order, to try the server on.

use super::blocks::{BlockError, Blocks, Data, Geometry, SubmitError, Token};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

#[derive(Debug)]
enum Action {
    Read { at: usize, bytes: usize },
    Write { at: usize, data: Vec<u8> },
    Discard { at: usize, bytes: usize },
    Flush,
}

/// A disk in memory.
#[derive(Debug)]
pub struct MemoryBlocks {
    geometry: Geometry,
    bytes: Vec<u8>,
    depth: usize,
    queue: Vec<(Token, Action)>,
    kicked: usize,
    /// A linear congruential generator: which of the requests is done next.
    order: u64,
    failing: Option<std::ops::Range<u64>>,
    aborting: u32,
    refusing: u32,
    /// Somebody was, and is to try again.
    refused: bool,
    gone: bool,
    written: u64,
    counts: Counts,
    event: OwnedFd,
}

/// What reached the disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Writes that were done when the last flush was.
    pub flushed: u64,
    /// The most requests that were in flight at once.
    pub deepest: usize,
}

impl MemoryBlocks {
    /// A zeroed disk with at most `depth` requests in flight; `seed` decides the order of answers.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(geometry: Geometry, depth: usize, seed: u64) -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bytes = usize::try_from(geometry.sectors.saturating_mul(512))
            .map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            geometry,
            bytes: vec![0; bytes],
            depth,
            queue: Vec::new(),
            kicked: 0,
            order: seed,
            failing: None,
            aborting: 0,
            refusing: 0,
            refused: false,
            gone: false,
            written: 0,
            counts: Counts::default(),
            event,
        })
    }

    /// Makes requests that touch these sectors fail.
    #[must_use]
    pub fn failing(mut self, sectors: std::ops::Range<u64>) -> Self {
        self.failing = Some(sectors);
        self
    }

    /// Ends the connection every now and then: each of the next `requests` answers says that it was aborted, and every other
    /// one of those requests was done all the same.
    #[must_use]
    pub const fn aborting(mut self, requests: u32) -> Self {
        self.aborting = requests;
        self
    }

    /// Has no room for the next `flushes` flushes, as when its backend is away, and wakes whoever waits to try again.
    #[must_use]
    pub const fn refusing(mut self, flushes: u32) -> Self {
        self.refusing = flushes;
        self
    }

    /// Takes no more requests and fails those in flight.
    pub fn vanish(&mut self) {
        self.gone = true;
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What reached the disk.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn submit(&mut self, token: Token, action: Action) -> Result<(), SubmitError> {
        if self.gone {
            return Err(SubmitError::Gone);
        }
        if self.queue.len() >= self.depth {
            return Err(SubmitError::Full);
        }
        self.queue.push((token, action));
        self.counts.deepest = self.counts.deepest.max(self.queue.len());
        Ok(())
    }

    fn place(&self, sector: u64, bytes: usize) -> usize {
        let at = sector.saturating_mul(512) as usize;
        assert!(
            bytes > 0 && bytes <= self.geometry.request_bytes as usize,
            "{bytes} bytes in one request"
        );
        assert!(
            bytes.is_multiple_of(self.geometry.block_bytes as usize),
            "{bytes} bytes are no whole blocks"
        );
        assert!(
            at.is_multiple_of(self.geometry.block_bytes as usize),
            "sector {sector} begins no block"
        );
        assert!(
            at.saturating_add(bytes) <= self.bytes.len(),
            "sector {sector} and {bytes} bytes reach beyond the end"
        );
        at
    }

    fn fails(&self, at: usize, bytes: usize) -> bool {
        let (start, end) = (
            at as u64 / 512,
            (at.saturating_add(bytes) as u64).div_ceil(512),
        );
        self.failing
            .as_ref()
            .is_some_and(|failing| failing.start < end && start < failing.end)
    }
}

impl Blocks for MemoryBlocks {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit_read(&mut self, token: Token, sector: u64, bytes: u32) -> Result<(), SubmitError> {
        let bytes = bytes as usize;
        let at = self.place(sector, bytes);
        self.submit(token, Action::Read { at, bytes })?;
        self.counts.reads = self.counts.reads.saturating_add(1);
        Ok(())
    }

    fn submit_write(&mut self, token: Token, sector: u64, data: &[u8]) -> Result<(), SubmitError> {
        assert!(!self.geometry.read_only, "a write to a read-only disk");
        let at = self.place(sector, data.len());
        self.submit(
            token,
            Action::Write {
                at,
                data: data.to_vec(),
            },
        )?;
        self.counts.writes = self.counts.writes.saturating_add(1);
        Ok(())
    }

    fn submit_discard(
        &mut self,
        token: Token,
        sector: u64,
        sectors: u64,
    ) -> Result<(), SubmitError> {
        let (at, bytes) = (sector * 512, sectors * 512);
        assert!(self.geometry.offers.trim, "a discard that is not offered");
        assert!(at + bytes <= self.bytes.len() as u64, "beyond the end");
        let block = u64::from(self.geometry.block_bytes);
        assert!(at.is_multiple_of(block) && bytes.is_multiple_of(block) && bytes > 0);
        let (at, bytes) = (at as usize, bytes as usize);
        self.submit(token, Action::Discard { at, bytes })?;
        self.counts.discards = self.counts.discards.saturating_add(1);
        Ok(())
    }

    fn submit_flush(&mut self, token: Token) -> Result<(), SubmitError> {
        if self.refusing > 0 {
            self.refusing = self.refusing.saturating_sub(1);
            self.refused = true;
            return Err(SubmitError::Full);
        }
        self.submit(token, Action::Flush)?;
        self.counts.flushes = self.counts.flushes.saturating_add(1);
        Ok(())
    }

    fn kick(&mut self) {
        self.kicked = self.queue.len();
    }

    /// Does about half of what was kicked, in a random order.
    fn reap(&mut self, done: &mut dyn FnMut(Token, Result<Data<'_>, BlockError>)) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        for _ in 0..self.kicked.div_ceil(2) {
            self.order = self
                .order
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let choice = (self.order >> 33) as usize % self.kicked;
            // The kicked ones stay in front.
            let (token, action) = self.queue.remove(choice);
            self.kicked = self.kicked.saturating_sub(1);
            let (at, bytes) = match &action {
                Action::Read { at, bytes } | Action::Discard { at, bytes } => (*at, *bytes),
                Action::Write { at, data } => (*at, data.len()),
                Action::Flush => (0, 0),
            };
            if self.gone || self.fails(at, bytes) {
                let error = if self.gone {
                    BlockError::Gone
                } else {
                    BlockError::Failed
                };
                done(token, Err(error));
                continue;
            }
            let aborted = self.aborting > 0;
            self.aborting = self.aborting.saturating_sub(1);
            if aborted && self.aborting.is_multiple_of(2) {
                done(token, Err(BlockError::Aborted));
                continue;
            }
            let place = at..at.saturating_add(bytes);
            if let (Action::Write { data, .. }, Some(space)) =
                (&action, self.bytes.get_mut(place.clone()))
            {
                space.copy_from_slice(data);
                self.written = self.written.saturating_add(1);
            }
            if let Action::Flush = action {
                self.counts.flushed = self.written;
            }
            if let (Action::Discard { .. }, Some(space)) =
                (&action, self.bytes.get_mut(place.clone()))
            {
                space.fill(0);
            }
            if aborted {
                done(token, Err(BlockError::Aborted));
                continue;
            }
            let content = self.bytes.get(place).unwrap_or_default();
            done(
                token,
                Ok(&|skip, dst: &mut [u8]| {
                    let end = skip.saturating_add(dst.len());
                    if let Some(part) = content.get(skip..end) {
                        dst.copy_from_slice(part);
                    }
                }),
            );
        }
    }

    fn arm(&mut self) -> bool {
        if std::mem::take(&mut self.refused) || self.kicked > 0 {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
        true
    }

    fn wake(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.event.as_fd()]
    }
}
