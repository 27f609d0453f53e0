//! `/dev/xen/evtchn`: event channels. Numbers and layouts are those of Linux's `xen/evtchn.h`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ringfence_core::platform::{self, EvtchnError, PlatformError};
use ringfence_core::{DomId, EvtchnPort};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::ioctl::{call, failed, number};

/// `VIRQ_DOM_EXC` of `xen/xen.h`: a domain's life changed. Only one port of the whole system can have it.
pub const VIRQ_DOM_EXC: u32 = 3;

const BIND_VIRQ: u32 = number(b'E', 0, size_of::<[u32; 1]>());
const BIND_INTERDOMAIN: u32 = number(b'E', 1, size_of::<[u32; 2]>());
const BIND_UNBOUND_PORT: u32 = number(b'E', 2, size_of::<[u32; 1]>());
const UNBIND: u32 = number(b'E', 3, size_of::<[u32; 1]>());
const NOTIFY: u32 = number(b'E', 4, size_of::<[u32; 1]>());
const RESTRICT_DOMID: u32 = number(b'E', 6, size_of::<u16>());

/// Ports that one [`Evtchn::pending`] takes at most.
const BATCH: usize = 64;

/// An open `/dev/xen/evtchn`: any number of ports, all of which close with it. Readable while one of them is pending.
#[derive(Debug)]
pub struct Evtchn(OwnedFd);

/// The ports that one [`Evtchn::pending`] found.
#[derive(Debug)]
pub struct Pending {
    ports: [u32; BATCH],
    next: usize,
    count: usize,
}

impl Iterator for Pending {
    type Item = EvtchnPort;

    fn next(&mut self) -> Option<EvtchnPort> {
        let ports = self.ports.get(..self.count).unwrap_or_default();
        let port = ports.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some(EvtchnPort::new(*port))
    }
}

impl Evtchn {
    /// Takes a fresh descriptor of the device, and makes it non-blocking.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn new(device: OwnedFd) -> Result<Self, Errno> {
        let flags = rustix::fs::fcntl_getfl(&device)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK)?;
        }
        Ok(Self(device))
    }

    fn call<const N: usize>(&self, request: u32, mut words: [u32; N]) -> Result<u32, Errno> {
        // SAFETY: `request` is one of the numbers above, which carry the size of what they read: words of 32 bits.
        unsafe { call(&self.0, request, words.as_mut_ptr().cast()) }
    }

    /// From now on binds ports of this peer only and allocates none, also in a process that the descriptor is passed to. Linux
    /// refuses this for dom0.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 4.9; `EINVAL` for dom0; `EACCES` when it is restricted already.
    pub fn restrict(&self, peer: DomId) -> Result<(), Errno> {
        let mut domid = peer.get();
        // SAFETY: the request reads one `domid_t`, 16 bits.
        unsafe { call(&self.0, RESTRICT_DOMID, (&raw mut domid).cast()) }.map(|_| ())
    }

    /// Binds to a port that `peer` allocated for us; returns the port at our end.
    ///
    /// # Errors
    /// `EINVAL` if it cannot be bound by us, `ESRCH` if there is no such domain, `ENOSPC` if there is no port left.
    pub fn bind_interdomain(&self, peer: DomId, port: EvtchnPort) -> Result<EvtchnPort, Errno> {
        self.call(BIND_INTERDOMAIN, [peer.get().into(), port.get()])
            .map(EvtchnPort::new)
    }

    /// Allocates a port that `peer` may bind.
    ///
    /// # Errors
    /// `ENOSPC` if there is none left.
    pub fn bind_unbound(&self, peer: DomId) -> Result<EvtchnPort, Errno> {
        self.call(BIND_UNBOUND_PORT, [peer.get().into()])
            .map(EvtchnPort::new)
    }

    /// Binds a virtual interrupt, `VIRQ_*`.
    ///
    /// # Errors
    /// `EEXIST` if somebody has it, `EPERM` if it is not for us.
    pub fn bind_virq(&self, virq: u32) -> Result<EvtchnPort, Errno> {
        self.call(BIND_VIRQ, [virq]).map(EvtchnPort::new)
    }

    /// Closes one port.
    ///
    /// # Errors
    /// `ENOTCONN` if it is none of ours.
    pub fn unbind(&self, port: EvtchnPort) -> Result<(), Errno> {
        self.call(UNBIND, [port.get()]).map(|_| ())
    }

    /// Rings the other end; nobody there is no error.
    ///
    /// # Errors
    /// `ENOTCONN` if the port is none of ours.
    pub fn notify(&self, port: EvtchnPort) -> Result<(), Errno> {
        self.call(NOTIFY, [port.get()]).map(|_| ())
    }

    /// Takes what is pending. A port that was taken stays silent until [`unmask`](Self::unmask).
    ///
    /// # Errors
    /// As `read(2)`; `EFBIG` when the device lost count, which it does not with ports that are unmasked once each time.
    pub fn pending(&self) -> Result<Pending, Errno> {
        let mut pending = Pending {
            ports: [0; BATCH],
            next: 0,
            count: 0,
        };
        pending.count = self.read(pending.ports.as_mut_bytes())? / size_of::<u32>();
        Ok(pending)
    }

    /// Takes ports that are pending, as many as there is room for. Returns how many bytes that were.
    fn read(&self, room: &mut [u8]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut *room)) {
            Err(Errno::AGAIN) => Ok(0),
            read => read,
        }
    }

    /// Lets the next event of a port come.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn unmask(&self, port: EvtchnPort) -> Result<(), Errno> {
        let bytes = port.get().to_ne_bytes();
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &bytes)).map(|_| ())
    }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Our end of one event channel, on a descriptor of its own, which is readable while an event is pending.
