//! A domain's process: one life of whoever drives the domain. Domains outlive their processes.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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
    /// The number of the step before which somebody else does `action`; [`NEVER`] if nobody does.
    meanwhile: AtomicU64,
    action: Mutex<Option<Action>>,
}

/// What somebody else does.
pub(crate) struct Action(pub(crate) Box<dyn FnOnce() + Send>);

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action")
    }
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
            meanwhile: AtomicU64::new(NEVER),
            action: Mutex::new(None),
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

    /// Has somebody else do something before the step after `left` others.
    pub(crate) fn meanwhile(&self, left: u64, action: Action) {
        *self.action.lock().unwrap_or_else(PoisonError::into_inner) = Some(action);
        let at = self.steps().saturating_add(left);
        self.meanwhile.store(at, Ordering::Relaxed);
    }

    /// Whether something is to happen at some step, so that every single one counts.
    pub(crate) fn is_watched(&self) -> bool {
        [&self.left, &self.meanwhile]
            .iter()
            .any(|at| at.load(Ordering::Relaxed) != NEVER)
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Counts a step; `true` if it is the one that it does not live to take.
    pub(crate) fn step(&self) -> bool {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        if step == self.meanwhile.load(Ordering::Relaxed) {
            self.meanwhile.store(NEVER, Ordering::Relaxed);
            let mut action = self.action.lock().unwrap_or_else(PoisonError::into_inner);
            let action = action.take();
            if let Some(Action(act)) = action {
                act();
            }
        }
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
