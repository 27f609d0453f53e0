//! Agents on Linux on Xen.

use std::time::Duration;

use ringfence_core::platform::{Platform as _, PlatformError};
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_lab::remote::Carrier;
use ringfence_lab_agent::pages::PagesError;
use ringfence_lab_agent::rpc::{Answer, Failure, Request};
use ringfence_lab_agent::{Agent, Native};
use ringfence_linux::{Channel, Granted, Linux, LinuxStore};
use rustix::event::{PollFd, PollFlags, Timespec};

/// This domain.
#[derive(Debug)]
pub(crate) struct InLinux(pub(crate) Linux);

impl InLinux {
    pub(crate) fn domid(&self) -> DomId {
        self.0.domid()
    }
}

impl Native for InLinux {
    type Platform = Linux;

    fn platform(&self) -> &Linux {
        &self.0
    }

    fn open_store(&self) -> Result<LinuxStore, PlatformError> {
        self.0.store().map_err(|error| PlatformError {
            op: "open xenbus",
            errno: error.raw_os_error().unwrap_or(0),
        })
    }

    // The devices of Linux clean up after each process.
    fn adopt_granted(&self, _: DomId, _: GrantRef) -> Option<Granted> {
        None
    }

    fn adopt_channel(&self, _: EvtchnPort) -> Option<Channel> {
        None
    }
}

/// An agent in the caller's own process.
#[derive(Debug)]
pub(crate) struct Here(pub(crate) Agent<InLinux>);

impl Carrier for Here {
    fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, PagesError> {
        Ok(answered(&mut self.0, request))
    }

    fn send(&mut self, request: &[u8]) -> Result<(), PagesError> {
        answered(&mut self.0, request);
        Ok(())
    }
}

/// Waits until a channel was rung.
pub(crate) fn wait(channel: &Channel, timeout: Duration) {
    let timeout = Timespec::try_from(timeout).ok();
    let mut fds = [PollFd::new(channel, PollFlags::IN)];
    // Whatever came of it, the caller looks again.
    let _ = rustix::event::poll(&mut fds, timeout.as_ref());
}

/// Executes an encoded request, and encodes the answer.
pub(crate) fn answered(agent: &mut Agent<InLinux>, request: &[u8]) -> Vec<u8> {
    let answer = match postcard::from_bytes::<Request>(request) {
        Ok(request) => ringfence_lab::answer(agent, request),
        Err(error) => Answer::Failed(Failure::Other(error.to_string())),
    };
    postcard::to_stdvec(&answer).expect("an answer can be encoded")
}
