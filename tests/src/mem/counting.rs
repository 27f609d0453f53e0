//! Pages that count.

use ringfence_core::mem::SharedMem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts, per byte, how often it was read and written since the last [`reset`](Self::reset): a byte that one request or one
/// pass reads twice is a double fetch (XSA-155).
#[derive(Clone)]
pub struct CountingMem<M> {
    inner: M,
    reads: Arc<[AtomicU32]>,
    writes: Arc<[AtomicU32]>,
    fences: Arc<AtomicU32>,
}

impl<M: SharedMem> CountingMem<M> {
    /// Counts over `inner`, from zero.
    #[must_use]
    pub fn new(inner: M) -> Self {
        let zeroes = || (0..inner.len()).map(|_| AtomicU32::new(0)).collect();
        Self {
            reads: zeroes(),
            writes: zeroes(),
            fences: Arc::default(),
            inner,
        }
    }

    /// The memory underneath, to act as the peer without being counted.
    pub const fn inner(&self) -> &M {
        &self.inner
    }

    /// Starts counting from zero again.
    pub fn reset(&self) {
        for count in self.reads.iter().chain(self.writes.iter()) {
            count.store(0, Ordering::Relaxed);
        }
        self.fences.store(0, Ordering::Relaxed);
    }

    /// How often the most read byte of `range` was read.
    #[must_use]
    pub fn max_reads(&self, range: Range<usize>) -> u32 {
        Self::max(&self.reads[range])
    }

    /// How often the least read byte of `range` was read.
    #[must_use]
    pub fn min_reads(&self, range: Range<usize>) -> u32 {
        let counts = self.reads[range].iter();
        counts.map(|n| n.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// How often the most written byte of `range` was written.
    #[must_use]
    pub fn max_writes(&self, range: Range<usize>) -> u32 {
        Self::max(&self.writes[range])
    }

    /// How many full barriers were executed.
    #[must_use]
    pub fn fences(&self) -> u32 {
        self.fences.load(Ordering::Relaxed)
    }

    /// Panics, naming the byte, if any byte of `range` was read more than once.
    #[track_caller]
    pub fn assert_no_double_fetch(&self, range: Range<usize>) {
        for offset in range {
            let reads = self.reads[offset].load(Ordering::Relaxed);
            assert!(
                reads <= 1,
                "double fetch: byte {offset} was read {reads} times"
            );
        }
    }

    fn max(counts: &[AtomicU32]) -> u32 {
        let counts = counts.iter();
        counts.map(|n| n.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    fn count(counts: &[AtomicU32], offset: usize, len: usize) {
        for count in &counts[offset..offset + len] {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<M: SharedMem> SharedMem for CountingMem<M> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn load_u32(&self, offset: usize) -> u32 {
        Self::count(&self.reads, offset, 4);
        self.inner.load_u32(offset)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        Self::count(&self.writes, offset, 4);
        self.inner.store_u32(offset, value);
    }

    fn read(&self, offset: usize, dst: &mut [u8]) {
        Self::count(&self.reads, offset, dst.len());
        self.inner.read(offset, dst);
    }

    fn write(&self, offset: usize, src: &[u8]) {
        Self::count(&self.writes, offset, src.len());
        self.inner.write(offset, src);
    }

    fn fence(&self) {
        self.fences.fetch_add(1, Ordering::Relaxed);
        self.inner.fence();
    }
}

#[cfg(test)]
mod tests {
    use super::CountingMem;
    use crate::mem::HeapMem;
    use ringfence_core::mem::SharedMem;

    #[test]
    #[should_panic(expected = "double fetch: byte 7 was read 2 times")]
    fn a_byte_read_twice_is_named() {
        let page = CountingMem::new(HeapMem::new(1));
        page.load_u32(4);
        page.assert_no_double_fetch(0..4096);
        page.read(7, &mut [0; 3]);
        page.assert_no_double_fetch(0..4096);
    }

    #[test]
    fn reset_forgets() {
        let page = CountingMem::new(HeapMem::new(1));
        page.load_u32(4);
        page.store_u32(8, 1);
        page.fence();
        assert_eq!((page.max_reads(0..16), page.max_writes(0..16)), (1, 1));
        assert_eq!((page.min_reads(4..8), page.fences()), (1, 1));
        page.reset();
        assert_eq!((page.max_reads(0..16), page.max_writes(0..16)), (0, 0));
        assert_eq!(page.fences(), 0);
    }
}