#[derive(Debug)]
pub struct Channel {
    evtchn: Evtchn,
    port: EvtchnPort,
}

impl Channel {
    pub(crate) fn alloc(device: OwnedFd, peer: DomId) -> Result<Self, EvtchnError> {
        let evtchn = Evtchn::new(device).map_err(|errno| failed("fcntl", errno))?;
        let port = evtchn.bind_unbound(peer).map_err(|errno| match errno {
            Errno::NOSPC => EvtchnError::Exhausted,
            Errno::SRCH => EvtchnError::NoDomain { peer },
            errno => failed("IOCTL_EVTCHN_BIND_UNBOUND_PORT", errno).into(),
        })?;
        // Not before: Linux refuses a restricted descriptor every allocation, also for the peer that it names.
        let _ = evtchn.restrict(peer);
        Ok(Self { evtchn, port })
    }

    pub(crate) fn bind(
        device: OwnedFd,
        peer: DomId,
        remote: EvtchnPort,
    ) -> Result<Self, EvtchnError> {
        let evtchn = restricted(device, peer)?;
        let bound = evtchn.bind_interdomain(peer, remote);
        let port = bound.map_err(|errno| match errno {
            Errno::INVAL => EvtchnError::Refused { peer, port: remote },
            Errno::NOSPC => EvtchnError::Exhausted,
            Errno::SRCH => EvtchnError::NoDomain { peer },
            errno => failed("IOCTL_EVTCHN_BIND_INTERDOMAIN", errno).into(),
        })?;
        Ok(Self { evtchn, port })
    }
}

fn restricted(device: OwnedFd, peer: DomId) -> Result<Evtchn, EvtchnError> {
    let evtchn = Evtchn::new(device).map_err(|errno| failed("fcntl", errno))?;
    // A second fence, not the first: old kernels have none, and none has it for dom0.
    let _ = evtchn.restrict(peer);
    Ok(evtchn)
}

impl platform::Channel for Channel {
    fn port(&self) -> EvtchnPort {
        self.port
    }

    fn notify(&self) -> Result<(), PlatformError> {
        self.evtchn
            .notify(self.port)
            .map_err(|errno| failed("IOCTL_EVTCHN_NOTIFY", errno))
    }

    fn take_pending(&self) -> Result<bool, PlatformError> {
        // There is no other port on the descriptor.
        let mut port = 0u32;
        let pending = self.evtchn.read(port.as_mut_bytes());
        let bytes = pending.map_err(|errno| failed("read of evtchn", errno))?;
        Ok(bytes == size_of::<u32>() && port == self.port.get())
    }

    fn unmask(&self) -> Result<(), PlatformError> {
        self.evtchn
            .unmask(self.port)
            .map_err(|errno| failed("write of evtchn", errno))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        // As a C compiler has them from Linux's `xen/evtchn.h`.
        let ours = [
            BIND_VIRQ,
            BIND_INTERDOMAIN,
            BIND_UNBOUND_PORT,
            UNBIND,
            NOTIFY,
            RESTRICT_DOMID,
        ];
        let headers = [
            0x0004_4500,
            0x0008_4501,
            0x0004_4502,
            0x0004_4503,
            0x0004_4504,
            0x0002_4506,
        ];
        assert_eq!(ours, headers);
    }

    #[test]
    fn what_is_read_is_ports_in_order() {
        // A packet socket reads as the device does: what is there, or EAGAIN.
        let (kernel, device) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let evtchn = Evtchn::new(device.into()).unwrap();
        assert_eq!(evtchn.pending().unwrap().count(), 0);
        kernel.send([7u32, 9].as_bytes()).unwrap();
        let ports: Vec<_> = evtchn.pending().unwrap().map(EvtchnPort::get).collect();
        assert_eq!(ports, [7, 9]);
        evtchn.unmask(EvtchnPort::new(9)).unwrap();
        let mut word = [0; 8];
        assert_eq!(kernel.recv(&mut word).unwrap(), 4);
        assert_eq!(word[..4], *9u32.as_bytes());
        // No device of Xen's: the call reaches it and is refused.
        assert_eq!(evtchn.notify(EvtchnPort::new(7)), Err(Errno::NOTTY));
    }
}
