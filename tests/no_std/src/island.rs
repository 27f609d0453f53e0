//! A world of one guest and one driver domain with nothing but a few pages: the smallest platform that a frontend can live in.

use core::cell::Cell;

use ringfence_core::mem::SharedMem;
use ringfence_core::platform::{
    Access, Capabilities, Channel, EvtchnError, GrantCopy, GrantError, GrantStatus, Granted,
    Platform, PlatformError,
};
use ringfence_core::{DomId, EvtchnPort, GrantRef};

use crate::nodes::Nodes;
use crate::page::Page;

const PAGES: usize = 4;
/// References are numbers of pages from here on; the first eight are reserved in a real table.
const FIRST: u32 = 8;
const PORT: u32 = 1;

/// Everything there is.
pub struct Island {
    pages: [Page; PAGES],
    granted: [Cell<bool>; PAGES],
    rings: Cell<u32>,
}

impl Island {
    pub fn new() -> Self {
        Self {
            pages: [const { Page::zeroed() }; PAGES],
            granted: [const { Cell::new(false) }; PAGES],
            rings: Cell::new(0),
        }
    }

    fn place(&self, gref: u32) -> Option<usize> {
        let place = usize::try_from(gref.checked_sub(FIRST)?).ok()?;
        self.granted.get(place)?.get().then_some(place)
    }

    /// What the driver domain sees of a grant.
    pub fn page(&self, gref: u32) -> Option<&Page> {
        self.pages.get(self.place(gref)?)
    }

    /// How often the guest rang.
    pub fn rings(&self) -> u32 {
        self.rings.get()
    }

    /// Whether the guest has taken back all that it granted.
    pub fn is_bare(&self) -> bool {
        self.granted.iter().all(|granted| !granted.get())
    }
}

/// The guest's view.
#[derive(Clone, Copy)]
pub struct Guest<'i>(pub &'i Island);

/// A page of the island, until it is dropped.
pub struct Loan<'i> {
    island: &'i Island,
    place: usize,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.island.granted[self.place].set(false);
    }
}

impl SharedMem for Loan<'_> {
    fn len(&self) -> usize {
        self.page().len()
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.page().load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.page().store_u32(offset, value);
    }
    fn read(&self, offset: usize, dst: &mut [u8]) {
        self.page().read(offset, dst);
    }
    fn write(&self, offset: usize, src: &[u8]) {
        self.page().write(offset, src);
    }
    fn fence(&self) {
        self.page().fence();
    }
}

impl Loan<'_> {
    fn page(&self) -> &Page {
        &self.island.pages[self.place]
    }
}

impl Granted for Loan<'_> {
    fn grant_ref(&self) -> GrantRef {
        GrantRef::new(FIRST + self.place as u32)
    }

    fn try_revoke(&mut self) -> Result<(), GrantStatus> {
        self.island.granted[self.place].set(false);
        Ok(())
    }
}

/// The one event channel.
pub struct Bell<'i>(&'i Island);

impl Channel for Bell<'_> {
    fn port(&self) -> EvtchnPort {
        EvtchnPort::new(PORT)
    }

    fn notify(&self) -> Result<(), PlatformError> {
        self.0.rings.set(self.0.rings.get() + 1);
        Ok(())
    }

    /// Nobody rings the guest: it looks at its ring whenever the driver domain had its turn.
    fn take_pending(&self) -> Result<bool, PlatformError> {
        Ok(false)
    }

    fn unmask(&self) -> Result<(), PlatformError> {
        Ok(())
    }
}

impl<'i> Platform for Guest<'i> {
    type Granted = Loan<'i>;
    type Mapping = Loan<'i>;
    type Channel = Bell<'i>;
    type Store = Nodes;

    fn domid(&self) -> DomId {
        DomId::new(1)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            grant_in_place: false,
            revocable: false,
            observes_mappings: true,
            outlives_process: false,
            keeps_mappings: false,
        }
    }

    fn alloc(&self, peer: DomId, _: Access) -> Result<Loan<'i>, GrantError> {
        let limit = PAGES as u32;
        let free = self.0.granted.iter().position(|granted| !granted.get());
        let place = free.ok_or(GrantError::Exhausted { peer, limit })?;
        self.0.granted[place].set(true);
        self.0.pages[place].write(0, &[0; ringfence_core::PAGE]);
        Ok(Loan {
            island: self.0,
            place,
        })
    }

    /// Nobody grants anything to the guest.
    fn map(&self, peer: DomId, refs: &[GrantRef], _: Access) -> Result<Loan<'i>, GrantError> {
        Err(GrantError::Refused {
            peer,
            gref: refs.first().copied().unwrap_or(GrantRef::new(0)),
            status: GrantStatus::BAD_GNTREF,
        })
    }

    fn copy(&self, _: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        for op in ops {
            op.status = GrantStatus::BAD_GNTREF;
        }
        Ok(())
    }

    fn alloc_unbound(&self, _: DomId) -> Result<Bell<'i>, EvtchnError> {
        Ok(Bell(self.0))
    }

    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<Bell<'i>, EvtchnError> {
        Err(EvtchnError::Refused { peer, port })
    }
}
