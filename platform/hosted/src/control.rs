//! What a domain and the broker say to each other. The socket is the domain's identity: no message names its sender.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ringfence_core::platform::PlatformError;
use ringfence_core::weakened;
use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};

use ringfence_process::packet::{self, Received};
use ringfence_process::{ImageError, ImageSpec};

pub use ringfence_process::child::CONTROL_FD_ENV;

/// What kind of life a domain has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DomainKind {
    /// Runs backends; its process is sandboxed and may be restarted.
    DriverDomain,
    /// Runs frontends.
    Guest,
}

/// From a domain to the broker. All but [`Close`](Self::Close) are answered, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Who am I? Answered with the socket of the store.
    Hello,
    /// The pair of arenas in which the sender grants pages to `peer`, made if missing.
    Own { peer: u16 },
    /// The pair of arenas in which `owner` grants pages to the sender.
    Reach { owner: u16 },
    /// `EVTCHNOP_alloc_unbound`
    AllocUnbound { peer: u16 },
    /// `EVTCHNOP_bind_interdomain`
    Bind { peer: u16, port: u32 },
    /// The descriptors of a port that the sender's domain already has.
    Adopt { port: u32 },
    /// `EVTCHNOP_close`, not answered.
    Close { port: u32 },
    /// The image of the disk with this backend directory.
    OpenImage { backend_path: String },
    /// What the processes of the sender's domain leave each other about the disk with this backend directory, whose image the
    /// sender has open: so many bytes, made if missing.
    Record { backend_path: String, bytes: u32 },
    /// Where the sender's domain counts for others to see: so many bytes, made if missing.
    Statistics { bytes: u32 },
    /// Another connection to the store.
    Store,
}

/// From the broker to a domain; the descriptors are listed in their order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The store's socket.
    Welcome {
        domid: u16,
        name: String,
        kind: DomainKind,
        broker: u32,
    },
    /// The read-write and the read-only arena.
    Arenas { base: u32 },
    /// The end to read and the end to write.
    Port { port: u32 },
    /// The image.
    Image { spec: ImageSpec, bytes: u64 },
    /// The image is not to be had yet: ask again.
    Later,
    /// The record, and what tells the disk's image from others.
    Record { image: [u64; 2] },
    /// The memory.
    Statistics,
    /// The connection.
    Store,
    /// Refused.
    Refused(Refusal),
}

/// Why the broker refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    NoDomain,
    NoArena,
    NoPort,
    Exhausted,
    Image(ImageError),
    Errno(i32),
}

/// The domain's end of the control socket.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    /// Held from a question to its answer.
    calls: Mutex<()>,
    /// Ports whose closing the socket did not take. Never held while anybody waits: closing waits for nobody (XSA-441).
    unsent: Mutex<Vec<u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic in these short sections.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            calls: Mutex::new(()),
            unsent: Mutex::new(Vec::new()),
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), PlatformError> {
        let _one = lock(&self.calls);
        let unsent = std::mem::take(&mut *lock(&self.unsent));
        for port in unsent {
            self.send(&Request::Close { port }, SendFlags::empty())?;
        }
        self.send(request, SendFlags::empty())?;
        match packet::recv(self.socket.as_fd(), RecvFlags::empty()) {
            Ok(Received::Message(reply, fds)) => Ok((reply, fds)),
            Ok(Received::Closed) => Err(failed("broker closed", rustix::io::Errno::CONNRESET)),
            Ok(_) => Err(failed("recvmsg", rustix::io::Errno::BADMSG)),
            Err(error) => Err(system("recvmsg", &error)),
        }
    }

    /// Closes a port. Never blocks: when the socket is full, the next call says it.
    pub(crate) fn close_port(&self, port: u32) {
        let _one = weakened!("xsa_441_hosted").then(|| lock(&self.calls));
        let close = Request::Close { port };
        if self.send(&close, SendFlags::DONTWAIT).is_err() {
            lock(&self.unsent).push(port);
        }
    }

    fn send(&self, request: &Request, flags: SendFlags) -> Result<(), PlatformError> {
        packet::send(self.socket.as_fd(), request, &[], flags)
            .map_err(|error| system("sendmsg", &error))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A failed system call, as the platform traits report it.
pub(crate) const fn failed(op: &'static str, errno: rustix::io::Errno) -> PlatformError {
    PlatformError {
        op,
        errno: errno.raw_os_error(),
    }
}

/// As [`failed`], of the standard library's error.
pub(crate) fn system(op: &'static str, error: &std::io::Error) -> PlatformError {
    PlatformError {
        op,
        errno: error.raw_os_error().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    /// What the domain says next, if it says anything within a time that is long.
    fn hear(broker: &OwnedFd) -> Option<Request> {
        let mut fds = [PollFd::new(broker, PollFlags::IN)];
        let patience = Timespec::try_from(Duration::from_secs(10)).unwrap();
        rustix::event::poll(&mut fds, Some(&patience)).unwrap();
        match packet::recv(broker.as_fd(), RecvFlags::DONTWAIT).unwrap() {
            Received::Message(request, _) => Some(request),
            _ => None,
        }
    }

    #[test]
    fn xsa_441_closing_a_port_does_not_wait_for_an_answer_to_somebody_else() {
        let (ours, broker) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let link = Link::new(ours);
        let request = Request::OpenImage {
            backend_path: "/local/domain/1/backend/vbd/2/51712".into(),
        };
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| link.call(&request));
            assert_eq!(hear(&broker).as_ref(), Some(&request));
            let closer = scope.spawn(|| link.close_port(7));
            let heard = hear(&broker);
            // Whatever came of it, both must be able to end.
            let answer = Reply::Refused(Refusal::NoPort);
            packet::send(broker.as_fd(), &answer, &[], SendFlags::empty()).unwrap();
            assert_eq!(caller.join().unwrap().unwrap().0, answer);
            closer.join().unwrap();
            assert_eq!(heard, Some(Request::Close { port: 7 }));
        });
    }
}
