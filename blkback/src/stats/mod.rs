//! Counters that outlive the ring: whoever reads them while the device is torn down reads old numbers, not freed memory
//! (XSA-528).

mod latency;
pub mod layout;
pub mod owner;

use alloc::boxed::Box;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

pub use latency::{Latency, STEPS};

use crate::sink::IoOp;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one device has done since it was attached, over all its connections. Shared through an `Arc`.
        #[derive(Debug)]
        pub struct Stats {
            $(pub(crate) $name: Counter,)*
            /// All of them once more, and what has no name: see [`layout`].
            words: Words,
            /// What holds the place of the words, if they are not its own.
            _place: Option<Box<dyn Any + Send + Sync>>,
        }

        /// How many counters have names.
        pub const COUNTERS: usize = [$(stringify!($name)),*].len();
        const _: () = assert!(layout::COUNTERS + COUNTERS <= layout::READS);

        impl Default for Stats {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)*
                    words: Words::Own((0..layout::WORDS).map(|_| AtomicU64::new(0)).collect()),
                    _place: None,
                }
            }
        }

        impl Stats {
            /// Counts in these words of zeros, which others may read: as [`layout`] says. `place` is dropped when nobody counts
            /// there any more. `None` if they are too few.
            pub fn at(words: &'static [AtomicU64], place: Box<dyn Any + Send + Sync>) -> Option<Self> {
                let mut named = words.get(..layout::WORDS)?.get(layout::COUNTERS..)?.iter();
                Some(Self {
                    $($name: Counter(Place::Shared(named.next()?)),)*
                    words: Words::Shared(words),
                    _place: Some(place),
                })
            }
        }

        /// The counters at one moment; each is exact, together they need not be of the same instant.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Reads all counters.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get(),)* }
            }
        }

        impl Snapshot {
            /// From values in the order of the fields; what is missing is 0.
            pub fn from_values(values: impl IntoIterator<Item = u64>) -> Self {
                let mut values = values.into_iter();
                Self { $($name: values.next().unwrap_or(0),)* }
            }

            /// Adds another device's counters to these.
            pub const fn add(&mut self, other: &Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)*
            }

            /// Names and values, in the order of the fields.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Requests taken from the ring.
    requests,
    /// Reads done.
    reads,
    /// Writes done.
    writes,
    /// Flushes done.
    flushes,
    /// Discards done.
    discards,
    /// Bytes read by the guest.
    read_bytes,
    /// Bytes written by the guest.
    write_bytes,
    /// Bytes that the guest no longer needed.
    discarded_bytes,
    /// Requests answered with `BLKIF_RSP_ERROR`.
    errors,
    /// Requests answered with `BLKIF_RSP_EOPNOTSUPP`.
    unsupported,
    /// Doorbells rung.
    notifications_sent,
    /// Times our doorbell was found rung.
    notifications_received,
    /// Events that came without a request or response to work on.
    spurious_events,
    /// Batched grant copies.
    grant_copies,
    /// Pages copied by them.
    grant_copy_ops,
    /// Pages mapped to stay so.
    grant_maps,
    /// System calls that submitted to io_uring.
    sys_io_uring_enter,
    /// `preadv` and `pwritev`.
    sys_rw,
    /// `fdatasync`.
    sys_sync,
    /// `fallocate` and `ioctl` that discard.
    sys_discard,
    /// Reads of event channels' descriptors; ringing is counted as [`notifications_sent`](Self::notifications_sent).
    sys_evtchn,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(Place);

#[derive(Debug)]
enum Place {
    Own(AtomicU64),
    Shared(&'static AtomicU64),
}

impl Default for Place {
    fn default() -> Self {
        Self::Own(AtomicU64::new(0))
    }
}

impl Counter {
    fn word(&self) -> &AtomicU64 {
        match &self.0 {
            Place::Own(word) => word,
            Place::Shared(word) => word,
        }
    }

    /// Adds. Only the thread that serves the device does, so that this costs no locked instruction.
    pub fn add(&self, n: u64) {
        let word = self.word();
        let sum = word.load(Ordering::Relaxed).wrapping_add(n);
        word.store(sum, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.word().load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
enum Words {
    Own(Box<[AtomicU64]>),
    Shared(&'static [AtomicU64]),
}

impl Stats {
    fn word(&self, at: usize) -> Option<&AtomicU64> {
        match &self.words {
            Words::Own(words) => words.get(at),
            Words::Shared(words) => words.get(at),
        }
    }

    fn set(&self, at: usize, value: u64) {
        if let Some(word) = self.word(at) {
            // A reader that finds it finds whose it is.
            word.store(value, Ordering::Release);
        }
    }

    fn add(&self, at: usize, n: u64) {
        if let Some(word) = self.word(at) {
            let sum = word.load(Ordering::Relaxed).wrapping_add(n);
            word.store(sum, Ordering::Relaxed);
        }
    }

    fn read(&self, at: usize) -> u64 {
        self.word(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The state of the backend's directory, a number of `xen/io/xenbus.h`.
    pub(crate) fn set_state(&self, state: u32) {
        self.set(layout::STATE, state.into());
    }

    /// How many rings are connected; each begins at nothing.
    pub(crate) fn set_rings(&self, rings: u16) {
        for ring in 0..layout::RINGS_MAX {
            for field in 0..layout::RING_WORDS {
                self.set(layout::ring(ring, field), 0);
            }
        }
        self.set(layout::RINGS, rings.into());
    }

    /// How many entries a ring has.
    pub(crate) fn set_entries(&self, ring: u16, entries: u32) {
        self.set(layout::ring(ring.into(), layout::ENTRIES), entries.into());
    }

    /// Counts for one ring of the device: a field of [`layout`].
    pub(crate) fn add_to_ring(&self, ring: u16, field: usize, n: u64) {
        self.add(layout::ring(ring.into(), field), n);
    }

    /// A read or write was answered well, so many nanoseconds after it was taken.
    pub(crate) fn took(&self, op: IoOp, nanoseconds: u64) {
        let first = match op {
            IoOp::Read(_) => layout::READS,
            IoOp::Write(_) => layout::WRITES,
            IoOp::Flush | IoOp::Discard { .. } => return,
        };
        let step = latency::step(nanoseconds);
        self.add(first.saturating_add(step), 1);
    }

    /// The device is gone: what still counts here counts for nobody.
    pub(crate) fn disown(&self) {
        self.set(layout::OWNER, 0);
    }

    /// How long reads have taken.
    pub fn read_latency(&self) -> Latency {
        Latency::from_counts(|step| self.read(layout::READS.saturating_add(step)))
    }

    /// How long writes have taken.
    pub fn write_latency(&self) -> Latency {
        Latency::from_counts(|step| self.read(layout::WRITES.saturating_add(step)))
    }
}
