//! Death, or what others do, at any step; and what survives a death.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringfence_core::{DomId, Words};

use crate::domain::Sim;
use crate::process::Action;
use crate::world::World;

/// What unwinds the stack of a process that [`World::die_after`] ordered to die. Whoever runs the process catches it; its handles
/// are those of a dead process by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crash;

impl Crash {
    /// Runs a part of a process's life. `None` if it died in it.
    pub fn catch<R>(life: impl FnOnce() -> R) -> Option<R> {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(life)) {
            Ok(result) => Some(result),
            Err(reason) if reason.is::<Self>() => None,
            Err(reason) => std::panic::resume_unwind(reason),
        }
    }
}

impl World {
    /// The present process of a domain dies after `steps` more steps, before the next one. A step is what somebody else can see
    /// or find later: a store to a page, a mapping or [`SimWords`], a batch of copies, a doorbell, a message to XenStore, and
    /// whatever calls [`Sim::step`].
    pub fn die_after(&self, domid: DomId, steps: u64) {
        self.domain(domid).process.die_after(steps);
    }

    /// Somebody else does this when the present process of a domain has taken `steps` more steps, before its next one.
    pub fn meanwhile(&self, domid: DomId, steps: u64, action: impl FnOnce() + Send + 'static) {
        let action = Action(Box::new(action));
        self.domain(domid).process.meanwhile(steps, action);
    }

    /// Steps that the present process of a domain has taken.
    pub fn steps(&self, domid: DomId) -> u64 {
        self.domain(domid).process.steps()
    }
}

impl Sim {
    /// This process is about to do something that survives it.
    ///
    /// # Panics
    /// With [`Crash`], if it dies instead.
    pub fn step(&self) {
        if !std::thread::panicking() && self.process.step() {
            self.crash();
        }
    }

    /// This process dies here and now.
    ///
    /// # Panics
    /// With [`Crash`].
    pub fn crash(&self) -> ! {
        self.world().kill(self.process.domid);
        std::panic::resume_unwind(Box::new(Crash));
    }

    /// These words as this process reaches them.
    pub fn words(&self, kept: &SimWords) -> SimRecord {
        SimRecord {
            sim: self.clone(),
            kept: kept.clone(),
        }
    }
}

/// Words that no process's death touches, as those of a descriptor that a supervisor keeps. Clones are the same words.
#[derive(Clone, Debug)]
pub struct SimWords(Arc<[AtomicU64]>);

impl SimWords {
    /// So many words of 0.
    pub fn new(len: usize) -> Self {
        Self((0..len).map(|_| AtomicU64::new(0)).collect())
    }

    /// Another set of words with the same values.
    #[must_use]
    pub fn copied(&self) -> Self {
        let load = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Acquire));
        Self(self.0.iter().map(load).collect())
    }
}

impl Words for SimWords {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&self, at: usize) -> u64 {
        let word = self.0.get(at);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(value, Ordering::Release);
        }
    }
}

/// [`SimWords`] as one process reaches them: every store is a step.
#[derive(Clone, Debug)]
pub struct SimRecord {
    sim: Sim,
    kept: SimWords,
}

impl Words for SimRecord {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.sim.process.assert_alive("words");
        self.kept.load(at)
    }

    fn store(&self, at: usize, value: u64) {
        self.sim.process.assert_alive("words");
        self.sim.step();
        self.kept.store(at, value);
    }
}
