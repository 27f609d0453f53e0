//! What a libc and a standard library would bring: entry, exit, panic, and the four memory functions that the compiler calls.

use core::arch::{asm, naked_asm};
use core::panic::PanicInfo;

#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym super::start);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x29, #0", "bl {}", "brk #0", sym super::start);
}

/// Linux's `exit_group`.
pub fn exit(code: i32) -> ! {
    // SAFETY: the system call takes a number and does not return; no memory is involved.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("syscall", in("rax") 231, in("edi") code, options(noreturn, nostack));
        #[cfg(target_arch = "aarch64")]
        asm!("svc #0", in("x8") 94, in("w0") code, options(noreturn, nostack));
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

/// `core` is built to unwind and names this; with `panic = "abort"` nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As in C.
///
/// # Safety
/// `len` bytes at `dst` are writable, those at `src` readable, and the two do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    for at in 0..len {
        // SAFETY: `at < len`. Volatile, or the compiler would make a call to memcpy of this loop.
        unsafe { dst.add(at).write_volatile(src.add(at).read()) };
    }
    dst
}

/// As in C.
///
/// # Safety
/// `len` bytes at `dst` are writable and those at `src` readable.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    if dst.cast_const() <= src {
        // SAFETY: copied upwards, one byte at a time, no byte of `src` is overwritten before it is read.
        return unsafe { memcpy(dst, src, len) };
    }
    for at in (0..len).rev() {
        // SAFETY: `at < len`; downwards for the same reason.
        unsafe { dst.add(at).write_volatile(src.add(at).read()) };
    }
    dst
}

/// As in C.
///
/// # Safety
/// `len` bytes at `dst` are writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dst: *mut u8, value: i32, len: usize) -> *mut u8 {
    for at in 0..len {
        // SAFETY: `at < len`. C takes the lowest byte of `value`.
        unsafe { dst.add(at).write_volatile(value as u8) };
    }
    dst
}

/// As in C.
///
/// # Safety
/// `len` bytes are readable at both.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: `at < len`.
        let (a, b) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// As [`memcmp`].
///
/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(a, b, len) }
}
