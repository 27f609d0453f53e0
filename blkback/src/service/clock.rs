//! The time as a process counts it. A thread looks at it when it has woken and once for each batch of answers: where the processor's
//! counter is of no use each look is a system call.

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
