//! What an event without work behind it costs the one who sent it (XSA-332): its next event is looked at later and later,
//! while all other devices go on.

use core::time::Duration;
use ringfence_core::weakened;

/// Events without work that cost nothing: the one that binding leaves pending, and one that crossed our look at the ring.
const FREE: u32 = 2;
/// The first delay; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(1);

/// One port's record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Storm {
    /// Events in a row that had no work behind them.
    idle_events: u32,
    /// Whether there was work since the last event.
    worked: bool,
}

impl Storm {
    /// Notes that requests were taken.
    pub(super) fn worked(&mut self) {
        self.worked = true;
    }

    /// An event has been dealt with: how long the next one must wait, if at all.
    pub(super) fn event(&mut self) -> Option<Duration> {
        if core::mem::take(&mut self.worked) {
            self.idle_events = 0;
            return None;
        }
        self.idle_events = self.idle_events.saturating_add(1);
        let beyond = self.idle_events.checked_sub(FREE)?.checked_sub(1)?;
        if weakened!("xsa_332_blkback") {
            return None;
        }
        let factor = 1u32.checked_shl(beyond.min(31)).unwrap_or(u32::MAX);
        Some(FIRST.saturating_mul(factor).min(LONGEST))
    }

    /// Whether the last event had no work behind it.
    pub(super) const fn is_idle(&self) -> bool {
        self.idle_events > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_events_cost_more_and_more_and_work_forgives() {
        let mut storm = Storm::default();
        assert_eq!([storm.event(), storm.event()], [None, None]);
        let costs: Vec<u128> = (0..12)
            .filter_map(|_| storm.event())
            .map(|d| d.as_millis())
            .collect();
        assert_eq!(costs, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
        storm.worked();
        assert_eq!([storm.event(), storm.event(), storm.event()], [None; 3]);
        assert!(storm.event().is_some());
    }
}
