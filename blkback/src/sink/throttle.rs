//! A disk that is not faster than allowed.

use std::boxed::Box;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::timer::Timer;
use super::{DiskIo, Done, Geometry, Io, IoOp};

/// Requests that may wait for their turn.
const QUEUE: usize = 512;

/// How much of something per second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// In the long run.
    pub per_second: NonZeroU64,
    /// What may come at once after a quiet time; the tenth of a second's worth where it is not said.
    pub burst: Option<u64>,
}

/// The limits of one direction, or of both together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// Bytes of reads and writes.
    pub bytes: Option<Rate>,
    /// Requests of every kind.
    pub requests: Option<Rate>,
}

/// All limits of a disk; a request waits for each that concerns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Of everything together; flushes and discards count here only.
    pub total: Limit,
    /// Of reads.
    pub read: Limit,
    /// Of writes.
    pub write: Limit,
}

/// Counts what passed in units of time: a rate is kept when nothing passes before `free_at`, less what may come at once.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: NonZeroU64,
    tolerance: Duration,
    free_at: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        let per_second = rate.per_second;
        let tolerance = match rate.burst {
            Some(burst) => time_of(burst, per_second),
            None => Duration::from_millis(100),
        };
        Self {
            per_second,
            tolerance,
            free_at: Duration::ZERO,
        }
    }

    /// When the next may pass.
    fn opens(&self) -> Duration {
        self.free_at.saturating_sub(self.tolerance)
    }

    fn take(&mut self, amount: u64, now: Duration) {
        let cost = time_of(amount, self.per_second);
        self.free_at = self.free_at.max(now).saturating_add(cost);
    }
}

