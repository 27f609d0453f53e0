//! Copies that touch each shared byte exactly once.
//!
//! `memcpy` would not do: it may read overlapping words at both ends, and racing with a writer it is no defined access at all.

use core::ptr::NonNull;
use zerocopy::{FromBytes, IntoBytes};

/// From how many bytes on a string instruction beats a loop of words.
#[cfg(target_arch = "x86_64")]
const BULK: usize = 512;

/// Whether `len` bytes at `at` are whole, aligned `u64`, and few: the entries of most rings.
#[inline(always)]
fn words(at: NonNull<u8>, len: usize) -> bool {
    len < 512 && len.is_multiple_of(8) && (at.as_ptr() as usize).is_multiple_of(8)
}

/// How `len` bytes at `at` divide: bytes up to a multiple of 4, then up to one of 8 in whole `u32`, then the rest.
fn divide(at: usize, len: usize) -> (usize, usize) {
    let bytes = (at.wrapping_neg() & 3).min(len);
    let quad = at.wrapping_add(bytes).wrapping_neg() & 4;
    (bytes, if quad <= len - bytes { quad } else { 0 })
}

/// Moves `words` times 8 bytes, wherever they begin: as fast as single bytes or faster, and fewer steps where each is emulated.
///
/// # Safety
/// So many bytes at `from` are readable and at `to` writable, and they are not the same.
#[cfg(target_arch = "x86_64")]
unsafe fn move_words(to: *mut u8, from: *const u8, words: usize) {
    // SAFETY: as promised; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep movsq", inout("rcx") words => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// The bytes of a `T` at `from` are readable.
#[inline(always)]
pub(crate) unsafe fn value<T: FromBytes + IntoBytes>(from: NonNull<u8>) -> T {
    let mut value = T::new_zeroed();
    if words(from, size_of::<T>()) {
        for (nth, word) in value
            .as_mut_bytes()
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .enumerate()
        {
            // SAFETY: readable as promised, aligned as checked.
            *word = unsafe { from.cast::<u64>().add(nth).read_volatile() }.to_ne_bytes();
        }
        return value;
    }
    // A value of its own: one that is passed by reference could not stay in registers above.
    let mut value = T::new_zeroed();
    // SAFETY: as promised to us.
    unsafe { read_any(from, value.as_mut_bytes()) };
    value
}

/// # Safety
/// `dst.len()` bytes at `from` are readable.
#[inline(always)]
pub(crate) unsafe fn read(from: NonNull<u8>, dst: &mut [u8]) {
    if words(from, dst.len()) {
        for (nth, word) in dst.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: readable as promised, aligned as checked.
            *word = unsafe { from.cast::<u64>().add(nth).read_volatile() }.to_ne_bytes();
        }
        return;
    }
    // SAFETY: as promised to us.
    unsafe { read_any(from, dst) }
}

/// # Safety
/// `dst.len()` bytes at `from` are readable.
#[inline(never)]
unsafe fn read_any(mut from: NonNull<u8>, dst: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if dst.len() >= BULK {
        let (words, tail) = dst.as_chunks_mut::<8>();
        // SAFETY: readable as promised, and `dst` is ours.
        unsafe {
            move_words(words.as_mut_ptr().cast(), from.as_ptr(), words.len());
            from = from.add(size_of_val(words));
            for byte in tail {
                *byte = from.read_volatile();
                from = from.add(1);
            }
        }
        return;
    }
    let (bytes, quad) = divide(from.as_ptr() as usize, dst.len());
    let (head, rest) = dst.split_at_mut(bytes);
    let (quad, rest) = rest.split_at_mut(quad);
    let aligned = (from.as_ptr() as usize + bytes + quad.len()).is_multiple_of(8);
    let (words, rest) = rest.as_chunks_mut::<8>();
    let (half, tail) = rest.as_chunks_mut::<4>();
    // SAFETY: one after another, `dst.len()` bytes in all; `divide` aligned each word, and where too few bytes were left to
    // come to a multiple of 8 there are no `words`.
    unsafe {
        for byte in head {
            *byte = from.read_volatile();
            from = from.add(1);
        }
        for word in quad.as_chunks_mut::<4>().0 {
            *word = from.cast::<u32>().read_volatile().to_ne_bytes();
            from = from.add(4);
        }
        debug_assert!(aligned || words.is_empty());
        for word in words {
            *word = from.cast::<u64>().read_volatile().to_ne_bytes();
            from = from.add(8);
        }
        for word in half {
            *word = from.cast::<u32>().read_volatile().to_ne_bytes();
            from = from.add(4);
        }
        for byte in tail {
            *byte = from.read_volatile();
            from = from.add(1);
        }
    }
}

/// # Safety
/// `src.len()` bytes at `to` are writable.
#[inline(always)]
pub(crate) unsafe fn write(to: NonNull<u8>, src: &[u8]) {
    // SAFETY: writable as promised, aligned as checked.
    unsafe {
        if words(to, src.len()) {
            for (nth, word) in src.as_chunks::<8>().0.iter().enumerate() {
                to.cast::<u64>()
                    .add(nth)
                    .write_volatile(u64::from_ne_bytes(*word));
            }
            return;
        }
        match *src {
            [byte] => to.write_volatile(byte),
            [a, b] if (to.as_ptr() as usize).is_multiple_of(2) => {
                to.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b]));
            }
            _ => write_any(to, src),
        }
    }
}

/// # Safety
/// `src.len()` bytes at `to` are writable.
#[inline(never)]
unsafe fn write_any(mut to: NonNull<u8>, src: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if src.len() >= BULK {
        let (words, tail) = src.as_chunks::<8>();
        // SAFETY: writable as promised, and `src` is ours.
        unsafe {
            move_words(to.as_ptr(), words.as_ptr().cast(), words.len());
            to = to.add(size_of_val(words));
            for byte in tail {
                to.write_volatile(*byte);
                to = to.add(1);
            }
        }
        return;
    }
    let (bytes, quad) = divide(to.as_ptr() as usize, src.len());
    let (head, rest) = src.split_at(bytes);
    let (quad, rest) = rest.split_at(quad);
    let aligned = (to.as_ptr() as usize + bytes + quad.len()).is_multiple_of(8);
    let (words, rest) = rest.as_chunks::<8>();
    let (half, tail) = rest.as_chunks::<4>();
    // SAFETY: as in `read`.
    unsafe {
        for byte in head {
            to.write_volatile(*byte);
            to = to.add(1);
        }
        for word in quad.as_chunks::<4>().0 {
            to.cast::<u32>().write_volatile(u32::from_ne_bytes(*word));
            to = to.add(4);
        }
        debug_assert!(aligned || words.is_empty());
        for word in words {
            to.cast::<u64>().write_volatile(u64::from_ne_bytes(*word));
            to = to.add(8);
        }
        for word in half {
            to.cast::<u32>().write_volatile(u32::from_ne_bytes(*word));
            to = to.add(4);
        }
        for byte in tail {
            to.write_volatile(*byte);
            to = to.add(1);
        }
    }
}
