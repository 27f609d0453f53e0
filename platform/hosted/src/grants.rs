//! Granting, mapping and copying pages of the arenas.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_core::platform::{Access, GrantCopy, GrantError, GrantStatus, Local, PlatformError};
use ringfence_core::weakened;
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_mem::RawPages;
use rustix::mm::{MapFlags, ProtFlags};

use crate::arena::{Pair, Pool};
use crate::control::{Link, Refusal, Reply, Request, failed, system};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic in these short sections.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The arenas in which we grant pages to one peer.
#[derive(Debug)]
struct Own {
    pair: Pair,
    read_write: Mutex<Pool>,
    read_only: Mutex<Pool>,
}

impl Own {
    const fn pool(&self, access: Access) -> &Mutex<Pool> {
        match access {
            Access::ReadWrite => &self.read_write,
            Access::ReadOnly => &self.read_only,
        }
    }
}

/// All arenas that a domain has, by peer.
#[derive(Debug, Default)]
pub(crate) struct Arenas {
    own: Mutex<HashMap<DomId, Arc<Own>>>,
    reach: Mutex<HashMap<DomId, Arc<Pair>>>,
}

fn ask(
    link: &Link,
    request: &Request,
    owner: bool,
) -> Result<Result<Pair, Refusal>, PlatformError> {
    let (reply, fds) = link.call(request)?;
    match (reply, <[_; 2]>::try_from(fds)) {
        (Reply::Arenas { base }, Ok([read_write, read_only])) => {
            let pair = Pair::new(base, read_write, read_only, owner);
            Ok(Ok(pair.map_err(|error| system("mmap", &error))?))
        }
        (Reply::Refused(refusal), _) => Ok(Err(refusal)),
        _ => Err(failed("arena", rustix::io::Errno::BADMSG)),
    }
}

impl Arenas {
    fn own(&self, link: &Link, peer: DomId) -> Result<Arc<Own>, GrantError> {
        let mut own = lock(&self.own);
        if let Some(own) = own.get(&peer) {
            return Ok(Arc::clone(own));
        }
        let refused = |status| GrantError::Refused {
            peer,
            gref: GrantRef::new(0),
            status,
        };
        let pair = match ask(link, &Request::Own { peer: peer.get() }, true)? {
            Ok(pair) => pair,
            Err(Refusal::NoDomain) => return Err(refused(GrantStatus::BAD_DOMAIN)),
            Err(Refusal::Errno(errno)) => {
                return Err(PlatformError {
                    op: "memfd_create",
                    errno,
                }
                .into());
            }
            Err(_) => return Err(refused(GrantStatus::GENERAL_ERROR)),
        };
        let made = Arc::new(Own {
            read_write: Mutex::new(Pool::new(pair.table(), Access::ReadWrite)),
            read_only: Mutex::new(Pool::new(pair.table(), Access::ReadOnly)),
            pair,
        });
        own.insert(peer, Arc::clone(&made));
        Ok(made)
    }

    fn reach(
        &self,
        link: &Link,
        owner: DomId,
    ) -> Result<Result<Arc<Pair>, GrantStatus>, PlatformError> {
        let mut reach = lock(&self.reach);
        if let Some(pair) = reach.get(&owner).filter(|pair| pair.table().is_open()) {
            return Ok(Ok(Arc::clone(pair)));
        }
        reach.remove(&owner);
        Ok(
            match ask(link, &Request::Reach { owner: owner.get() }, false)? {
                Ok(pair) => {
                    let pair = Arc::new(pair);
                    reach.insert(owner, Arc::clone(&pair));
                    Ok(pair)
                }
                Err(Refusal::NoDomain) => Err(GrantStatus::BAD_DOMAIN),
                Err(_) => Err(GrantStatus::BAD_GNTREF),
            },
        )
    }

    pub(crate) fn alloc(
        &self,
        link: &Link,
        peer: DomId,
        access: Access,
    ) -> Result<Granted, GrantError> {
        let own = self.own(link, peer)?;
        let mut pool = lock(own.pool(access));
        let limit = pool.size();
        let index = pool
            .take(own.pair.table())
            .ok_or(GrantError::Exhausted { peer, limit })?;
        drop(pool);
        let granted = Granted::new(own, index, access);
        granted.pages.zero(0, PAGE);
        match granted.own.pair.table().permit(index, access) {
            Ok(()) => Ok(granted),
            Err(status) => Err(GrantError::Refused {
                peer,
                gref: granted.own.pair.gref(index),
                status,
            }),
        }
    }

