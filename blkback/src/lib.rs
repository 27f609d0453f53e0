//! The backend of paravirtual disks, `xen/io/blkif.h`.
//!
//! * [`engine`]: one ring and one disk: requests in, responses out. `no_std` with an allocator, cannot panic.
//! * [`sink`]: where the data lives: [`sink::DiskIo`] is what a disk implements, [`sink::Disk`] what the engine uses.
//! * `service` (feature `std`): finds devices in XenStore, connects them, runs their engines.
//!
//! A request's life is types passed by value: [`Taken`](ringfence_ring::Taken) → [`request::Op`] → [`ticket::Ticket`] →
//! answered. Data is copied by the hypervisor between the guest's pages and private buffers; only with persistent grants are
//! pages mapped ([`grants::persistent`]), and even then a disk works on private buffers. Pages of segments are never mapped.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

pub mod buffer;
pub mod engine;
pub mod epoch;
pub mod error;
pub mod grants;
pub mod journal;
pub mod negotiate;
pub mod request;
#[cfg(feature = "std")]
pub mod service;
pub mod sink;
pub mod stats;
pub mod ticket;

pub use engine::{Engine, Progress};
pub use error::{AttachError, EngineError, IoError, Refusal};
pub use sink::{Disk, DiskIo, Geometry};
pub use stats::{Snapshot, Stats};

pub use ringfence_ring::blkif::BlkifNative;
