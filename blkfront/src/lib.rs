//! The frontend of a paravirtual disk (`xen/io/blkif.h`), in the layout of x86_64 and arm.
//!
//! A [`Frontend`] has two faces. [`step`](Frontend::step) is the control plane: call it when a watch fired and after a
//! connection ended. The data path, a [`Queue`], is completion-based and never blocks: [`submit`](Queue::submit) takes a
//! [`Buffer`], [`kick`](Queue::kick) shows what was submitted to the backend, [`reap`](Queue::reap) gives buffers back,
//! [`arm`](Queue::arm) says whether one may wait for [`channel`](Queue::channel).
//!
//! What a backend offers is used, and what it does not is done without: rings of up to 16 pages, requests of up to 512 pages
//! (indirect segments), barriers, discards, persistent grants. When it closes and comes back, or the guest is restored
//! elsewhere, what was not answered is put on the next ring ([`set_replay`](Queue::set_replay)). A [`ManyFrontend`] has several
//! queues, each for an owner of its own.
//!
//! Who would rather wait for each request takes [`Blocking`], behind which are the traits of `embedded-io` and
//! `embedded-sdmmc`, as features of these names.
//!
//! The backend is not trusted. What it answers is compared with what we remember of the request; a lie disables the device
//! for good, and the pages it may still write to stay out of use until it has let go of them. What it does with the data is its
//! business: who does not trust it with that, encrypts.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod blocking;
mod buffer;
mod connection;
mod error;
mod events;
mod frontend;
mod inflight;
mod life;
mod many;
mod negotiate;
mod queue;
mod repeat;
mod rings;
mod sring;

#[cfg(feature = "embedded-io")]
pub use blocking::Bytes;
#[cfg(feature = "embedded-sdmmc")]
pub use blocking::Card;
pub use blocking::{Blocking, BlockingError};
pub use buffer::{Buffer, MAX_PAGES};
pub use error::{BufferError, Error, Fault, IoError, NegotiateError, PeerFault, Reason, Rejected};
pub use events::Serviced;
pub use frontend::Frontend;
pub use inflight::{Completion, Op, SLOTS, Tag};
pub use life::Event;
pub use many::{ManyFrontend, QueueHandle, Shared, Split, Turn};
pub use negotiate::{Discards, Info};
pub use queue::{Counters, Queue};
pub use ringfence_core::wire::blkif::{Convention, SectorUnits};
pub use ringfence_ring::Armed;
