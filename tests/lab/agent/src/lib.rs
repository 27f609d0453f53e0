//! An agent executes platform operations in its domain for a caller in dom0, and both ends of the way between them.
//!
//! Requests and answers ([`rpc`]) travel through [`pages`] that the agent grants to dom0, so its domain needs neither network
//! nor console, nor an operating system: but for the caller's end all of this runs without one.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

extern crate alloc;

mod agent;
#[cfg(any(test, feature = "std"))]
mod host;
pub mod pages;
pub mod rpc;

pub use agent::{Agent, Native, parsed_perms, serve};
#[cfg(any(test, feature = "std"))]
pub use host::HostEnd;
