//! A kernel for tests: a function that answers one thread's calls of devices. What is mapped of a device is a real mapping, of
//! whatever file the test has in its place.

use std::cell::RefCell;
use std::ffi::c_void;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// What the kernel answers; the argument is the request's struct.
pub(crate) type Kernel = Box<dyn FnMut(BorrowedFd<'_>, u32, *mut c_void) -> Result<u32, Errno>>;

thread_local! {
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

/// Answers this thread's calls from now on.
pub(crate) fn install(kernel: Kernel) {
    KERNEL.with_borrow_mut(|answers| *answers = Some(kernel));
}

/// `None` without one: then the call is the system's.
pub(super) fn answer(
    device: BorrowedFd<'_>,
    request: u32,
    argument: *mut c_void,
) -> Option<Result<u32, Errno>> {
    KERNEL.with_borrow_mut(|kernel| Some(kernel.as_mut()?(device, request, argument)))
}
