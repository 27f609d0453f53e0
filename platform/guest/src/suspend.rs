//! To be saved, restored and migrated.

use crate::boot::{Source, StartError, pv};
use crate::hypercall::HypercallError;
use crate::memory::{XenPage, pfn_of, remap};
use crate::store::{self, GuestStore, StoreRing, StoreRingError};
use crate::{Guest, console, grants, power};

/// How a guest goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumed {
    /// As it was: it was not saved after all, or a copy of it was.
    Cancelled,
    /// As another domain, perhaps of another machine: all that was shared with others is gone.
    Restored,
}

/// Why a guest is not saved, or cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendError {
    /// Pages of other domains are mapped, which cannot be saved. Nothing was done.
    #[error("{pages} pages of other domains are mapped")]
    Mapped {
        /// How many.
        pages: usize,
    },
    /// `start_info` is not in memory of ours. Nothing was done.
    #[error("start_info is not in memory of ours")]
    NoStartInfo,
    /// Xen refused.
    #[error(transparent)]
    Hypercall(#[from] HypercallError),
    /// What a domain starts with is not there again.
    #[error("cannot go on: {0}")]
    Start(#[from] StartError),
    /// The ring to XenStore is not there again.
    #[error("cannot go on: {0}")]
    Store(#[from] StoreRingError),
}

impl Guest {
    /// Stops this domain so that the toolstack saves it, and returns when it goes on. For when the toolstack
    /// [asks for it](crate::toolstack::take); nobody waits for a guest that was not asked.
    ///
    /// When it was [`Restored`](Resumed::Restored), the connection to XenStore is a new one without watches; every page that was
    /// granted and every event channel is of no use any more, and harmless to drop; frontends must be told
    /// (`Frontend::resume`). The number of the domain is another one.
    ///
    /// # Errors
    /// Mappings of other domains' pages are in the way, or Xen refused: the guest runs on as it was. Or what a guest starts with
    /// is not there again, and then there may be no console either.
    pub fn suspend(self, store: &mut GuestStore) -> Result<Resumed, SuspendError> {
        let machine = self.machine();
        match machine.mapped.get() {
            0 => {}
            pages => return Err(SuspendError::Mapped { pages }),
        }
        let start_info = self.leave()?;
        let stopped = power::suspend(start_info);
        let restored = matches!(stopped, Ok(false));
        self.come_back(restored)?;
        if restored {
            self.begin_anew(store)?;
        }
        stopped?;
        Ok(if restored {
            Resumed::Restored
        } else {
            Resumed::Cancelled
        })
    }

    /// Takes out of a PV guest's memory whatever names a machine frame that is not its own, all of it or nothing. Returns the
    /// frame of `start_info`.
    fn leave(self) -> Result<u64, SuspendError> {
        let machine = self.machine();
        let Source::Pv(info) = machine.source else {
            return Ok(0);
        };
        let pfn = pfn_of(info.as_ptr() as usize);
        let frame = pfn.and_then(|pfn| machine.translation.frame(pfn));
        let frame = frame.ok_or(SuspendError::NoStartInfo)?;
        pv::set_rings(info, pv::own_number)?;
        let unmapped = machine.table.borrow().unmap();
        if let Err(error) = unmapped.and_then(|()| remap(machine.shared_at, 0)) {
            self.come_back(false)?;
            return Err(error.into());
        }
        Ok(frame)
    }

    /// Maps again what was taken out, and what a new domain has in its place.
    fn come_back(self, restored: bool) -> Result<(), StartError> {
        let machine = self.machine();
        let translation = machine.translation;
        match machine.source {
            Source::Pvh if !restored => return Ok(()),
            // Otherwise the toolstack has done so.
            Source::Pv(info) if !restored => pv::set_rings(info, |pfn| {
                let pages = pfn;
                let own = u32::try_from(pfn).ok();
                let frame = own.and_then(|pfn| translation.frame(pfn));
                frame.ok_or(StartError::Memory { pages })
            })?,
            _ => {}
        }
        let given = machine.source.given()?;
        translation.map_xen_page(machine.shared_at, XenPage::SharedInfo(given.shared_info))?;
        machine.shared.mask_upcalls();
        machine.table.borrow().map_again(translation)
    }

    /// What was shared with others is no more; console and store are there for the new domain.
    fn begin_anew(self, store: &mut GuestStore) -> Result<(), SuspendError> {
        let machine = self.machine();
        machine.life.update(|life| life.wrapping_add(1));
        grants::forget(self);
        let given = machine.source.given()?;
        if let Source::Pv(info) = machine.source {
            let list = pv::frame_list(info, machine.translation)?;
            machine.shared.publish(list);
        }
        // SAFETY: the console's page, which only the console uses.
        unsafe { console::open(given.console, machine.shared) }.map_err(StartError::from)?;
        // SAFETY: the store's page, which only this connection uses: the one before ends here.
        let mut ring =
            unsafe { StoreRing::new(given.store, machine.shared) }.map_err(StartError::from)?;
        ring.forget()?;
        *store = GuestStore::new(ring);
        machine.domid.set(store::own_domid(store)?);
        Ok(())
    }
}
