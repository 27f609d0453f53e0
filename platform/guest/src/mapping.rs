//! Pages of other domains: mapped in the window, or copied.

use alloc::vec::Vec;

use ringfence_core::platform::{Access, GrantCopy, GrantError, GrantStatus, Local, PlatformError};
use ringfence_core::wire::grant_table::{
    CopyPtr, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_HOST_MAP, GNTMAP_READONLY,
    GrantCopy as WireCopy, MapGrantRef, Op, UnmapGrantRef,
};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_mem::RawPages;

use crate::Guest;
use crate::hypercall::DOMID_SELF;
use crate::memory::{page, pfn_of};
use crate::table::{grant_table_op, grant_table_ops};

/// How often what Xen says to try again is tried again.
const RETRIES: usize = 100;

/// Pages of a peer. Dropping it unmaps them.
pub struct Mapping {
    guest: Guest,
    pages: RawPages,
    at: u32,
    handles: Vec<u32>,
}

pub(crate) fn map(
    guest: Guest,
    peer: DomId,
    refs: &[GrantRef],
    access: Access,
) -> Result<Mapping, GrantError> {
    let machine = guest.machine();
    let limit = machine.window.borrow().free();
    let exhausted = GrantError::Exhausted { peer, limit };
    let count = u32::try_from(refs.len()).map_err(|_| exhausted)?;
    if count == 0 {
        let (op, errno) = ("map no page", 22);
        return Err(PlatformError { op, errno }.into());
    }
    let at = machine
        .window
        .borrow_mut()
        .take_run(count)
        .ok_or(exhausted)?;
    // SAFETY: a place of the window that is ours until the value's drop gives it back; touched only once all is mapped.
    let pages = unsafe {
        match access {
            Access::ReadOnly => RawPages::read_only(page(at), refs.len() * PAGE),
            Access::ReadWrite => RawPages::new(page(at), refs.len() * PAGE),
        }
    };
    let mut mapping = Mapping {
        guest,
        pages,
        at,
        handles: Vec::with_capacity(refs.len()),
    };
    let flags = match access {
        Access::ReadOnly => GNTMAP_HOST_MAP | GNTMAP_READONLY,
        Access::ReadWrite => GNTMAP_HOST_MAP,
    };
    for (place, gref) in (at..).zip(refs) {
        let mut request = MapGrantRef {
            host_addr: machine.translation.host_address(place),
            flags,
            gref: gref.get(),
            dom: peer.get(),
            ..MapGrantRef::default()
        };
        for _ in 0..RETRIES {
            grant_table_op(Op::MAP_GRANT_REF, &mut request).map_err(PlatformError::from)?;
            if request.status != GrantStatus::EAGAIN {
                break;
            }
        }
        // What was mapped before a refusal is unmapped by the drop.
        if !request.status.is_okay() {
            let (gref, status) = (*gref, request.status);
            return Err(GrantError::Refused { peer, gref, status });
        }
        mapping.handles.push(request.handle);
        machine.mapped.update(|mapped| mapped + 1);
    }
    Ok(mapping)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let machine = self.guest.machine();
        for (place, handle) in (self.at..).zip(&self.handles) {
            let mut request = UnmapGrantRef {
                host_addr: machine.translation.host_address(place),
                handle: *handle,
                ..UnmapGrantRef::default()
            };
            let done = grant_table_op(Op::UNMAP_GRANT_REF, &mut request);
            debug_assert!(done.is_ok() && request.status.is_okay());
            machine.mapped.update(|mapped| mapped - 1);
        }
        let count = u32::try_from(self.pages.len() / PAGE).unwrap_or(0);
        machine.window.borrow_mut().give(self.at, count);
    }
}

/// Copies each element, in pieces that end where a page of ours ends.
pub(crate) fn copy(
    guest: Guest,
    peer: DomId,
    ops: &mut [GrantCopy<'_>],
) -> Result<(), PlatformError> {
    for op in ops {
        op.status = copy_one(guest, peer, op)?;
    }
    Ok(())
}

fn copy_one(guest: Guest, peer: DomId, op: &GrantCopy<'_>) -> Result<GrantStatus, PlatformError> {
    let (mut address, mut left, flags) = match &op.local {
        Local::ToPeer(bytes) => (bytes.as_ptr() as usize, bytes.len(), GNTCOPY_DEST_GREF),
        Local::FromPeer(bytes) => (bytes.as_ptr() as usize, bytes.len(), GNTCOPY_SOURCE_GREF),
    };
    if usize::from(op.offset) + left > PAGE {
        return Ok(GrantStatus::BAD_COPY_ARG);
    }
    let mut offset = op.offset;
    while left > 0 {
        let within = address % PAGE;
        let len = left.min(PAGE - within);
        let frame = pfn_of(address).and_then(|pfn| guest.machine().translation.frame(pfn));
        let Some(frame) = frame else {
            return Ok(GrantStatus::BAD_PAGE);
        };
        let ours = CopyPtr {
            frame,
            domid: DOMID_SELF,
            offset: u16::try_from(within).unwrap_or(0),
            ..CopyPtr::default()
        };
        let theirs = CopyPtr {
            frame: op.gref.get().into(),
            domid: peer.get(),
            offset,
            ..CopyPtr::default()
        };
        let (source, dest) = match op.local {
            Local::ToPeer(_) => (ours, theirs),
            Local::FromPeer(_) => (theirs, ours),
        };
        let len16 = u16::try_from(len).unwrap_or(0);
        let mut request = WireCopy {
            source,
            dest,
            len: len16,
            flags,
            ..WireCopy::default()
        };
        for _ in 0..RETRIES {
            grant_table_ops(Op::COPY, core::slice::from_mut(&mut request))?;
            if request.status != GrantStatus::EAGAIN {
                break;
            }
        }
        if !request.status.is_okay() {
            return Ok(request.status);
        }
        address += len;
        left -= len;
        offset = offset.wrapping_add(len16);
    }
    Ok(GrantStatus::OKAY)
}

ringfence_mem::shared_by_pages!(Mapping);
