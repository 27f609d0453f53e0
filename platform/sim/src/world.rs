//! The world: all domains, the one who looks at it from outside, and the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_core::platform::PlatformError;
use ringfence_core::{DomId, GrantRef};
use ringfence_xenstored::{ConnId, Store};

use crate::adversary::{Adversary, Doorbells};
use crate::domain::{Counts, Sim, Usage};
use crate::evtchn::Ports;
use crate::faults::{Fault, Faults};
use crate::grants::SimPage;
use crate::maptrack::MapTrack;
use crate::process::{Process, ProcessId};
use crate::store::SimStore;
use crate::table::{Holder, Table};

/// `ESRCH`
const ESRCH: i32 = 3;

/// How much a domain can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Entries of its grant table.
    pub grants: u32,
    /// Pages of others that it can map.
    pub maps: u32,
    /// Event channels.
    pub ports: u32,
}

impl Limits {
    /// 32 grant frames, Xen's default map tracking, two-level event channels.
    pub const DEFAULT: Self = Self {
        grants: 32 * 512 - 8,
        maps: 1024 * 512,
        ports: 4095,
    };
}

#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) process: Arc<Process>,
    pub(crate) table: Table,
    pub(crate) maps: MapTrack,
    pub(crate) ports: Ports,
    pub(crate) conns: Vec<ConnId>,
    pub(crate) counts: Counts,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) domains: BTreeMap<DomId, Domain>,
    pub(crate) doorbells: Doorbells,
    pub(crate) faults: Faults,
    /// Nobody is told whether a page is mapped.
    pub(crate) veiled: bool,
    limits: Limits,
    destroyed: Vec<DomId>,
    last_id: u64,
    trace: u64,
}

/// The error of whoever has no process any more.
pub(crate) fn dead(process: &Process) -> Option<i32> {
    (!process.is_alive()).then_some(ESRCH)
}

impl State {
    pub(crate) const fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn alive(&self, process: &Process, op: &'static str) -> Result<(), PlatformError> {
        dead(process).map_or(Ok(()), |errno| Err(PlatformError { op, errno }))
    }

    /// The domain of a process that is alive.
    pub(crate) fn domain_of(&mut self, process: &Process) -> &mut Domain {
        let domain = self.domains.get_mut(&process.domid);
        domain.expect("a domain that has a live process exists")
    }

