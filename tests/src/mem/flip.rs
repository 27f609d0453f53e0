//! Pages that change between two looks.

use ringfence_core::mem::SharedMem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Overwrites some bytes right after the n-th read that touches them: the deterministic form of a peer that races with a
/// check (XSA-155). Whoever reads once sees the old bytes; whoever reads again sees the new ones.
#[derive(Clone)]
pub struct FlipMem<M> {
    inner: M,
    offset: usize,
    bytes: Arc<[u8]>,
    reads_left: Arc<AtomicU32>,
}

impl<M: SharedMem> FlipMem<M> {
    /// Writes `bytes` at `offset` of `inner` after `reads` reads (at least one) that touch them.
    #[must_use]
    pub fn new(inner: M, offset: usize, reads: u32, bytes: &[u8]) -> Self {
        Self {
            inner,
            offset,
            bytes: bytes.into(),
            reads_left: Arc::new(AtomicU32::new(reads.max(1))),
        }
    }

    /// Whether the bytes have been overwritten.
    #[must_use]
    pub fn flipped(&self) -> bool {
        self.reads_left.load(Ordering::Relaxed) == 0
    }

    fn after_read(&self, offset: usize, len: usize) {
        if offset >= self.offset + self.bytes.len() || self.offset >= offset + len || self.flipped()
        {
            return;
        }
        if self.reads_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.inner.write(self.offset, &self.bytes);
        }
    }
}

impl<M: SharedMem> SharedMem for FlipMem<M> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn load_u32(&self, offset: usize) -> u32 {
        let value = self.inner.load_u32(offset);
        self.after_read(offset, 4);
        value
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.inner.store_u32(offset, value);
    }

    fn read(&self, offset: usize, dst: &mut [u8]) {
        self.inner.read(offset, dst);
        self.after_read(offset, dst.len());
    }

    fn write(&self, offset: usize, src: &[u8]) {
        self.inner.write(offset, src);
    }

    fn fence(&self) {
        self.inner.fence();
    }
}

#[cfg(test)]
mod tests {
    use super::FlipMem;
    use crate::mem::HeapMem;
    use ringfence_core::mem::SharedMem;

    #[test]
    fn flips_after_the_nth_read_that_touches_it() {
        let page = FlipMem::new(HeapMem::new(1), 6, 2, &[9]);
        page.load_u32(0);
        page.load_u32(8);
        assert_eq!(page.load_u32(4).to_ne_bytes(), [0; 4]);
        assert!(!page.flipped());
        assert_eq!(page.load_u32(4).to_ne_bytes(), [0; 4]);
        assert!(page.flipped());
        assert_eq!(page.load_u32(4).to_ne_bytes(), [0, 0, 9, 0]);
    }
}
