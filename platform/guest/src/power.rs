//! The end of a guest.

use crate::console;
use crate::hypercall::{Number, operate};

/// `SCHEDOP_shutdown`.
const SHUTDOWN: u32 = 2;

/// Why a domain stops, `SHUTDOWN_*` of `xen/sched.h`: the toolstack acts as its configuration says for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reason {
    /// Done.
    Poweroff = 0,
    /// To be started again.
    Reboot = 1,
    /// It failed.
    Crash = 3,
}

/// Stops this domain, once its console's backend has read what was written.
pub fn shutdown(reason: Reason) -> ! {
    console::drain();
    let mut argument = reason as u32;
    loop {
        // SAFETY: the struct of this operation is one number. It does not come back.
        let _ = unsafe { operate(Number::SchedOp, SHUTDOWN, &mut argument) };
    }
}
