//! What can be wrong with the peer, and with what we are given to attach to.

use crate::RingIndex;

/// The peer broke the protocol of the ring. Latched: once an end has returned one, it returns the same for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// The frontend's request index claims more requests than it can have open, or went backwards.
    #[error(
        "req_prod {req_prod} with req_cons {req_cons} and rsp_prod {rsp_prod} in a ring of {size}"
    )]
    RequestIndex {
        /// What the frontend published.
        req_prod: RingIndex,
        /// How far we had taken requests.
        req_cons: RingIndex,
        /// How far we had written responses.
        rsp_prod: RingIndex,
        /// Entries in the ring.
        size: u32,
    },
    /// The backend's response index claims more responses than there are open requests, or went backwards.
    #[error("rsp_prod {rsp_prod} with rsp_cons {rsp_cons} and req_prod {req_prod}")]
    ResponseIndex {
        /// What the backend published.
        rsp_prod: RingIndex,
        /// How far we had taken responses.
        rsp_cons: RingIndex,
        /// How far we had published requests.
        req_prod: RingIndex,
    },
    /// The indices of a byte ring are further apart than it is long.
    #[error("byte ring prod {prod} and cons {cons} in {size} bytes")]
    ByteIndex {
        /// The producer's index.
        prod: RingIndex,
        /// The consumer's index.
        cons: RingIndex,
        /// Bytes in the ring.
        size: u32,
    },
}

/// Why there is no ring on these pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Not 1 to 16 whole pages, or too small for a single entry.
    #[error("ring memory of {bytes} bytes for entries of {stride}")]
    Memory {
        /// Length of the memory.
        bytes: usize,
        /// Bytes per entry.
        stride: usize,
    },
    /// The indices found on the page cannot belong to a ring of this size.
    #[error("req_prod {req_prod} and rsp_prod {rsp_prod} in a ring of {size}")]
    Indices {
        /// The frontend's index as found.
        req_prod: RingIndex,
        /// The backend's index as found.
        rsp_prod: RingIndex,
        /// Entries in the ring.
        size: u32,
    },
    /// The indices found on the page do not go with how far an earlier process had taken requests.
    #[error(
        "req_prod {req_prod} and rsp_prod {rsp_prod} with req_cons {req_cons} in a ring of {size}"
    )]
    Resumed {
        /// The frontend's index as found.
        req_prod: RingIndex,
        /// How far requests were taken.
        req_cons: RingIndex,
        /// The backend's index as found.
        rsp_prod: RingIndex,
        /// Entries in the ring.
        size: u32,
    },
    /// The indices found in a byte ring are further apart than it is long.
    #[error(transparent)]
    Bytes(#[from] PeerFault),
}

/// Every entry holds a request that is not answered yet (`RING_FULL`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("ring is full")]
pub struct Full;
