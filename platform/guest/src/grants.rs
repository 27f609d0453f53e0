//! Pages of ours that a peer may reach.

use ringfence_core::platform::{self, Access, GrantError, GrantStatus, PlatformError};
use ringfence_core::{DomId, GrantRef, PAGE};
use ringfence_mem::RawPages;

use crate::Guest;
use crate::memory::page;

/// A page of ours that a peer may reach. Dropping it ends the access; while the peer has it mapped it stays in quarantine.
pub struct Granted {
    guest: Guest,
    pages: RawPages,
    pfn: u32,
    gref: GrantRef,
    /// The guest's when it was granted: in another one nobody can reach it.
    life: u32,
    /// Whether the peer can still use the reference.
    live: bool,
}

pub(crate) fn alloc(guest: Guest, peer: DomId, access: Access) -> Result<Granted, GrantError> {
    release_quarantine(guest);
    let machine = guest.machine();
    let limit = machine.table.borrow().limit();
    let exhausted = GrantError::Exhausted { peer, limit };
    let pfn = machine.frames.borrow_mut().take().ok_or(exhausted)?;
    // SAFETY: free until now, and ours until it is given back, which ends the value.
    let pages = unsafe { RawPages::new(page(pfn), PAGE) };
    pages.zero(0, PAGE);
    let granted = frame(guest, pfn)
        .map_err(GrantError::from)
        .and_then(|frame| {
            let mut table = machine.table.borrow_mut();
            table.grant(peer, frame, access).ok_or(exhausted)
        });
    match granted {
        Ok(gref) => Ok(Granted {
            guest,
            pages,
            pfn,
            gref,
            life: guest.life(),
            live: true,
        }),
        Err(error) => {
            machine.frames.borrow_mut().give(pfn, 1);
            Err(error)
        }
    }
}

/// Nobody has anything mapped of a guest that was restored.
pub(crate) fn forget(guest: Guest) {
    let machine = guest.machine();
    machine.table.borrow_mut().forget();
    for pfn in machine.quarantine.borrow_mut().take() {
        machine.frames.borrow_mut().give(pfn, 1);
    }
}

/// The frame's number in a table of version 1, which has 32 bits for it.
fn frame(guest: Guest, pfn: u32) -> Result<u32, PlatformError> {
    let frame = guest.machine().translation.frame(pfn);
    let frame = frame.and_then(|frame| u32::try_from(frame).ok());
    frame.ok_or(PlatformError {
        op: "grant a frame beyond 16 TiB in a grant table of version 1",
        errno: crate::Errno::RANGE.get(),
    })
}

/// Gives back what peers have let go of, of as many pages as one look is good for. Says whether there is anything left.
pub(crate) fn release_quarantine(guest: Guest) -> bool {
    let machine = guest.machine();
    let mut quarantine = machine.quarantine.borrow_mut();
    quarantine.release(|pfn, gref| {
        let mut table = machine.table.borrow_mut();
        if table.end(gref).is_err() {
            return false;
        }
        table.give_back(gref);
        machine.frames.borrow_mut().give(pfn, 1);
        true
    });
    !quarantine.is_empty()
}

impl platform::Granted for Granted {
    fn grant_ref(&self) -> GrantRef {
        self.gref
    }

    fn try_revoke(&mut self) -> Result<(), GrantStatus> {
        if self.live && self.life == self.guest.life() {
            self.guest.machine().table.borrow_mut().end(self.gref)?;
        }
        self.live = false;
        Ok(())
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let machine = self.guest.machine();
        if platform::Granted::try_revoke(self).is_ok() {
            if self.life == self.guest.life() {
                machine.table.borrow_mut().give_back(self.gref);
            }
            machine.frames.borrow_mut().give(self.pfn, 1);
        } else {
            machine.quarantine.borrow_mut().put(self.pfn, self.gref);
        }
    }
}

ringfence_mem::shared_by_pages!(Granted);
