//! What to wait for: descriptors, each with a number of ours.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// The number under which a descriptor is registered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Token(u64);

impl Token {
    /// Wraps the number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The token after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// What a descriptor can do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Whose it is.
    pub token: Token,
    /// There is something to read, or an end to notice.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
    /// The other end is closed in both directions.
    pub closed: bool,
}

/// An epoll instance. Closing a descriptor takes it out.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// One that waits for nothing yet.
    ///
    /// # Errors
    /// As `epoll_create1(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Registers a descriptor for reading.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let data = EventData::new_u64(token.0);
        Ok(epoll::add(&self.0, fd, data, EventFlags::IN)?)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn set(&self, fd: impl AsFd, token: Token, read: bool, write: bool) -> io::Result<()> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, read);
        flags.set(EventFlags::OUT, write);
        Ok(epoll::modify(
            &self.0,
            fd,
            EventData::new_u64(token.0),
            flags,
        )?)
    }

    /// Waits, for at most `timeout`, and adds what is ready to `ready`; nothing when a signal came.
    ///
    /// # Errors
    /// As `epoll_wait(2)`.
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = Vec::with_capacity(64);
        match epoll::wait(
            &self.0,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        ready.extend(events.iter().map(|event| {
            let flags = event.flags;
            let closed = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            Ready {
                token: Token(event.data.u64()),
                read: closed || flags.contains(EventFlags::IN),
                write: flags.contains(EventFlags::OUT),
                closed,
            }
        }));
        Ok(())
    }
}
