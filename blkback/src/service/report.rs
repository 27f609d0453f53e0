//! Reads the statistics of a process, which may be another one.

use ringfence_core::Words;
use thiserror::Error;

use super::board::{MAGIC, device, front};
use super::id::DeviceId;
use crate::stats::{COUNTERS, Latency, Snapshot, layout, owner};

/// Why memory is no statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// No process has counted there yet, or one of another version.
    #[error("statistics begin with {found:#x}, not {MAGIC:#x}")]
    Magic {
        /// The first word.
        found: u64,
    },
}

/// What the present process of a driver domain has done, or the last one if there is none.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Another number for every process of the domain: all counts begin anew with it.
    pub process: u64,
    /// Times it asked the system what happened, for all devices together.
    pub waits: u64,
    /// What devices did that are gone.
    pub gone: Snapshot,
    /// Those that there are, in no order.
    pub devices: Vec<DeviceReport>,
}

/// What one device has done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceReport {
    /// Which one.
    pub id: DeviceId,
    /// The state of the backend's directory, a number of `xen/io/xenbus.h`; 0 before it was looked at.
    pub state: u32,
    /// The counters over all connections; each is exact, together they need not be of the same instant.
    pub counters: Snapshot,
    /// From a read's taking to its answer, in the backend.
    pub reads: Latency,
    /// The same of writes.
    pub writes: Latency,
    /// The rings of the present connection.
    pub rings: Vec<RingReport>,
}

/// What one ring has done since it was connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RingReport {
    /// How many entries it has.
    pub entries: u64,
    /// Requests taken.
    pub taken: u64,
    /// Responses published.
    pub answered: u64,
    /// Doorbells rung.
    pub notifications_sent: u64,
    /// Times its doorbell was found rung.
    pub notifications_received: u64,
}

impl RingReport {
    /// Requests that were taken and not yet answered.
    pub const fn in_flight(&self) -> u64 {
        self.taken.saturating_sub(self.answered)
    }
}

impl Report {
    /// Reads them. The process goes on meanwhile, or is dead.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn read(words: &impl Words) -> Result<Self, ReportError> {
        let found = words.load(front::MAGIC);
        if found != MAGIC {
            return Err(ReportError::Magic { found });
        }
        let pages = usize::try_from(words.load(front::PAGES)).unwrap_or(usize::MAX);
        // One is in front.
        let room = words.len().checked_div(layout::WORDS).unwrap_or(0);
        let pages = pages.min(room.saturating_sub(1));
        let gone = (front::GONE..).take(COUNTERS);
        Ok(Self {
            process: words.load(front::PROCESS),
            waits: words.load(front::WAITS),
            gone: Snapshot::from_values(gone.map(|at| words.load(at))),
            devices: (1..=pages)
                .filter_map(|page| DeviceReport::read(&Page { words, page }))
                .collect(),
        })
    }
}

struct Page<'a, W> {
    words: &'a W,
    page: usize,
}

impl<W: Words> Words for Page<'_, W> {
    fn len(&self) -> usize {
        layout::WORDS
    }
    fn load(&self, at: usize) -> u64 {
        let start = self.page.saturating_mul(layout::WORDS);
        self.words.load(start.saturating_add(at))
    }
    fn store(&self, _: usize, _: u64) {}
}

impl DeviceReport {
    fn read(words: &impl Words) -> Option<Self> {
        let (owner, (state, counters, [reads, writes], rings)) = owner::look(words, |words| {
            let steps = [layout::READS, layout::WRITES];
            let steps = steps
                .map(|first| Latency::from_counts(|step| words.load(first.saturating_add(step))));
            let counters = (layout::COUNTERS..).take(COUNTERS);
            let counters = Snapshot::from_values(counters.map(|at| words.load(at)));
            let rings = usize::try_from(words.load(layout::RINGS)).unwrap_or(usize::MAX);
            let rings = 0..rings.min(layout::RINGS_MAX);
            let rings = rings.map(|ring| RingReport::read(words, ring)).collect();
            (words.load(layout::STATE), counters, steps, rings)
        })?;
        Some(Self {
            id: device(owner)?,
            state: u32::try_from(state).unwrap_or(0),
            counters,
            reads,
            writes,
            rings,
        })
    }
}

impl RingReport {
    fn read(words: &impl Words, ring: usize) -> Self {
        let field = |field| words.load(layout::ring(ring, field));
        Self {
            entries: field(layout::ENTRIES),
            // First, so that no more are answered than were taken.
            answered: field(layout::ANSWERED),
            taken: field(layout::TAKEN),
            notifications_sent: field(layout::SENT),
            notifications_received: field(layout::RECEIVED),
        }
    }
}
