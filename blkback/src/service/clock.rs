//! The time as a process counts it. To read it may be a system call, as under Xen: once for each time that a thread wakes, and once for
//! each batch of answers.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Since somebody asked first.
pub(super) fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// In nanoseconds.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
