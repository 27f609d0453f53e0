//! What one measurement yields: rate, latencies, and what both processes spent on it.

use crate::load::{DEEPEST, Load};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What a measurement showed. Costs are per read.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Reads per second.
    pub rate: f64,
    /// Median latency in µs.
    pub p50: f64,
    /// 99th percentile of the latency in µs.
    pub p99: f64,
    /// Processor time of the front's process in ns.
    pub front_cpu: f64,
    /// Processor time of the back's process in ns.
    pub back_cpu: f64,
    /// How often the front went to sleep.
    pub front_sleeps: f64,
    /// How often the back went to sleep.
    pub back_sleeps: f64,
    /// Doorbells that the front rang; not known of the peer.
    pub front_notifications: Option<f64>,
    /// Doorbells that the back rang; not known of the peer.
    pub back_notifications: Option<f64>,
    /// System calls of the front's data path; not known of the peer.
    pub front_calls: Option<f64>,
    /// System calls of the back's data path; not known of the peer.
    pub back_calls: Option<f64>,
    /// Memory of the back's process in bytes, shared pages in parts, without the guest's; not looked at of the peer.
    pub back_pss: u64,
}

/// Processor time and sleeps of a process so far, all threads together.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spent {
    nanos: u64,
    sleeps: u64,
}

impl Spent {
    /// Of this process, or of another one.
    pub fn of(pid: Option<u32>) -> Self {
        let name = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let Ok(threads) = std::fs::read_dir(format!("/proc/{name}/task")) else {
            return Self::default();
        };
        let mut all = Self::default();
        for thread in threads.flatten().map(|entry| entry.path()) {
            // The first number: ns on a processor.
            let times = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
            let first = times.split_whitespace().next();
            all.nanos += first.and_then(|word| word.parse().ok()).unwrap_or(0);
            let status = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            all.sleeps += line.and_then(|word| word.trim().parse().ok()).unwrap_or(0);
        }
        all
    }

    /// Since then, per read: ns and sleeps.
    pub fn per(self, before: Self, reads: u64) -> (f64, f64) {
        let reads = reads.max(1) as f64;
        (
            self.nanos.saturating_sub(before.nanos) as f64 / reads,
            self.sleeps.saturating_sub(before.sleeps) as f64 / reads,
        )
    }
}

/// Memory of a process in bytes, pages that it shares in parts, without those that guests granted.
pub fn pss(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut sum, mut guests) = (0, false);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Pss:"), Some(kilobytes)) if !guests => {
                sum += kilobytes.parse().unwrap_or(0) * 1024;
            }
            // A mapping's first line begins with its addresses.
            (Some(first), _) if !first.ends_with(':') => {
                let arena = line.contains("-rw (deleted)") || line.contains("-ro (deleted)");
                guests = arena && line.contains("/memfd:ringfence-");
            }
            _ => {}
        }
    }
    sum
}

/// Parts of each power of two.
const PARTS: u32 = 32;

/// Counts latencies in buckets that are 3 % wide.
#[derive(Debug)]
struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

impl Histogram {
    fn new() -> Self {
        Self {
            buckets: vec![0; (PARTS * 40) as usize],
            count: 0,
        }
    }

    fn add(&mut self, nanos: u64) {
        let nanos = nanos.max(u64::from(PARTS));
        let power = nanos.ilog2() - PARTS.ilog2();
        let part = (nanos >> power) as u32 - PARTS;
        let bucket = (power * PARTS + part) as usize;
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
    }

    /// The latency in µs that this share of all does not exceed.
    fn quantile(&self, share: f64) -> f64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in (0_u32..).zip(&self.buckets) {
            seen += u64::from(*count);
            if seen >= rank {
                let (power, part) = (bucket / PARTS, bucket % PARTS);
                return (u64::from(part + PARTS + 1) << power) as f64 / 1000.0;
            }
        }
        f64::INFINITY
    }
}

/// What a turn of the loop means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Now {
    /// Go on.
    On,
    /// From here on it counts: note what was spent so far.
    Begin,
    /// It is over.
    End,
}

/// Takes the times. One look at the clock per turn, on both sides alike.
#[derive(Debug)]
pub struct Meter {
    load: Load,
    start: Instant,
    warming: bool,
    submitted: [Instant; DEEPEST],
    latencies: Histogram,
    reads: u64,
}

impl Meter {
    /// Begins to warm up: what is not counted lets caches and polling settle.
    pub fn start(load: &Load) -> Self {
        let now = Instant::now();
        Self {
            load: *load,
            start: now,
            warming: true,
            submitted: [now; DEEPEST],
            latencies: Histogram::new(),
            reads: 0,
        }
    }

    /// These reads ended at `now`, and others in their places begin.
    pub fn turn(&mut self, now: Instant, slots: &[usize]) -> Now {
        for slot in slots {
            if let Some(submitted) = self.submitted.get_mut(*slot) {
                let nanos = now.duration_since(*submitted).as_nanos();
                self.latencies.add(u64::try_from(nanos).unwrap_or(u64::MAX));
                *submitted = now;
            }
        }
        self.reads += slots.len() as u64;
        let elapsed = now.duration_since(self.start);
        if self.warming && elapsed >= self.load.time / 10 {
            (self.warming, self.reads) = (false, 0);
            self.latencies = Histogram::new();
            self.start = Instant::now();
            return Now::Begin;
        }
        if !self.warming && elapsed >= self.load.time {
            return Now::End;
        }
        Now::On
    }

    /// Counts from now on.
    pub fn restart(&mut self) {
        self.start = Instant::now();
    }

    /// Reads that were counted.
    pub const fn reads(&self) -> u64 {
        self.reads
    }

    /// Rate and latencies, `time` after they began to count.
    pub fn outcome(&self, time: Duration) -> Outcome {
        Outcome {
            rate: self.reads as f64 / time.as_secs_f64(),
            p50: self.latencies.quantile(0.5),
            p99: self.latencies.quantile(0.99),
            ..Outcome::default()
        }
    }

    /// How long it has counted.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
