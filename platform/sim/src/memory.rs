//! Pages: words that any domain may change at any moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ringfence_core::PAGE;

const WORDS: usize = PAGE / 4;

/// One page. Racy by intent and yet without undefined behaviour: every word is an atomic.
#[derive(Debug)]
pub(crate) struct Page([AtomicU32; WORDS]);

impl Page {
    pub(crate) fn zeroed() -> Arc<Self> {
        Arc::new(Self([const { AtomicU32::new(0) }; WORDS]))
    }

    pub(crate) fn zero(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4),
            "offset {offset} is no multiple of 4"
        );
        &self.0[offset / 4]
    }

    pub(crate) fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    pub(crate) fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Copies out; every byte comes from exactly one load of its word.
    pub(crate) fn read(&self, offset: usize, dst: &mut [u8]) {
        let (head, first, body) = split(offset, dst.len());
        let (dst_head, rest) = dst.split_at_mut(head);
        if head > 0 {
            let skip = offset % 4;
            let bytes = self.0[first - 1].load(Ordering::Relaxed).to_ne_bytes();
            dst_head.copy_from_slice(&bytes[skip..skip + head]);
        }
        let (dst_body, tail) = rest.split_at_mut(body * 4);
        let words = &self.0[first..first + body];
        for (to, word) in dst_body.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        if !tail.is_empty() {
            let bytes = self.0[first + body].load(Ordering::Relaxed).to_ne_bytes();
            tail.copy_from_slice(&bytes[..tail.len()]);
        }
    }

    /// Copies in; every byte is written exactly once, and its neighbours in the word are left alone.
    pub(crate) fn write(&self, offset: usize, src: &[u8]) {
        let (head, first, body) = split(offset, src.len());
        let (src_head, rest) = src.split_at(head);
        if head > 0 {
            insert(&self.0[first - 1], offset % 4, src_head);
        }
        let (src_body, tail) = rest.split_at(body * 4);
        let words = &self.0[first..first + body];
        for (from, word) in src_body.as_chunks::<4>().0.iter().zip(words) {
            word.store(u32::from_ne_bytes(*from), Ordering::Relaxed);
        }
        if !tail.is_empty() {
            insert(&self.0[first + body], 0, tail);
        }
    }
}

/// Bytes before the first whole word, the index of that word, and the number of whole words.
fn split(offset: usize, len: usize) -> (usize, usize, usize) {
    assert!(
        len <= PAGE && offset <= PAGE - len,
        "{len} bytes at {offset} leave the page"
    );
    let head = (offset.wrapping_neg() % 4).min(len);
    (head, offset.div_ceil(4), (len - head) / 4)
}

fn insert(word: &AtomicU32, at: usize, part: &[u8]) {
    word.update(Ordering::Relaxed, Ordering::Relaxed, |old| {
        let mut bytes = old.to_ne_bytes();
        bytes[at..at + part.len()].copy_from_slice(part);
        u32::from_ne_bytes(bytes)
    });
}

/// Cuts a range of bytes at the borders of pages: (page, offset in it, range of the caller's bytes).
pub(crate) fn pieces(
    offset: usize,
    len: usize,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset.checked_add(done).expect("an offset within memory");
        let now = (PAGE - at % PAGE).min(len - done);
        let range = done..done + now;
        done += now;
        Some((at / PAGE, at % PAGE, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_length_copies_its_bytes_and_no_others() {
        let page = Page::zeroed();
        for offset in 0..9 {
            for len in 0..14 {
                page.write(0, &[0xEE; 32]);
                let src: Vec<u8> = (1..=len).collect();
                page.write(offset, &src);
                let mut all = [0; 32];
                page.read(0, &mut all);
                let mut expected = [0xEE; 32];
                expected[offset..offset + src.len()].copy_from_slice(&src);
                assert_eq!(all, expected, "{len} bytes at {offset}");
                let mut back = vec![0; src.len()];
                page.read(offset, &mut back);
                assert_eq!(back, src, "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    fn the_last_bytes_of_a_page_are_reachable() {
        let page = Page::zeroed();
        page.write(PAGE - 3, b"end");
        assert_eq!(page.load(PAGE - 4).to_ne_bytes()[1..], *b"end");
        page.write(PAGE, b"");
    }

    #[test]
    #[should_panic(expected = "leave the page")]
    fn the_byte_after_is_not() {
        Page::zeroed().write(PAGE - 3, b"ends");
    }

    #[test]
    fn a_range_is_cut_at_the_borders_of_pages() {
        let cut: Vec<_> = pieces(PAGE - 2, PAGE + 3).collect();
        assert_eq!(
            cut,
            [
                (0, PAGE - 2, 0..2),
                (1, 0, 2..PAGE + 2),
                (2, 0, PAGE + 2..PAGE + 3)
            ]
        );
    }
}
