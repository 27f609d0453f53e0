//! The grant table, version 1: entries of 8 bytes in pages that Xen reads.

use ringfence_core::platform::{Access, GrantStatus, PlatformError};
use ringfence_core::wire::grant_table::{
    EntryV1, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_WRITING, GetVersion,
    NR_RESERVED_ENTRIES, Op, QuerySize,
};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_mem::RawPages;
use zerocopy::{FromBytes, IntoBytes};

use crate::boot::StartError;
use crate::hypercall::{DOMID_SELF, HypercallError, Number, call};
use crate::memory::{Translation, XenPage, page, remap};
use crate::pool::Pool;

/// The most pages of the table that are used, with 512 entries each.
const MAX_FRAMES: u32 = 32;
const ENTRIES: u32 = (PAGE / size_of::<EntryV1>()) as u32;

/// `struct gnttab_setup_table`.
#[repr(C)]
struct SetupTable {
    dom: u16,
    nr_frames: u32,
    status: GrantStatus,
    frame_list: *mut u64,
}

/// Does an operation on one struct.
pub(crate) fn grant_table_op<T>(op: Op, argument: &mut T) -> Result<(), HypercallError> {
    grant_table_ops(op, core::slice::from_mut(argument))
}

/// Does an operation on each of some structs.
pub(crate) fn grant_table_ops<T>(op: Op, arguments: &mut [T]) -> Result<(), HypercallError> {
    let count = arguments.len() as u64;
    let at = arguments.as_mut_ptr() as u64;
    // SAFETY: callers pass the structs of the operation; addresses in them are theirs to give.
    unsafe { call(Number::GrantTableOp, [op.0.into(), at, count, 0])? };
    Ok(())
}

/// Ours.
#[derive(Debug)]
pub(crate) struct GrantTable {
    entries: RawPages,
    refs: Pool,
    limit: u32,
    /// Where it is in the window, and how many pages.
    at: u32,
    count: u32,
}

impl GrantTable {
    /// Maps it at the start of `window`, as many pages as Xen gives of those.
    pub(crate) fn open(translation: Translation, window: &mut Pool) -> Result<Self, StartError> {
        let mut size = QuerySize {
            dom: DOMID_SELF,
            ..QuerySize::default()
        };
        grant_table_op(Op::QUERY_SIZE, &mut size)?;
        okay(size.status)?;
        let count = size.max_nr_frames.min(MAX_FRAMES);
        let none = StartError::GrantTable(GrantStatus::NO_SPACE);
        let at = window.take_run(count).ok_or(none)?;
        map(translation, at, count)?;
        let end = count * ENTRIES;
        Ok(Self {
            // SAFETY: just mapped, and whenever it is not nobody uses it.
            entries: unsafe { RawPages::new(page(at), count as usize * PAGE) },
            refs: Pool::new(NR_RESERVED_ENTRIES..end),
            limit: end - NR_RESERVED_ENTRIES,
            at,
            count,
        })
    }

    /// A table in these pages, which nobody but the test looks at.
    #[cfg(test)]
    pub(crate) fn over(entries: RawPages) -> Self {
        let count = (entries.len() / PAGE) as u32;
        let end = count * ENTRIES;
        Self {
            entries,
            refs: Pool::new(NR_RESERVED_ENTRIES..end),
            limit: end - NR_RESERVED_ENTRIES,
            at: 0,
            count,
        }
    }

    /// Takes it out of the page tables (PV), which must name nothing that is not ours while we are saved.
    pub(crate) fn unmap(&self) -> Result<(), HypercallError> {
        (self.at..self.at + self.count).try_for_each(|at| remap(at, 0))
    }

    /// Maps it again, with all there was in it.
    pub(crate) fn map_again(&self, translation: Translation) -> Result<(), StartError> {
        map(translation, self.at, self.count)
    }

    /// This domain is another one, and has granted nothing.
    pub(crate) fn forget(&mut self) {
        self.refs = Pool::new(NR_RESERVED_ENTRIES..self.count * ENTRIES);
    }

    /// How many references there are.
    pub(crate) const fn limit(&self) -> u32 {
        self.limit
    }

