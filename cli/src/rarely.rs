//! Messages that others can provoke: so many at once, and then one each second (XSA-180).

use ringfence_core::weakened;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Messages at once: what a hundred disks have to say on a good day is no flood.
const BURST: u64 = 128;

#[derive(Debug)]
struct State {
    left: u64,
    refilled: Option<Instant>,
    dropped: u64,
}

/// The limit of one place that says something.
#[derive(Debug)]
pub(crate) struct Rarely(Mutex<State>);

impl Rarely {
    /// One that has said nothing yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State {
            left: BURST,
            refilled: None,
            dropped: 0,
        }))
    }

    /// Whether to say something now: if so, how many messages were left out since the last one.
    pub(crate) fn may(&self) -> Option<u64> {
        self.may_at(Instant::now())
    }

    fn may_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.refilled.get_or_insert(now);
        let more = now.saturating_duration_since(*since).as_secs();
        if more > 0 {
            *since = now;
            state.left = state.left.saturating_add(more).min(BURST);
        }
        match state.left.checked_sub(1) {
            Some(left) => {
                state.left = left;
                Some(std::mem::take(&mut state.dropped))
            }
            None if weakened!("xsa_180_cli") => Some(0),
            None => {
                state.dropped = state.dropped.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn xsa_180_a_flood_is_said_so_often_and_then_once_a_second() {
        let rarely = Rarely::new();
        let start = Instant::now();
        let said = (0..10_000).filter(|_| rarely.may_at(start) == Some(0));
        assert_eq!(said.count() as u64, BURST);
        let half = start + Duration::from_millis(500);
        assert_eq!(rarely.may_at(half), None);
        let second = start + Duration::from_secs(1);
        let dropped = 10_000 - BURST + 1;
        assert_eq!(rarely.may_at(second), Some(dropped));
        assert_eq!(rarely.may_at(second), None);
        let hour = start + Duration::from_secs(3600);
        assert_eq!(rarely.may_at(hour), Some(1));
        let said = (0..10_000).filter(|_| rarely.may_at(hour).is_some());
        assert_eq!(said.count() as u64, BURST - 1);
    }
}
