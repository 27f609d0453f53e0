//! Signals as something that can be polled.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Readable once the process was asked to end.
#[derive(Debug)]
pub struct Stop(UnixStream);

impl Stop {
    /// From now on both signals make this readable instead of ending the process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn install() -> Result<Self> {
        let (read, write) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }

    /// Blocks until a signal came.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn wait(&self) -> Result<()> {
        std::io::Read::read_exact(&mut &self.0, &mut [0])
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Readable when a signal has asked to go on with the program that is on disk now, until that is taken.
#[derive(Debug)]
pub struct Reload(UnixStream);

impl Reload {
    /// From now on SIGHUP makes this readable instead of ending the process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn install() -> Result<Self> {
        let (read, write) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGHUP, write)?;
        Self::of(read)
    }

    /// Readable when something was written at the other end.
    ///
    /// # Errors
    /// The system refuses.
    pub fn of(read: UnixStream) -> Result<Self> {
        read.set_nonblocking(true)?;
        Ok(Self(read))
    }

    /// Takes all signals that came: they ask for one thing.
    pub fn take(&self) {
        while let Ok(1..) = std::io::Read::read(&mut &self.0, &mut [0; 16]) {}
    }
}

impl AsFd for Reload {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