    /// Adds to the trace: FNV-1a.
    pub(crate) fn note(&mut self, what: &str, domid: DomId, number: u32) {
        let numbers = (u64::from(domid.get()) << 32) | u64::from(number);
        for byte in what.bytes().chain(numbers.to_le_bytes()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn create(&mut self, domid: DomId) {
        let process = ProcessId(self.next_id());
        let domain = Domain {
            process: Arc::new(Process::new(domid, process)),
            table: Table::new(self.limits.grants),
            maps: MapTrack::new(self.limits.maps),
            ports: Ports::new(self.limits.ports),
            conns: Vec::new(),
            counts: Counts::default(),
        };
        self.domains.insert(domid, domain);
    }

    /// Ends the process: its mappings, the ports it bound, and, if `all`, those it allocated. Returns its store connections.
    fn end_process(&mut self, domid: DomId, all: bool) -> Vec<ConnId> {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return Vec::new();
        };
        domain.process.end();
        let conns = std::mem::take(&mut domain.conns);
        let mapped = domain.maps.drain();
        let ports = domain.ports.mortal(all);
        domain.table.sweep();
        self.unpin(&mapped);
        for port in ports {
            self.close(domid, port);
        }
        conns
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    store: Mutex<Store>,
}

impl Shared {
    /// A test that failed with the lock in hand must not hide behind the poison.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never together with [`state`](Self::state).
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A world of domains in this process. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct World {
    shared: Arc<Shared>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub(crate) const fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A world with dom0, whose doorbells arrive at once.
    pub fn new() -> Self {
        Self::with(0, Adversary::EXACT, Limits::DEFAULT)
    }

    /// A world with [`Adversary::HOSTILE`]. The same seed and the same calls give the same [`trace`](Self::trace).
    pub fn hostile(seed: u64) -> Self {
        Self::with(seed, Adversary::HOSTILE, Limits::DEFAULT)
    }

    /// A world in every detail.
    pub fn with(seed: u64, adversary: Adversary, limits: Limits) -> Self {
        Self::around(Store::new(), seed, adversary, limits)
    }

    /// A world as of [`new`](Self::new), with these quotas of XenStore for every domain but dom0 in place of Xen's.
    pub fn with_quotas(quotas: ringfence_xenstored::Limits) -> Self {
        let store = Store::with_limits(quotas);
        Self::around(store, 0, Adversary::EXACT, Limits::DEFAULT)
    }

    fn around(store: Store, seed: u64, adversary: Adversary, limits: Limits) -> Self {
        let state = State {
            domains: BTreeMap::new(),
            doorbells: Doorbells::new(adversary, seed),
            faults: Faults::default(),
            veiled: false,
            limits,
            destroyed: Vec::new(),
            last_id: 0,
            trace: 0xCBF2_9CE4_8422_2325,
        };
        let shared = Shared {
            state: Mutex::new(state),
            store: Mutex::new(store),
        };
        let world = Self {
            shared: Arc::new(shared),
        };
        world.create(DomId::DOM0);
        world
    }

    /// From now on nobody sees whether a peer has a page mapped, as with Linux's gntalloc: revoking fails always, and the only
    /// way to end an access is to drop the page.
    #[must_use]
    pub fn veiled(self) -> Self {
        self.shared.state().veiled = true;
        self
    }

    /// Creates a domain, also one of a number that was destroyed before, and its home in XenStore: `/local/domain/ID` is
    /// dom0's and readable for the domain, `data` in it is the domain's own.
    ///
    /// # Panics
    /// If there is such a domain.
    pub fn create(&self, domid: DomId) -> Sim {
        {
            let mut state = self.shared.state();
            assert!(!state.domains.contains_key(&domid), "domain {domid} exists");
            state.create(domid);
            state.destroyed.retain(|gone| *gone != domid);
            state.note("create", domid, 0);
        }
        if domid != DomId::DOM0 {
            self.shared.store().introduce(domid);
            self.make_home(domid);
        }
        self.domain(domid)
    }

    fn make_home(&self, domid: DomId) {
        use ringfence_core::store::{Perm, Store as _, Tx, domain_path, join};
        let mut dom0 = self.store(DomId::DOM0);
        let home = domain_path(domid);
        let data = join(&home, "data").expect("a short path");
        let owner = [Perm::owner(DomId::DOM0), Perm::read(domid)];
        let made = dom0
            .mkdir(Tx::NONE, &home)
            .and_then(|()| dom0.set_perms(Tx::NONE, &home, &owner))
            .and_then(|()| dom0.mkdir(Tx::NONE, &data))
            .and_then(|()| dom0.set_perms(Tx::NONE, &data, &[Perm::owner(domid)]));
        made.expect("dom0 may write anywhere");
    }

    /// The current process of a domain, which is created if there never was one of this number.
    ///
    /// # Panics
    /// If the domain was destroyed: only [`create`](Self::create) makes another one of its number.
    pub fn domain(&self, domid: DomId) -> Sim {
        let process = {
            let state = self.shared.state();
            let gone = state.destroyed.contains(&domid);
            assert!(!gone, "domain {domid} was destroyed");
            state
                .domains
                .get(&domid)
                .map(|domain| domain.process.clone())
        };
        match process {
            Some(process) => Sim::new(self.shared.clone(), process),
            None => self.create(domid),
        }
    }

    /// A connection to XenStore for the current process of a domain.
    pub fn store(&self, domid: DomId) -> SimStore {
        self.domain(domid).store()
    }

    /// The process of a domain dies: its mappings end, the ports it bound are closed, its store connections too. The pages it
    /// granted and the ports it allocated stay for the next process, which [`domain`](Self::domain) returns from now on.
    /// Handles of the dead process do nothing when dropped, fail when called, and panic when their memory is accessed.
    pub fn kill(&self, domid: DomId) {
        let mut state = self.shared.state();
        let conns = state.end_process(domid, false);
        let next = ProcessId(state.next_id());
        if let Some(domain) = state.domains.get_mut(&domid) {
            domain.process = Arc::new(Process::new(domid, next));
        }
        state.note("kill", domid, 0);
        drop(state);
        self.disconnect(&conns);
    }

    /// The domain is gone, with its process: nothing of it can be mapped or bound, its nodes go, `@releaseDomain` fires. What
    /// others have mapped stays theirs until they unmap it, as with Xen's dying domains.
    ///
    /// # Panics
    /// If it is dom0.
    pub fn destroy(&self, domid: DomId) {
        assert_ne!(domid, DomId::DOM0, "dom0 cannot be destroyed");
        let mut state = self.shared.state();
        let conns = state.end_process(domid, true);
        if state.domains.remove(&domid).is_some() {
            state.destroyed.push(domid);
        }
        state.note("destroy", domid, 0);
        drop(state);
        self.disconnect(&conns);
        self.shared.store().release(domid);
    }

    fn disconnect(&self, conns: &[ConnId]) {
        let mut store = self.shared.store();
        for conn in conns {
            store.disconnect(*conn);
        }
    }

    /// Orders a failure.
    pub fn inject(&self, fault: Fault) {
        self.shared.state().faults.inject(fault);
    }

    /// Failures that were ordered and have not struck.
    pub fn faults_waiting(&self) -> usize {
        self.shared.state().faults.waiting()
    }

    /// Takes back all failures that have not struck.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// From now on doorbells are treated like this.
    pub fn set_adversary(&self, adversary: Adversary) {
        self.shared.state().doorbells.set(adversary);
    }

    /// Lets a tick of the clock pass; so does every `take_pending`.
    pub fn tick(&self) {
        self.shared.state().tick();
    }

    /// Moves the clock to the arrival of the next doorbell. `false` if none is under way: if then nobody has anything to do,
    /// nobody ever will.
    pub fn advance(&self) -> bool {
        self.shared.state().advance()
    }

    /// How many doorbells are under way.
    pub fn doorbells(&self) -> usize {
        self.shared.state().doorbells.under_way()
    }

    /// Lets every doorbell arrive.
    pub fn settle(&self) {
        while self.advance() {}
    }

    /// The page behind a grant, to read and write it as a peer who keeps no rule does: no check, no count. It stays reachable
    /// after the grant has ended.
    pub fn page(&self, owner: DomId, gref: GrantRef) -> Option<SimPage> {
        let state = self.shared.state();
        let entry = state.domains.get(&owner)?.table.get(gref)?;
        Some(SimPage::new(entry.grant.page.clone()))
    }

    /// What a domain has done; all zero when there is no such domain.
    pub fn counts(&self, domid: DomId) -> Counts {
        let state = self.shared.state();
        state
            .domains
            .get(&domid)
            .map(|domain| domain.counts)
            .unwrap_or_default()
    }

    /// What a domain has; all zero when there is no such domain.
    pub fn usage(&self, domid: DomId) -> Usage {
        let state = self.shared.state();
        let Some(domain) = state.domains.get(&domid) else {
            return Usage::default();
        };
        let mut usage = Usage {
            ports: domain.ports.open(),
            mapped: domain.maps.len(),
            ..Usage::default()
        };
        for entry in domain.table.iter() {
            match entry.holder {
                Holder::Quarantine => usage.quarantined += 1,
                Holder::Process(_) => usage.granted += 1,
            }
        }
        usage
    }

    /// A hash of everything that happened, in order.
    pub fn trace(&self) -> u64 {
        self.shared.state().trace
    }
}
