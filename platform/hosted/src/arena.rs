//! Memory shared by one ordered pair of domains: the owner grants pages in it, the peer uses them.
//!
//! Two memfds per pair, sealed against growing and shrinking: of the *read-write* one both have a writable descriptor, of the
//! *read-only* one the peer's is opened `O_RDONLY`. Whoever holds a descriptor can map all of it for as long as it likes, so the
//! arenas hold granted pages and the [table](crate::table) and nothing else, ever.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use ringfence_core::GrantRef;
use ringfence_core::PAGE;
use ringfence_core::platform::Access;
use ringfence_core::weakened;
use ringfence_mem::RawPages;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::table::{ARENA, ARENA_PAGES, ENTRIES, TABLE_PAGES, Table};

/// Makes an arena.
pub(crate) fn create(name: &str) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, ARENA as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Another description of the same memory, that cannot be mapped for writing.
pub(crate) fn read_only(fd: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// An arena, or the start of one, mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    // Declared first: gone before what it points to.
    pages: RawPages,
    _memory: MmapRaw,
    file: File,
}

impl Mapped {
    pub(crate) fn writable(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let file = File::from(fd);
        let memory = MmapOptions::new().len(len).map_raw(&file)?;
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: mapped as long as `memory` lives, which is as long as this does; sealed, so it never shrinks.
        let pages = unsafe { RawPages::new(base, len) };
        Ok(Self {
            pages,
            _memory: memory,
            file,
        })
    }

    pub(crate) fn read_only(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let file = File::from(fd);
        let memory = MmapOptions::new().len(len).map_raw_read_only(&file)?;
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: as above, without writing.
        let pages = unsafe { RawPages::read_only(base, len) };
        Ok(Self {
            pages,
            _memory: memory,
            file,
        })
    }

    pub(crate) const fn pages(&self) -> &RawPages {
        &self.pages
    }

    pub(crate) fn file(&self) -> impl AsFd {
        &self.file
    }
}

/// Both arenas of a pair as one of its domains has them.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Reference of entry 0.
    base: u32,
    read_write: Mapped,
    read_only: Mapped,
}

impl Pair {
    /// From the broker's answer. Only the owner may write the read-only arena.
    pub(crate) fn new(
        base: u32,
        read_write: OwnedFd,
        read_only: OwnedFd,
        owner: bool,
    ) -> io::Result<Self> {
        let map = if owner {
            Mapped::writable
        } else {
            Mapped::read_only
        };
        Ok(Self {
            base,
            read_write: Mapped::writable(read_write, ARENA)?,
            read_only: map(read_only, ARENA)?,
        })
    }

    pub(crate) const fn table(&self) -> Table<'_> {
        Table(self.read_write.pages())
    }

    /// The entry that a reference names, if it is one of this pair's.
    pub(crate) fn index(&self, gref: GrantRef) -> Option<u32> {
        let index = gref.get().checked_sub(self.base)?;
        (TABLE_PAGES..ENTRIES).contains(&index).then_some(index)
    }

    /// The reference of an entry.
    pub(crate) const fn gref(&self, index: u32) -> GrantRef {
        GrantRef::new(self.base.wrapping_add(index))
    }

    /// The arena and the byte offset of an entry's page.
    pub(crate) fn page(&self, index: u32) -> (&Mapped, usize) {
        match index.checked_sub(ARENA_PAGES) {
            None => (&self.read_write, index as usize * PAGE),
            Some(index) => (&self.read_only, index as usize * PAGE),
        }
    }
}

/// What the owner alone knows about the pages of one arena: which it gave out. Nothing here is read from shared memory but once,
/// at the start, to leave alone what an earlier process of the domain granted.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<u32>,
    /// Granted by an earlier process of the domain, to be adopted.
    inherited: Vec<u32>,
    /// Dropped while in use, those that were looked at longest ago first.
    quarantine: VecDeque<u32>,
    size: u32,
}

/// Pages in quarantine that one [`Pool::take`] looks at: the peer decides how many there are, and must not decide how long it
/// takes (CVE-2023-54081).
const LOOKS: usize = 64;

impl Pool {
    /// The pages that a table says nothing about.
    pub(crate) fn new(table: Table<'_>, access: Access) -> Self {
        let range = match access {
            Access::ReadWrite => TABLE_PAGES..ARENA_PAGES,
            Access::ReadOnly => ARENA_PAGES..ENTRIES,
        };
        let size = range.len() as u32;
        // Taken from the end: low references first.
        let (inherited, free) = range.rev().partition(|index| table.is_used(*index));
        Self {
            free,
            inherited,
            quarantine: VecDeque::new(),
            size,
        }
    }

