//! Domains with agents, reached from dom0.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use ringfence_core::DomId;
use ringfence_lab::Line;
use ringfence_lab::remote::Carrier;
use ringfence_lab::world::Fleet;
use ringfence_lab_agent::pages::PagesError;
use ringfence_lab_agent::{Agent, HostEnd};
use ringfence_linux::Linux;
use ringfence_tests::conformance::Who;

use crate::Three;
use crate::native::{Here, InLinux, wait};

/// How long an agent may take to answer, or to come back: a guest under emulation is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent in another domain.
#[derive(Debug)]
struct There(HostEnd<Linux>);

impl Carrier for There {
    fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, PagesError> {
        self.0.call(request, PATIENCE, &mut wait)
    }

    fn send(&mut self, request: &[u8]) -> Result<(), PagesError> {
        self.0.send(request)
    }
}

/// The way to the agent of `domid`, in an incarnation other than `before`; and which one it is.
///
/// # Panics
/// If there is none in time.
pub(crate) fn connect(domid: DomId, before: Option<u32>) -> (Rc<Line>, u32) {
    let linux = Linux::open().unwrap_or_else(|error| panic!("not in dom0: {error}"));
    let store = linux.store();
    let mut store = store.unwrap_or_else(|error| panic!("no connection to XenStore: {error}"));
    let end = HostEnd::connect(&linux, &mut store, domid, before, PATIENCE)
        .unwrap_or_else(|error| panic!("no agent in domain {domid}: {error}"));
    let incarnation = end.incarnation();
    (Line::new(Box::new(There(end))), incarnation)
}

/// Three guests.
#[derive(Debug)]
pub(crate) struct Guests {
    domids: [DomId; 3],
    incarnations: [Option<u32>; 3],
    killed: [bool; 3],
}

impl Guests {
    pub(crate) const fn new(domains: Three) -> Self {
        Self {
            domids: [domains.a, domains.b, domains.c],
            incarnations: [None; 3],
            killed: [false; 3],
        }
    }
}

impl Fleet for Guests {
    fn line(&mut self, who: Who) -> Rc<Line> {
        let who = who as usize;
        let before = self.incarnations[who].filter(|_| self.killed[who]);
        let (line, incarnation) = connect(self.domids[who], before);
        self.incarnations[who] = Some(incarnation);
        self.killed[who] = false;
        line
    }

    fn dom0(&mut self) -> Rc<Line> {
        let linux = Linux::open().unwrap_or_else(|error| panic!("not in dom0: {error}"));
        Line::new(Box::new(Here(Agent::new(InLinux(linux)))))
    }

    fn kill(&mut self, who: Who, line: &Line) {
        line.kill();
        self.killed[who as usize] = true;
    }

    fn destroy(&mut self, _: Who, domid: DomId) {
        let status = Command::new("xl")
            .args(["destroy", &domid.to_string()])
            .status();
        let status = status.unwrap_or_else(|error| panic!("xl cannot be started: {error}"));
        assert!(status.success(), "xl destroy {domid}: {status}");
    }
}