    /// Grants a frame; `None` without a free reference.
    pub(crate) fn grant(&mut self, peer: DomId, frame: u32, access: Access) -> Option<GrantRef> {
        let gref = self.refs.take()?;
        let read_only = match access {
            Access::ReadOnly => GTF_READONLY,
            Access::ReadWrite => 0,
        };
        let flags = u32::from(GTF_PERMIT_ACCESS | read_only);
        let at = offset(gref);
        self.entries.store_u32(at + 4, frame);
        // Flags and domain in one store, behind that of the frame.
        self.entries
            .store_u32(at, u32::from(peer.get()) << 16 | flags);
        Some(GrantRef::new(gref))
    }

    /// Ends a grant, unless it is in use at this moment (XSA-396: look and end are one step).
    pub(crate) fn end(&mut self, gref: GrantRef) -> Result<(), GrantStatus> {
        let at = offset(gref.get());
        let mut word = self.entries.load_u64(at);
        loop {
            if flags_of(word) & (GTF_READING | GTF_WRITING) != 0 {
                return Err(GrantStatus::EAGAIN);
            }
            match self.entries.compare_exchange_u64(at, word, 0) {
                Ok(()) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Lets an ended reference be used for another grant.
    pub(crate) fn give_back(&mut self, gref: GrantRef) {
        self.refs.give(gref.get(), 1);
    }
}

/// Maps as many pages of it, in a table of version 1.
fn map(translation: Translation, at: u32, count: u32) -> Result<(), StartError> {
    let mut version = GetVersion {
        dom: DOMID_SELF,
        ..GetVersion::default()
    };
    grant_table_op(Op::GET_VERSION, &mut version)?;
    if version.version != 1 {
        let (op, errno) = ("use a grant table of version 2", 22);
        return Err(PlatformError { op, errno }.into());
    }
    let mut frames = [0; MAX_FRAMES as usize];
    if matches!(translation, Translation::Pv(..)) {
        let mut setup = SetupTable {
            dom: DOMID_SELF,
            nr_frames: count,
            status: GrantStatus::GENERAL_ERROR,
            frame_list: frames.as_mut_ptr(),
        };
        grant_table_op(Op::SETUP_TABLE, &mut setup)?;
        okay(setup.status)?;
    }
    // The last first: where Xen is told page by page, the table then grows once.
    for (nth, frame) in (0..count).zip(frames).rev() {
        translation.map_xen_page(at + nth, XenPage::GrantTable(nth, frame))?;
    }
    Ok(())
}

fn okay(status: GrantStatus) -> Result<(), StartError> {
    if status.is_okay() {
        Ok(())
    } else {
        Err(StartError::GrantTable(status))
    }
}

fn offset(gref: u32) -> usize {
    gref as usize * size_of::<EntryV1>()
}

fn flags_of(word: u64) -> u16 {
    EntryV1::read_from_bytes(word.as_bytes()).map_or(0, |entry| entry.flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    #[repr(align(4096))]
    struct Page([u64; 512]);

    #[test]
    fn a_grant_in_use_does_not_end() {
        let mut page = Page([0; 512]);
        let at = NonNull::from(&mut page.0).cast();
        // SAFETY: only looked at through the value while that lives.
        let entries = unsafe { RawPages::new(at, PAGE) };
        let mut table = GrantTable::over(entries);
        assert_eq!(table.limit(), 504);
        let gref = table.grant(DomId::new(3), 0x1234, Access::ReadOnly);
        assert_eq!(gref, Some(GrantRef::new(8)));
        let entry: EntryV1 = table.entries.read_value(64);
        let flags = GTF_PERMIT_ACCESS | GTF_READONLY;
        assert_eq!((entry.flags, entry.domid, entry.frame), (flags, 3, 0x1234));
        // Xen marks it.
        table
            .entries
            .store_u32(64, 3 << 16 | u32::from(flags | GTF_READING));
        let gref = GrantRef::new(8);
        assert_eq!(table.end(gref), Err(GrantStatus::EAGAIN));
        assert_ne!(table.entries.load_u32(64), 0);
        table.entries.store_u32(64, 3 << 16 | u32::from(flags));
        assert_eq!(table.end(gref), Ok(()));
        assert_eq!(table.entries.load_u32(64), 0);
        assert_eq!(
            table.grant(DomId::new(3), 1, Access::ReadWrite),
            Some(GrantRef::new(9))
        );
        table.give_back(gref);
        assert_eq!(table.grant(DomId::new(3), 1, Access::ReadWrite), Some(gref));
        table.forget();
        assert_eq!(table.grant(DomId::new(3), 1, Access::ReadWrite), Some(gref));
    }
}
