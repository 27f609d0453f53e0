//! What the processes of domains ask for.

use std::os::fd::{AsFd, OwnedFd};

use ringfence_core::DomId;
use ringfence_core::weakened;
use rustix::net::{RecvFlags, SendFlags};

use super::Broker;
use crate::control::{Refusal, Reply, Request};
use ringfence_process::images::Asked;
use ringfence_process::packet::{self, Received};

/// Messages taken from a process before it is served.
const QUEUE_MAX: usize = 64;
/// Connections to the store of one process: one for each of its threads.
const STORES_MAX: usize = 64;

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

    /// Does one request; `None` when it has no answer.
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
            Request::Store => self.another_store(domid),
            Request::OpenImage { backend_path } => self.open_image(domid, &backend_path),
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

    fn another_store(&mut self, domid: u16) -> Answer {
        let process = self.domains.get_mut(&domid);
        let process = process.and_then(|domain| domain.process.as_mut());
        let process = process.ok_or(Refusal::NoDomain)?;
        if process.clients.len() >= STORES_MAX {
            return Err(Refusal::Exhausted);
        }
        let connected = self.store.connect(DomId::new(domid));
        let (client, theirs) =
            connected.map_err(|error| Refusal::Errno(error.raw_os_error().unwrap_or(0)))?;
        process.clients.push(client);
        Ok((Reply::Store, vec![theirs]))
    }

    fn open_image(&mut self, domid: u16, backend: &str) -> Answer {
        // Only its own, whatever it asks for.
        let own = self
            .disks
            .get(backend)
            .is_some_and(|disk| disk.backend.get() == domid || weakened!("xsa_119_own_image"));
        let opened = match own {
            true => {
                let connected = self.is_connected(backend);
                self.images.open(backend, connected)
            }
            false => Err(ringfence_process::ImageError::NoDisk {
                backend_path: backend.to_owned(),
            }),
        };
        match opened.map_err(Refusal::Image)? {
            Asked::Open(spec, opened) => {
                let bytes = opened.bytes;
                let files = core::iter::once(opened.file).chain(opened.backing);
                let fds = files.map(OwnedFd::from).collect();
                Ok((Reply::Image { spec, bytes }, fds))
            }
            Asked::Later | Asked::Moving => Ok((Reply::Later, Vec::new())),
        }
    }
}
