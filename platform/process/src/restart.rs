//! Whether and when a dead process is started again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What happens when the process of a domain ends. The domain itself stays either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Nothing.
    Never,
    /// A process that did not exit with 0 is followed by another, at once first and ever later while it keeps failing.
    OnFailure,
}

/// So many processes in a row may fail soon and be followed at once by another: guests wait meanwhile, and a request that kills
/// whoever does it is found out in three attempts.
const AT_ONCE: u32 = 32;
/// The restart after those comes after this, each further one after twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// A process that lived this long failed for the first time: it has served, and its guests wait for the next one. One that fails
/// whatever it is given fails sooner.
const HEALTHY: Duration = Duration::from_millis(200);

/// The memory of one domain's failures.
#[derive(Clone, Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    started: Instant,
    pause: Duration,
    /// Restarts left that come at once.
    at_once: u32,
    /// Processes started after the first.
    count: u32,
    due: Option<Instant>,
}

impl Restarts {
    /// For a process that is about to be started for the first time.
    pub const fn new(policy: RestartPolicy, now: Instant) -> Self {
        Self {
            policy,
            started: now,
            pause: Duration::ZERO,
            at_once: AT_ONCE,
            count: 0,
            due: None,
        }
    }

    /// A process was started.
    pub fn started(&mut self, now: Instant) {
        self.started = now;
        self.due = None;
    }

    /// The process ended; `failed` unless it exited with 0. Returns the pause before the next.
    pub fn ended(&mut self, now: Instant, failed: bool) -> Option<Duration> {
        if self.policy == RestartPolicy::Never || !failed {
            return None;
        }
        if now.duration_since(self.started) >= HEALTHY {
            self.pause = Duration::ZERO;
            self.at_once = AT_ONCE;
        }
        let pause = self.pause;
        match self.at_once.checked_sub(1) {
            Some(left) => self.at_once = left,
            None => self.pause = (pause * 2).clamp(FIRST, LONGEST),
        }
        self.count = self.count.saturating_add(1);
        self.due = Some(now + pause);
        Some(pause)
    }

    /// Another process follows the one that just ended as it was asked to, at once and whatever the policy: that was no failure.
    pub const fn follow(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// Processes started after the first.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// When to start the next process.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// No further process.
    pub fn give_up(&mut self) {
        self.policy = RestartPolicy::Never;
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_a_long_life_forgives() {
        let start = Instant::now();
        let mut it = Restarts::new(RestartPolicy::OnFailure, start);
        assert_eq!(it.ended(start, false), None);
        for _ in 0..=AT_ONCE {
            assert_eq!(it.ended(start, true), Some(Duration::ZERO));
        }
        for expected in [100, 200, 400] {
            assert_eq!(it.ended(start, true), Some(Duration::from_millis(expected)));
        }
        for _ in 0..20 {
            it.ended(start, true);
        }
        assert_eq!(it.ended(start, true), Some(LONGEST));
        assert_eq!(it.ended(start + HEALTHY, true), Some(Duration::ZERO));
        let mut never = Restarts::new(RestartPolicy::Never, start);
        assert_eq!(never.ended(start, true), None);
        never.follow(start);
        assert_eq!((never.due(), never.count()), (Some(start), 0));
    }
}
