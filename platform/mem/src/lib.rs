//! Memory shared with a domain that is not trusted: a pointer and a length, copied in and out in words.
//!
//! The only place where shared pages are touched. No Rust reference to such memory exists, not even here: every access is a
//! volatile or atomic word, or, for bulk, one string instruction.
#![no_std]

mod copy;

#[doc(hidden)]
pub use ringfence_core as core_crate;
#[doc(hidden)]
pub use zerocopy;

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ringfence_core::{PAGE, SharedMem};
use zerocopy::{FromBytes, IntoBytes};

/// Implements [`SharedMem`] for types that own memory and reach it by a field `pages`, a [`RawPages`].
#[macro_export]
macro_rules! shared_by_pages {
    ($($type:ty),*) => {$(
        impl $crate::core_crate::SharedMem for $type {
            #[inline]
            fn len(&self) -> usize {
                self.pages.len()
            }
            #[inline]
            fn load_u32(&self, offset: usize) -> u32 {
                self.pages.load_u32(offset)
            }
            #[inline]
            fn store_u32(&self, offset: usize, value: u32) {
                self.pages.store_u32(offset, value);
            }
            #[inline]
            fn read_value<T>(&self, offset: usize) -> T
            where
                T: $crate::zerocopy::FromBytes + $crate::zerocopy::IntoBytes,
            {
                self.pages.read_value(offset)
            }
            #[inline]
            fn read(&self, offset: usize, dst: &mut [u8]) {
                self.pages.read(offset, dst);
            }
            #[inline]
            fn write(&self, offset: usize, src: &[u8]) {
                self.pages.write(offset, src);
            }
            #[inline]
            fn fence(&self) {
                self.pages.fence();
            }
        }
    )*};
}

/// `len` bytes at `base` that others read and write at any moment.
///
/// Does not own the memory: whoever mapped it keeps it mapped for as long as this lives.
pub struct RawPages {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: the memory belongs to no thread; every access is a volatile or atomic one of its own.
unsafe impl Send for RawPages {}
// SAFETY: as above.
unsafe impl Sync for RawPages {}

impl fmt::Debug for RawPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawPages({:p}, {} bytes)", self.base, self.len)
    }
}

impl RawPages {
    /// Memory for reading and writing.
    ///
    /// # Safety
    /// `base` to `base + len` stays mapped, readable and writable, for as long as the value lives, and no Rust reference to any
    /// of it exists meanwhile.
    ///
    /// # Panics
    /// If `base` is not at the start of a page, or `len` is no multiple of [`PAGE`].
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        assert!(
            (base.as_ptr() as usize).is_multiple_of(PAGE) && len.is_multiple_of(PAGE),
            "shared memory at {base:p} of {len} bytes is not made of whole pages"
        );
        Self {
            base,
            len,
            writable: true,
        }
    }

    /// Memory for reading. Writing to it is the caller's bug and panics.
    ///
    /// # Safety
    /// As [`new`](Self::new), but it need not be writable.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub unsafe fn read_only(base: NonNull<u8>, len: usize) -> Self {
        // SAFETY: the caller's promise; nothing is written through a value with `writable` unset.
        let pages = unsafe { Self::new(base, len) };
        Self {
            writable: false,
            ..pages
        }
    }

    /// Where the memory starts, for handing it to the kernel.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Whether it may be written.
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// A part of the memory. It borrows nothing: the promise made to [`new`](Self::new) must hold for the part as well.
    ///
    /// # Safety
    /// The memory stays mapped for as long as the part lives.
    ///
    /// # Panics
    /// If the part is not within, or not made of whole pages.
    pub unsafe fn part(&self, offset: usize, len: usize, writable: bool) -> Self {
        assert!(self.writable || !writable, "part of read-only memory");
        // SAFETY: within the mapped memory, and the caller keeps it mapped.
        let pages = unsafe { Self::new(self.at(offset, len), len) };
        Self { writable, ..pages }
    }

    /// Fills a range with zeros.
    ///
    /// # Panics
    /// If the range is not within.
    pub fn zero(&self, offset: usize, len: usize) {
        const ZEROS: [u8; PAGE] = [0; PAGE];
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(PAGE);
            self.write(offset + done, &ZEROS[..piece]);
            done += piece;
        }
    }

    /// Loads the `u64` at `offset`, a multiple of 8, with acquire ordering.
    ///
    /// # Panics
    /// If the word is not within, or not aligned.
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.word64(offset).load(Ordering::Acquire)
    }

    /// Stores the `u64` at `offset`, a multiple of 8, with release ordering.
    ///
    /// # Panics
    /// If the word is not within, not aligned, or the memory is read-only.
    #[inline]
    pub fn store_u64(&self, offset: usize, value: u64) {
        assert!(self.writable, "write to read-only memory");
        self.word64(offset).store(value, Ordering::Release);
    }

    /// Replaces the `u64` at `offset`, a multiple of 8, if it is `old`; otherwise returns what it is.
    ///
    /// # Errors
    /// What the word was.
    ///
    /// # Panics
    /// If the word is not within, not aligned, or the memory is read-only.
    pub fn compare_exchange_u64(&self, offset: usize, old: u64, new: u64) -> Result<(), u64> {
        assert!(self.writable, "write to read-only memory");
        self.word64(offset)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
    }

    #[cold]
    #[inline(never)]
    fn misaligned(offset: usize) -> ! {
        panic!("word at offset {offset}")
    }

    /// Out of line and by value, so that an access costs its caller a comparison and no spilled register.
    #[cold]
    #[inline(never)]
    fn beyond(offset: usize, len: usize, of: usize) -> ! {
        panic!("{len} bytes at {offset} of {of} shared bytes")
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.len) {
            Self::beyond(offset, len, self.len);
        }
        // SAFETY: within the memory, as just checked.
        unsafe { self.base.add(offset) }
    }

    #[inline]
    fn word64(&self, offset: usize) -> &AtomicU64 {
        if !offset.is_multiple_of(8) {
            Self::misaligned(offset);
        }
        let at = self.at(offset, 8).cast::<u64>();
        // SAFETY: mapped for the life of `self`, aligned since `base` is; atomics may be changed by others.
        unsafe { AtomicU64::from_ptr(at.as_ptr()) }
    }

    #[inline]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        if !offset.is_multiple_of(4) {
            Self::misaligned(offset);
        }
        let at = self.at(offset, 4).cast::<u32>();
        // SAFETY: mapped for the life of `self`, aligned since `base` is; atomics may be changed by others.
        unsafe { AtomicU32::from_ptr(at.as_ptr()) }
    }
}

