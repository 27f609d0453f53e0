//! The domains and their ring pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ringfence_core::weakened;
use ringfence_core::{DomId, EvtchnPort};
use ringfence_xenstored::ring::{RingError, RingServer};
use ringfence_xenstored::{ConnId, Store};

use super::host::{Health, Host};

/// Bytes that one domain moves in a turn, before the others have theirs.
pub(super) const BUDGET: usize = 4096;

struct Ring<H: Host> {
    server: RingServer<H::Page>,
    /// None when the last try to bind one failed.
    port: Option<EvtchnPort>,
    /// It rang, and its port is masked until it was served to the end.
    rang: bool,
    /// The ring is full: the domain will ring.
    full: bool,
    /// Times that the ring was given up.
    faults: u64,
    failed: bool,
}

/// All domains that were introduced, dom0's kernel among them.
pub(super) struct Rings<H: Host> {
    by_domid: BTreeMap<DomId, Ring<H>>,
    by_port: BTreeMap<EvtchnPort, DomId>,
    by_conn: BTreeMap<ConnId, DomId>,
    /// Whom to serve in the next turn.
    due: BTreeSet<DomId>,
}

impl<H: Host> Rings<H> {
    pub(super) const fn new() -> Self {
        Self {
            by_domid: BTreeMap::new(),
            by_port: BTreeMap::new(),
            by_conn: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Whether the domain's ring is served.
    pub(super) fn contains(&self, domid: DomId) -> bool {
        self.by_domid.contains_key(&domid)
    }

    /// Serves a domain's page from now on, and tells it so.
    pub(super) fn add(
        &mut self,
        store: &mut Store,
        host: &mut H,
        domid: DomId,
        page: H::Page,
        port: EvtchnPort,
    ) {
        let server = RingServer::new(store, domid, page);
        self.by_conn.insert(server.conn(), domid);
        self.by_port.insert(port, domid);
        self.by_domid.insert(
            domid,
            Ring {
                server,
                port: Some(port),
                rang: false,
                full: false,
                faults: 0,
                failed: false,
            },
        );
        // It may have filled its ring before anybody listened.
        self.due.insert(domid);
        host.notify(port);
    }

    /// A domain that is served already has another port now, and begins anew.
    pub(super) fn rebind(
        &mut self,
        store: &mut Store,
        host: &mut H,
        domid: DomId,
        remote: EvtchnPort,
    ) -> io::Result<()> {
        let Some(ring) = self.by_domid.get_mut(&domid) else {
            return Ok(());
        };
        // The old one first: the new one may be the same.
        if let Some(old) = ring.port.take() {
            self.by_port.remove(&old);
            host.unbind(old);
        }
        ring.rang = false;
        let port = host.bind(domid, remote)?;
        ring.port = Some(port);
        self.by_port.insert(port, domid);
        self.by_conn.remove(&ring.server.conn());
        ring.server.restart(store);
        ring.full = false;
        ring.failed = false;
        self.by_conn.insert(ring.server.conn(), domid);
        self.due.insert(domid);
        host.notify(port);
        Ok(())
    }

    /// The domain is served no more; its page is unmapped and its port closed.
    pub(super) fn remove(&mut self, host: &mut H, domid: DomId) {
        if let Some(ring) = self.by_domid.remove(&domid) {
            self.by_conn.remove(&ring.server.conn());
            self.due.remove(&domid);
            if let Some(port) = ring.port {
                self.by_port.remove(&port);
                host.unbind(port);
            }
        }
    }

    /// A doorbell rang.
    pub(super) fn rang(&mut self, host: &mut H, port: EvtchnPort) {
        let Some(ring) = self
            .by_port
            .get(&port)
            .and_then(|domid| self.by_domid.get_mut(domid))
        else {
            host.unmask(port);
            return;
        };
        ring.rang = true;
        ring.full = false;
        self.due.extend(self.by_port.get(&port));
    }

    /// The store has something for `conn`. Returns whether that is a domain's connection.
    pub(super) fn writable(&mut self, conn: ConnId) -> bool {
        let Some(domid) = self.by_conn.get(&conn) else {
            return false;
        };
        if self.by_domid.get(domid).is_some_and(|ring| !ring.full) {
            self.due.insert(*domid);
        }
        true
    }

    /// Whether somebody has a turn to come.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Gives everybody who is due one turn.
    pub(super) fn serve(&mut self, store: &mut Store, host: &mut H) {
        for domid in std::mem::take(&mut self.due) {
            let Some(ring) = self.by_domid.get_mut(&domid) else {
                continue;
            };
            let before = ring.server.conn();
            let served = ring.server.serve_some(store, BUDGET);
            let conn = ring.server.conn();
            if conn != before {
                self.by_conn.remove(&before);
                self.by_conn.insert(conn, domid);
            }
            let mut more = false;
            match served {
                Ok(served) => {
                    more = served.more;
                    ring.failed = false;
                    ring.full = !more && !store.outgoing(conn).is_empty();
                    if served.notify {
                        ring.port.inspect(|port| host.notify(*port));
                    }
                }
                Err(error) => ring.fail(host, domid, error),
            }
            if more {
                self.due.insert(domid);
            } else if std::mem::take(&mut ring.rang) {
                ring.port.inspect(|port| host.unmask(*port));
            }
        }
    }

    /// Looks at every domain: who is gone is released, and who has shut down is announced.
    pub(super) fn look(&mut self, store: &mut Store, host: &mut H) {
        // Also those that dom0 made nodes for and did not introduce.
        let domids: Vec<_> = store.known().collect();
        for domid in domids.into_iter().filter(|domid| *domid != DomId::DOM0) {
            match host.health(domid) {
                Ok(Health::Alive) => {}
                Ok(Health::ShutDown) => {
                    if store.shut_down(domid) {
                        tracing::info!("domain {domid} has shut down");
                    }
                }
                Ok(Health::Gone) => {
                    // Its page first: as long as it is mapped, the hypervisor keeps what is left of the domain.
                    self.remove(host, domid);
                    store.release(domid);
                    tracing::info!("domain {domid} is gone");
                }
                Err(error) => tracing::warn!("cannot tell how domain {domid} is: {error}"),
            }
        }
    }
}

impl<H: Host> Ring<H> {
    fn fail(&mut self, host: &mut H, domid: DomId, error: RingError) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        // The page says why.
        self.port.inspect(|port| host.notify(*port));
        self.faults = self.faults.saturating_add(1);
        // The domain can do this as often as it likes.
        if self.faults.is_power_of_two() || weakened!("xsa_180_xenstored") {
            tracing::warn!(
                faults = self.faults,
                "domain {domid} is served no more until it asks for a new start: {error}"
            );
        }
    }
}
