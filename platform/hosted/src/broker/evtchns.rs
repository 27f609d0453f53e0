//! Every domain's ports.

use ringfence_core::weakened;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::pipe::PipeFlags;

use crate::control::Refusal;

/// Ports of one domain at most.
const PORTS_MAX: usize = 1023;

/// The two directions of a channel: `[to read, to write]` each.
#[derive(Debug)]
struct Pipes([[OwnedFd; 2]; 2]);

impl Pipes {
    fn new() -> io::Result<Self> {
        let pipe = || -> io::Result<[OwnedFd; 2]> {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            // One page is plenty for a bit, and counts least against the user's limit.
            rustix::pipe::fcntl_setpipe_size(&write, 4096)?;
            Ok([read, write])
        };
        Ok(Self([pipe()?, pipe()?]))
    }
}

#[derive(Debug)]
struct Port {
    /// Who may be at the other end.
    remote: u16,
    /// The other end's port while somebody is bound.
    bound: Option<u32>,
    /// Whether the domain allocated it; it then outlives the process.
    allocated: bool,
    pipes: Arc<Pipes>,
    /// Which of the pipes this end reads.
    side: usize,
}

/// The descriptors of one end: to read, to write.
pub(super) type Ends = [OwnedFd; 2];

impl Port {
    fn ends(&self) -> Result<Ends, Refusal> {
        let dup = |fd: &OwnedFd| {
            // The last process may have made the description blocking; the next must not inherit that.
            rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::NONBLOCK)?;
            fd.as_fd().try_clone_to_owned()
        };
        let refused = |error: io::Error| Refusal::Errno(error.raw_os_error().unwrap_or(0));
        let pending = dup(&self.pipes.0[self.side][0]).map_err(refused)?;
        let doorbell = dup(&self.pipes.0[1 - self.side][1]).map_err(refused)?;
        Ok([pending, doorbell])
    }

    fn doorbell(&self) -> BorrowedFd<'_> {
        self.pipes.0[self.side][1].as_fd()
    }
}

/// The ports of all domains.
#[derive(Debug, Default)]
pub(super) struct Evtchns {
    domains: BTreeMap<u16, BTreeMap<u32, Port>>,
}

impl Evtchns {
    fn free_port(&self, domid: u16) -> Result<u32, Refusal> {
        let ports = self.domains.get(&domid);
        let taken = |port: &u32| ports.is_some_and(|ports| ports.contains_key(port));
        (1..=PORTS_MAX as u32)
            .find(|port| !taken(port))
            .ok_or(Refusal::Exhausted)
    }

    pub(super) fn alloc(&mut self, domid: u16, remote: u16) -> Result<(u32, Ends), Refusal> {
        let number = self.free_port(domid)?;
        let pipes =
            Pipes::new().map_err(|error| Refusal::Errno(error.raw_os_error().unwrap_or(0)))?;
        let port = Port {
            remote,
            bound: None,
            allocated: true,
            pipes: Arc::new(pipes),
            side: 0,
        };
        let ends = port.ends()?;
        self.domains.entry(domid).or_default().insert(number, port);
        Ok((number, ends))
    }

    pub(super) fn bind(
        &mut self,
        domid: u16,
        remote: u16,
        remote_port: u32,
    ) -> Result<(u32, Ends), Refusal> {
        let number = self.free_port(domid)?;
        let theirs = self
            .domains
            .get_mut(&remote)
            .and_then(|ports| ports.get_mut(&remote_port));
        let theirs = theirs
            .filter(|port| {
                let for_us = port.remote == domid || weakened!("evtchn_broker_peer");
                for_us && port.bound.is_none()
            })
            .ok_or(Refusal::NoPort)?;
        let port = Port {
            remote,
            bound: Some(remote_port),
            allocated: false,
            pipes: Arc::clone(&theirs.pipes),
            side: 1 - theirs.side,
        };
        // What can fail comes first: a bind that fails changes nothing (XSA-496).
        let ends = port.ends()?;
        theirs.bound = Some(number);
        // Pending once, so that the binder looks at its ring (contract E2). Full is as good.
        let _ = rustix::io::write(port.doorbell(), &[1]);
        self.domains.entry(domid).or_default().insert(number, port);
        Ok((number, ends))
    }

    /// The ends of a port that an earlier process allocated.
    pub(super) fn adopt(&self, domid: u16, port: u32) -> Result<(u32, Ends), Refusal> {
        let found = self.domains.get(&domid).and_then(|ports| ports.get(&port));
        Ok((port, found.ok_or(Refusal::NoPort)?.ends()?))
    }

    pub(super) fn close(&mut self, domid: u16, port: u32) {
        let closed = self
            .domains
            .get_mut(&domid)
            .and_then(|ports| ports.remove(&port));
        if let Some(Port {
            remote,
            bound: Some(other),
            ..
        }) = closed
        {
            self.unbind(remote, other);
        }
    }

    fn unbind(&mut self, domid: u16, port: u32) {
        if let Some(port) = self
            .domains
            .get_mut(&domid)
            .and_then(|ports| ports.get_mut(&port))
        {
            port.bound = None;
        }
    }

    /// What the domain's process had bound is unbound again; what it allocated stays (contracts D1, D2).
    pub(super) fn process_died(&mut self, domid: u16) {
        self.close_all(domid, |port| !port.allocated);
    }

    pub(super) fn domain_destroyed(&mut self, domid: u16) {
        self.close_all(domid, |_| true);
        self.domains.remove(&domid);
    }

    fn close_all(&mut self, domid: u16, which: impl Fn(&Port) -> bool) {
        let ports = self.domains.get(&domid).into_iter().flatten();
        let ports: Vec<u32> = ports
            .filter(|(_, port)| which(port))
            .map(|(number, _)| *number)
            .collect();
        for port in ports {
            self.close(domid, port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(ends: &Ends) -> bool {
        rustix::io::read(&ends[0], &mut [0u8; 64]).is_ok()
    }

    #[test]
    fn bound_once_by_whom_it_is_for_and_again_after_a_death() {
        let mut all = Evtchns::default();
        let (port, front) = all.alloc(1, 2).unwrap();
        assert_eq!(all.bind(3, 1, port).unwrap_err(), Refusal::NoPort);
        assert_eq!(all.bind(2, 1, port + 1).unwrap_err(), Refusal::NoPort);
        let (_, back) = all.bind(2, 1, port).unwrap();
        assert!(pending(&back) && !pending(&back) && !pending(&front));
        assert_eq!(all.bind(2, 1, port).unwrap_err(), Refusal::NoPort);
        rustix::io::write(&back[1], &[1]).unwrap();
        assert!(pending(&front));
        all.process_died(2);
        // The end that a former process left blocking is not handed on so.
        rustix::fs::fcntl_setfl(&back[0], rustix::fs::OFlags::empty()).unwrap();
        let (again, back) = all.bind(2, 1, port).unwrap();
        assert!(pending(&back) && !pending(&back));
        all.process_died(1);
        let (_, front) = all.adopt(1, port).unwrap();
        rustix::io::write(&front[1], &[1]).unwrap();
        assert!(pending(&back));
        all.close(1, port);
        assert_eq!(all.bind(2, 1, port).unwrap_err(), Refusal::NoPort);
        all.domain_destroyed(2);
        assert_eq!(all.adopt(2, again).unwrap_err(), Refusal::NoPort);
    }
}
