//! What can go wrong below the drivers.

use crate::ids::{DomId, EvtchnPort, GrantRef};
pub use crate::wire::grant_table::Status as GrantStatus;

/// The system below us failed: neither the peer's fault nor the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{op} failed: errno {errno}")]
pub struct PlatformError {
    /// The system call, ioctl or hypercall.
    pub op: &'static str,
    /// The positive error number of the system.
    pub errno: i32,
}

/// Why a page could not be granted or mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// No page or no reference left to grant to this peer.
    #[error("out of grants for domain {peer}: {limit} in use")]
    Exhausted {
        /// The peer.
        peer: DomId,
        /// How many pages this world can grant to one peer.
        limit: u32,
    },
    /// The grant table refused this reference.
    #[error("grant {gref} of domain {peer} refused: {status}")]
    Refused {
        /// Whose grant.
        peer: DomId,
        /// Which one: the first of the batch that was refused.
        gref: GrantRef,
        /// Why.
        status: GrantStatus,
    },
    /// The system failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// Why a port could not be allocated or bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvtchnError {
    /// No port left.
    #[error("out of event channels")]
    Exhausted,
    /// The peer has no such port, did not allocate it for us, or somebody is bound to it.
    #[error("event channel {port} of domain {peer} cannot be bound")]
    Refused {
        /// Whose port.
        peer: DomId,
        /// Which one.
        port: EvtchnPort,
    },
    /// There is no such domain, or it is being destroyed.
    #[error("no domain {peer}")]
    NoDomain {
        /// The peer.
        peer: DomId,
    },
    /// The system failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}
