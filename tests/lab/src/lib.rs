//! The programs that the lab's scenarios run in dom0 and in guests on real Xen.
//!
//! One process can speak for many domains: an agent (`ringfence-lab-agent`) runs in each of them and executes platform
//! operations, a [`Remote`] is a [`Platform`](ringfence_core::platform::Platform) whose every operation is a call to an agent.
//! With that the conformance suite runs with three real domains ([`world`]) as it does with three values in one process.

pub mod hostile;
pub mod remote;
pub mod world;

pub use remote::{Line, Remote};

use ringfence_lab_agent::rpc::{Answer, Failure, Request};
use ringfence_lab_agent::{Agent, Native};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Has an agent execute one request. A panic of the platform's becomes an answer.
pub fn answer<N: Native>(agent: &mut Agent<N>, request: Request) -> Answer {
    let done = catch_unwind(AssertUnwindSafe(|| agent.answer(request)));
    done.unwrap_or_else(|panic| Answer::Failed(Failure::Other(panic_text(&*panic))))
}

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
