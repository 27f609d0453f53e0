//! A descriptor that is readable from time to time: who sleeps on it beside others arms no timer with each sleep.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ringfence_core::platform::PlatformError;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::failed;

/// A timer that ticks while it runs; at first it does not.
pub(super) struct Tick {
    timer: OwnedFd,
    period: Timespec,
    runs: bool,
}

impl Tick {
    pub(super) fn new(period: Duration) -> Result<Self, PlatformError> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags);
        Ok(Self {
            timer: timer.map_err(failed("timerfd_create"))?,
            period: Timespec::try_from(period).unwrap_or_default(),
            runs: false,
        })
    }

    /// Runs, or stops; nothing changes if it did so already.
    pub(super) fn run(&mut self, runs: bool) -> Result<(), PlatformError> {
        if runs == self.runs {
            return Ok(());
        }
        self.runs = runs;
        let every = if runs {
            self.period
        } else {
            Timespec::default()
        };
        let time = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time)
            .map_err(failed("timerfd_settime"))?;
        Ok(())
    }

    /// Takes the ticks that were: it is readable again at the next one.
    pub(super) fn take(&self) {
        // With none it says so, which is all the same.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }
}

impl AsFd for Tick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn is_readable(tick: &Tick, within: Duration) -> bool {
        let within = Timespec::try_from(within).unwrap();
        let mut fds = [PollFd::new(tick, PollFlags::IN)];
        poll(&mut fds, Some(&within)).unwrap() == 1
    }

    #[test]
    fn it_ticks_again_and_again_while_it_runs() {
        let mut tick = Tick::new(Duration::from_millis(1)).unwrap();
        let (soon, late) = (Duration::from_millis(20), Duration::from_secs(10));
        assert!(!is_readable(&tick, soon));
        tick.run(true).unwrap();
        for _ in 0..3 {
            assert!(is_readable(&tick, late));
            tick.take();
        }
        assert!(is_readable(&tick, late));
        tick.run(false).unwrap();
        assert!(!is_readable(&tick, soon), "what it had to say is forgotten");
    }
}
