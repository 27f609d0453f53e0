//! The store as a whole: domains, connections, and who hears of what.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::{ERROR_NONE, ERROR_PROTO};

use crate::connection::{ConnId, Connection};
use crate::domain::{Domain, Witness};
use crate::fairness::Hold;
use crate::path::split;
use crate::perms::{Caller, Identity, Life};
use crate::quota::{Limits, Usage};
use crate::transaction::{Change, Transaction};
use crate::tree::Tree;
use crate::watch::{WatchId, Watches};

/// What a request of dom0's asks of whoever runs the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// `XS_INTRODUCE`: the domain's ring page is at `frame`, its doorbell is `port`.
    Introduced {
        /// Whom to serve.
        domid: DomId,
        /// Frame number of the ring page.
        frame: u64,
        /// The domain's event channel.
        port: u32,
    },
    /// `XS_INTRODUCE` that waits for [`Store::admit`], because of [`Store::ask_before_introducing`].
    Introducing {
        /// Who asked, and waits for the answer.
        conn: ConnId,
        /// Whom to serve.
        domid: DomId,
        /// Frame number of the ring page.
        frame: u64,
        /// The domain's event channel.
        port: u32,
    },
    /// `XS_RELEASE`: the domain's connections are gone.
    Released {
        /// Who is gone.
        domid: DomId,
    },
}

