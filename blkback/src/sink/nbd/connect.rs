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

use super::Nbd;

/// How long a server may take for the whole negotiation.
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

/// A server's disk that is being asked for. What comes next on its socket, which does not block, are replies to requests.
pub struct NbdOpening {
    socket: OwnedFd,
    negotiation: Negotiation,
    read_only: bool,
    input: Vec<u8>,
    /// Not sent yet.
    output: Vec<u8>,
    deadline: Option<Instant>,
}

/// What came of asking.
pub enum NbdLook {
    /// Here it is.
    Disk(Nbd),
    /// The server has not answered yet.
    Later(NbdOpening),
}

impl NbdOpening {
    /// Asks the server at the other end of `socket` for an export.
    ///
    /// # Errors
    /// [`NbdError`], in words for the `error` node.
    pub fn new(socket: OwnedFd, export: &str, read_only: bool) -> Result<Self, NbdError> {
        let flags = fcntl_getfl(&socket)?;
        fcntl_setfl(&socket, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            socket,
            negotiation: Negotiation::new(export)?,
            read_only,
            input: Vec::new(),
            output: Vec::new(),
            deadline: Instant::now().checked_add(PATIENCE),
        })
    }

    /// Looks whether the server has answered. Never blocks.
    ///
    /// # Errors
    /// [`NbdError`], in words for the `error` node; also when the server takes too long.
    pub fn look(mut self) -> Result<NbdLook, NbdError> {
        Ok(match self.go_on()? {
            Some(export) => NbdLook::Disk(Nbd::over(self.socket, export, self.read_only)?),
            None => NbdLook::Later(self),
        })
    }

    /// Goes on as far as the server's answers are there; the export at the end.
    fn go_on(&mut self) -> Result<Option<Export>, NbdError> {
        loop {
            let (taken, export) = self.negotiation.step(&self.input, &mut self.output)?;
            self.input.drain(..taken.min(self.input.len()));
            if export.is_some() {
                return Ok(export);
            }
            if taken > 0 {
                continue;
            }
            if !self.send()? {
                return self.later();
            }
            // Not a byte beyond the negotiation is there before we ask for something.
            let mut more = [0; 4096];
            match recv(&self.socket, &mut more, RecvFlags::empty()) {
                Ok((0, _)) => return Err(NbdError::Closed),
                Ok((bytes, _)) => self.input.extend(more.get(..bytes).unwrap_or_default()),
                Err(Errno::AGAIN) => return self.later(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends what the socket takes; whether that is all.
    fn send(&mut self) -> Result<bool, NbdError> {
        while !self.output.is_empty() {
            match send(&self.socket, &self.output, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.output.drain(..sent.min(self.output.len()))),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    fn left(&self) -> Duration {
        let left = self
            .deadline
            .map(|end| end.saturating_duration_since(Instant::now()));
        left.unwrap_or(PATIENCE)
    }

    fn later<T>(&self) -> Result<Option<T>, NbdError> {
        match self.left().is_zero() {
            true => Err(NbdError::Silent),
            false => Ok(None),
        }
    }

    /// Sleeps until there may be more to do.
    pub(super) fn wait(&self) -> Result<(), NbdError> {
        let timeout = Timespec::try_from(self.left()).map_err(|_| NbdError::Silent)?;
        let what = match self.output.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::OUT,
        };
        let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), what)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
