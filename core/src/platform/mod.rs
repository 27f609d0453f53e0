//! What a world must provide: grants, event channels, a store. Every rule that drivers rely on has a number in
//! [`contracts`], and the conformance suite has a test for every number.
//!
//! The same drivers run on all implementors unchanged; nothing in a device crate may ask which one it is on, except through
//! [`Capabilities`].

pub mod contracts;
mod error;
mod evtchn;
mod grants;

pub use contracts::{CONTRACTS, Contract};
pub use error::{EvtchnError, GrantError, GrantStatus, PlatformError};
pub use evtchn::Channel;
pub use grants::{Access, Capabilities, Direction, GrantCopy, Granted, Local};

use crate::ids::{DomId, EvtchnPort, GrantRef};
use crate::mem::SharedMem;
use crate::store::Store;

/// One domain's view of its world. A handle: methods take `&self`, and a `&P` is a platform as well, so that many devices share one.
pub trait Platform {
    /// A page of ours that a peer may map or copy.
    type Granted: Granted;
    /// Pages of a peer mapped here; dropping it unmaps.
    type Mapping: SharedMem;
    /// Our end of an event channel; dropping it closes.
    type Channel: Channel;
    /// Our connection to XenStore. Owned by whoever runs the control plane, and passed in.
    type Store: Store;

    /// Who we are.
    fn domid(&self) -> DomId;

    /// What this world can do beyond the contracts.
    fn capabilities(&self) -> Capabilities;

    /// Allocates one zeroed page and grants it to `peer` (contracts G1, G2).
    fn alloc(&self, peer: DomId, access: Access) -> Result<Self::Granted, GrantError>;

    /// Maps pages that `peer` granted to us, all or none, consecutive in the given order (contracts G3 to G7).
    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<Self::Mapping, GrantError>;

    /// Copies between private buffers and granted pages in one call (contract G9). Every element gets its own
    /// [`GrantCopy::status`]; an `Err` means that nothing can be said about any of them.
    fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError>;

    /// Allocates a port that `peer`, and nobody else, may bind (`EVTCHNOP_alloc_unbound`).
    fn alloc_unbound(&self, peer: DomId) -> Result<Self::Channel, EvtchnError>;

    /// Binds to a port that `peer` allocated for us (`EVTCHNOP_bind_interdomain`).
    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<Self::Channel, EvtchnError>;
}

impl<P: Platform> Platform for &P {
    type Granted = P::Granted;
    type Mapping = P::Mapping;
    type Channel = P::Channel;
    type Store = P::Store;

    fn domid(&self) -> DomId {
        (**self).domid()
    }
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
    fn alloc(&self, peer: DomId, access: Access) -> Result<Self::Granted, GrantError> {
        (**self).alloc(peer, access)
    }
    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<Self::Mapping, GrantError> {
        (**self).map(peer, refs, access)
    }
    fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        (**self).copy(peer, ops)
    }
    fn alloc_unbound(&self, peer: DomId) -> Result<Self::Channel, EvtchnError> {
        (**self).alloc_unbound(peer)
    }
    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<Self::Channel, EvtchnError> {
        (**self).bind(peer, port)
    }
}
