//! Domains: what the store knows about each, and how they come and go.

use std::time::Duration;

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

use crate::connection::ConnId;
use crate::ops::OK;
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use crate::perms::{Identity, Life};
use crate::store::Store;
use crate::transaction::Change;

#[derive(Debug)]
pub(crate) struct Domain {
    /// The current life, or the next one while the domain is not introduced.
    pub(crate) life: Life,
    pub(crate) introduced: bool,
    /// Some node's permissions are about it.
    pub(crate) named: bool,
    /// It has shut down, and watchers were told.
    pub(crate) shut_down: bool,
    pub(crate) target: Option<Identity>,
    pub(crate) watches: u64,
    pub(crate) watch_bytes: u64,
    pub(crate) transactions: u64,
    pub(crate) tx_bytes: u64,
    /// Commits in a row that met a conflict.
    pub(crate) conflicts: u32,
    /// When the domain may be preferred again.
    pub(crate) next_hold: Duration,
}

impl Domain {
    pub(crate) const fn new(life: Life) -> Self {
        Self {
            life,
            introduced: false,
            named: false,
            shut_down: false,
            target: None,
            watches: 0,
            watch_bytes: 0,
            transactions: 0,
            tx_bytes: 0,
            conflicts: 0,
            next_hold: Duration::ZERO,
        }
    }
}

/// Who says which domains exist.
pub(crate) struct Witness(Box<dyn Fn(DomId) -> bool + Send>);

impl Witness {
    pub(crate) fn exists(&self, domid: DomId) -> bool {
        (self.0)(domid)
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Witness")
    }
}

impl Store {
    /// A domain exists from now on: `@introduceDomain` fires. Returns whether it was not introduced before.
    pub fn introduce(&mut self, domid: DomId) -> bool {
        let new = !std::mem::replace(&mut self.domain_mut(domid).introduced, true);
        if new {
            self.fire(&[Change {
                path: INTRODUCE_DOMAIN.into(),
                exact: true,
                old: None,
            }]);
        }
        new
    }

    /// From now on `XS_INTRODUCE` is answered only when [`admit`](Self::admit) says how: for callers that can fail to serve a
    /// domain's ring. Until then nothing more is done for the connection that asked.
    pub fn ask_before_introducing(&mut self) {
        self.asks = true;
    }

    /// From now on permissions are only for domains that `exists` says are there, or are introduced; the others are as if not
    /// named, and cannot own a node. Without it, whoever dom0 names is believed to exist.
    pub fn ask_who_exists(&mut self, exists: impl Fn(DomId) -> bool + Send + 'static) {
        self.witness = Some(Witness(Box::new(exists)));
    }

    /// The domains that nodes, permissions or connections are about: those to [`release`](Self::release) when they are gone.
    pub fn known(&self) -> impl Iterator<Item = DomId> {
        let known = self
            .domains
            .iter()
            .filter(|(_, domain)| domain.introduced || domain.named);
        known.map(|(domid, _)| *domid)
    }

    /// Answers the [`Effect::Introducing`](crate::Effect::Introducing) of `conn`: with `Ok` the domain is introduced. Does nothing if nothing waits.
    pub fn admit(&mut self, conn: ConnId, answer: Result<(), Errno>) {
        let waits = self
            .conns
            .get_mut(&conn)
            .and_then(|conn| conn.introducing.take());
        let Some((header, domid)) = waits else {
            return;
        };
        if answer.is_ok() {
            self.introduce(domid);
        }
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.answer(header, answer.map(|()| OK.to_vec()));
        }
        while self.run(conn) {}
        self.run_waiting();
    }

    /// A domain has shut down and still exists: `@releaseDomain` fires, once until `XS_RESUME`. Returns whether it did.
    pub fn shut_down(&mut self, domid: DomId) -> bool {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return false;
        };
        if !domain.introduced || std::mem::replace(&mut domain.shut_down, true) {
            return false;
        }
        self.fire(&[Change {
            path: RELEASE_DOMAIN.into(),
            exact: true,
            old: None,
        }]);
        true
    }

    /// A domain is gone: its connections, its nodes and everything below them, and its permissions; if it was introduced,
    /// `@releaseDomain` fires. Returns whether it was. Dom0 cannot be released.
    pub fn release(&mut self, domid: DomId) -> bool {
        let Some(domain) = self.domains.get(&domid) else {
            return false;
        };
        let introduced = domain.introduced;
        if domid == DomId::DOM0 || !(introduced || domain.named) {
            return false;
        }
        let of_domain = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.who.domid == domid);
        let conns: Vec<_> = of_domain.map(|(id, _)| *id).collect();
        for conn in conns {
            self.disconnect(conn);
        }
        let domain = self.domain_mut(domid);
        *domain = Domain::new(domain.life.next());
        for domain in self.domains.values_mut() {
            domain.target.take_if(|target| target.domid == domid);
        }
        let mut changes = Vec::new();
        if !weakened!("xsa_419") {
            self.remove_nodes_of(domid, &mut changes);
        }
        if introduced {
            changes.push(Change {
                path: RELEASE_DOMAIN.into(),
                exact: true,
                old: None,
            });
        }
        self.fire(&changes);
        self.run_waiting();
        introduced
    }

    /// Whether `domid` was introduced and not released. Dom0 always is.
    pub fn is_introduced(&self, domid: DomId) -> bool {
        self.domains
            .get(&domid)
            .is_some_and(|domain| domain.introduced)
    }
}
