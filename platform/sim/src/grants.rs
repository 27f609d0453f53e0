//! Grants: the operations on the tables, and what they give out.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ringfence_core::mem::{PAGE, SharedMem};
use ringfence_core::platform::{
    Access, GrantCopy, GrantError, GrantStatus, Granted, Local, PlatformError,
};
use ringfence_core::weakened;
use ringfence_core::{DomId, GrantRef};

use crate::domain::Sim;
use crate::faults::Place;
use crate::memory::{Page, pieces};
use crate::process::Process;
use crate::table::{Grant, Holder};
use crate::world::{State, dead};

/// A page of a mapping, and the handle to unmap it by.
#[derive(Debug)]
pub(crate) struct Mapped {
    grant: Arc<Grant>,
    handle: u32,
}

impl State {
    /// Grants the caller's page, or a fresh one.
    pub(crate) fn grant(
        &mut self,
        process: &Process,
        peer: DomId,
        access: Access,
        own: Option<Arc<Page>>,
    ) -> Result<Arc<Grant>, GrantError> {
        self.alive(process, "grant")?;
        if let Some(errno) = self.faults.strike(Place::Alloc) {
            return Err(PlatformError { op: "grant", errno }.into());
        }
        let domain = self.domain_of(process);
        let limit = domain.table.limit();
        let grant = domain
            .table
            .enter(process.domid, peer, access, own, process.id)
            .ok_or(GrantError::Exhausted { peer, limit })?;
        domain.counts.grants += 1;
        self.note("grant", process.domid, grant.gref.get());
        Ok(grant)
    }

    fn lookup(
        &self,
        by: DomId,
        peer: DomId,
        gref: GrantRef,
        access: Access,
    ) -> Result<Arc<Grant>, GrantStatus> {
        let owner = self.domains.get(&peer).ok_or(GrantStatus::BAD_DOMAIN)?;
        owner.table.lookup(gref, by, access).cloned()
    }

    fn map_one(
        &mut self,
        process: &Process,
        peer: DomId,
        gref: GrantRef,
        access: Access,
    ) -> Result<Mapped, GrantStatus> {
        if let Some(status) = self.faults.strike_status(Place::Map) {
            return Err(status);
        }
        let grant = self.lookup(process.domid, peer, gref, access)?;
        let handle = self.domain_of(process).maps.enter(grant.clone())?;
        grant.pin();
        Ok(Mapped { grant, handle })
    }

