//! A domain's grant table, with Xen's rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ringfence_core::platform::{Access, GrantStatus};
use ringfence_core::weakened;
use ringfence_core::{DomId, GrantRef};

use crate::memory::Page;
use crate::process::ProcessId;

/// `GNTTAB_NR_RESERVED_ENTRIES` of `xen/grant_table.h`: references that the toolstack uses.
const RESERVED: u32 = 8;

/// One grant: what an entry of the table says. Shared with the mappings, so that they see when it ends.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) owner: DomId,
    pub(crate) gref: GrantRef,
    pub(crate) peer: DomId,
    pub(crate) access: Access,
    pub(crate) page: Arc<Page>,
    /// The page belongs to a caller and not to the table.
    in_place: bool,
    /// The access has not been ended.
    live: AtomicBool,
    /// How often it is mapped; changes only under the world's lock.
    pins: AtomicU32,
}

impl Grant {
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    pub(crate) fn pins(&self) -> u32 {
        self.pins.load(Ordering::Relaxed)
    }

    pub(crate) fn pin(&self) {
        self.pins.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many are left.
    pub(crate) fn unpin(&self) -> u32 {
        self.pins.fetch_sub(1, Ordering::Relaxed) - 1
    }

    /// Ends the access unless the peer has the page mapped: one step, as the compare-and-exchange on a real entry's flags.
    pub(crate) fn try_end(&self) -> Result<(), GrantStatus> {
        if weakened!("xsa_396_sim_revoke") || self.pins() == 0 {
            self.live.store(false, Ordering::Relaxed);
            Ok(())
        } else {
            Err(GrantStatus::GENERAL_ERROR)
        }
    }
}

/// Who will give the entry back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    Process(ProcessId),
    /// Dropped while the peer had it mapped: given back by the last unmap.
    Quarantine,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) grant: Arc<Grant>,
    pub(crate) holder: Holder,
}

#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<Option<Entry>>,
    /// References that were used before, the last first: reuse comes as early as it can.
    free: Vec<u32>,
    pool: Vec<Arc<Page>>,
    limit: u32,
    used: u32,
}

impl Table {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            entries: (0..RESERVED).map(|_| None).collect(),
            free: Vec::new(),
            pool: Vec::new(),
            limit,
            used: 0,
        }
    }

    pub(crate) const fn limit(&self) -> u32 {
        self.limit
    }

    /// A page of zeros, also when it was used before (XSA-403).
    fn page(&mut self) -> Arc<Page> {
        let Some(page) = self.pool.pop() else {
            return Page::zeroed();
        };
        if !weakened!("xsa_403_sim_zero") {
            page.zero();
        }
        page
    }

    /// Enters a grant of the caller's page, or of a fresh one; `None` when the table is full.
    pub(crate) fn enter(
        &mut self,
        owner: DomId,
        peer: DomId,
        access: Access,
        own: Option<Arc<Page>>,
        process: ProcessId,
    ) -> Option<Arc<Grant>> {
        if self.used >= self.limit {
            return None;
        }
        let in_place = own.is_some();
        let page = own.unwrap_or_else(|| self.page());
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.entries.push(None);
                u32::try_from(self.entries.len() - 1).ok()?
            }
        };
        let grant = Arc::new(Grant {
            owner,
            gref: GrantRef::new(index),
            peer,
            access,
            page,
            in_place,
            live: AtomicBool::new(true),
            pins: AtomicU32::new(0),
        });
        self.used += 1;
        self.entries[index as usize] = Some(Entry {
            grant: grant.clone(),
            holder: Holder::Process(process),
        });
        Some(grant)
    }

    pub(crate) fn get(&self, gref: GrantRef) -> Option<&Entry> {
        self.entries.get(gref.get() as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, gref: GrantRef) -> Option<&mut Entry> {
        self.entries.get_mut(gref.get() as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// What `by` may reach through a reference, with the checks and statuses of Xen's `_set_status`.
    pub(crate) fn lookup(
        &self,
        gref: GrantRef,
        by: DomId,
        wanted: Access,
    ) -> Result<&Arc<Grant>, GrantStatus> {
        let grant = match self.get(gref) {
            Some(entry) if entry.grant.is_live() => &entry.grant,
            _ => return Err(GrantStatus::BAD_GNTREF),
        };
        let allowed = wanted == Access::ReadOnly
            || grant.access == Access::ReadWrite
            || weakened!("grant_table_sim_read_only");
        if grant.peer != by || !allowed {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        Ok(grant)
    }

    /// Whoever held the entry is done with it. Freed at once, or quarantined while it is mapped (XSA-396).
    pub(crate) fn give_back(&mut self, gref: GrantRef) {
        let Some(entry) = self.get_mut(gref) else {
            return;
        };
        if weakened!("xsa_396_sim_quarantine") || entry.grant.pins() == 0 {
            self.free(gref);
        } else {
            entry.holder = Holder::Quarantine;
        }
    }

    /// The last mapping of `grant` is gone.
    pub(crate) fn unpinned(&mut self, grant: &Arc<Grant>) {
        let quarantined = self.get(grant.gref).is_some_and(|entry| {
            entry.holder == Holder::Quarantine && Arc::ptr_eq(&entry.grant, grant)
        });
        if quarantined {
            self.free(grant.gref);
        }
    }

    /// The process is dead: entries that it had revoked grant nothing that anybody could take over.
    pub(crate) fn sweep(&mut self) {
        let revoked = |entry: &&Entry| !entry.grant.is_live() && entry.grant.pins() == 0;
        let refs: Vec<_> = self
            .iter()
            .filter(revoked)
            .map(|entry| entry.grant.gref)
            .collect();
        for gref in refs {
            self.free(gref);
        }
    }

    fn free(&mut self, gref: GrantRef) {
        let index = gref.get();
        let Some(entry) = self.entries.get_mut(index as usize).and_then(Option::take) else {
            return;
        };
        entry.grant.live.store(false, Ordering::Relaxed);
        self.free.push(index);
        self.used -= 1;
        if !entry.grant.in_place {
            self.pool.push(entry.grant.page.clone());
        }
    }
}
