//! The store with everybody it serves. Nothing here waits.

use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ringfence_core::mem::SharedMem as _;
use ringfence_core::store::{Connection, Store as _, StoreError, Tx};
use ringfence_core::wire::xs_wire::{DomainInterface, Errno};
use ringfence_core::{DomId, EvtchnPort};
use ringfence_xenstored::{ConnId, Effect, Limits, MemoryTransport, Store};

use super::clients::Clients;
use super::host::{Health, Host};
use super::poller::{Poller, Ready, Token};
use super::rings::Rings;

/// The daemon without its event loop.
pub struct Server<H: Host> {
    store: Store,
    host: H,
    rings: Rings<H>,
    clients: Clients,
    began: Instant,
}

impl<H: Host> Server<H> {
    /// A store that serves nobody yet. `first` and the tokens after it are for its clients' sockets.
    pub fn new(host: H, first: Token) -> Self {
        let mut store = Store::new();
        store.ask_before_introducing();
        store.ask_who_exists(host.witness());
        Self {
            store,
            host,
            rings: Rings::new(),
            clients: Clients::new(first),
            began: Instant::now(),
        }
    }

    /// What each domain but dom0 may use.
    pub const fn set_quotas(&mut self, quotas: Limits) {
        self.store.set_limits(quotas);
    }

    /// Makes the nodes that a store begins with, and serves dom0's kernel.
    ///
    /// # Errors
    /// As [`Host::own`].
    pub fn start(&mut self) -> io::Result<()> {
        self.first_nodes().map_err(io::Error::other)?;
        let (page, port) = self.host.own()?;
        if page.load_u32(offset_of!(DomainInterface, req_cons)) != 0 {
            tracing::warn!(
                "dom0's kernel had another store before, and what that one held is lost"
            );
        }
        self.rings
            .add(&mut self.store, &mut self.host, DomId::DOM0, page, port);
        Ok(())
    }

    /// Tools look for `/tool/xenstored` to learn whether there is a store.
    fn first_nodes(&mut self) -> Result<(), StoreError> {
        let conn = self.store.connect(DomId::DOM0);
        let transport = MemoryTransport::new(&mut self.store, conn);
        let made = Connection::<_>::new(transport).mkdir(Tx::NONE, "/tool/xenstored");
        self.store.disconnect(conn);
        made
    }

    /// The machine.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// The machine.
    pub const fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Serves a client that connected to the socket.
    ///
    /// # Errors
    /// The poller does not take it.
    pub fn accept(&mut self, poller: &Poller, socket: OwnedFd) -> io::Result<()> {
        self.clients.accept(&mut self.store, poller, socket)
    }

    /// A client's socket is ready. Returns whether the client left.
    pub fn client_ready(&mut self, ready: Ready) -> bool {
        self.store.advance(self.began.elapsed());
        let left = self.clients.ready(&mut self.store, ready);
        self.effects();
        left
    }

    /// A domain's doorbell rang.
    pub fn rang(&mut self, port: EvtchnPort) {
        self.rings.rang(&mut self.host, port);
    }

    /// Some domain changed.
    pub fn domains_changed(&mut self) {
        self.rings.look(&mut self.store, &mut self.host);
    }

    /// Gives every domain that has work one turn, and brings everything that the store has to say on its way. Returns whether
    /// there is more to do at once.
    pub fn turn(&mut self) -> bool {
        self.store.advance(self.began.elapsed());
        self.rings.serve(&mut self.store, &mut self.host);
        loop {
            self.effects();
            let writable: Vec<ConnId> = self.store.writable().collect();
            let mut moved = false;
            for conn in writable {
                if !self.rings.writable(conn) {
                    moved |= self.clients.send(&mut self.store, conn).unwrap_or(false);
                }
            }
            moved |= self.clients.feed_held(&mut self.store);
            if !moved {
                return self.rings.is_due();
            }
        }
    }

    /// Tells the poller what the clients are waited for.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn arm(&mut self, poller: &Poller) -> io::Result<()> {
        self.clients.arm(poller)
    }

    /// How long nothing needs to be done unless something happens.
    pub fn deadline(&self) -> Option<Duration> {
        let at = self.store.next_deadline()?;
        Some(at.saturating_sub(self.began.elapsed()))
    }

    fn effects(&mut self) {
        while let Some(effect) = self.store.next_effect() {
            match effect {
                Effect::Introducing {
                    conn, domid, port, ..
                } => self.introduce(conn, domid, EvtchnPort::new(port)),
                Effect::Released { domid } => {
                    self.rings.remove(&mut self.host, domid);
                    tracing::info!("domain {domid} was released");
                }
                _ => {}
            }
        }
    }

    fn introduce(&mut self, conn: ConnId, domid: DomId, remote: EvtchnPort) {
        if domid == DomId::DOM0 {
            // Served since the start.
            self.store.admit(conn, Err(Errno::Inval));
            return;
        }
        let result = if self.rings.contains(domid) {
            self.rings
                .rebind(&mut self.store, &mut self.host, domid, remote)
                .map(|()| None)
        } else {
            self.reach(domid, remote).map(Some)
        };
        match result {
            Ok(new) => {
                self.store.admit(conn, Ok(()));
                if let Some((page, port)) = new {
                    self.rings
                        .add(&mut self.store, &mut self.host, domid, page, port);
                }
                tracing::info!("domain {domid} was introduced");
                // Whoever died meanwhile was not among those that the last look was about.
                if matches!(self.host.health(domid), Ok(Health::Gone | Health::ShutDown)) {
                    self.domains_changed();
                }
            }
            Err(error) => {
                tracing::warn!("cannot introduce domain {domid}: {error}");
                self.store.admit(conn, Err(errno(&error)));
            }
        }
    }

    fn reach(&mut self, domid: DomId, remote: EvtchnPort) -> io::Result<(H::Page, EvtchnPort)> {
        let page = self.host.map(domid)?;
        let port = self.host.bind(domid, remote)?;
        Ok((page, port))
    }
}

/// As the wire says it, where it has a name for it.
fn errno(error: &io::Error) -> Errno {
    let number = error.raw_os_error();
    let named = Errno::ALL
        .iter()
        .find(|errno| Some(errno.number()) == number);
    named.copied().unwrap_or(Errno::Inval)
}
