//! The grant table of one ordered pair of domains: one `u64` per page of their two arenas, at the start of the read-write one.
//!
//! ```text
//! bit 0        the peer may use the page (GTF_permit_access)
//! bit 1        for reading only (GTF_readonly)
//! bits 8..32   times in use for reading (GTF_reading, but counted)
//! bits 32..56  times in use for writing (GTF_writing, but counted)
//! ```
//! Entry 0 says whether the owner lives. Both sides write the table, so either may find nonsense in it: every value is checked,
//! every loop is bounded, and what the owner must be sure of it keeps in a [`Pool`](crate::arena::Pool) of its own.

use ringfence_core::PAGE;
use ringfence_core::platform::{Access, GrantStatus};
use ringfence_core::weakened;
use ringfence_mem::RawPages;

/// Bytes of an arena: 64 MiB, of which only what is used takes memory.
pub(crate) const ARENA: usize = 64 << 20;
/// Pages of an arena.
pub(crate) const ARENA_PAGES: u32 = (ARENA / PAGE) as u32;
/// Entries of a table: the pages of the read-write arena, then those of the read-only one.
pub(crate) const ENTRIES: u32 = 2 * ARENA_PAGES;
/// Pages at the start of the read-write arena that hold the table. Their entries grant nothing.
pub(crate) const TABLE_PAGES: u32 = ENTRIES * 8 / PAGE as u32;
/// Bytes of the table.
pub(crate) const TABLE: usize = TABLE_PAGES as usize * PAGE;

const PERMIT: u64 = 1;
const READONLY: u64 = 2;
const READER: u64 = 1 << 8;
const WRITER: u64 = 1 << 32;
const READERS: u64 = 0xFF_FFFF << 8;
const WRITERS: u64 = 0xFF_FFFF << 32;
const IN_USE: u64 = READERS | WRITERS;
/// How often a word that others change at the same moment is tried again. Only a peer that changes it all the time gets there.
const TRIES: u32 = 1000;

/// Where the entries are: shared memory, or a model checker's.
pub(crate) trait Entries {
    /// Loads an entry, with acquire ordering.
    fn load(&self, index: u32) -> u64;

    /// Replaces an entry if it is `old`; otherwise says what it is.
    fn replace(&self, index: u32, old: u64, new: u64) -> Result<(), u64>;
}

impl Entries for RawPages {
    fn load(&self, index: u32) -> u64 {
        self.load_u64(index as usize * 8)
    }

    fn replace(&self, index: u32, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange_u64(index as usize * 8, old, new)
    }
}

/// A view of a table. `pages` starts with it.
#[derive(Debug)]
pub(crate) struct Table<'a, E = RawPages>(pub(crate) &'a E);

impl<E> Clone for Table<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Table<'_, E> {}

