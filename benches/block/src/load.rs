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

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Reads in flight.
    pub depth: usize,
    /// How both ends wait.
    pub waiting: Waiting,
    /// For how long.
    pub time: Duration,
}

/// The processor of the front end.
pub const FRONT_CPU: usize = 0;
/// The processor of the back end.
pub const BACK_CPU: usize = 1;

/// Binds this thread, and what it starts from now on, to one processor.
///
/// # Errors
/// There is no such processor.
pub fn pin(cpu: usize) -> rustix::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
}
