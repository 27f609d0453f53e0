//! Domains and their processes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use ringfence_core::DomId;
use ringfence_process::child::{Child, Exit};
use ringfence_process::restart::Restarts;

use super::store::ClientId;
use super::upgrade::Upgrade;
use crate::admin::NewDomain;
use crate::control::Request;

/// A process of a domain.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    /// Our end; the process is known by nothing else.
    pub(super) control: OwnedFd,
    /// Received, but not answered yet.
    pub(super) queue: VecDeque<Request>,
    /// The connections to the store.
    pub(super) clients: Vec<ClientId>,
    /// The process's end of it, until it asks.
    pub(super) store: Option<OwnedFd>,
    /// The process closed its control socket.
    pub(super) deaf: bool,
}

/// A domain: outlives its processes.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) domid: DomId,
    pub(super) new: NewDomain,
    streams: [OwnedFd; 3],
    pub(super) process: Option<Process>,
    pub(super) restarts: Restarts,
    /// How the last process ended.
    pub(super) exit: Option<Exit>,
    /// What its processes run, if not the broker's own program.
    pub(super) program: Option<OwnedFd>,
    /// Under way.
    pub(super) upgrade: Option<Upgrade>,
    /// Where its processes count, with its size.
    pub(super) statistics: Option<(u32, OwnedFd)>,
}

impl Domain {
    pub(super) fn new(domid: DomId, new: NewDomain, streams: [OwnedFd; 3]) -> Self {
        let restarts = Restarts::new(new.restart, Instant::now());
        Self {
            domid,
            new,
            streams,
            process: None,
            restarts,
            exit: None,
            program: None,
            upgrade: None,
            statistics: None,
        }
    }

    /// Starts a process.
    pub(super) fn start(
        &mut self,
        program: &Path,
        client: ClientId,
        store: OwnedFd,
    ) -> io::Result<()> {
        let [input, output, error] = &self.streams;
        // Opened by the child before its copy of the descriptor goes.
        let own = self.program.as_ref();
        let own = own.map(|fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
        let mut command = Command::new(own.as_deref().unwrap_or(program));
        command
            .args(&self.new.argv)
            .envs(self.new.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::from(input.try_clone()?))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(error.try_clone()?));
        let (child, control) = Child::spawn(command)?;
        self.process = Some(Process {
            child,
            control,
            queue: VecDeque::new(),
            clients: vec![client],
            store: Some(store),
            deaf: false,
        });
        self.exit = None;
        self.restarts.started(Instant::now());
        Ok(())
    }
}
