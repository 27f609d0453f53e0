//! Errors as they travel, so that the caller meets the same value as if it had called the platform itself.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};

use ringfence_core::platform::{EvtchnError, GrantError, GrantStatus, PlatformError};
use ringfence_core::store::StoreError;
use ringfence_core::wire::xs_wire::Errno;
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use serde::{Deserialize, Serialize};

/// Why something did not work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Failure {
    /// `PlatformError`.
    Platform {
        /// The system call.
        op: String,
        /// Its error number.
        errno: i32,
    },
    /// `GrantError::Exhausted`.
    GrantsExhausted {
        /// For whom.
        peer: u16,
        /// How many there are.
        limit: u32,
    },
    /// `GrantError::Refused`.
    GrantRefused {
        /// Whose.
        peer: u16,
        /// Which one.
        gref: u32,
        /// `GNTST_*`.
        status: i16,
    },
    /// A status of `Granted::try_revoke`.
    Status(i16),
    /// `EvtchnError::Exhausted`.
    PortsExhausted,
    /// `EvtchnError::Refused`.
    PortRefused {
        /// Whose.
        peer: u16,
        /// Which one.
        port: u32,
    },
    /// `EvtchnError::NoDomain`.
    NoDomain {
        /// Which one.
        peer: u16,
    },
    /// `StoreError::Missing`.
    NodeMissing,
    /// `StoreError::Denied`.
    NodeDenied,
    /// `StoreError::Refused`, with the number on Linux.
    StoreRefused(i32),
    /// `StoreError::TooLong`.
    ValueTooLong {
        /// Bytes of the answer.
        len: u64,
        /// Bytes of the buffer.
        room: u64,
    },
    /// `StoreError::Unsendable`.
    Unsendable {
        /// Bytes of the request.
        len: u64,
    },
    /// `StoreError::Transport`.
    StoreTransport,
    /// The agent panicked, or has no answer for another reason.
    Other(String),
}

impl From<PlatformError> for Failure {
    fn from(error: PlatformError) -> Self {
        Self::Platform {
            op: error.op.to_owned(),
            errno: error.errno,
        }
    }
}

impl From<GrantStatus> for Failure {
    fn from(status: GrantStatus) -> Self {
        Self::Status(status.get())
    }
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Exhausted { peer, limit } => Self::GrantsExhausted {
                peer: peer.get(),
                limit,
            },
            GrantError::Refused { peer, gref, status } => Self::GrantRefused {
                peer: peer.get(),
                gref: gref.get(),
                status: status.get(),
            },
            GrantError::Platform(error) => error.into(),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<EvtchnError> for Failure {
    fn from(error: EvtchnError) -> Self {
        match error {
            EvtchnError::Exhausted => Self::PortsExhausted,
            EvtchnError::Refused { peer, port } => Self::PortRefused {
                peer: peer.get(),
                port: port.get(),
            },
            EvtchnError::NoDomain { peer } => Self::NoDomain { peer: peer.get() },
            EvtchnError::Platform(error) => error.into(),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Missing => Self::NodeMissing,
            StoreError::Denied => Self::NodeDenied,
            StoreError::Refused(errno) => Self::StoreRefused(errno.number()),
            StoreError::TooLong { len, room } => Self::ValueTooLong {
                len: len as u64,
                room: room as u64,
            },
            StoreError::Unsendable { len } => Self::Unsendable { len: len as u64 },
            StoreError::Transport => Self::StoreTransport,
            other => Self::Other(other.to_string()),
        }
    }
}

impl Failure {
    /// The error of an operation that can only meet the system's.
    ///
    /// # Panics
    /// If it is anything else, as where the agent panicked: the caller's thread then fails with the agent's words.
    #[must_use]
    pub fn into_platform(self) -> PlatformError {
        match self {
            Self::Platform { op, errno } => PlatformError {
                // It names operations of the program itself; those of an agent are kept for good, as the errors are few.
                op: op.leak(),
                errno,
            },
            other => panic!("the agent says: {other:?}"),
        }
    }

    /// The error of granting or mapping.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn into_grant(self) -> GrantError {
        match self {
            Self::GrantsExhausted { peer, limit } => GrantError::Exhausted {
                peer: DomId::new(peer),
                limit,
            },
            Self::GrantRefused { peer, gref, status } => GrantError::Refused {
                peer: DomId::new(peer),
                gref: GrantRef::new(gref),
                status: GrantStatus::new(status),
            },
            other => other.into_platform().into(),
        }
    }

    /// The status of revoking.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn into_status(self) -> GrantStatus {
        match self {
            Self::Status(status) => GrantStatus::new(status),
            other => panic!("the agent says: {other:?}"),
        }
    }

    /// The error of allocating or binding a port.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn into_evtchn(self) -> EvtchnError {
        match self {
            Self::PortsExhausted => EvtchnError::Exhausted,
            Self::PortRefused { peer, port } => EvtchnError::Refused {
                peer: DomId::new(peer),
                port: EvtchnPort::new(port),
            },
            Self::NoDomain { peer } => EvtchnError::NoDomain {
                peer: DomId::new(peer),
            },
            other => other.into_platform().into(),
        }
    }

    /// The error of the store.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn into_store(self) -> StoreError {
        match self {
            Self::NodeMissing => StoreError::Missing,
            Self::NodeDenied => StoreError::Denied,
            Self::StoreRefused(number) => Errno::ALL
                .iter()
                .find(|errno| errno.number() == number)
                .map_or(StoreError::UnknownErrno, |errno| {
                    StoreError::Refused(*errno)
                }),
            Self::ValueTooLong { len, room } => StoreError::TooLong {
                len: len as usize,
                room: room as usize,
            },
            Self::Unsendable { len } => StoreError::Unsendable { len: len as usize },
            Self::StoreTransport => StoreError::Transport,
            other => panic!("the agent says: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_way() {
        let system = PlatformError {
            op: "mmap",
            errno: 22,
        };
        let (peer, gref, port) = (DomId::new(5), GrantRef::new(9), EvtchnPort::new(3));
        for error in [
            GrantError::Exhausted { peer, limit: 4 },
            GrantError::Refused {
                peer,
                gref,
                status: GrantStatus::BAD_GNTREF,
            },
            system.into(),
        ] {
            assert_eq!(Failure::from(error).into_grant(), error);
        }
        for error in [
            EvtchnError::Exhausted,
            EvtchnError::Refused { peer, port },
            EvtchnError::NoDomain { peer },
            system.into(),
        ] {
            assert_eq!(Failure::from(error).into_evtchn(), error);
        }
        let refused = Errno::ALL.iter().map(|errno| StoreError::from(*errno));
        let others = [
            StoreError::TooLong { len: 9, room: 4 },
            StoreError::Unsendable { len: 5000 },
            StoreError::Transport,
        ];
        for error in refused.chain(others) {
            assert_eq!(Failure::from(error).into_store(), error);
        }
    }
}
