//! Buffers that were used before, by their size: a backend with persistent grants knows their pages already.

use ringfence_blkfront::{BufferError, MAX_PAGES};
use ringfence_core::PAGE;

use super::front::{DiskBuffer, DiskQueue, PAGES};
use super::world::World;

/// Pages of a buffer: for one block, for what fits a request itself, for the longest request.
const SIZES: [usize; 3] = [1, MAX_PAGES, PAGES];

/// Buffers that nobody uses at the moment.
pub(crate) struct Pool<P: World> {
    idle: [Vec<DiskBuffer<P>>; SIZES.len()],
    /// Pages of all buffers, also of those in use.
    pages: usize,
    /// How many those may be, unless it cannot go on with so few.
    limit: usize,
}

impl<P: World> Pool<P> {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            idle: [const { Vec::new() }; SIZES.len()],
            pages: 0,
            limit,
        }
    }

    /// A buffer for this many bytes: one that fits, or a new one, or a larger one. `None` if it is better to wait for one that is
    /// in use.
    ///
    /// # Errors
    /// No pages are left; the connection is away.
    pub(crate) fn take(
        &mut self,
        queue: &DiskQueue<P>,
        bytes: usize,
    ) -> Result<Option<DiskBuffer<P>>, BufferError> {
        let pages = bytes.div_ceil(PAGE).max(1);
        let size = SIZES.iter().position(|size| *size >= pages);
        let size = size.ok_or(BufferError::Pages { pages, max: PAGES })?;
        if queue.in_flight() > 0 && self.pages.saturating_add(SIZES[size]) > self.limit {
            return Ok(self.fitting(size));
        }
        if let Some(buffer) = self.idle[size].pop() {
            return Ok(Some(buffer));
        }
        match queue.buffer(SIZES[size]) {
            Ok(buffer) => {
                self.pages += SIZES[size];
                Ok(Some(buffer))
            }
            Err(error) => self.fitting(size).map(Some).ok_or(error),
        }
    }

    fn fitting(&mut self, size: usize) -> Option<DiskBuffer<P>> {
        self.idle.iter_mut().skip(size).find_map(Vec::pop)
    }

    /// Keeps a buffer for the next request.
    pub(crate) fn keep(&mut self, buffer: DiskBuffer<P>) {
        let pages = buffer.capacity() / PAGE;
        if let Some(n) = SIZES.iter().position(|size| *size == pages) {
            self.idle[n].push(buffer);
        }
    }

    /// Gives all of them up: their pages are granted to a backend of the past.
    pub(crate) fn clear(&mut self) {
        self.idle.iter_mut().for_each(Vec::clear);
        self.pages = 0;
    }
}
