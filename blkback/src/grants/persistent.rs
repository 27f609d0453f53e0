//! Pages that stay mapped: `feature-persistent` of `xen/io/blkif.h`.
//!
//! The frontend promises to use the same pages again and again, so each is mapped once and data moves through the mapping; no
//! hypercall is left on the way. The frontend is never told which pages stay and which go.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use ringfence_core::SharedMem;
use ringfence_core::ids::{DomId, GrantRef};
use ringfence_core::platform::{Access, Platform};
use ringfence_core::weakened;

use super::{Copy, Staged};
use crate::stats::Stats;

/// The most pages of one device that stay mapped, as with Linux: 32 requests of 32 pages and a page of segments each.
pub const PAGES_PER_DEVICE: usize = 1056;

/// How many pages of guests may stay mapped by all devices together. What is beyond it is copied.
#[derive(Debug)]
pub struct Budget(AtomicUsize);

impl Budget {
    /// So many pages.
    pub const fn new(pages: usize) -> Self {
        Self(AtomicUsize::new(pages))
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>) -> Option<Permit> {
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if taken.is_err() && !weakened!("blk_mapping_budget") {
            return None;
        }
        Some(Permit(Arc::clone(self)))
    }
}

/// The right to keep one page mapped.
struct Permit(Arc<Budget>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Page<M> {
    gref: GrantRef,
    /// Unmapped before the permit goes back.
    mapping: M,
    /// Since the hand last came by.
    used: bool,
    _permit: Permit,
}

/// The mapped pages of one ring. When there is no room, one that was not used for a while goes: the hand of a clock goes round
/// the pages, and takes the first that was not used since it last came by.
pub(crate) struct Persistent<M> {
    pages: Vec<Page<M>>,
    places: BTreeMap<u32, usize>,
    hand: usize,
    limit: usize,
    budget: Arc<Budget>,
}

impl<M: SharedMem> Persistent<M> {
    pub(crate) const fn new(limit: usize, budget: Arc<Budget>) -> Self {
        Self {
            pages: Vec::new(),
            places: BTreeMap::new(),
            hand: 0,
            limit,
            budget,
        }
    }

    /// The mapping of a page, made if need be. `None` if it cannot be mapped, or there is no room for it.
    fn page<P: Platform<Mapping = M>>(
        &mut self,
        platform: &P,
        peer: DomId,
        gref: GrantRef,
        stats: &Stats,
    ) -> Option<&M> {
        let known = self.places.get(&gref.get());
        let place = match known.filter(|_| !weakened!("blk_mapped_once")) {
            Some(place) => *place,
            None => self.enter(platform, peer, gref, stats)?,
        };
        let page = self.pages.get_mut(place)?;
        page.used = true;
        Some(&page.mapping)
    }

    fn enter<P: Platform<Mapping = M>>(
        &mut self,
        platform: &P,
        peer: DomId,
        gref: GrantRef,
        stats: &Stats,
    ) -> Option<usize> {
        let full = self.pages.len() >= self.limit && !weakened!("blk_mapping_limit");
        let permit = match full {
            true => None,
            false => self.budget.take(),
        };
        let permit = match permit {
            Some(permit) => permit,
            None => {
                self.evict()?;
                self.budget.take()?
            }
        };
        // Writable whatever the request: the same page carries a read the next time.
        let mapping = platform.map(peer, &[gref], Access::ReadWrite).ok()?;
        stats.grant_maps.add(1);
        let place = self.pages.len();
        self.pages.push(Page {
            gref,
            mapping,
            used: true,
            _permit: permit,
        });
        self.places.insert(gref.get(), place);
        Some(place)
    }

    /// Unmaps one page; `None` if there is none.
    fn evict(&mut self) -> Option<()> {
        // Twice round at most: the first time nothing may be unused.
        for _ in 0..=self.pages.len() {
            if self.hand >= self.pages.len() {
                self.hand = 0;
            }
            let page = self.pages.get_mut(self.hand)?;
            if !core::mem::take(&mut page.used) {
                break;
            }
            self.hand = self.hand.saturating_add(1);
        }
        if self.hand >= self.pages.len() {
            self.hand = 0;
        }
        self.pages.get(self.hand)?;
        let gone = self.pages.swap_remove(self.hand);
        self.places.remove(&gone.gref.get());
        // The last one took its place.
        if let Some(moved) = self.pages.get(self.hand) {
            self.places.insert(moved.gref.get(), self.hand);
        }
        Some(())
    }

    /// Reads the beginning of a page. `false` if it is not mapped.
    pub(crate) fn read<P: Platform<Mapping = M>>(
        &mut self,
        platform: &P,
        peer: DomId,
        gref: GrantRef,
        to: &mut [u8],
        stats: &Stats,
    ) -> bool {
        match self.page(platform, peer, gref, stats) {
            Some(page) if to.len() <= page.len() => {
                page.read(0, to);
                true
            }
            _ => false,
        }
    }

    /// Moves the data of a request through the mappings. `false` if not all of its pages are mapped: it is copied then, all of
    /// it once more.
    pub(super) fn move_data<P: Platform<Mapping = M>>(
        &mut self,
        platform: &P,
        peer: DomId,
        request: &mut Staged,
        which: Copy,
        stats: &Stats,
    ) -> bool {
        let mut rest = request.io.buffer.bytes_mut();
        for run in request.ticket.runs.iter() {
            let Some((bytes, after)) = rest.split_at_mut_checked(usize::from(run.len)) else {
                return false;
            };
            rest = after;
            let Some(page) = self.page(platform, peer, run.gref, stats) else {
                return weakened!("blk_unmapped_page");
            };
            let offset = usize::from(run.offset);
            if offset.saturating_add(bytes.len()) > page.len() {
                return false;
            }
            match which {
                Copy::Reads => page.write(offset, bytes),
                Copy::Writes => page.read(offset, bytes),
            }
        }
        true
    }
}