fn time_of(amount: u64, per_second: NonZeroU64) -> Duration {
    let nanos = u128::from(amount)
        .saturating_mul(1_000_000_000)
        .checked_div(u128::from(per_second.get()))
        .unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The two buckets of one [`Limit`].
#[derive(Clone, Copy, Debug)]
struct Gate {
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
}

impl Gate {
    fn new(limit: Limit) -> Self {
        Self {
            bytes: limit.bytes.map(Bucket::new),
            requests: limit.requests.map(Bucket::new),
        }
    }

    fn opens(&self) -> Duration {
        let opens = |bucket: &Option<Bucket>| bucket.map_or(Duration::ZERO, |b| b.opens());
        opens(&self.bytes).max(opens(&self.requests))
    }

    fn take(&mut self, bytes: u64, now: Duration) {
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes, now);
        }
        if let Some(bucket) = &mut self.requests {
            bucket.take(1, now);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Gates {
    total: Gate,
    read: Gate,
    write: Gate,
}

impl Gates {
    fn of(&mut self, op: IoOp) -> (&mut Gate, Option<&mut Gate>) {
        match op {
            IoOp::Read(_) => (&mut self.total, Some(&mut self.read)),
            IoOp::Write(_) => (&mut self.total, Some(&mut self.write)),
            _ => (&mut self.total, None),
        }
    }

    fn opens(&mut self, op: IoOp) -> Duration {
        let (total, own) = self.of(op);
        own.map_or(Duration::ZERO, |gate| gate.opens())
            .max(total.opens())
    }

    fn take(&mut self, op: IoOp, bytes: u64, now: Duration) {
        let (total, own) = self.of(op);
        total.take(bytes, now);
        if let Some(gate) = own {
            gate.take(bytes, now);
        }
    }
}

/// Holds requests back, in order, so that the disk below sees no more than the limits allow.
pub struct Throttle {
    below: Box<dyn DiskIo>,
    gates: Gates,
    waiting: VecDeque<Io>,
    start: Instant,
    timer: Timer,
}

impl Throttle {
    /// Limits `below`.
    ///
    /// # Errors
    /// No descriptors left for a timer.
    pub fn new(below: Box<dyn DiskIo>, limits: Limits) -> Result<Self, Errno> {
        Ok(Self {
            timer: Timer::new(&*below)?,
            below,
            gates: Gates {
                total: Gate::new(limits.total),
                read: Gate::new(limits.read),
                write: Gate::new(limits.write),
            },
            waiting: VecDeque::new(),
            start: Instant::now(),
        })
    }

    /// Passes on what may go; says whether that was anything.
    fn release(&mut self) -> bool {
        let mut released = false;
        let now = Instant::now();
        let time = now.saturating_duration_since(self.start);
        let mut next = None;
        while let Some(io) = self.waiting.pop_front() {
            let (op, bytes) = (io.op, u64::try_from(io.buffer.len()).unwrap_or(u64::MAX));
            let opens = self.gates.opens(op);
            if opens > time {
                next = self.start.checked_add(opens);
                self.waiting.push_front(io);
                break;
            }
            if let Err(io) = self.below.submit(io) {
                // What it finishes makes room.
                self.waiting.push_front(io);
                break;
            }
            self.gates.take(op, bytes, time);
            released = true;
        }
        self.timer.set(next, now);
        released
    }
}

impl DiskIo for Throttle {
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
        self.waiting.push_back(io);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64, burst: Option<u64>) -> Rate {
        Rate {
            per_second: NonZeroU64::new(per_second).unwrap(),
            burst,
        }
    }

    /// How much passes in ten seconds, asked every 100 µs, and the most in any one of them.
    fn passed(mut bucket: Bucket, amount: u64, quiet: Duration) -> (u64, u64) {
        let (mut total, mut most) = (0, 0);
        for tick in 0..100_000u64 {
            let now = quiet + Duration::from_micros(tick * 100);
            let mut at_once = 0;
            while bucket.opens() <= now {
                bucket.take(amount, now);
                at_once += amount;
            }
            total += at_once;
            most = most.max(at_once);
        }
        (total, most)
    }

    #[test]
    fn the_rate_holds_in_the_long_run_and_the_burst_after_a_quiet_time() {
        let hour = Duration::from_secs(3600);
        for (amount, burst) in [(1, 0), (1, 500), (4096, 1 << 20), (1 << 20, 4096)] {
            let per_second = amount * 1000;
            let bucket = Bucket::new(rate(per_second, Some(burst)));
            let (total, most) = passed(bucket, amount, hour);
            let expected = 10 * per_second + burst;
            assert!(
                total.abs_diff(expected) <= 2 * amount,
                "{total} {expected} {amount} {burst}"
            );
            assert!(most <= burst + 2 * amount, "{most} at once");
        }
    }

    #[test]
    fn without_a_burst_a_tenth_of_a_second_may_come_at_once() {
        let bucket = Bucket::new(rate(1000, None));
        let (_, most) = passed(bucket, 1, Duration::from_secs(9));
        assert_eq!(most, 101);
    }

    #[test]
    fn rates_beyond_all_disks_do_not_overflow() {
        let mut bucket = Bucket::new(rate(1, Some(u64::MAX)));
        for _ in 0..3 {
            bucket.take(u64::MAX, Duration::MAX);
        }
        assert!(bucket.opens() <= Duration::MAX);
    }

    #[test]
    fn reads_wait_for_reads_and_for_all_only() {
        let limit = |requests| Limit {
            bytes: None,
            requests: Some(requests),
        };
        let mut gates = Gates {
            total: Gate::new(Limit::default()),
            read: Gate::new(limit(rate(1, Some(0)))),
            write: Gate::new(Limit::default()),
        };
        let (read, write) = (
            IoOp::Read(ringfence_core::ids::Sector::new(0)),
            IoOp::Write(ringfence_core::ids::Sector::new(0)),
        );
        gates.take(read, 512, Duration::ZERO);
        assert_eq!(gates.opens(read), Duration::from_secs(1));
        assert_eq!(gates.opens(write), Duration::ZERO);
        assert_eq!(gates.opens(IoOp::Flush), Duration::ZERO);
    }
}
