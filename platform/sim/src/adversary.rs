//! What the world does to doorbells between the one who rings and the one who is rung.

use crate::evtchn::PortId;

/// How unreliable doorbells are. They are never lost: that would be a broken world, and not a hostile one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adversary {
    /// A doorbell arrives after up to this many ticks of the world's clock; 0 is at once. Different delays reorder.
    pub delay: u32,
    /// In how many cases of 100 a doorbell arrives a second time, later.
    pub duplicate: u8,
    /// In how many cases of 100 a doorbell is merged into one for the same port that is still under way.
    pub merge: u8,
}

impl Adversary {
    /// Every doorbell arrives at once and exactly once.
    pub const EXACT: Self = Self {
        delay: 0,
        duplicate: 0,
        merge: 0,
    };

    /// Delays, duplicates, merges and reorders.
    pub const HOSTILE: Self = Self {
        delay: 5,
        duplicate: 25,
        merge: 50,
    };
}

/// SplitMix64: a few lines, the same numbers everywhere, and any seed is a good one.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `most`, both included.
    fn up_to(&mut self, most: u32) -> u64 {
        self.next() % (u64::from(most) + 1)
    }

    fn percent(&mut self, cases: u8) -> bool {
        self.next() % 100 < u64::from(cases)
    }
}

/// A doorbell under way.
#[derive(Clone, Copy, Debug)]
struct Doorbell {
    due: u64,
    to: PortId,
}

/// The doorbells under way, and the clock that they go by.
#[derive(Debug)]
pub(crate) struct Doorbells {
    adversary: Adversary,
    rng: Rng,
    now: u64,
    queue: Vec<Doorbell>,
}

impl Doorbells {
    pub(crate) const fn new(adversary: Adversary, seed: u64) -> Self {
        Self {
            adversary,
            rng: Rng::new(seed),
            now: 0,
            queue: Vec::new(),
        }
    }

    pub(crate) const fn set(&mut self, adversary: Adversary) {
        self.adversary = adversary;
    }

    pub(crate) const fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// A doorbell sets out. Returns whether it has arrived already.
    pub(crate) fn ring(&mut self, to: PortId) -> bool {
        let Adversary {
            delay,
            duplicate,
            merge,
        } = self.adversary;
        if duplicate > 0 && self.rng.percent(duplicate) {
            let due = self.now + 1 + self.rng.up_to(delay);
            self.queue.push(Doorbell { due, to });
        }
        let wait = if delay == 0 { 0 } else { self.rng.up_to(delay) };
        if wait == 0 {
            return true;
        }
        // What is under way arrives after this moment, so it tells of this event as well.
        let merged = merge > 0
            && self.queue.iter().any(|doorbell| doorbell.to == to)
            && self.rng.percent(merge);
        if !merged {
            let due = self.now + wait;
            self.queue.push(Doorbell { due, to });
        }
        false
    }

    /// One tick: the doorbells that arrive now.
    pub(crate) fn tick(&mut self, arrived: impl FnMut(PortId)) {
        self.now += 1;
        self.arrive(arrived);
    }

    /// Moves the clock to the next doorbell; `false` when none is under way.
    pub(crate) fn advance(&mut self, arrived: impl FnMut(PortId)) -> bool {
        let Some(due) = self.queue.iter().map(|doorbell| doorbell.due).min() else {
            return false;
        };
        self.now = self.now.max(due);
        self.arrive(arrived);
        true
    }

    fn arrive(&mut self, mut arrived: impl FnMut(PortId)) {
        let now = self.now;
        self.queue.retain(|doorbell| {
            let due = doorbell.due <= now;
            if due {
                arrived(doorbell.to);
            }
            !due
        });
    }
}
