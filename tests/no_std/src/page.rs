//! A page of our own, as shared memory.

use core::sync::atomic::{AtomicU32, Ordering, fence};
use ringfence_core::mem::{PAGE, SharedMem};

/// Words that both ends of the ring see.
pub struct Page([AtomicU32; PAGE / 4]);

impl Page {
    pub const fn zeroed() -> Self {
        Self([const { AtomicU32::new(0) }; PAGE / 4])
    }

    fn byte(&self, offset: usize) -> (&AtomicU32, u32) {
        (&self.0[offset / 4], (offset % 4 * 8) as u32)
    }
}

impl SharedMem for Page {
    fn len(&self) -> usize {
        PAGE
    }

    fn load_u32(&self, offset: usize) -> u32 {
        self.0[offset / 4].load(Ordering::Acquire)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.0[offset / 4].store(value, Ordering::Release);
    }

    fn read(&self, offset: usize, dst: &mut [u8]) {
        for (place, byte) in (offset..).zip(dst) {
            let (word, shift) = self.byte(place);
            *byte = (word.load(Ordering::Relaxed) >> shift) as u8;
        }
    }

    fn write(&self, offset: usize, src: &[u8]) {
        for (place, byte) in (offset..).zip(src) {
            let (word, shift) = self.byte(place);
            let old = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(old | u32::from(*byte) << shift, Ordering::Relaxed);
        }
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