/// XenStore. Sans-IO: the caller moves the bytes and, where it matters, tells the time. Deterministic.
#[derive(Debug)]
pub struct Store {
    pub(crate) tree: Tree,
    pub(crate) watches: Watches,
    pub(crate) domains: BTreeMap<DomId, Domain>,
    pub(crate) conns: BTreeMap<ConnId, Connection>,
    pub(crate) limits: Limits,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) now: Duration,
    pub(crate) hold: Option<Hold>,
    /// A hold ended: requests that waited are to be looked at.
    pub(crate) resume: bool,
    /// `XS_INTRODUCE` waits for the caller's word.
    pub(crate) asks: bool,
    pub(crate) witness: Option<Witness>,
    next_conn: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A store with nothing but `/`, owned by dom0, and Xen's default quotas.
    pub fn new() -> Self {
        Self::with_limits(Limits::DEFAULT)
    }

    /// A store with these quotas for every domain but dom0.
    pub fn with_limits(limits: Limits) -> Self {
        let mut store = Self {
            tree: Tree::new(),
            watches: Watches::default(),
            domains: BTreeMap::new(),
            conns: BTreeMap::new(),
            limits,
            effects: VecDeque::new(),
            now: Duration::ZERO,
            hold: None,
            resume: false,
            asks: false,
            witness: None,
            next_conn: 1,
        };
        store.domain_mut(DomId::DOM0).introduced = true;
        store
    }

    /// From now on these are the quotas of every domain but dom0. What a domain has it keeps.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Opens a connection on behalf of `domid`.
    pub fn connect(&mut self, domid: DomId) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn = self.next_conn.saturating_add(1);
        let who = Identity {
            domid,
            life: self.domain_mut(domid).life,
        };
        self.conns.insert(id, Connection::new(who));
        id
    }

    /// Closes a connection: its watches and open transactions are gone. Closing one twice does nothing.
    pub fn disconnect(&mut self, conn: ConnId) {
        self.reset(conn);
        self.conns.remove(&conn);
        self.run_waiting();
    }

    /// Whether the connection is still open: [`release`](Self::release) closes those of its domain.
    pub fn is_connected(&self, conn: ConnId) -> bool {
        self.conns.contains_key(&conn)
    }

    /// The `XENSTORE_ERROR_*` that ended the connection; `XENSTORE_ERROR_NONE` while it is fine. After an error nothing more
    /// is read, and the caller disconnects.
    pub fn error(&self, conn: ConnId) -> u32 {
        let broken = self.conns.get(&conn).is_some_and(|conn| conn.broken);
        if broken { ERROR_PROTO } else { ERROR_NONE }
    }

    /// Takes bytes from the front of `bytes`, does the requests that they complete, and returns how many were taken. Fewer
    /// than all are taken while the client has as many answers to read as it may (or waits for a held transaction): offer the
    /// rest again after [`sent`](Self::sent).
    pub fn feed(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let Some(connection) = self.conns.get_mut(&conn) else {
                return taken;
            };
            let now = connection.take(bytes.get(taken..).unwrap_or_default());
            taken += now;
            if !self.run(conn) && now == 0 {
                self.run_waiting();
                return taken;
            }
        }
    }

    /// What to send to the client next; empty when there is nothing.
    pub fn outgoing(&self, conn: ConnId) -> &[u8] {
        self.conns
            .get(&conn)
            .map(|conn| conn.out.bytes())
            .unwrap_or_default()
    }

    /// `count` bytes of [`outgoing`](Self::outgoing) went out.
    pub fn sent(&mut self, conn: ConnId, count: usize) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.out.advance(count);
            while self.run(conn) {}
            self.run_waiting();
        }
    }

    /// Connections that have something to send, for whoever serves many.
    pub fn writable(&self) -> impl Iterator<Item = ConnId> {
        let waiting = self
            .conns
            .iter()
            .filter(|(_, conn)| !conn.out.bytes().is_empty());
        waiting.map(|(id, _)| *id)
    }

    /// Messages that wait for the client to read them.
    pub fn backlog(&self, conn: ConnId) -> usize {
        self.conns.get(&conn).map_or(0, |conn| conn.out.len())
    }

    /// What dom0 asked of the caller, oldest first.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What a domain uses.
    pub fn usage(&self, domid: DomId) -> Usage {
        let owned = self.tree.owned(domid);
        let domain = self.domains.get(&domid);
        let kept = domain.map_or(0, |domain| {
            domain.watch_bytes.saturating_add(domain.tx_bytes)
        });
        Usage {
            nodes: u64::try_from(owned.nodes).unwrap_or(0),
            memory: u64::try_from(owned.bytes).unwrap_or(0).saturating_add(kept),
            watches: domain.map_or(0, |domain| domain.watches),
            transactions: domain.map_or(0, |domain| domain.transactions),
        }
    }

    /// Domains that use more memory than the soft limit.
    pub fn over_soft_limit(&self) -> impl Iterator<Item = DomId> {
        let guests = self
            .domains
            .keys()
            .copied()
            .filter(|domid| *domid != DomId::DOM0);
        guests.filter(|domid| self.usage(*domid).memory > self.limits.memory_soft)
    }

    pub(crate) fn domain_mut(&mut self, domid: DomId) -> &mut Domain {
        self.domains
            .entry(domid)
            .or_insert_with(|| Domain::new(Life::FIRST))
    }

    pub(crate) fn limits_of(&self, domid: DomId) -> Limits {
        if domid == DomId::DOM0 {
            Limits::DOM0
        } else {
            self.limits
        }
    }

    pub(crate) fn caller(&self, conn: ConnId) -> Option<Caller> {
        let who = self.conns.get(&conn)?.who;
        let target = self
            .domains
            .get(&who.domid)
            .and_then(|domain| domain.target);
        Some(Caller { who, target })
    }

    pub(crate) fn transaction(&self, conn: ConnId, tx: u32) -> Option<&Transaction> {
        self.conns.get(&conn)?.transactions.get(&tx)
    }

    /// Looks at requests that waited for a hold to end.
    pub(crate) fn run_waiting(&mut self) {
        while std::mem::take(&mut self.resume) {
            let conns: Vec<_> = self.conns.keys().copied().collect();
            for conn in conns {
                while self.run(conn) {}
            }
        }
    }

    /// Takes a connection's watches and transactions away. Doing it twice is doing it once (XSA-484).
    pub(crate) fn reset(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        let domid = connection.who.domid;
        let transactions = std::mem::take(&mut connection.transactions);
        let bytes: u64 = self.watches.of(conn).map(|watch| watch.bytes()).sum();
        let watches = self.watches.remove_all(conn);
        for watch in &watches {
            if let Some(connection) = self.conns.get_mut(&conn) {
                connection.out.forget(*watch);
            }
        }
        let tx_bytes: i64 = transactions.values().map(Transaction::bytes).sum();
        let domain = self.domain_mut(domid);
        domain.watches = domain.watches.saturating_sub(watches.len() as u64);
        domain.watch_bytes = domain.watch_bytes.saturating_sub(bytes);
        domain.transactions = domain
            .transactions
            .saturating_sub(transactions.len() as u64);
        domain.tx_bytes = domain
            .tx_bytes
            .saturating_sub(u64::try_from(tx_bytes).unwrap_or(0));
        self.transaction_over(conn, None);
    }

    /// Tells every watcher that may know.
    pub(crate) fn fire(&mut self, changes: &[Change]) {
        for change in changes {
            for id in self.watches.matching(&change.path, change.exact) {
                let Some(watch) = self.watches.get(id) else {
                    continue;
                };
                let conn = watch.conn;
                let permitted = self
                    .caller(conn)
                    .is_some_and(|caller| self.may_hear(&caller, change));
                if permitted || weakened!("xsa_115_events") {
                    self.notify(id, &change.path);
                }
            }
        }
    }

    /// Only those who may read the node or its parent, as it is or was (XSA-115).
    fn may_hear(&self, caller: &Caller, change: &Change) -> bool {
        let now = self.tree.get(&change.path).map(|node| &node.perms);
        let parent = split(&change.path)
            .and_then(|(parent, _)| self.tree.get(parent))
            .map(|node| &node.perms);
        [now, parent, change.old.as_ref()]
            .into_iter()
            .flatten()
            .any(|perms| perms.reads(caller))
    }

    /// Queues an event for one watch.
    pub(crate) fn notify(&mut self, id: WatchId, path: &str) {
        let Some(watch) = self.watches.get(id) else {
            return;
        };
        let Some(connection) = self.conns.get_mut(&watch.conn) else {
            return;
        };
        let limit = if connection.who.domid == DomId::DOM0 {
            Limits::DOM0.events
        } else {
            self.limits.events
        };
        let root = watch.report(&watch.path);
        connection
            .out
            .event(id, watch.report(path), root, &watch.token, limit);
    }
}
