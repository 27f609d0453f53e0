//! What the processes of domains ask for.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};

use super::Broker;
use crate::control::{Refusal, Reply, Request};
use ringfence_process::packet::{self, Received};

/// Messages taken from a process before it is served.
const QUEUE_MAX: usize = 64;
/// How long I/O of a dead process may keep the next one from its image.
const FENCE: Duration = Duration::from_secs(60);
/// How often the lock is tried meanwhile: there is no event to wait for.
const RETRY: Duration = Duration::from_millis(20);

/// An image that could not be opened yet.
#[derive(Debug)]
pub(super) struct PendingImage {
    domid: u16,
    backend: String,
    deadline: Instant,
}

type Answer = Result<(Reply, Vec<OwnedFd>), Refusal>;

impl Broker {
    /// Takes what a process said, and does it.
    pub(super) fn domain_readable(&mut self, domid: u16) {
        self.take_messages(domid);
        self.serve(domid);
    }

    fn take_messages(&mut self, domid: u16) {
        let Some(process) = self
            .domains
            .get_mut(&domid)
            .and_then(|domain| domain.process.as_mut())
        else {
            return;
        };
        while process.queue.len() < QUEUE_MAX && !process.deaf {
            match packet::recv(process.control.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Received::Message(request, _)) => process.queue.push_back(request),
                Ok(Received::Nothing) => return,
                // Its death is a matter of its pidfd.
                Ok(Received::Closed) | Err(_) => process.deaf = true,
                Ok(Received::Garbage) => {
                    tracing::warn!(domid, "message that makes no sense: not listening any more");
                    process.deaf = true;
                }
            }
        }
    }

    fn serve(&mut self, domid: u16) {
        loop {
            let Some(process) = self
                .domains
                .get_mut(&domid)
                .and_then(|domain| domain.process.as_mut())
            else {
                return;
            };
            if process.busy {
                return;
            }
            let Some(request) = process.queue.pop_front() else {
                return;
            };
            if let Some(answer) = self.perform(domid, request) {
                self.answer(domid, answer);
            }
        }
    }

    fn answer(&mut self, domid: u16, answer: Answer) {
        let Some(process) = self
            .domains
            .get_mut(&domid)
            .and_then(|domain| domain.process.as_mut())
        else {
            return;
        };
        let (reply, fds) = answer.unwrap_or_else(|refusal| (Reply::Refused(refusal), Vec::new()));
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        // One answer per request fits any socket: a process that asks without listening loses them.
        if packet::send(process.control.as_fd(), &reply, &fds, SendFlags::DONTWAIT).is_err() {
            process.deaf = true;
        }
    }

    /// Does one request; `None` when it has no answer, or none yet.
    fn perform(&mut self, domid: u16, request: Request) -> Option<Answer> {
        let arenas = |(base, fds): (u32, [OwnedFd; 2])| (Reply::Arenas { base }, fds.into());
        let port = |(port, fds): (u32, [OwnedFd; 2])| (Reply::Port { port }, fds.into());
        let alive = |broker: &Self, peer| match broker.domains.contains_key(&peer) {
            true => Ok(()),
            false => Err(Refusal::NoDomain),
        };
        Some(match request {
            Request::Hello => self.hello(domid),
            Request::Own { peer } => alive(self, peer)
                .and_then(|()| self.arenas.own(domid, peer))
                .map(arenas),
            Request::Reach { owner } => alive(self, owner)
                .and_then(|()| self.arenas.reach(owner, domid))
                .map(arenas),
            Request::AllocUnbound { peer } => alive(self, peer)
                .and_then(|()| self.evtchns.alloc(domid, peer))
                .map(port),
            Request::Bind { peer, port: number } => {
                self.take_closes(peer);
                alive(self, peer)
                    .and_then(|()| self.evtchns.bind(domid, peer, number))
                    .map(port)
            }
            Request::Adopt { port: number } => self.evtchns.adopt(domid, number).map(port),
            Request::Close { port } => {
                self.evtchns.close(domid, port);
                return None;
            }
            Request::Record {
                backend_path,
                bytes,
            } => self.record(domid, &backend_path, bytes),
            Request::Statistics { bytes } => self.statistics(domid, bytes),
            Request::OpenImage { backend_path } => {
                return self.open_image(domid, backend_path, None);
            }
        })
    }

    /// What `domid` closed before somebody else asked is closed, although it is served later.
    fn take_closes(&mut self, domid: u16) {
        self.take_messages(domid);
        let Some(process) = self
            .domains
            .get_mut(&domid)
            .and_then(|domain| domain.process.as_mut())
        else {
            return;
        };
        if process.busy {
            return;
        }
        while let Some(&Request::Close { port }) = process.queue.front() {
            process.queue.pop_front();
            self.evtchns.close(domid, port);
        }
    }

    fn hello(&mut self, domid: u16) -> Answer {
        let domain = self.domains.get_mut(&domid).ok_or(Refusal::NoDomain)?;
        let store = domain
            .process
            .as_mut()
            .and_then(|process| process.store.take());
        let welcome = Reply::Welcome {
            domid,
            name: domain.new.name.clone(),
            kind: domain.new.kind,
            broker: std::process::id(),
        };
        Ok((welcome, vec![store.ok_or(Refusal::Exhausted)?]))
    }

    fn open_image(
        &mut self,
        domid: u16,
        backend: String,
        deadline: Option<Instant>,
    ) -> Option<Answer> {
        // Only its own, whatever it asks for.
        let own = self.disks.get(&backend).is_some_and(|disk| {
            disk.backend.get() == domid || cfg!(ringfence_weaken = "xsa_119_own_image")
        });
        let opened = match own {
            true => self.images.open(&backend),
            false => Err(ringfence_process::ImageError::NoDisk {
                backend_path: backend.clone(),
            }),
        };
        match opened {
            Ok(Some((spec, opened))) => {
                let bytes = opened.bytes;
                let files = core::iter::once(opened.file).chain(opened.backing);
                let fds = files.map(OwnedFd::from).collect();
                Some(Ok((Reply::Image { spec, bytes }, fds)))
            }
            Err(error) => Some(Err(Refusal::Image(error))),
            Ok(None) => {
                let deadline = deadline.unwrap_or_else(|| Instant::now() + FENCE);
                if Instant::now() >= deadline {
                    return Some(Err(Refusal::Image(self.images.still_in_use(&backend))));
                }
                if let Some(process) = self
                    .domains
                    .get_mut(&domid)
                    .and_then(|domain| domain.process.as_mut())
                {
                    process.busy = true;
                }
                self.pending_images.push(PendingImage {
                    domid,
                    backend,
                    deadline,
                });
                None
            }
        }
    }

    /// Tries again what waits for the I/O of dead processes.
    pub(super) fn retry_images(&mut self) {
        for PendingImage {
            domid,
            backend,
            deadline,
        } in std::mem::take(&mut self.pending_images)
        {
            let Some(process) = self
                .domains
                .get_mut(&domid)
                .and_then(|domain| domain.process.as_mut())
            else {
                continue;
            };
            process.busy = false;
            if let Some(answer) = self.open_image(domid, backend, Some(deadline)) {
                self.answer(domid, answer);
                self.serve(domid);
            }
        }
    }

    /// What a dead process asked for is owed to nobody.
    pub(super) fn forget_requests(&mut self, domid: u16) {
        self.pending_images.retain(|pending| pending.domid != domid);
    }

    /// When to try again.
    pub(super) fn image_retry(&self) -> Option<Duration> {
        (!self.pending_images.is_empty()).then_some(RETRY)
    }
}
