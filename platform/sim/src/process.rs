//! A domain's process: one life of whoever drives the domain. Domains outlive their processes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringfence_core::DomId;

/// A process's number, never used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProcessId(pub(crate) u64);

/// Shared by all handles that were made in this life.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) domid: DomId,
    pub(crate) id: ProcessId,
    alive: AtomicBool,
    /// Steps taken so far.
    steps: AtomicU64,
    /// Steps left before it dies; [`NEVER`] if it is not to.
    left: AtomicU64,
}

/// No process takes so many steps.
const NEVER: u64 = u64::MAX;

impl Process {
    pub(crate) const fn new(domid: DomId, id: ProcessId) -> Self {
        Self {
            domid,
            id,
            alive: AtomicBool::new(true),
            steps: AtomicU64::new(0),
            left: AtomicU64::new(NEVER),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    /// Lets it die before the step after `left` others.
    pub(crate) fn die_after(&self, left: u64) {
        self.left.store(left, Ordering::Relaxed);
    }

    /// Whether it is going to die at some step, so that every single one counts.
    pub(crate) fn is_doomed(&self) -> bool {
        self.left.load(Ordering::Relaxed) != NEVER
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Counts a step; `true` if it is the one that it does not live to take.
    pub(crate) fn step(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        match self.left.load(Ordering::Relaxed) {
            NEVER => false,
            0 => {
                self.left.store(NEVER, Ordering::Relaxed);
                true
            }
            left => {
                self.left.store(left - 1, Ordering::Relaxed);
                false
            }
        }
    }

    /// What the hardware does for a real process: memory of a dead one cannot be reached.
    pub(crate) fn assert_alive(&self, what: &str) {
        // A second panic would abort, and the first one is the news.
        if !self.is_alive() && !std::thread::panicking() {
            panic!("use of {what} by a dead process of domain {}", self.domid);
        }
    }
}
