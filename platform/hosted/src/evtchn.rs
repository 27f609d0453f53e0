//! Event channels: two pipes, one for each direction.
//!
//! Not one eventfd shared by both ends: whoever holds its description can make it blocking and fill it, and the next
//! notification of the other end would then never return. A pipe's two ends are separate descriptions, each held by one domain
//! (and the broker, for the domain's next process), and a full pipe is as good as a pending event.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ringfence_core::platform::{self, EvtchnError, PlatformError};
use ringfence_core::{DomId, EvtchnPort};
use rustix::io::Errno;

use crate::control::{Link, Refusal, Reply, Request, failed};

/// Our end of an event channel. Its descriptor is readable while an event is pending.
#[derive(Debug)]
pub struct Channel {
    port: EvtchnPort,
    pending: OwnedFd,
    doorbell: OwnedFd,
    link: Arc<Link>,
}

/// More than a pipe of ours holds, unless the peer made it larger: then the rest is the next event.
const DRAIN: usize = 8192;

impl platform::Channel for Channel {
    fn port(&self) -> EvtchnPort {
        self.port
    }

    fn notify(&self) -> Result<(), PlatformError> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.doorbell, &[1])) {
            // Full: the peer has not looked at what is there.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(failed("write", errno)),
        }
    }

    fn take_pending(&self) -> Result<bool, PlatformError> {
        // Nobody looks at them, and zeros would cost more than the call.
        let mut bytes = [MaybeUninit::<u8>::uninit(); DRAIN];
        let mut read = || match rustix::io::read(&self.pending, &mut bytes[..]) {
            Ok((bytes, _)) => Ok(!bytes.is_empty()),
            Err(errno) => Err(errno),
        };
        match rustix::io::retry_on_intr(&mut read) {
            Ok(rung) => Ok(rung),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(failed("read", errno)),
        }
    }

    fn unmask(&self) -> Result<(), PlatformError> {
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pending.as_fd()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.link.close_port(self.port.get());
    }
}

/// Asks for a port and takes the answer.
pub(crate) fn open(
    link: &Arc<Link>,
    request: &Request,
    peer: DomId,
    port: EvtchnPort,
) -> Result<Channel, EvtchnError> {
    let (reply, fds) = link.call(request)?;
    match (reply, <[_; 2]>::try_from(fds)) {
        (Reply::Port { port }, Ok([pending, doorbell])) => Ok(Channel {
            port: EvtchnPort::new(port),
            pending,
            doorbell,
            link: Arc::clone(link),
        }),
        (Reply::Refused(Refusal::NoDomain), _) => Err(EvtchnError::NoDomain { peer }),
        (Reply::Refused(Refusal::Exhausted), _) => Err(EvtchnError::Exhausted),
        (Reply::Refused(Refusal::Errno(errno)), _) => {
            Err(PlatformError { op: "pipe", errno }.into())
        }
        (Reply::Refused(_), _) => Err(EvtchnError::Refused { peer, port }),
        _ => Err(failed("event channel", Errno::BADMSG).into()),
    }
}
