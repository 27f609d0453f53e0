//! A disk that fails as it is told to.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ops::RangeInclusive;

use ringfence_core::ids::Sector;

use super::{DiskIo, Done, Geometry, Io, IoOp};
use crate::error::IoError;

/// Failed requests that may wait to be reaped.
const QUEUE: usize = 256;

/// `EIO`.
const EIO: i32 = 5;

/// A sequence of numbers that looks random and is the same for the same seed (splitmix64).
#[derive(Clone, Copy, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }
}

/// Kinds of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ops {
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
    /// Flushes.
    pub flush: bool,
    /// Discards.
    pub discard: bool,
}

impl Ops {
    const fn has(self, op: IoOp) -> bool {
        match op {
            IoOp::Read(_) => self.read,
            IoOp::Write(_) => self.write,
            IoOp::Flush => self.flush,
            IoOp::Discard { .. } => self.discard,
        }
    }
}

/// Which requests fail: those that every one of these applies to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faults {
    /// Of these kinds.
    pub ops: Ops,
    /// That touch one of these sectors; `None`: wherever.
    pub sectors: Option<RangeInclusive<u64>>,
    /// Every so manieth of them; 1: all.
    pub every: u64,
    /// So many in a million of them.
    pub per_million: u32,
    /// The first so many of them only; `None`: without end.
    pub count: Option<u64>,
    /// What the dice begin with.
    pub seed: u64,
    /// With this positive error number.
    pub errno: i32,
}

impl Default for Faults {
    /// All reads and writes, with `EIO`.
    fn default() -> Self {
        Self {
            ops: Ops {
                read: true,
                write: true,
                ..Ops::default()
            },
            sectors: None,
            every: 1,
            per_million: 1_000_000,
            count: None,
            seed: 0,
            errno: EIO,
        }
    }
}

/// Fails some requests before the disk below sees them.
pub struct Fault {
    below: Box<dyn DiskIo>,
    faults: Faults,
    dice: Dice,
    /// Requests so far that may fail by what they are.
    met: u64,
    done: VecDeque<Done>,
}

impl Fault {
    /// Makes `below` fail.
    pub fn new(below: Box<dyn DiskIo>, faults: Faults) -> Self {
        Self {
            below,
            dice: Dice::new(faults.seed),
            faults,
            met: 0,
            done: VecDeque::new(),
        }
    }

    /// Hands a request to the disk below.
    #[cfg(feature = "std")]
    pub(super) fn pass(&mut self, io: Io) -> Result<(), Io> {
        self.below.submit(io)
    }

    /// Whether this request is one that fails.
    pub(super) fn fails(&mut self, io: &Io) -> bool {
        if !self.faults.ops.has(io.op) || !self.is_place(io) || self.faults.count == Some(0) {
            return false;
        }
        self.met = self.met.wrapping_add(1);
        let turn = self.met.is_multiple_of(self.faults.every.max(1));
        let fails = turn && self.dice.below(1_000_000) < u64::from(self.faults.per_million);
        if fails && let Some(left) = &mut self.faults.count {
            *left = left.saturating_sub(1);
        }
        fails
    }

    fn is_place(&self, io: &Io) -> bool {
        let Some(bad) = &self.faults.sectors else {
            return true;
        };
        let bytes = u64::try_from(io.buffer.len()).unwrap_or(u64::MAX);
        let sectors = bytes.div_ceil(Sector::BYTES);
        let (first, count) = match io.op {
            IoOp::Read(sector) | IoOp::Write(sector) => (sector.get(), sectors),
            IoOp::Discard { sector, count, .. } => (sector.get(), count.get()),
            // Of the whole disk.
            IoOp::Flush => return true,
        };
        first <= *bad.end() && *bad.start() < first.saturating_add(count)
    }
}

impl DiskIo for Fault {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn touches_data(&self) -> bool {
        self.below.touches_data()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.done.len() >= QUEUE {
            return Err(io);
        }
        // A request that the disk below has no room for comes again, and is another one then.
        if !self.fails(&io) {
            return self.below.submit(io);
        }
        let result = Err(IoError::System {
            op: "fault injection",
            errno: self.faults.errno,
        });
        self.done.push_back(Done { io, result });
        Ok(())
    }

    fn kick(&mut self) {
        self.below.kick();
    }

    fn reap(&mut self) -> Option<Done> {
        self.done.pop_front().or_else(|| self.below.reap())
    }

    fn wake(&self) -> Option<i32> {
        self.below.wake()
    }

    fn refresh(&mut self) -> Geometry {
        self.below.refresh()
    }
}

#[cfg(test)]
mod tests {
    use ringfence_core::ids::SectorCount;

    use super::*;
    use crate::buffer::Buffer;
    use crate::sink::{Null, Tag};

    /// Which of `n` reads of one sector, at sectors 0, 1, 2…, fail.
    fn failed(faults: Faults, n: u64) -> Vec<u64> {
        let mut disk = Fault::new(Box::new(Null::new(SectorCount::new(n))), faults);
        let mut read = |sector| {
            let mut buffer = Buffer::with_pages(1);
            buffer.set_len(512);
            let io = Io {
                tag: Tag::new(1),
                op: IoOp::Read(Sector::new(sector)),
                buffer,
            };
            disk.submit(io).unwrap();
            disk.reap().unwrap().result.is_err()
        };
        (0..n).filter(|sector| read(*sector)).collect()
    }

    #[test]
    fn each_condition_counts() {
        let all = Faults::default();
        assert_eq!(failed(all.clone(), 5), [0, 1, 2, 3, 4]);
        let place = Faults {
            sectors: Some(3..=4),
            ..all.clone()
        };
        assert_eq!(failed(place.clone(), 9), [3, 4]);
        let once = Faults {
            count: Some(1),
            ..place
        };
        assert_eq!(failed(once, 9), [3]);
        let third = Faults {
            every: 3,
            ..all.clone()
        };
        assert_eq!(failed(third, 9), [2, 5, 8]);
        let writes = Faults {
            ops: Ops {
                write: true,
                ..Ops::default()
            },
            ..all.clone()
        };
        assert_eq!(failed(writes, 9), []);
        let some = Faults {
            per_million: 100_000,
            seed: 4,
            ..all
        };
        let first = failed(some.clone(), 10_000);
        assert!((900..1100).contains(&first.len()), "{}", first.len());
        assert_eq!(first, failed(some, 10_000), "the same for the same seed");
    }
}
