//! The tools of dom0 on the Unix socket. Every one of them is dom0.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use ringfence_core::DomId;
use ringfence_core::wire::xs_wire::ERROR_NONE;
use ringfence_xenstored::{ConnId, Store};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::poller::{Poller, Ready, Token};

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    token: Token,
    /// Received, and not taken by the store yet.
    rest: Vec<u8>,
    /// The socket is full.
    blocked: bool,
    /// What the poller was told: read, write.
    interest: (bool, bool),
}

/// Everybody who is connected by a socket.
#[derive(Debug)]
pub(super) struct Clients {
    by_conn: BTreeMap<ConnId, Client>,
    by_token: BTreeMap<Token, ConnId>,
    /// Those with a `rest`.
    held: BTreeSet<ConnId>,
    next: Token,
}

impl Clients {
    /// Nobody yet; `first` and the tokens after it are for those to come.
    pub(super) const fn new(first: Token) -> Self {
        Self {
            by_conn: BTreeMap::new(),
            by_token: BTreeMap::new(),
            held: BTreeSet::new(),
            next: first,
        }
    }

    pub(super) fn accept(
        &mut self,
        store: &mut Store,
        poller: &Poller,
        socket: OwnedFd,
    ) -> io::Result<()> {
        let token = self.next;
        self.next = token.next();
        poller.add(&socket, token)?;
        let conn = store.connect(DomId::DOM0);
        self.by_token.insert(token, conn);
        self.by_conn.insert(
            conn,
            Client {
                socket,
                token,
                rest: Vec::new(),
                blocked: false,
                interest: (true, false),
            },
        );
        Ok(())
    }

    /// Takes one portion of what a client sent. Returns whether there is one client less now.
    pub(super) fn ready(&mut self, store: &mut Store, ready: Ready) -> bool {
        let Some((conn, client)) = self
            .by_token
            .get(&ready.token)
            .and_then(|conn| Some((*conn, self.by_conn.get_mut(conn)?)))
        else {
            return false;
        };
        if ready.write || ready.closed {
            client.blocked = false;
        }
        if !ready.read {
            return false;
        }
        if !client.rest.is_empty() {
            // Not asked for: only that nobody is there to read the answers.
            if ready.closed {
                self.disconnect(store, conn);
            }
            return ready.closed;
        }
        let mut bytes = [0u8; 4096];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&client.socket, &mut bytes, RecvFlags::DONTWAIT)
        });
        match received {
            Ok((count, _)) if count > 0 => {
                client.rest.extend_from_slice(&bytes[..count]);
                self.feed(store, conn);
                !self.by_conn.contains_key(&conn)
            }
            Err(Errno::AGAIN) => false,
            Ok(_) | Err(_) => {
                self.disconnect(store, conn);
                true
            }
        }
    }

    fn feed(&mut self, store: &mut Store, conn: ConnId) -> bool {
        let Some(client) = self.by_conn.get_mut(&conn) else {
            return false;
        };
        let taken = store.feed(conn, &client.rest);
        client.rest.drain(..taken.min(client.rest.len()));
        if client.rest.is_empty() {
            self.held.remove(&conn);
        } else {
            self.held.insert(conn);
        }
        if store.error(conn) != ERROR_NONE {
            tracing::warn!("a tool of dom0 sent what is no message: disconnected");
            self.disconnect(store, conn);
        }
        taken > 0
    }

    fn disconnect(&mut self, store: &mut Store, conn: ConnId) {
        if let Some(client) = self.by_conn.remove(&conn) {
            self.by_token.remove(&client.token);
        }
        self.held.remove(&conn);
        store.disconnect(conn);
    }

    /// Offers the store again what it did not take. Returns whether it took anything.
    pub(super) fn feed_held(&mut self, store: &mut Store) -> bool {
        let held: Vec<_> = self.held.iter().copied().collect();
        let mut moved = false;
        for conn in held {
            moved |= self.feed(store, conn);
        }
        moved
    }

    /// Sends what waits for one client. Returns whether anything went out; `None`: it is no client of ours.
    pub(super) fn send(&mut self, store: &mut Store, conn: ConnId) -> Option<bool> {
        let mut moved = false;
        loop {
            let client = self.by_conn.get_mut(&conn)?;
            let bytes = store.outgoing(conn);
            if client.blocked || bytes.is_empty() {
                return Some(moved);
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::io::retry_on_intr(|| rustix::net::send(&client.socket, bytes, flags)) {
                Ok(count) => {
                    store.sent(conn, count);
                    moved = true;
                }
                Err(Errno::AGAIN) => client.blocked = true,
                Err(_) => {
                    self.disconnect(store, conn);
                    return Some(true);
                }
            }
        }
    }

    /// Tells the poller what each client is waited for.
    pub(super) fn arm(&mut self, poller: &Poller) -> io::Result<()> {
        for client in self.by_conn.values_mut() {
            let interest = (client.rest.is_empty(), client.blocked);
            if interest != client.interest {
                poller.set(&client.socket, client.token, interest.0, interest.1)?;
                client.interest = interest;
            }
        }
        Ok(())
    }
}
