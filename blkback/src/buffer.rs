//! Private buffers: contiguous, page-aligned, and used again and again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ringfence_core::PAGE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One page of a buffer, aligned so that direct I/O takes it.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Bytes that only this process can reach. Starts at a page boundary; nothing else lies in its pages.
pub struct Buffer {
    pages: Box<[Page]>,
    len: usize,
}

impl Buffer {
    /// A buffer of no bytes; allocates nothing.
    pub fn empty() -> Self {
        Self {
            pages: Box::default(),
            len: 0,
        }
    }

    /// A buffer of zeros that can hold up to `pages` pages and holds no bytes yet.
    pub fn with_pages(pages: usize) -> Self {
        let mut all = Vec::new();
        all.resize(pages, Page([0; PAGE]));
        Self {
            pages: all.into_boxed_slice(),
            len: 0,
        }
    }

    /// How many bytes it holds.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes it can hold.
    pub const fn capacity(&self) -> usize {
        self.pages.len().saturating_mul(PAGE)
    }

    /// Sets how many bytes it holds: at most its capacity. Bytes that were not written since the buffer was made are what the
    /// last user left.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.pages.as_bytes().get(..self.len).unwrap_or_default()
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages
            .as_mut_bytes()
            .get_mut(..self.len)
            .unwrap_or_default()
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Buffers of 1, 2, 4 pages and so on: up to what the largest request takes.
const CLASSES: usize = 9;

/// The buffers of one engine: made when first needed, in sizes that are powers of two, kept until the engine ends or their room
/// is needed for another size.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Idle ones, by class.
    free: [Vec<Buffer>; CLASSES],
    /// Pages that may still be made.
    left: usize,
}

/// Why there is no buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoBuffer {
    /// Not now: others have to come back first.
    Now,
    /// Never: it is more than the largest holds.
    Ever,
}

impl Pool {
    /// Room for buffers of `pages` pages together, but always for one of the largest.
    pub(crate) fn new(pages: usize) -> Self {
        Self {
            free: core::array::from_fn(|_| Vec::new()),
            left: pages.max(Self::pages(CLASSES.saturating_sub(1))),
        }
    }

    fn pages(class: usize) -> usize {
        u32::try_from(class)
            .ok()
            .and_then(|class| 1usize.checked_shl(class))
            .unwrap_or(usize::MAX)
    }

    /// A buffer of `len` bytes.
    pub(crate) fn get(&mut self, len: usize) -> Result<Buffer, NoBuffer> {
        let class = len.div_ceil(PAGE).max(1).next_power_of_two().ilog2();
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        let idle = self.free.get_mut(class).ok_or(NoBuffer::Ever)?;
        let mut buffer = match idle.pop() {
            Some(buffer) => buffer,
            None => self.make(Self::pages(class))?,
        };
        buffer.set_len(len);
        Ok(buffer)
    }

    fn make(&mut self, pages: usize) -> Result<Buffer, NoBuffer> {
        for idle in self.free.iter_mut().rev() {
            while self.left < pages {
                let Some(buffer) = idle.pop() else { break };
                self.left = self.left.saturating_add(buffer.pages.len());
            }
        }
        self.left = self.left.checked_sub(pages).ok_or(NoBuffer::Now)?;
        Ok(Buffer::with_pages(pages))
    }

    /// Takes a buffer back. The one of a flush, which has no pages, is dropped.
    pub(crate) fn put(&mut self, buffer: Buffer) {
        let Some(class) = buffer.pages.len().checked_ilog2() else {
            return;
        };
        if let Some(idle) = self
            .free
            .get_mut(usize::try_from(class).unwrap_or(usize::MAX))
        {
            idle.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_and_bounded() {
        let mut pool = Pool::new(300);
        let a = pool.get(512).unwrap();
        let b = pool.get(256 * PAGE).unwrap();
        assert_eq!(a.bytes().as_ptr().align_offset(PAGE), 0);
        assert_eq!((a.len(), b.bytes().len()), (512, 256 * PAGE));
        assert_eq!((a.capacity(), b.capacity()), (PAGE, 256 * PAGE));
        let c = pool.get(17 * PAGE).unwrap();
        assert_eq!(c.capacity(), 32 * PAGE);
        assert_eq!(pool.get(16 * PAGE).unwrap_err(), NoBuffer::Now);
        assert_eq!(pool.get(256 * PAGE + 1).unwrap_err(), NoBuffer::Ever);
        let place = a.bytes().as_ptr();
        pool.put(a);
        assert_eq!(pool.get(1024).unwrap().bytes().as_ptr(), place, "the same");
        // What is idle makes room for other sizes.
        pool.put(b);
        for _ in 0..16 {
            pool.get(16 * PAGE).unwrap();
        }
        assert_eq!(pool.get(16 * PAGE).unwrap_err(), NoBuffer::Now);
        pool.put(c);
        assert!(pool.get(16 * PAGE).is_ok());
    }
}
