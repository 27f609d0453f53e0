//! An NBD server for one disk on a Unix socket, so that programs which know nothing of Xen drive a guest's disk: fixed newstyle,
//! simple replies; read, write, write of zeros, trim and flush at any offset in bytes, also durably (FUA); many requests in flight,
//! answers in any order.
//!
//! [`handshake`] and [`session`] cut a client's bytes into requests, [`export`] turns those into requests of the disk, and
//! [`server`] is the loop with the sockets around them. Of the disk they know [`Blocks`] and nothing else.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod blocks;
mod client;
pub mod export;
pub mod handshake;
pub mod memory;
mod overlap;
pub mod server;
pub mod session;

pub use blocks::{BlockError, Blocks, Data, Geometry, Offers, SubmitError, Token};
pub use memory::MemoryBlocks;
pub use ringfence_nbd::wire;
pub use server::{Hall, Listener, ServeError, Server, serve, serve_hall};

/// The longest request that is served, in bytes: what the protocol lets a client assume without asking.
pub const REQUEST_MAX: u32 = 32 << 20;

/// The longest write of zeros, in bytes: they take no memory before they are sent.
pub const ZEROES_MAX: u32 = 256 << 20;
