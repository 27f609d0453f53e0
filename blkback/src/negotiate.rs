//! What the two ends tell each other in XenStore: our features and geometry, the frontend's ring and port.

use ringfence_core::ids::{EvtchnPort, GrantRef};
use ringfence_core::store::{FieldError, Store, StoreError, StoreExt, Tx};
use ringfence_core::wire::blkif::{PROTOCOL_NATIVE, VDISK_READONLY};
use thiserror::Error;

use crate::sink::Geometry;

/// Why a frontend's nodes do not describe a ring that we can serve.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum NegotiateError {
    /// A node is missing, unreadable, or holds no number.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A layout of requests that this backend does not speak.
    #[error("protocol {0:?} is not supported")]
    Protocol(heapless::String<32>),
    /// More pages than were offered.
    #[error("ring-page-order {0} is more than max-ring-page-order 0")]
    RingPageOrder(u32),
    /// More queues than were offered, or none.
    #[error("multi-queue-num-queues {0} is not 1")]
    Queues(u32),
    /// 0 is no event channel.
    #[error("event-channel 0 is no event channel")]
    NoPort,
}

impl NegotiateError {
    /// The store's failure behind it, if that is what it is: neither end is at fault then.
    pub const fn store(&self) -> Option<StoreError> {
        match self {
            Self::Field(FieldError::Store { error, .. }) => Some(*error),
            _ => None,
        }
    }
}

/// Where the frontend's ring is and how to ring it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// The ring's page.
    pub ring_ref: GrantRef,
    /// The frontend's port.
    pub port: EvtchnPort,
}

/// Reads the frontend's nodes. Whatever they hold, the result is a value or a reason that names the node.
pub fn read_frontend<S: Store>(store: &mut S, dir: &str) -> Result<Frontend, NegotiateError> {
    let protocol = store.read_opt::<heapless::String<32>>(Tx::NONE, dir, "protocol")?;
    if let Some(protocol) = protocol
        && protocol != PROTOCOL_NATIVE
        && !cfg!(ringfence_weaken = "blk_protocol")
    {
        return Err(NegotiateError::Protocol(protocol));
    }
    let queues = store.read_opt::<u32>(Tx::NONE, dir, "multi-queue-num-queues")?;
    if let Some(queues) = queues.filter(|queues| *queues != 1) {
        return Err(NegotiateError::Queues(queues));
    }
    // That the node is there, even as 0, selects the name of the other (Linux, QEMU).
    let ring_ref = match store.read_opt::<u32>(Tx::NONE, dir, "ring-page-order")? {
        None => store.read_u32(Tx::NONE, dir, "ring-ref")?,
        Some(0) => store.read_u32(Tx::NONE, dir, "ring-ref0")?,
        Some(_) if cfg!(ringfence_weaken = "blk_ring_page_order") => {
            store.read_u32(Tx::NONE, dir, "ring-ref0")?
        }
        Some(order) => return Err(NegotiateError::RingPageOrder(order)),
    };
    let port = store.read_u32(Tx::NONE, dir, "event-channel")?;
    if port == 0 {
        return Err(NegotiateError::NoPort);
    }
    Ok(Frontend {
        ring_ref: GrantRef::new(ring_ref),
        port: EvtchnPort::new(port),
    })
}

/// Writes what the frontend must know before it makes its ring.
pub fn write_features<S: Store>(
    store: &mut S,
    dir: &str,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    store.transaction(|store, tx| {
        store.write_u32(tx, dir, "feature-flush-cache", u32::from(geometry.flush))
    })
}

/// Writes what the disk is like; must be there before state 4.
pub fn write_geometry<S: Store>(
    store: &mut S,
    dir: &str,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    let info = if geometry.read_only {
        VDISK_READONLY
    } else {
        0
    };
    store.transaction(|store, tx| {
        store.write_u64(tx, dir, "sectors", geometry.sectors.get())?;
        store.write_u32(tx, dir, "info", info)?;
        store.write_u32(tx, dir, "sector-size", geometry.logical)?;
        store.write_u32(tx, dir, "physical-sector-size", geometry.physical)
    })
}
