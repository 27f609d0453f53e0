//! The programs that the lab's scenarios run in dom0 and in guests on real Xen.
//!
//! One process can speak for many domains: an [`agent`] runs in each of them and executes platform operations, a [`Remote`] is a
//! [`Platform`](ringfence_core::platform::Platform) whose every operation is a call to an agent. Requests and answers
//! ([`rpc`]) travel through [`pages`] that it grants to dom0, so a guest needs neither network nor console. With that the
//! conformance suite runs with three real domains ([`world`]) as it does with three values in one process.

pub mod agent;
pub mod hostile;
pub mod pages;
pub mod remote;
pub mod rpc;
pub mod world;

pub use remote::{Line, Remote};

/// The words of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without words".to_owned()
    }
}
