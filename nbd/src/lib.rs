//! The NBD protocol (`doc/proto.md` of the NBD project) without input or output of its own: its [numbers and structs](wire), which
//! the command's export and the block backend's client share, and a [client's negotiation](client).

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod client;
pub mod wire;
