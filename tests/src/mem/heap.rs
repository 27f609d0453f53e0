//! Zeroed pages of this process, shared by cloning.

use ringfence_core::mem::{PAGE, SharedMem};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

const WORDS: usize = 16;

/// A cache line, so that the pages are aligned as a C struct expects.
#[repr(C, align(64))]
#[derive(Default)]
struct Line([AtomicU32; WORDS]);

/// Shared memory without `unsafe`: atomic words on the heap. Clones share the same pages.
#[derive(Clone)]
pub struct HeapMem {
    lines: Arc<[Line]>,
}

impl HeapMem {
    /// `pages` zeroed pages.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        let lines = (0..pages * PAGE / size_of::<Line>())
            .map(|_| Line::default())
            .collect();
        Self { lines }
    }

    /// One page filled from `bytes`; what they do not cover is 0.
    #[must_use]
    pub fn page_of(bytes: &[u8]) -> Self {
        let page = Self::new(1);
        page.write(0, &bytes[..bytes.len().min(PAGE)]);
        page
    }

    /// The address of the first page, for a peer written in C. Valid as long as any clone lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.lines.as_ptr().cast_mut().cast()
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        let word = offset / 4;
        &self.lines[word / WORDS].0[word % WORDS]
    }
}

impl SharedMem for HeapMem {
    fn len(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    fn load_u32(&self, offset: usize) -> u32 {
        assert_eq!(offset % 4, 0);
        self.word(offset).load(Ordering::Acquire)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        assert_eq!(offset % 4, 0);
        self.word(offset).store(value, Ordering::Release);
    }

    fn read(&self, offset: usize, dst: &mut [u8]) {
        let mut at = offset;
        let mut rest = dst;
        while !rest.is_empty() {
            let skip = at % 4;
            let len = rest.len().min(4 - skip);
            let bytes = self.word(at).load(Ordering::Relaxed).to_ne_bytes();
            let (head, tail) = rest.split_at_mut(len);
            head.copy_from_slice(&bytes[skip..skip + len]);
            at += len;
            rest = tail;
        }
    }

    fn write(&self, offset: usize, src: &[u8]) {
        let mut at = offset;
        let mut rest = src;
        while !rest.is_empty() {
            let skip = at % 4;
            let (head, tail) = rest.split_at(rest.len().min(4 - skip));
            let insert = |old: u32| {
                let mut bytes = old.to_ne_bytes();
                bytes[skip..skip + head.len()].copy_from_slice(head);
                u32::from_ne_bytes(bytes)
            };
            self.word(at)
                .update(Ordering::Relaxed, Ordering::Relaxed, insert);
            at += head.len();
            rest = tail;
        }
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
