//! A domain's process: one life of whoever drives the domain. Domains outlive their processes.

use std::sync::atomic::{AtomicBool, Ordering};

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
}

impl Process {
    pub(crate) const fn new(domid: DomId, id: ProcessId) -> Self {
        Self {
            domid,
            id,
            alive: AtomicBool::new(true),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    /// What the hardware does for a real process: memory of a dead one cannot be reached.
    pub(crate) fn assert_alive(&self, what: &str) {
        // A second panic would abort, and the first one is the news.
        if !self.is_alive() && !std::thread::panicking() {
            panic!("use of {what} by a dead process of domain {}", self.domid);
        }
    }
}
