//! The end of a guest.

use crate::console;
use crate::hypercall::{HypercallError, Number, call, operate};

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

/// `SHUTDOWN_suspend`.
const SUSPEND: u32 = 2;

/// Stops this domain to be saved, and comes back when it goes on: `true` as it was, `false` as another domain. A PV guest says
/// which frame `start_info` is in.
pub(crate) fn suspend(start_info: u64) -> Result<bool, HypercallError> {
    let mut argument = SUSPEND;
    let at = (&raw mut argument) as u64;
    // SAFETY: the struct of this operation is one number; whoever saves us looks for the frame in the third register.
    let cancelled = unsafe { call(Number::SchedOp, [SHUTDOWN.into(), at, start_info, 0])? };
    Ok(cancelled != 0)
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
