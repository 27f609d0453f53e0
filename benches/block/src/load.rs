//! What is asked of both sides: reads at random places, a number of them in flight.

use std::time::Duration;

/// Bytes of one read.
pub const READ: usize = 4096;
/// Bytes of the disk, of which nothing is stored.
pub const DISK: u64 = 1 << 30;
/// The most reads in flight.
pub const DEEPEST: usize = 32;

/// Places of reads: the same for both sides.
#[derive(Debug)]
pub struct Places(u64);

impl Places {
    /// From the start.
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next place, in bytes.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % (DISK / READ as u64)) * READ as u64
    }
}

/// How both ends wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Waiting {
    /// For an event, at once.
    Events,
    /// By looking again and again.
    Spin,
}

impl Waiting {
    /// As the table says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "both wait for events",
            Self::Spin => "both may spin",
        }
    }

    /// As the command line says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Spin => "spin",
        }
    }
}

/// Where the processes run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Placement {
    /// Each on a processor of its own.
    Apart,
    /// Where the system puts them.
    Free,
}

impl Placement {
    /// What is tried with this way of waiting: two that spin need a processor each.
    pub const fn settings(waiting: Waiting) -> &'static [Self] {
        match waiting {
            Waiting::Events => &[Self::Apart, Self::Free],
            Waiting::Spin => &[Self::Apart],
        }
    }

    /// As the table says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apart => "front on core 0, back on core 1",
            Self::Free => "not bound to cores",
        }
    }

    /// As the command line says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Free => "free",
        }
    }

    /// Places this thread, and what it starts from now on.
    ///
    /// # Errors
    /// There is no such processor.
    pub fn take(self, side: Side) -> rustix::io::Result<()> {
        let mut set = rustix::thread::CpuSet::new();
        match (self, side) {
            (Self::Free, _) => (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu)),
            (Self::Apart, Side::Front) => set.set(0),
            (Self::Apart, Side::Back) => set.set(1),
        }
        rustix::thread::sched_setaffinity(None, &set)
    }
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The guest, or what stands for it.
    Front,
    /// The driver domain, or what stands for it.
    Back,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Reads in flight.
    pub depth: usize,
    /// How both ends wait.
    pub waiting: Waiting,
    /// Where they run.
    pub placement: Placement,
    /// For how long.
    pub time: Duration,
}
