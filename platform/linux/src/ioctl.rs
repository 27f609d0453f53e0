//! `ioctl(2)` on the devices of Xen: numbers and the call.

#[cfg(test)]
pub(crate) mod model;

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};

use ringfence_core::platform::PlatformError;
use rustix::io::Errno;

/// `_IOC(_IOC_NONE, group, nr, size)` of `asm-generic/ioctl.h`: all devices of Xen number theirs so.
pub(crate) const fn number(group: u8, nr: u8, size: usize) -> u32 {
    assert!(size < 1 << 14, "the size has 14 bits");
    (size as u32) << 16 | (group as u32) << 8 | nr as u32
}

/// Calls a device; returns what it returned, which is not negative.
///
/// # Safety
/// `argument` points to what `request` of this device reads and writes, and whatever addresses are in there are good for the
/// use that it makes of them.
pub(crate) unsafe fn call(
    device: impl AsFd,
    request: u32,
    argument: *mut c_void,
) -> Result<u32, Errno> {
    #[cfg(test)]
    if let Some(answer) = model::answer(device.as_fd(), request, argument) {
        return answer;
    }
    // SAFETY: as promised to us; the descriptor is open for as long as it is borrowed.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request as _, argument) };
    u32::try_from(result).map_err(|_| last_error())
}

/// What made the last call of this thread fail.
pub(crate) fn last_error() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// An error of the system, for the traits of core.
pub(crate) const fn failed(op: &'static str, errno: Errno) -> PlatformError {
    PlatformError {
        op,
        errno: errno.raw_os_error(),
    }
}
