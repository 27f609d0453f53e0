//! A hypervisor for tests: a function that answers the hypercalls of one thread.

use std::cell::RefCell;

use super::{Errno, Number};

/// What Xen answers: a result, or an error.
pub(crate) type Xen = Box<dyn FnMut(Number, [u64; 4]) -> Result<u64, Errno>>;

thread_local! {
    static XEN: RefCell<Option<Xen>> = const { RefCell::new(None) };
}

/// Answers this thread's hypercalls from now on.
pub(crate) fn install(xen: Xen) {
    XEN.with_borrow_mut(|answers| *answers = Some(xen));
}

/// `None` without a hypervisor.
pub(super) fn answer(number: Number, arguments: [u64; 4]) -> Option<u64> {
    XEN.with_borrow_mut(|xen| {
        let result = xen.as_mut()?(number, arguments);
        Some(result.unwrap_or_else(|errno| i64::from(-errno.get()).cast_unsigned()))
    })
}
