//! What the two ends tell each other in XenStore: our features and geometry, the frontend's rings and ports.

mod read;
mod write;

pub use read::{Frontend, RingNodes, RingRefs, read_frontend};
pub use write::{write_features, write_geometry, write_offer};

use ringfence_core::store::{FieldError, StoreError};
use ringfence_core::wire::blkif::MAX_RING_PAGE_ORDER;
use thiserror::Error;

/// The most queues that any backend offers.
pub const MAX_QUEUES: u16 = 16;

/// The most segments of an indirect request that any backend offers, as Linux does: 1 MiB.
pub const MAX_INDIRECT: u16 = 256;

/// What a backend offers beyond what its disk can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The highest `ring-page-order`: at most [`MAX_RING_PAGE_ORDER`]. 0 is one page, and nothing is said of others then.
    pub ring_page_order: u32,
    /// The most queues: 1 to [`MAX_QUEUES`]. With 1 nothing is said of others.
    pub queues: u16,
    /// The most segments of an indirect request: at most [`MAX_INDIRECT`]. With 0 there are none.
    pub indirect_segments: u16,
    /// Whether pages may stay mapped, which takes a platform that can keep many.
    pub persistent: bool,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            ring_page_order: MAX_RING_PAGE_ORDER,
            queues: 4,
            indirect_segments: MAX_INDIRECT,
            persistent: true,
        }
    }
}

/// Why a frontend's nodes do not describe rings that we can serve.
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
    #[error("ring-page-order {order} is more than max-ring-page-order {max}")]
    RingPageOrder {
        /// What the frontend wrote.
        order: u32,
        /// What was offered.
        max: u32,
    },
    /// Pages that are no power of two, or more than were offered.
    #[error("num-ring-pages {pages} is no power of two up to max-ring-pages {max}")]
    RingPages {
        /// What the frontend wrote.
        pages: u32,
        /// What was offered.
        max: u32,
    },
    /// More queues than were offered, or none.
    #[error("multi-queue-num-queues {queues} is not between 1 and multi-queue-max-queues {max}")]
    Queues {
        /// What the frontend wrote.
        queues: u32,
        /// What was offered.
        max: u16,
    },
    /// 0 is no event channel.
    #[error("event-channel 0 is no event channel")]
    NoPort,
    /// The nodes of one of several queues.
    #[error("queue-{queue}: {why}")]
    Queue {
        /// Which one.
        queue: u16,
        /// What is wrong with them.
        why: QueueError,
    },
}

/// Why the nodes of one of several queues do not describe a ring.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A node is missing, unreadable, or holds no number.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// 0 is no event channel.
    #[error("event-channel 0 is no event channel")]
    NoPort,
}

impl From<QueueError> for NegotiateError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Field(error) => Self::Field(error),
            QueueError::NoPort => Self::NoPort,
        }
    }
}

impl NegotiateError {
    /// The store's failure behind it, if that is what it is: neither end is at fault then.
    pub const fn store(&self) -> Option<StoreError> {
        match self {
            Self::Field(FieldError::Store { error, .. })
            | Self::Queue {
                why: QueueError::Field(FieldError::Store { error, .. }),
                ..
            } => Some(*error),
            _ => None,
        }
    }
}
