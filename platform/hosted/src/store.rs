//! The domain's connection to the store.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ringfence_core::store::{Connection, Interest, Transport};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// A domain's XenStore. Whoever polls many descriptors finds its own with `store.transport().as_fd()`.
pub type HostedStore = Connection<StoreSocket>;

/// The stream to the broker's store.
#[derive(Debug)]
pub struct StoreSocket(OwnedFd);

impl StoreSocket {
    /// A connected stream socket on which the store's protocol is spoken.
    pub const fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Connects to a store's listening socket, as the `xenstore-*` tools do.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(path: &std::path::Path) -> std::io::Result<Self> {
        Ok(Self(std::os::unix::net::UnixStream::connect(path)?.into()))
    }
}

impl AsFd for StoreSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for StoreSocket {
    type Error = Errno;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| rustix::net::send(&self.0, bytes, flags)) {
            Err(Errno::AGAIN) => Ok(0),
            other => other,
        }
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.0, &mut *room, RecvFlags::DONTWAIT)
        }) {
            Ok((0, _)) => Err(Errno::CONNRESET),
            Ok((count, _)) => Ok(count),
            Err(Errno::AGAIN) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    fn wait(&mut self, interest: Interest, timeout: Option<Duration>) -> Result<(), Errno> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, interest.recv);
        events.set(PollFlags::OUT, interest.send);
        let timeout = timeout.map(Timespec::try_from).and_then(Result::ok);
        match rustix::event::poll(&mut [PollFd::new(&self.0, events)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
