//! The shared request/response ring of `xen/io/ring.h` and the byte rings of console and XenStore.
//!
//! [`Front`] and [`Back`] are the two ends of one ring, over a memory [`RingMem`] and a [`Protocol`]. Neither end trusts the
//! other: cursors are private, the peer's index is read once per pass and checked, a slot is copied out exactly once before
//! anybody looks at it, and taking a request yields a [`Slot`] whose only use is to answer it.
//!
//! One end's loop is: take all there is, [`publish`](Back::publish), ring the doorbell if told to, [`arm`](Back::arm), and
//! wait only after [`Armed::Sleep`].
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod back;
pub mod blkif;
pub mod bytes;
mod fault;
mod front;
mod index;
pub mod layout;
mod notify;
mod protocol;

pub use back::{Back, Slot, Taken, mark_of};
pub use fault::{AttachError, Full, PeerFault};
pub use front::Front;
pub use index::RingIndex;
pub use notify::{Armed, Notify};
pub use protocol::{Field, Protocol};
pub use ringfence_core::mem::SharedMem as RingMem;
