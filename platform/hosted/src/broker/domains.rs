//! Domains and their processes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ringfence_core::DomId;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::store::ClientId;
use super::supervisor::Supervisor;
use crate::admin::{Exit, NewDomain};
use crate::control::{CONTROL_FD_ENV, Request};

/// A process of a domain.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pidfd: OwnedFd,
    /// Our end; the process is known by nothing else.
    pub(super) control: OwnedFd,
    /// Received, but not answered yet.
    pub(super) queue: VecDeque<Request>,
    /// Whether an answer is owed: nothing more is read before it is given.
    pub(super) busy: bool,
    /// The connection to the store.
    pub(super) client: ClientId,
    /// The process's end of it, until it asks.
    pub(super) store: Option<OwnedFd>,
    /// The process closed its control socket.
    pub(super) deaf: bool,
}

impl Process {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, if it did.
    pub(super) fn exit(&mut self) -> Option<Exit> {
        let status = self.child.try_wait().ok()??;
        Some(match status.code() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(status.signal().unwrap_or_default()),
        })
    }

    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::process::pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Kills and reaps it.
    pub(super) fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A domain: outlives its processes.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) domid: DomId,
    pub(super) new: NewDomain,
    streams: [OwnedFd; 3],
    pub(super) process: Option<Process>,
    pub(super) supervisor: Supervisor,
    /// How the last process ended.
    pub(super) exit: Option<Exit>,
}

impl Domain {
    pub(super) fn new(domid: DomId, new: NewDomain, streams: [OwnedFd; 3]) -> Self {
        let supervisor = Supervisor::new(new.restart, Instant::now());
        Self {
            domid,
            new,
            streams,
            process: None,
            supervisor,
            exit: None,
        }
    }

    /// Starts a process.
    pub(super) fn start(
        &mut self,
        program: &Path,
        client: ClientId,
        store: OwnedFd,
    ) -> io::Result<()> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let [input, output, error] = &self.streams;
        let mut command = Command::new(program);
        command
            .args(&self.new.argv)
            .envs(self.new.env.iter().map(|(key, value)| (key, value)))
            .env(CONTROL_FD_ENV, theirs.as_raw_fd().to_string())
            .stdin(Stdio::from(input.try_clone()?))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(error.try_clone()?));
        let number = theirs.as_raw_fd();
        // SAFETY: only system calls between fork and exec, on a descriptor that `theirs` keeps open until after `spawn`.
        unsafe {
            command.pre_exec(move || {
                let socket = BorrowedFd::borrow_raw(number);
                rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())?;
                // Nobody is left behind when the broker dies.
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        // Not reaped yet, so the number is this child's.
        let pidfd = Pid::from_raw(child.id() as i32)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = match pidfd {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(errno.into());
            }
        };
        self.process = Some(Process {
            child,
            pidfd,
            control: ours,
            queue: VecDeque::new(),
            busy: false,
            client,
            store: Some(store),
            deaf: false,
        });
        self.exit = None;
        self.supervisor.started(Instant::now());
        Ok(())
    }
}
