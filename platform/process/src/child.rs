//! A domain's process as the one who started it knows it: by a pidfd and by one socket, which is all that the child is given.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names the descriptor of the control socket in the environment of a domain's process.
pub const CONTROL_FD_ENV: &str = "RINGFENCE_CONTROL_FD";

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// `exit` with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A process that we started and have not reaped.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    pidfd: OwnedFd,
}

impl Child {
    /// Starts `command` with one end of a new `SOCK_SEQPACKET` pair, named by [`CONTROL_FD_ENV`], and gives the other end. The
    /// process is asked to end when the calling thread does.
    ///
    /// # Errors
    /// Those of `socketpair`, `fork`, `exec` and `pidfd_open`; no process is left then.
    pub fn spawn(mut command: Command) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let number = theirs.as_raw_fd();
        command.env(CONTROL_FD_ENV, number.to_string());
        // SAFETY: only system calls between fork and exec, on a descriptor that `theirs` keeps open until after `spawn`.
        unsafe {
            command.pre_exec(move || {
                let socket = BorrowedFd::borrow_raw(number);
                rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())?;
                // Nobody is left behind when the parent dies.
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        // Not reaped yet, so the number is this child's.
        let pidfd = Pid::from_raw(child.id() as i32)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        match pidfd {
            Ok(pidfd) => Ok((Self { child, pidfd }, ours)),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(errno.into())
            }
        }
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exit(&mut self) -> Option<Exit> {
        let status = self.child.try_wait().ok()??;
        Some(match status.code() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(status.signal().unwrap_or_default()),
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `InvalidInput` for a number without a name; `ESRCH` when it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::process::pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Kills and reaps it.
    pub fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Readable once the process has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Why a process has no control socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NoSocket {
    /// The environment names none: nobody of ours started this process.
    #[error("{CONTROL_FD_ENV} is not set: no supervisor started this process")]
    NotAChild,
    /// The environment names something that is no socket, or it was taken already.
    #[error("{CONTROL_FD_ENV}={0} names no socket of ours")]
    NotOurs(String),
    /// The system refuses.
    #[error("fcntl: {0}")]
    System(io::Error),
}

static INHERITED: AtomicBool = AtomicBool::new(false);

/// Takes the socket that the supervisor left to this process, once.
///
/// # Errors
/// [`NoSocket`] if there is none.
pub fn inherited_socket() -> Result<OwnedFd, NoSocket> {
    let text = std::env::var(CONTROL_FD_ENV).map_err(|_| NoSocket::NotAChild)?;
    let refused = || NoSocket::NotOurs(text.clone());
    let number: RawFd = text.parse().map_err(|_| refused())?;
    if number <= 2 || INHERITED.swap(true, Ordering::SeqCst) {
        return Err(refused());
    }
    // SAFETY: the supervisor opened it for us and told nobody else; taken only once.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    if rustix::net::sockopt::socket_type(&socket) != Ok(SocketType::SEQPACKET) {
        // Whatever it is, it is not ours to close.
        std::mem::forget(socket);
        return Err(refused());
    }
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
        .map_err(|errno| NoSocket::System(errno.into()))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Received, recv};
    use rustix::net::RecvFlags;

    #[test]
    fn a_child_is_known_by_its_socket_and_its_end() {
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "test -S /proc/self/fd/$RINGFENCE_CONTROL_FD && exit 3",
        ]);
        let (mut child, socket) = Child::spawn(command).unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &child,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        assert_eq!(child.exit(), Some(Exit::Code(3)));
        // Nobody else has the child's end.
        match recv::<u8>(socket.as_fd(), RecvFlags::empty()).unwrap() {
            Received::Closed => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_process_can_be_killed_and_says_by_what() {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000");
        let (mut child, _socket) = Child::spawn(command).unwrap();
        assert_eq!(child.exit(), None);
        child.signal(libc::SIGKILL).unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &child,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        assert_eq!(child.exit(), Some(Exit::Signal(libc::SIGKILL)));
    }
}
