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

/// The buffers of one engine: made when first needed, at most `limit`, kept until the engine ends.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<Buffer>,
    pages: usize,
    to_make: usize,
}

impl Pool {
    /// Room for `limit` buffers of `pages` pages each.
    pub(crate) fn new(limit: usize, pages: usize) -> Self {
        Self {
            free: Vec::with_capacity(limit),
            pages,
            to_make: limit,
        }
    }

    /// A buffer of `len` bytes, or `None` when all are in use or `len` is more than one holds.
    pub(crate) fn get(&mut self, len: usize) -> Option<Buffer> {
        if len > self.pages.saturating_mul(PAGE) {
            return None;
        }
        let mut buffer = match self.free.pop() {
            Some(buffer) => buffer,
            None => {
                self.to_make = self.to_make.checked_sub(1)?;
                Buffer::with_pages(self.pages)
            }
        };
        buffer.set_len(len);
        Some(buffer)
    }

    /// Takes a buffer back. The one of a flush, which has no pages, is dropped.
    pub(crate) fn put(&mut self, buffer: Buffer) {
        if buffer.capacity() > 0 && self.free.len() < self.free.capacity() {
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_and_bounded() {
        let mut pool = Pool::new(2, 11);
        let a = pool.get(512).unwrap();
        let b = pool.get(11 * PAGE).unwrap();
        assert!(pool.get(512).is_none(), "two were promised");
        assert_eq!(a.bytes().as_ptr().align_offset(PAGE), 0);
        assert_eq!((a.len(), b.bytes().len()), (512, 11 * PAGE));
        pool.put(a);
        assert_eq!(pool.get(1024).unwrap().len(), 1024);
        assert!(pool.get(11 * PAGE + 1).is_none());
    }
}
