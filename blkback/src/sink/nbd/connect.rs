//! From a connected socket to an export.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use std::vec::Vec;

use ringfence_nbd::client::{ClientError, Export, Negotiation};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use thiserror::Error;

/// How long a server may take for the whole negotiation, which holds up whoever opens the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a server's export cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NbdError {
    /// The negotiation failed.
    #[error("nbd: {0}")]
    Client(#[from] ClientError),
    /// The server closed the connection.
    #[error("nbd: the server closed the connection during the negotiation")]
    Closed,
    /// It says nothing.
    #[error("nbd: the server does not answer")]
    Silent,
    /// The system failed.
    #[error("nbd: {0}")]
    System(#[from] io::Error),
    /// It may only be read, but the disk is writable.
    #[error("nbd: the export is read-only, but the disk is writable")]
    ReadOnly,
    /// A size that is no multiple of a sector, or nothing at all.
    #[error("nbd: the export has {bytes} bytes, which is not a positive multiple of {unit}")]
    Size {
        /// Its size.
        bytes: u64,
        /// Bytes in its sectors.
        unit: u32,
    },
    /// Requests that are longer than a sector of any guest, or shorter than ours.
    #[error(
        "nbd: the server takes requests of {least} to {most} bytes, which does not go with ours"
    )]
    Sizes {
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
}

impl From<Errno> for NbdError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// Negotiates; the socket does not block afterwards, and what comes next on it are replies to requests.
pub(super) fn negotiate(socket: &OwnedFd, name: &str) -> Result<Export, NbdError> {
    let flags = fcntl_getfl(socket)?;
    fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
    let deadline = Instant::now().checked_add(PATIENCE);
    let mut negotiation = Negotiation::new(name)?;
    let mut input = Vec::new();
    loop {
        let mut out = Vec::new();
        let (taken, export) = negotiation.step(&input, &mut out)?;
        let mut rest = out.as_slice();
        while !rest.is_empty() {
            match send(socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if let Some(export) = export {
            return Ok(export);
        }
        if taken > 0 {
            input.drain(..taken.min(input.len()));
            continue;
        }
        // Not a byte beyond the negotiation is there before we ask for something.
        let mut more = [0; 4096];
        match recv(socket, &mut more, RecvFlags::empty()) {
            Ok((0, _)) => return Err(NbdError::Closed),
            Ok((bytes, _)) => input.extend(more.get(..bytes).unwrap_or_default()),
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, deadline)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn wait(socket: &OwnedFd, what: PollFlags, deadline: Option<Instant>) -> Result<(), NbdError> {
    let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
    let left = left.unwrap_or(PATIENCE);
    let timeout = Timespec::try_from(left).map_err(|_| NbdError::Silent)?;
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), what)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) => Err(NbdError::Silent),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
