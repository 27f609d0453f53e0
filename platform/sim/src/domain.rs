//! One domain's view of the world: the platform.

use std::sync::{Arc, MutexGuard};

use ringfence_core::platform::{
    Access, Capabilities, EvtchnError, GrantCopy, GrantError, Platform, PlatformError,
};
use ringfence_core::{DomId, EvtchnPort, GrantRef};

use crate::evtchn::SimChannel;
use crate::grants::{SimGranted, SimMapping, SimPage};
use crate::process::Process;
use crate::store::{SimStore, SimTransport};
use crate::world::{Shared, State, World};

/// What a domain has done, since it was created.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Pages granted.
    pub grants: u64,
    /// Batches of maps: hypercalls.
    pub map_calls: u64,
    /// Pages mapped, also those of batches that failed.
    pub mapped: u64,
    /// Pages unmapped; those that the end of a process unmapped do not count.
    pub unmapped: u64,
    /// Batches of copies: hypercalls.
    pub copy_calls: u64,
    /// Elements of copies that were okay.
    pub copies: u64,
    /// Bytes that these copied.
    pub copied_bytes: u64,
    /// Doorbells sent.
    pub notifications: u64,
    /// Events taken.
    pub events: u64,
}

/// What a domain has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Entries of its grant table that somebody holds.
    pub granted: usize,
    /// Entries that were dropped while a peer had the page mapped, and still has.
    pub quarantined: usize,
    /// Pages of others that it has mapped.
    pub mapped: usize,
    /// Open event channels.
    pub ports: usize,
}

/// A process of a domain. Clones are the same process.
#[derive(Clone, Debug)]
pub struct Sim {
    shared: Arc<Shared>,
    pub(crate) process: Arc<Process>,
}

impl Sim {
    pub(crate) const fn new(shared: Arc<Shared>, process: Arc<Process>) -> Self {
        Self { shared, process }
    }

    pub(crate) fn world(&self) -> World {
        World::of(self.shared.clone())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// A connection to XenStore. That of a dead process fails at once.
    pub fn store(&self) -> SimStore {
        let conn = self.shared.store().connect(self.process.domid);
        let mut state = self.shared.state();
        if self.process.is_alive() {
            state.domain_of(&self.process).conns.push(conn);
            drop(state);
        } else {
            drop(state);
            self.shared.store().disconnect(conn);
        }
        SimStore::new(SimTransport::new(self.clone(), self.shared.clone(), conn))
    }

    /// Whether the process lives.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Grants a page where it is.
    pub fn grant_in_place(
        &self,
        peer: DomId,
        page: &SimPage,
        access: Access,
    ) -> Result<SimGranted, GrantError> {
        let grant = self
            .state()
            .grant(&self.process, peer, access, Some(page.shared()))?;
        Ok(SimGranted::new(self.clone(), grant))
    }

    /// Takes over a page that a dead process of this domain granted. `None` if there is none such.
    pub fn adopt_granted(&self, gref: GrantRef) -> Option<SimGranted> {
        self.process.assert_alive("adopt_granted");
        let grant = self.state().adopt_grant(&self.process, gref)?;
        Some(SimGranted::new(self.clone(), grant))
    }

    /// Takes over a port that a dead process of this domain allocated, as it is: unbound, or bound to the peer. `None` if
    /// there is none such.
    pub fn adopt_channel(&self, port: EvtchnPort) -> Option<SimChannel> {
        self.process.assert_alive("adopt_channel");
        let id = self.state().adopt_port(&self.process, port.get())?;
        Some(SimChannel::new(self.clone(), id))
    }
}

impl Platform for Sim {
    type Granted = SimGranted;
    type Mapping = SimMapping;
    type Channel = SimChannel;
    type Store = SimStore;

    fn domid(&self) -> DomId {
        self.process.domid
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            grant_in_place: true,
            revocable: true,
            observes_mappings: !self.state().veiled,
            outlives_process: true,
            keeps_mappings: true,
        }
    }

    fn alloc(&self, peer: DomId, access: Access) -> Result<SimGranted, GrantError> {
        let grant = self.state().grant(&self.process, peer, access, None)?;
        Ok(SimGranted::new(self.clone(), grant))
    }

    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<SimMapping, GrantError> {
        let pages = self.state().map(&self.process, peer, refs, access)?;
        Ok(SimMapping::new(self.clone(), pages, access))
    }

    fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        self.step();
        self.state().copy(&self.process, peer, ops)
    }

    fn alloc_unbound(&self, peer: DomId) -> Result<SimChannel, EvtchnError> {
        let id = self.state().alloc_unbound(&self.process, peer)?;
        Ok(SimChannel::new(self.clone(), id))
    }

    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<SimChannel, EvtchnError> {
        let id = self.state().bind(&self.process, peer, port)?;
        Ok(SimChannel::new(self.clone(), id))
    }
}
