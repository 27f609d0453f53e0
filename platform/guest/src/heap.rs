//! The heap behind `alloc`.

use core::alloc::{GlobalAlloc, Layout};

use talc::locking::AssumeUnlockable;
use talc::{ErrOnOom, Span, Talc, Talck};

// There is one processor and nothing that interrupts it, so nobody allocates while somebody else does.
static HEAP: Talck<AssumeUnlockable, ErrOnOom> = Talc::new(ErrOnOom).lock();

/// The allocator of an image; [`entry!`](crate::entry) makes it the global one.
#[derive(Debug)]
pub struct Heap;

// SAFETY: passes everything on to an allocator that is one.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised to us.
        unsafe { HEAP.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as promised to us.
        unsafe { HEAP.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as promised to us.
        unsafe { HEAP.realloc(at, layout, size) }
    }
}

/// Gives memory to the heap. `false` if it is too little.
///
/// # Safety
/// The memory is ours and nobody else's, for good.
pub(crate) unsafe fn extend(start: *mut u8, len: usize) -> bool {
    let span = Span::from_base_size(start, len);
    // SAFETY: as promised.
    unsafe { HEAP.lock().claim(span) }.is_ok()
}
