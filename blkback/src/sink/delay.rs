//! A disk that takes its time.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::fault::Dice;
use super::timer::Timer;
use super::{DiskIo, Done, Geometry, Io};

/// Requests that may wait.
const QUEUE: usize = 512;

/// How long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delays {
    /// Every request at least.
    pub least: Duration,
    /// Up to so much more, each another time; requests then overtake each other.
    pub jitter: Duration,
    /// What the dice begin with.
    pub seed: u64,
}

/// Passes requests on some time after they came.
pub struct Delay {
    below: Box<dyn DiskIo>,
    delays: Delays,
    dice: Dice,
    /// By when they are due and when they came.
    waiting: BTreeMap<(Instant, u64), Io>,
    came: u64,
    timer: Timer,
}

impl Delay {
    /// Delays `below`.
    ///
    /// # Errors
    /// No descriptors left for a timer.
    pub fn new(below: Box<dyn DiskIo>, delays: Delays) -> Result<Self, Errno> {
        Ok(Self {
            timer: Timer::new(&*below)?,
            below,
            delays,
            dice: Dice::new(delays.seed),
            waiting: BTreeMap::new(),
            came: 0,
        })
    }

    fn time(&mut self) -> Duration {
        let jitter = u64::try_from(self.delays.jitter.as_nanos()).unwrap_or(u64::MAX);
        let more = Duration::from_nanos(self.dice.below(jitter.saturating_add(1)));
        self.delays.least.saturating_add(more)
    }

    fn release(&mut self) -> bool {
        let mut released = false;
        let now = Instant::now();
        let mut next = None;
        while let Some(entry) = self.waiting.first_entry() {
            let key = *entry.key();
            if key.0 > now {
                next = Some(key.0);
                break;
            }
            if let Err(io) = self.below.submit(entry.remove()) {
                self.waiting.insert(key, io);
                break;
            }
            released = true;
        }
        self.timer.set(next, now);
        released
    }
}

impl DiskIo for Delay {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn touches_data(&self) -> bool {
        self.below.touches_data()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.waiting.len() >= QUEUE {
            return Err(io);
        }
        let time = self.time();
        let now = Instant::now();
        // A time that no clock will show is as good as now.
        let due = now.checked_add(time).unwrap_or(now);
        self.came = self.came.wrapping_add(1);
        self.waiting.insert((due, self.came), io);
        Ok(())
    }

    fn kick(&mut self) {
        self.release();
        self.below.kick();
    }

    fn reap(&mut self) -> Option<Done> {
        if !self.waiting.is_empty() && self.release() {
            self.below.kick();
        }
        self.below.reap()
    }

    fn wake(&self) -> Option<i32> {
        Some(self.timer.fd())
    }

    fn refresh(&mut self) -> Geometry {
        self.below.refresh()
    }
}