    /// A batch: every element is tried and has its status looked at, as the hypercall does and its caller must (XSA-361).
    pub(crate) fn map(
        &mut self,
        process: &Process,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<Vec<Mapped>, GrantError> {
        self.alive(process, "map")?;
        if let Some(errno) = self.faults.strike(Place::MapCall) {
            return Err(PlatformError { op: "map", errno }.into());
        }
        self.domain_of(process).counts.map_calls += 1;
        let mut mapped = Vec::with_capacity(refs.len());
        let mut refused = None;
        for gref in refs {
            match self.map_one(process, peer, *gref, access) {
                Ok(page) => {
                    mapped.push(page);
                    // Only the last status is remembered then.
                    if weakened!("xsa_361_sim_statuses") {
                        refused = None;
                    }
                }
                Err(status) => {
                    let gref = *gref;
                    refused = refused.or(Some(GrantError::Refused { peer, gref, status }));
                }
            }
        }
        self.domain_of(process).counts.mapped += mapped.len() as u64;
        self.note(
            "map",
            process.domid,
            u32::try_from(mapped.len()).unwrap_or(u32::MAX),
        );
        match refused {
            None => Ok(mapped),
            Some(error) => {
                if !weakened!("xsa_361_sim_unmap") {
                    self.unmap(process, &mapped);
                }
                Err(error)
            }
        }
    }

    fn unmap(&mut self, process: &Process, mapped: &[Mapped]) {
        let maps = &mut self.domain_of(process).maps;
        let gone: Vec<_> = mapped
            .iter()
            .filter_map(|page| maps.remove(page.handle))
            .collect();
        self.domain_of(process).counts.unmapped += gone.len() as u64;
        self.note(
            "unmap",
            process.domid,
            u32::try_from(gone.len()).unwrap_or(u32::MAX),
        );
        self.unpin(&gone);
    }

    pub(crate) fn unpin(&mut self, gone: &[Arc<Grant>]) {
        for grant in gone {
            if grant.unpin() == 0
                && let Some(owner) = self.domains.get_mut(&grant.owner)
            {
                owner.table.unpinned(grant);
            }
        }
    }

    pub(crate) fn copy(
        &mut self,
        process: &Process,
        peer: DomId,
        ops: &mut [GrantCopy<'_>],
    ) -> Result<(), PlatformError> {
        self.alive(process, "copy")?;
        if let Some(errno) = self.faults.strike(Place::CopyCall) {
            return Err(PlatformError { op: "copy", errno });
        }
        self.domain_of(process).counts.copy_calls += 1;
        for op in ops {
            op.status = match self.copy_one(process, peer, op) {
                Ok(()) => GrantStatus::OKAY,
                Err(status) => status,
            };
            if weakened!("xsa_361_sim_copy") && !op.status.is_okay() {
                break;
            }
        }
        Ok(())
    }

    fn copy_one(
        &mut self,
        process: &Process,
        peer: DomId,
        op: &mut GrantCopy<'_>,
    ) -> Result<(), GrantStatus> {
        if let Some(status) = self.faults.strike_status(Place::Copy) {
            return Err(status);
        }
        let offset = usize::from(op.offset);
        let len = op.len();
        let fits = len <= PAGE && offset <= PAGE - len;
        if !fits && !weakened!("grant_table_sim_bounds") {
            return Err(GrantStatus::BAD_COPY_ARG);
        }
        let access = match op.local {
            Local::ToPeer(_) => Access::ReadWrite,
            Local::FromPeer(_) => Access::ReadOnly,
        };
        let grant = self.lookup(process.domid, peer, op.gref, access)?;
        match &mut op.local {
            Local::ToPeer(bytes) => grant.page.write(offset, bytes),
            Local::FromPeer(bytes) => grant.page.read(offset, bytes),
        }
        let counts = &mut self.domain_of(process).counts;
        counts.copies += 1;
        counts.copied_bytes += len as u64;
        self.note("copy", process.domid, op.gref.get());
        Ok(())
    }

    pub(crate) fn adopt_grant(&mut self, process: &Process, gref: GrantRef) -> Option<Arc<Grant>> {
        let entry = self.domain_of(process).table.get_mut(gref)?;
        if entry.holder == Holder::Quarantine || entry.holder == Holder::Process(process.id) {
            return None;
        }
        entry.holder = Holder::Process(process.id);
        Some(entry.grant.clone())
    }
}

/// A page of a domain's own, for [`Sim::grant_in_place`], or one seen from outside by [`World::page`](crate::World::page).
#[derive(Clone, Debug)]
pub struct SimPage {
    page: Arc<Page>,
}

impl SimPage {
    pub(crate) const fn new(page: Arc<Page>) -> Self {
        Self { page }
    }

    /// A page of zeros that nobody else reaches.
    pub fn zeroed() -> Self {
        Self::new(Page::zeroed())
    }

    pub(crate) fn shared(&self) -> Arc<Page> {
        self.page.clone()
    }
}

/// A page granted to a peer. Dropping it ends the access, or puts the page into quarantine while the peer has it mapped.
#[derive(Debug)]
pub struct SimGranted {
    sim: Sim,
    grant: Arc<Grant>,
}

impl SimGranted {
    pub(crate) const fn new(sim: Sim, grant: Arc<Grant>) -> Self {
        Self { sim, grant }
    }
}

impl Granted for SimGranted {
    fn grant_ref(&self) -> GrantRef {
        self.grant.gref
    }

    fn try_revoke(&mut self) -> Result<(), GrantStatus> {
        let mut state = self.sim.state();
        if dead(&self.sim.process).is_some() {
            return Err(GrantStatus::BAD_DOMAIN);
        }
        state.note("revoke", self.grant.owner, self.grant.gref.get());
        if state.veiled {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        self.grant.try_end()
    }
}

impl Drop for SimGranted {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if dead(&self.sim.process).is_none() {
            state.note("drop", self.grant.owner, self.grant.gref.get());
            state
                .domain_of(&self.sim.process)
                .table
                .give_back(self.grant.gref);
        }
    }
}

/// Pages of a peer, mapped here. Dropping it unmaps them.
#[derive(Debug)]
pub struct SimMapping {
    sim: Sim,
    pages: Vec<Mapped>,
    access: Access,
}

impl SimMapping {
    pub(crate) const fn new(sim: Sim, pages: Vec<Mapped>, access: Access) -> Self {
        Self { sim, pages, access }
    }
}

impl Drop for SimMapping {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        let weak = weakened!("grant_table_sim_old_handle");
        if dead(&self.sim.process).is_none() || weak {
            state.unmap(&self.sim.process, &self.pages);
        }
    }
}

/// Where an access goes, after every check that hardware would make.
trait Checked {
    fn pages(&self) -> usize;
    fn page(&self, index: usize, writes: bool) -> &Page;
    /// Whose handle this is; nobody's if it is seen from outside.
    fn sim(&self) -> Option<&Sim>;
}

/// Writes, each word as a step of its own if one of them is to be a process's last.
fn write(to: &impl Checked, page: usize, at: usize, src: &[u8]) {
    let doomed = to.sim().filter(|sim| sim.process.is_watched());
    let Some(sim) = doomed else {
        if let Some(sim) = to.sim() {
            sim.step();
        }
        to.page(page, true).write(at, src);
        return;
    };
    let mut at = at;
    let mut rest = src;
    while !rest.is_empty() {
        let (word, after) = rest.split_at((4 - at % 4).min(rest.len()));
        sim.step();
        to.page(page, true).write(at, word);
        at += word.len();
        rest = after;
    }
}

impl Checked for SimPage {
    fn pages(&self) -> usize {
        1
    }
    fn page(&self, index: usize, _: bool) -> &Page {
        assert_eq!(index, 0, "access past the page");
        &self.page
    }
    fn sim(&self) -> Option<&Sim> {
        None
    }
}

impl Checked for SimGranted {
    fn pages(&self) -> usize {
        1
    }
    fn page(&self, index: usize, _: bool) -> &Page {
        assert_eq!(index, 0, "access past the page");
        self.sim.process.assert_alive("a granted page");
        &self.grant.page
    }
    fn sim(&self) -> Option<&Sim> {
        Some(&self.sim)
    }
}

impl Checked for SimMapping {
    fn pages(&self) -> usize {
        self.pages.len()
    }
    fn page(&self, index: usize, writes: bool) -> &Page {
        self.sim.process.assert_alive("a mapping");
        let grant = &self.pages[index].grant;
        if !std::thread::panicking() {
            let (gref, owner) = (grant.gref, grant.owner);
            let reachable = grant.is_live() && grant.pins() > 0;
            assert!(
                reachable,
                "access to grant {gref} of domain {owner}, which has ended"
            );
            let allowed = !writes || self.access == Access::ReadWrite;
            assert!(
                allowed,
                "write to grant {gref} of domain {owner}, which is mapped read-only"
            );
        }
        &grant.page
    }
    fn sim(&self) -> Option<&Sim> {
        Some(&self.sim)
    }
}

macro_rules! shared_mem {
    ($type:ty) => {
        impl SharedMem for $type {
            fn len(&self) -> usize {
                self.pages() * PAGE
            }
            fn load_u32(&self, offset: usize) -> u32 {
                self.page(offset / PAGE, false).load(offset % PAGE)
            }
            fn store_u32(&self, offset: usize, value: u32) {
                if let Some(sim) = self.sim() {
                    sim.step();
                }
                self.page(offset / PAGE, true).store(offset % PAGE, value);
            }
            fn read(&self, offset: usize, dst: &mut [u8]) {
                for (page, at, range) in pieces(offset, dst.len()) {
                    self.page(page, false).read(at, &mut dst[range]);
                }
            }
            fn write(&self, offset: usize, src: &[u8]) {
                for (page, at, range) in pieces(offset, src.len()) {
                    write(self, page, at, &src[range]);
                }
            }
            fn fence(&self) {
                fence(Ordering::SeqCst);
            }
        }
    };
}

shared_mem!(SimPage);
shared_mem!(SimGranted);
shared_mem!(SimMapping);