impl SharedMem for RawPages {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        self.word32(offset).load(Ordering::Acquire)
    }

    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        assert!(self.writable, "write to read-only memory");
        self.word32(offset).store(value, Ordering::Release);
    }

    #[inline(always)]
    fn read_value<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let from = self.at(offset, size_of::<T>());
        // SAFETY: readable, as the maker of `self` promised and `at` checked.
        unsafe { copy::value(from) }
    }

    // Always: with a length that the caller knows, one aligned copy is a handful of instructions.
    #[inline(always)]
    fn read(&self, offset: usize, dst: &mut [u8]) {
        let from = self.at(offset, dst.len());
        // SAFETY: readable, as the maker of `self` promised and `at` checked.
        unsafe { copy::read(from, dst) }
    }

    // Always: with a length that the caller knows, one aligned copy is a handful of instructions.
    #[inline(always)]
    fn write(&self, offset: usize, src: &[u8]) {
        assert!(self.writable, "write to read-only memory");
        let to = self.at(offset, src.len());
        // SAFETY: writable, as the maker of `self` promised and `at` checked.
        unsafe { copy::write(to, src) }
    }

    #[inline]
    fn fence(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: changes no word of our stack. A locked instruction is a full barrier here and takes half the time of `mfence`,
        // which `fence(SeqCst)` compiles to; `asm!` without `nomem` keeps the compiler from moving accesses across it.
        unsafe {
            core::arch::asm!("lock or dword ptr [rsp], 0");
        }
        #[cfg(not(target_arch = "x86_64"))]
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Pages([u8; 2 * PAGE]);

    fn with<R>(fill: impl Fn(usize) -> u8, f: impl FnOnce(&RawPages) -> R) -> R {
        let mut pages = Pages(core::array::from_fn(fill));
        // SAFETY: `pages` outlives the value, and is not touched otherwise meanwhile.
        let raw = unsafe { RawPages::new(NonNull::from(&mut pages.0).cast(), 2 * PAGE) };
        f(&raw)
    }

    #[test]
    fn every_offset_and_length_copies_exactly_its_bytes() {
        for offset in 0..24 {
            for len in (0..70).chain([508, 512, 513, 1500, 4096, 4100]) {
                with(
                    |i| i as u8,
                    |raw| {
                        let mut out = [0xEE; 4200];
                        raw.read(offset, &mut out[1..=len]);
                        assert_eq!(out[0], 0xEE);
                        assert_eq!(out[len + 1], 0xEE);
                        assert!((0..len).all(|i| out[i + 1] == (offset + i) as u8));
                    },
                );
                with(
                    |_| 0,
                    |raw| {
                        let src: [u8; 4200] = core::array::from_fn(|i| (i % 251 + 1) as u8);
                        raw.write(offset, &src[1..=len]);
                        let mut all = [0; 2 * PAGE];
                        raw.read(0, &mut all);
                        for (i, byte) in all.iter().enumerate() {
                            let inside = (offset..offset + len).contains(&i);
                            let wanted = if inside { src[i - offset + 1] } else { 0 };
                            assert_eq!(*byte, wanted, "offset {offset} len {len} at {i}");
                        }
                    },
                );
            }
        }
    }

    #[test]
    fn words_and_parts() {
        with(
            |_| 0,
            |raw| {
                raw.store_u32(PAGE + 4, 7);
                assert_eq!(raw.load_u64(PAGE), 7 << 32);
                raw.store_u64(8, 0x0102_0304_0506_0708);
                assert_eq!(
                    (raw.load_u32(8), raw.load_u32(12)),
                    (0x0506_0708, 0x0102_0304)
                );
                assert_eq!(raw.compare_exchange_u64(PAGE, 0, 1), Err(7 << 32));
                assert_eq!(raw.compare_exchange_u64(PAGE, 7 << 32, 9), Ok(()));
                // SAFETY: `raw` outlives the part.
                let part = unsafe { raw.part(PAGE, PAGE, false) };
                assert_eq!(part.load_u32(0), 9);
                assert_eq!(part.len(), PAGE);
                raw.zero(PAGE, PAGE);
                assert_eq!(part.load_u32(0), 0);
            },
        );
    }

    #[test]
    #[should_panic(expected = "4 bytes at 8192")]
    fn past_the_end() {
        with(|_| 0, |raw| raw.load_u32(2 * PAGE));
    }

    #[test]
    #[should_panic(expected = "write to read-only memory")]
    fn read_only_is_not_written() {
        with(
            |_| 0,
            |raw| {
                // SAFETY: `raw` outlives the part.
                let part = unsafe { raw.part(0, PAGE, false) };
                part.write(0, &[1]);
            },
        );
    }
}