    /// Pages in all.
    pub(crate) const fn size(&self) -> u32 {
        self.size
    }

    /// A page that nobody uses.
    pub(crate) fn take(&mut self, table: Table<'_>) -> Option<u32> {
        let all = weakened!("cve_2023_54081_hosted");
        let looks = if all { usize::MAX } else { LOOKS };
        for _ in 0..self.quarantine.len().min(looks) {
            let Some(index) = self.quarantine.pop_front() else {
                break;
            };
            if table.is_used(index) {
                self.quarantine.push_back(index);
            } else {
                self.free.push(index);
            }
        }
        self.free.pop()
    }

    /// A page that an earlier process granted.
    pub(crate) fn adopt(&mut self, index: u32) -> bool {
        let found = self.inherited.iter().position(|other| *other == index);
        found.map(|at| self.inherited.swap_remove(at)).is_some()
    }

    /// Gives a page back, or sets it aside until the peer is done with it.
    pub(crate) fn give_back(&mut self, table: Table<'_>, index: u32) {
        if table.forbid(index) {
            self.quarantine.push_back(index);
        } else {
            self.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::SharedMem as _;

    #[test]
    fn a_peer_that_scribbles_over_the_table_gets_no_page_given_out_twice() {
        let arena = Mapped::writable(create("test").unwrap(), ARENA).unwrap();
        let table = Table(arena.pages());
        let mut pool = Pool::new(table, Access::ReadWrite);
        let mut held = std::collections::BTreeSet::new();
        let garbage = [0u64, 1, u64::MAX, 0xFF << 8, 0xDEAD_BEEF_0000_0003];
        for round in 0..5000usize {
            if round % 3 == 2 {
                let index = *held.iter().nth(round % held.len()).unwrap();
                held.remove(&index);
                pool.give_back(table, index);
            } else if let Some(index) = pool.take(table) {
                assert!((TABLE_PAGES..ARENA_PAGES).contains(&index));
                assert!(held.insert(index), "page {index} twice");
            }
            let entry = TABLE_PAGES as usize + round * 7 % 4000;
            let word = garbage[round % garbage.len()].to_ne_bytes();
            arena.pages().write(entry * 8, &word);
        }
    }

    #[test]
    fn cve_2023_54081_a_page_is_had_after_so_many_looks_and_no_more() {
        const HELD: usize = 1000;
        let arena = Mapped::writable(create("test").unwrap(), ARENA).unwrap();
        let table = Table(arena.pages());
        let mut pool = Pool::new(table, Access::ReadWrite);
        let held: Vec<u32> = (0..HELD).map(|_| pool.take(table).unwrap()).collect();
        for index in &held {
            table.permit(*index, Access::ReadWrite).unwrap();
            table.acquire(*index, Access::ReadWrite).unwrap();
            pool.give_back(table, *index);
        }
        let free = pool.free.len();
        let other = pool.take(table).unwrap();
        assert!(!held.contains(&other));
        assert_eq!((pool.quarantine.len(), pool.free.len()), (HELD, free - 1));
        // The peer lets go of all at once.
        for index in &held {
            table.release(*index, Access::ReadWrite);
        }
        while !pool.quarantine.is_empty() {
            let (waiting, free) = (pool.quarantine.len(), pool.free.len());
            pool.take(table).unwrap();
            let looked_at = waiting - pool.quarantine.len();
            assert!((1..=64).contains(&looked_at), "{looked_at} at once");
            assert_eq!(
                pool.free.len(),
                free + looked_at - 1,
                "all of it comes back"
            );
        }
    }

    #[test]
    fn the_peers_descriptor_of_a_read_only_arena_cannot_be_made_writable() {
        let owner = create("test").unwrap();
        let peer = read_only(&owner).unwrap();
        assert!(Mapped::writable(peer.try_clone().unwrap(), ARENA).is_err());
        assert!(rustix::fs::ftruncate(&owner, 0).is_err(), "sealed");
        let (owner, peer) = (
            Mapped::writable(owner, ARENA).unwrap(),
            Mapped::read_only(peer, ARENA).unwrap(),
        );
        owner.pages().write(5000, b"seen");
        let mut bytes = [0; 4];
        peer.pages().read(5000, &mut bytes);
        assert_eq!(&bytes, b"seen");
    }
}
