//! Hypercalls: numbers, arguments, and errors that have names.

#[cfg(test)]
pub(crate) mod model;

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use ringfence_core::platform::PlatformError;

/// `DOMID_SELF` of `xen/xen.h`.
pub(crate) const DOMID_SELF: u16 = 0x7FF0;

/// `__HYPERVISOR_*` of `xen/xen.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Number {
    MmuUpdate = 1,
    MemoryOp = 12,
    UpdateVaMapping = 14,
    GrantTableOp = 20,
    VcpuOp = 24,
    SchedOp = 29,
    EventChannelOp = 32,
    HvmOp = 34,
}

impl Number {
    const fn name(self) -> &'static str {
        match self {
            Self::MmuUpdate => "mmu_update",
            Self::MemoryOp => "memory_op",
            Self::UpdateVaMapping => "update_va_mapping",
            Self::GrantTableOp => "grant_table_op",
            Self::VcpuOp => "vcpu_op",
            Self::SchedOp => "sched_op",
            Self::EventChannelOp => "event_channel_op",
            Self::HvmOp => "hvm_op",
        }
    }
}

/// An error of Xen's, `xen/errno.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// No such thing.
    pub const NOENT: Self = Self(2);
    /// An address that cannot be used.
    pub const FAULT: Self = Self(14);
    /// An argument that makes no sense.
    pub const INVAL: Self = Self(22);
    /// Nothing left.
    pub const NOSPC: Self = Self(28);
    /// A number that does not fit.
    pub const RANGE: Self = Self(34);
    /// No such hypercall.
    pub const NOSYS: Self = Self(38);
    /// No such domain.
    pub const SRCH: Self = Self(3);

    /// The positive number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

/// A hypercall that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("hypercall {hypercall} failed: errno {}", .errno.get())]
pub struct HypercallError {
    /// Which, by its name in `xen/xen.h`.
    pub hypercall: &'static str,
    /// Why.
    pub errno: Errno,
}

impl From<HypercallError> for PlatformError {
    fn from(error: HypercallError) -> Self {
        Self {
            op: error.hypercall,
            errno: error.errno.get(),
        }
    }
}

/// How Xen is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Way {
    /// From ring 3 of a PV guest.
    Syscall = 0,
    /// Of a PVH guest on an AMD processor.
    Vmmcall = 1,
    /// Of a PVH guest on an Intel processor.
    Vmcall = 2,
}

static WAY: AtomicU8 = AtomicU8::new(Way::Syscall as u8);

/// Chosen once, before the first hypercall of a PVH guest.
pub(crate) fn enter_by(way: Way) {
    WAY.store(way as u8, Ordering::Relaxed);
}

/// # Safety
/// The arguments are what this hypercall takes, and memory they name may be read and written as it does.
#[inline]
pub(crate) unsafe fn call(number: Number, arguments: [u64; 4]) -> Result<u64, HypercallError> {
    #[cfg(test)]
    if let Some(result) = model::answer(number, arguments) {
        return checked(number, result);
    }
    let [a, b, c, d] = arguments;
    let mut result = number as u64;
    // SAFETY: the caller's promise. Xen keeps all registers but those named; `syscall` uses rcx and r11. Nothing is pushed.
    unsafe {
        match WAY.load(Ordering::Relaxed) {
            0 => {
                asm!("syscall", inout("rax") result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
                out("rcx") _, out("r11") _, options(nostack))
            }
            1 => {
                asm!("vmmcall", inout("rax") result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
                options(nostack))
            }
            _ => {
                asm!("vmcall", inout("rax") result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
                options(nostack))
            }
        }
    }
    checked(number, result)
}

/// Results of -4095 to -1 are errors.
fn checked(number: Number, result: u64) -> Result<u64, HypercallError> {
    match i32::try_from(result.cast_signed()) {
        Ok(error @ -4095..=-1) => Err(HypercallError {
            hypercall: number.name(),
            errno: Errno(-error),
        }),
        _ => Ok(result),
    }
}

/// A hypercall with an operation and a struct that it reads and writes.
///
/// # Safety
/// `T` is the struct that the operation takes; addresses in it may be used as the operation does.
pub(crate) unsafe fn operate<T>(
    number: Number,
    op: u32,
    argument: &mut T,
) -> Result<u64, HypercallError> {
    let argument = (&raw mut *argument) as u64;
    // SAFETY: as promised to us; the struct is ours alone while the hypercall runs.
    unsafe { call(number, [op.into(), argument, 0, 0]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_negative_results_are_errors() {
        let result = |value: i64| checked(Number::SchedOp, value.cast_unsigned());
        assert_eq!(result(0), Ok(0));
        assert_eq!(result(7), Ok(7));
        assert_eq!(result(i64::MIN), Ok(i64::MIN.cast_unsigned()));
        let error = result(-22).unwrap_err();
        assert_eq!(error.errno, Errno::INVAL);
        assert_eq!(
            PlatformError::from(error).to_string(),
            "sched_op failed: errno 22"
        );
    }
}
