//! What the threads of one process have in common: which of them has which device, and whether one must be alone.

use ringfence_core::weakened;
use std::num::NonZero;
use std::sync::Arc;

use super::MAPPED_PAGES;
use super::id::{DeviceId, RingId};
use crate::epoch::Epoch;
use crate::grants::persistent::Budget;

/// The most threads of one process.
pub const THREADS_MAX: u16 = 64;

/// The threads of one process.
#[derive(Debug)]
pub struct Crew {
    threads: NonZero<u16>,
    /// Open while one of them has requests that nothing may be in flight beside.
    quiet: Epoch,
    /// How many pages of guests may stay mapped by all of them.
    pub(super) budget: Arc<Budget>,
}

impl Crew {
    /// So many threads, of which each has one [`Service`](super::Service).
    pub fn new(threads: NonZero<u16>) -> Arc<Self> {
        Arc::new(Self {
            threads,
            quiet: Epoch::new(threads.get()),
            budget: Arc::new(Budget::new(MAPPED_PAGES)),
        })
    }
}

/// What one thread of a service is made with: what is opened before the process confines itself.
#[derive(Debug)]
pub struct Worker<S, F> {
    /// A connection to XenStore of its own.
    pub store: S,
    /// Makes its disks, in the thread.
    pub disks: F,
}

/// Which of its rings a thread may serve now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Allowed {
    All,
    /// What must be alone: nothing else is in flight in any other thread, and nothing is to be in this one.
    Only(RingId),
    /// None: what was taken is finished, which the thread then [says](Part::finished).
    Finish,
}

/// One thread of them.
#[derive(Debug)]
pub(super) struct Part {
    crew: Arc<Crew>,
    index: u16,
    /// What it opened to be alone.
    own: Option<u32>,
}

impl Default for Part {
    /// The only one.
    fn default() -> Self {
        Self::new(Crew::new(NonZero::<u16>::MIN), 0)
    }
}

impl Part {
    pub(super) const fn new(crew: Arc<Crew>, index: u16) -> Self {
        Self {
            crew,
            index,
            own: None,
        }
    }

    /// Whether the device is this thread's.
    pub(super) fn has(&self, id: DeviceId) -> bool {
        id.thread(self.crew.threads.get()) == self.index
    }

    /// What this thread may do, of which the requests of one ring may have to be alone.
    pub(super) fn allowed(&mut self, alone: Option<RingId>) -> Allowed {
        let quiet = &self.crew.quiet;
        if weakened!("blk_alone_threads") {
            return alone.map_or(Allowed::All, Allowed::Only);
        }
        if let Some(ring) = alone {
            if self.own.is_none() {
                self.own = quiet.begin(self.index);
            }
            return match self.own {
                Some(own) if quiet.is_drained(own) => Allowed::Only(ring),
                _ => Allowed::Finish,
            };
        }
        if let Some(own) = self.own.take() {
            quiet.end(own);
        }
        match quiet.open() {
            Some(_) => Allowed::Finish,
            None => Allowed::All,
        }
    }

    /// Nothing of this thread is in flight beside what must be alone.
    pub(super) fn finished(&self) {
        if let Some(barrier) = self.crew.quiet.open() {
            self.crew.quiet.drain(self.index, barrier);
        }
    }

    /// Whether it has said so to another one, which may be alone since.
    pub(super) fn has_finished(&self) -> bool {
        let quiet = &self.crew.quiet;
        let open = quiet.open().filter(|_| self.own.is_none());
        open.is_some_and(|barrier| quiet.has_drained(self.index, barrier))
    }

    /// The thread ends.
    pub(super) fn leave(&mut self) {
        if let Some(own) = self.own.take() {
            self.crew.quiet.end(own);
        }
        self.crew.quiet.leave(self.index);
    }
}
