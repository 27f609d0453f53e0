//! The store and the sockets of its clients.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ringfence_core::DomId;
use ringfence_core::store::Connection;
use ringfence_xenstored::{ConnId, Limits, MemoryTransport, Store};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `XENSTORE_ERROR_NONE`
const NO_ERROR: u32 = 0;

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// Received, and not taken by the store yet.
    waiting: Vec<u8>,
    /// The socket is full.
    blocked: bool,
}

/// A client's number.
pub(super) type ClientId = ConnId;

/// The broker's own client, with dom0's rights.
pub(super) type OwnClient<'a> = Connection<MemoryTransport<&'a mut Store>>;

/// The store with its transports.
#[derive(Debug)]
pub(super) struct StoreServer {
    store: Store,
    clients: BTreeMap<ClientId, Client>,
    own: ConnId,
    began: Instant,
}

impl StoreServer {
    pub(super) fn new() -> Self {
        let mut store = Store::new();
        let own = store.connect(DomId::DOM0);
        Self {
            store,
            clients: BTreeMap::new(),
            own,
            began: Instant::now(),
        }
    }

    /// A client for one piece of the broker's work.
    pub(super) fn client(&mut self) -> OwnClient<'_> {
        Connection::new(MemoryTransport::new(&mut self.store, self.own))
    }

    pub(super) const fn set_limits(&mut self, limits: Limits) {
        self.store.set_limits(limits);
    }

    pub(super) fn introduce(&mut self, domid: DomId) {
        self.store.introduce(domid);
    }

    /// The domain's nodes and connections are gone; `@releaseDomain` fires.
    pub(super) fn release(&mut self, domid: DomId) {
        self.store.release(domid);
        let store = &self.store;
        self.clients.retain(|conn, _| store.is_connected(*conn));
    }

    /// A connection for a domain's process; returns the process's end.
    pub(super) fn connect(&mut self, domid: DomId) -> io::Result<(ClientId, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((self.accept(domid, ours), theirs))
    }

    /// Serves a client that came by itself.
    pub(super) fn accept(&mut self, domid: DomId, socket: OwnedFd) -> ClientId {
        let conn = self.store.connect(domid);
        self.clients.insert(
            conn,
            Client {
                socket,
                waiting: Vec::new(),
                blocked: false,
            },
        );
        conn
    }

    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.store.disconnect(client);
    }

    /// What to poll: the socket, whether to read, whether to write.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, bool, bool)> {
        self.clients.iter().map(|(id, client)| {
            (
                *id,
                client.socket.as_fd(),
                client.waiting.is_empty(),
                client.blocked,
            )
        })
    }

    /// Takes what a client sent.
    pub(super) fn readable(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let mut bytes = [0u8; 4096];
        match rustix::io::retry_on_intr(|| {
            rustix::net::recv(&client.socket, &mut bytes, RecvFlags::DONTWAIT)
        }) {
            Ok((0, _)) => self.disconnect(id),
            Ok((count, _)) => {
                client.waiting.extend_from_slice(&bytes[..count]);
                self.feed(id);
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.disconnect(id),
        }
    }

    fn feed(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        loop {
            let taken = self.store.feed(id, &client.waiting);
            client.waiting.drain(..taken);
            if taken == 0 || client.waiting.is_empty() {
                break;
            }
        }
        if self.store.error(id) != NO_ERROR {
            self.disconnect(id);
        }
    }

    /// The client's socket has room again.
    pub(super) fn writable(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.blocked = false;
        }
    }

    /// Sends whatever can be sent, and takes what had to wait for that.
    pub(super) fn flush(&mut self) {
        self.store.advance(self.began.elapsed());
        loop {
            let ready: Vec<ClientId> = self
                .store
                .writable()
                .filter(|id| self.clients.get(id).is_some_and(|client| !client.blocked))
                .collect();
            for id in &ready {
                self.send(*id);
            }
            let held: Vec<ClientId> = self
                .clients
                .iter()
                .filter(|(_, client)| !client.waiting.is_empty())
                .map(|(id, _)| *id)
                .collect();
            for id in held {
                self.feed(id);
            }
            if ready.is_empty() {
                return;
            }
        }
    }

    fn send(&mut self, id: ClientId) {
        while let Some(client) = self.clients.get_mut(&id) {
            let bytes = self.store.outgoing(id);
            if bytes.is_empty() {
                return;
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::io::retry_on_intr(|| rustix::net::send(&client.socket, bytes, flags)) {
                Ok(count) => self.store.sent(id, count),
                Err(Errno::AGAIN) => {
                    client.blocked = true;
                    return;
                }
                Err(_) => self.disconnect(id),
            }
        }
    }

    /// When to [`flush`](Self::flush) at the latest.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let at = self.store.next_deadline()?;
        Some(at.saturating_sub(self.began.elapsed()))
    }
}