    pub(crate) fn adopt(
        &self,
        link: &Link,
        peer: DomId,
        gref: GrantRef,
    ) -> Result<Granted, GrantError> {
        let own = self.own(link, peer)?;
        let adopted = own.pair.index(gref).and_then(|index| {
            let of = |access| {
                lock(own.pool(access))
                    .adopt(index)
                    .then_some((index, access))
            };
            of(Access::ReadWrite).or_else(|| of(Access::ReadOnly))
        });
        match adopted {
            Some((index, access)) => Ok(Granted::new(own, index, access)),
            None => Err(GrantError::Refused {
                peer,
                gref,
                status: GrantStatus::BAD_GNTREF,
            }),
        }
    }

    pub(crate) fn map(
        &self,
        link: &Link,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<Mapping, GrantError> {
        let refused = |gref, status| GrantError::Refused { peer, gref, status };
        let first = refs.first().copied().unwrap_or(GrantRef::new(0));
        let pair = self
            .reach(link, peer)?
            .map_err(|status| refused(first, status))?;
        // Its drop undoes what was marked before an error.
        let mut uses = Uses {
            pair,
            indices: Vec::with_capacity(refs.len()),
            access,
        };
        for &gref in refs {
            uses.add(gref).map_err(|status| refused(gref, status))?;
        }
        Mapping::new(uses).map_err(GrantError::Platform)
    }

    pub(crate) fn copy(
        &self,
        link: &Link,
        peer: DomId,
        ops: &mut [GrantCopy<'_>],
    ) -> Result<(), PlatformError> {
        let pair = self.reach(link, peer)?;
        for op in ops {
            op.status = match &pair {
                Ok(pair) => copy_one(pair, op),
                Err(status) => *status,
            };
        }
        Ok(())
    }
}

fn copy_one(pair: &Pair, op: &mut GrantCopy<'_>) -> GrantStatus {
    let offset = usize::from(op.offset);
    let fits = offset.checked_add(op.len()).is_some_and(|end| end <= PAGE);
    if !fits && !weakened!("grant_table_hosted_bounds") {
        return GrantStatus::BAD_COPY_ARG;
    }
    let Some(index) = pair.index(op.gref) else {
        return GrantStatus::BAD_GNTREF;
    };
    let access = match op.local {
        Local::ToPeer(_) => Access::ReadWrite,
        Local::FromPeer(_) => Access::ReadOnly,
    };
    let (arena, at) = pair.page(index);
    // A peer that writes the table itself can permit what its owner did not, but not make our memory writable.
    if access == Access::ReadWrite && !arena.pages().is_writable() {
        return match pair.table().acquire(index, Access::ReadOnly) {
            Ok(()) => {
                pair.table().release(index, Access::ReadOnly);
                GrantStatus::PERMISSION_DENIED
            }
            Err(status) => status,
        };
    }
    if let Err(status) = pair.table().acquire(index, access) {
        return status;
    }
    match &mut op.local {
        Local::ToPeer(bytes) => arena.pages().write(at + offset, bytes),
        Local::FromPeer(bytes) => arena.pages().read(at + offset, bytes),
    }
    pair.table().release(index, access);
    GrantStatus::OKAY
}

/// One page of ours that a peer may use.
#[derive(Debug)]
pub struct Granted {
    pages: RawPages,
    own: Arc<Own>,
    index: u32,
    access: Access,
}

impl Granted {
    fn new(own: Arc<Own>, index: u32, access: Access) -> Self {
        let (arena, at) = own.pair.page(index);
        // SAFETY: `own` keeps the arena mapped for as long as this lives.
        let pages = unsafe { arena.pages().part(at, PAGE, true) };
        Self {
            pages,
            own,
            index,
            access,
        }
    }
}

impl ringfence_core::platform::Granted for Granted {
    fn grant_ref(&self) -> GrantRef {
        self.own.pair.gref(self.index)
    }

    fn try_revoke(&mut self) -> Result<(), GrantStatus> {
        self.own.pair.table().revoke(self.index)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        lock(self.own.pool(self.access)).give_back(self.own.pair.table(), self.index);
    }
}

/// The marks of a mapping in the peer's table.
#[derive(Debug)]
struct Uses {
    pair: Arc<Pair>,
    indices: Vec<u32>,
    access: Access,
}

impl Uses {
    fn add(&mut self, gref: GrantRef) -> Result<(), GrantStatus> {
        let index = self.pair.index(gref).ok_or(GrantStatus::BAD_GNTREF)?;
        self.pair.table().acquire(index, self.access)?;
        self.indices.push(index);
        if self.access == Access::ReadWrite && !self.pair.page(index).0.pages().is_writable() {
            return Err(GrantStatus::PERMISSION_DENIED);
        }
        Ok(())
    }

    /// Whether the pages lie one after another in one arena.
    fn is_one_run(&self) -> bool {
        let place = |index| {
            let (arena, at) = self.pair.page(index);
            arena.pages().as_ptr().wrapping_add(at)
        };
        self.indices
            .windows(2)
            .all(|two| place(two[0]).wrapping_add(PAGE) == place(two[1]))
    }
}

impl Drop for Uses {
    fn drop(&mut self) {
        for &index in &self.indices {
            self.pair.table().release(index, self.access);
        }
    }
}

/// Pages of a peer, mapped one after another.
#[derive(Debug)]
pub struct Mapping {
    pages: RawPages,
    /// Where the pages do not lie together in the arena.
    _region: Option<Region>,
    // Dropped last: a page is in use until it is unmapped.
    _uses: Uses,
}

impl Mapping {
    fn new(uses: Uses) -> Result<Self, PlatformError> {
        let len = uses.indices.len() * PAGE;
        let writable = uses.access == Access::ReadWrite;
        let Some(&first) = uses.indices.first() else {
            // SAFETY: no byte of it is ever touched.
            let pages =
                unsafe { RawPages::read_only(NonNull::without_provenance(PAGE_ADDRESS), 0) };
            return Ok(Self {
                pages,
                _region: None,
                _uses: uses,
            });
        };
        if uses.is_one_run() {
            let (arena, at) = uses.pair.page(first);
            // SAFETY: `uses` keeps the arena mapped.
            let pages = unsafe { arena.pages().part(at, len, writable) };
            return Ok(Self {
                pages,
                _region: None,
                _uses: uses,
            });
        }
        let region = Region::new(&uses, len)?;
        // SAFETY: the region is unmapped only after `pages` is gone; made of sealed files, so it never shrinks.
        let pages = unsafe {
            match uses.access {
                Access::ReadWrite => RawPages::new(region.base, len),
                Access::ReadOnly => RawPages::read_only(region.base, len),
            }
        };
        Ok(Self {
            pages,
            _region: Some(region),
            _uses: uses,
        })
    }
}

const PAGE_ADDRESS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(PAGE).expect("not zero");

/// Address space of our own with single pages of arenas in it.
#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: nothing but an address; only `drop` does anything with it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(uses: &Uses, len: usize) -> Result<Self, PlatformError> {
        // SAFETY: new address space, chosen by the kernel.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )
        };
        let base = base.map_err(|errno| failed("mmap", errno))?.cast::<u8>();
        let base = NonNull::new(base).ok_or(failed("mmap", rustix::io::Errno::NOMEM))?;
        let region = Self { base, len };
        let prot = match uses.access {
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
            Access::ReadOnly => ProtFlags::READ,
        };
        for (nth, &index) in uses.indices.iter().enumerate() {
            let (arena, at) = uses.pair.page(index);
            let to = region.base.as_ptr().wrapping_add(nth * PAGE).cast();
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: `to` is a page of the region just made, which nobody else knows of.
            unsafe { rustix::mm::mmap(to, PAGE, prot, flags, arena.file(), at as u64) }
                .map_err(|errno| failed("mmap", errno))?;
        }
        Ok(region)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: made in `new`; whoever had pointers into it was dropped before.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

ringfence_mem::shared_by_pages!(Granted, Mapping);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{create, read_only};
    use crate::table::{ARENA_PAGES, TABLE_PAGES};

    #[test]
    fn cve_2022_50257_a_mapping_that_fails_half_way_leaves_no_page_in_use() {
        let (read_write, owners) = (create("rw").unwrap(), create("ro").unwrap());
        let peers = read_only(&owners).unwrap();
        let pair = Arc::new(Pair::new(0, read_write, peers, false).unwrap());
        let (good, other, bad) = (TABLE_PAGES, TABLE_PAGES + 2, ARENA_PAGES);
        let table = pair.table();
        for index in [good, other, bad] {
            table.permit(index, Access::ReadWrite).unwrap();
            table.acquire(index, Access::ReadWrite).unwrap();
        }
        // The last one the kernel refuses: its descriptor is for reading.
        let uses = Uses {
            pair: Arc::clone(&pair),
            indices: vec![good, other, bad],
            access: Access::ReadWrite,
        };
        let error = Mapping::new(uses).unwrap_err();
        assert_eq!(error, failed("mmap", rustix::io::Errno::ACCESS));
        for index in [good, other, bad] {
            table.revoke(index).expect("in use by nobody");
        }
        assert_eq!(Arc::strong_count(&pair), 1);
    }
}