impl<E: Entries> Table<'_, E> {
    /// Loads and replaces entry `index` until nobody comes between; `step` gives the new value.
    fn update(
        self,
        index: u32,
        step: impl Fn(u64) -> Result<u64, GrantStatus>,
    ) -> Result<(), GrantStatus> {
        let mut old = self.0.load(index);
        for _ in 0..TRIES {
            let new = step(old)?;
            match self.0.replace(index, old, new) {
                Ok(()) => return Ok(()),
                // What somebody else did meanwhile is lost then.
                Err(now) if weakened!("xsa_406_hosted") => {
                    let _ = self.0.replace(index, now, new);
                    return Ok(());
                }
                Err(now) => old = now,
            }
        }
        Err(GrantStatus::EAGAIN)
    }

    /// Whether anything at all is said about a page.
    pub(crate) fn is_used(self, index: u32) -> bool {
        self.0.load(index) != 0
    }

    /// Owner: lets the peer use a page, whatever the entry said before.
    pub(crate) fn permit(self, index: u32, access: Access) -> Result<(), GrantStatus> {
        let entry = match access {
            Access::ReadOnly => PERMIT | READONLY,
            Access::ReadWrite => PERMIT,
        };
        self.update(index, |_| Ok(entry))
    }

    /// Owner: takes a page back in one step, or changes nothing because it is in use.
    pub(crate) fn revoke(self, index: u32) -> Result<(), GrantStatus> {
        self.update(index, |old| match old & IN_USE {
            0 => Ok(0),
            _ => Err(GrantStatus::GENERAL_ERROR),
        })
    }

    /// Owner: allows no new use. Whether the page is still in use.
    pub(crate) fn forbid(self, index: u32) -> bool {
        self.update(index, |old| Ok(old & IN_USE)).is_err() || self.is_used(index)
    }

    /// Peer: marks a page as in use.
    pub(crate) fn acquire(self, index: u32, access: Access) -> Result<(), GrantStatus> {
        self.update(index, |old| {
            if old & PERMIT == 0 {
                return Err(GrantStatus::BAD_GNTREF);
            }
            let (mask, one) = match access {
                Access::ReadOnly => (READERS, READER),
                Access::ReadWrite if old & READONLY != 0 => {
                    return Err(GrantStatus::PERMISSION_DENIED);
                }
                Access::ReadWrite => (WRITERS, WRITER),
            };
            if old & mask == mask {
                return Err(GrantStatus::NO_SPACE);
            }
            Ok(if weakened!("grant_table_hosted_uses") {
                old | one
            } else {
                old + one
            })
        })
    }

    /// Peer: ends one use.
    pub(crate) fn release(self, index: u32, access: Access) {
        let (mask, one) = match access {
            Access::ReadOnly => (READERS, READER),
            Access::ReadWrite => (WRITERS, WRITER),
        };
        // An owner that made the count zero has only itself to blame.
        let _ = self.update(index, |old| {
            Ok(if old & mask == 0 { old } else { old - one })
        });
    }

    /// Broker: every use of the peer's has ended.
    pub(crate) fn release_all(self) {
        for index in TABLE_PAGES..ENTRIES {
            if self.is_used(index) {
                let _ = self.update(index, |old| Ok(old & !IN_USE));
            }
        }
    }

    /// Broker: the owner lives.
    pub(crate) fn open(self) {
        let _ = self.update(0, |_| Ok(1));
    }

    /// Broker: the owner is destroyed; nothing is granted any more.
    pub(crate) fn shut(self) {
        let _ = self.update(0, |_| Ok(0));
        for index in TABLE_PAGES..ENTRIES {
            if self.is_used(index) {
                let _ = self.update(index, |old| Ok(old & IN_USE));
            }
        }
    }

    /// Whether the owner lives.
    pub(crate) fn is_open(self) -> bool {
        self.0.load(0) != 0
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Mapped, create};

    #[test]
    fn uses_are_counted_and_revoking_waits_for_them() {
        let arena = Mapped::writable(create("test").unwrap(), ARENA).unwrap();
        let table = Table(arena.pages());
        let page = TABLE_PAGES;
        assert_eq!(
            table.acquire(page, Access::ReadOnly),
            Err(GrantStatus::BAD_GNTREF)
        );
        table.permit(page, Access::ReadOnly).unwrap();
        assert_eq!(
            table.acquire(page, Access::ReadWrite),
            Err(GrantStatus::PERMISSION_DENIED)
        );
        table.acquire(page, Access::ReadOnly).unwrap();
        table.acquire(page, Access::ReadOnly).unwrap();
        table.release(page, Access::ReadOnly);
        assert!(table.revoke(page).is_err());
        table.acquire(page, Access::ReadOnly).unwrap();
        assert!(table.forbid(page));
        assert_eq!(
            table.acquire(page, Access::ReadOnly),
            Err(GrantStatus::BAD_GNTREF)
        );
        table.release(page, Access::ReadOnly);
        table.release(page, Access::ReadOnly);
        table.release(page, Access::ReadOnly);
        assert!(!table.is_used(page));
        table.permit(page, Access::ReadWrite).unwrap();
        table.acquire(page, Access::ReadWrite).unwrap();
        table.release_all();
        table.revoke(page).unwrap();
    }
}
