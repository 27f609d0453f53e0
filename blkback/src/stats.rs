//! Counters that outlive the ring: whoever reads them while the device is torn down reads old numbers, not freed memory
//! (XSA-528).

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one device has done since it was attached, over all its connections. Shared through an `Arc`.
        #[derive(Debug, Default)]
        pub struct Stats {
            $(pub(crate) $name: Counter,)*
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
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
