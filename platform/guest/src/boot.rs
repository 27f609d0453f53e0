//! What the two ways to start have in common: what was found.

pub(crate) mod pv;
pub(crate) mod pvh;

use core::ops::Range;
use core::ptr::NonNull;

use ringfence_core::EvtchnPort;
use ringfence_core::platform::PlatformError;
use ringfence_core::store::StoreError;
use ringfence_ring::AttachError;

use crate::hypercall::HypercallError;
use crate::memory::Translation;
use pv::StartInfo;

/// `MAX_GUEST_CMDLINE`.
pub(crate) const COMMAND_LINE: usize = 1024;

/// Why a guest cannot start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What Xen says about the memory makes no sense, or there is too little.
    #[error("memory of {pages} pages cannot be used")]
    Memory {
        /// What it says.
        pages: u64,
    },
    /// The page tables are not where they should be.
    #[error("no page tables at pt_base of start_info")]
    NoTables,
    /// This is no guest of Xen's.
    #[error("no Xen here: start this image with xl create, type=\"pv\" or type=\"pvh\"")]
    NoXen,
    /// What Xen gave is not what it should be.
    #[error("hvm_start_info begins with {magic:#x}")]
    StartInfo {
        /// What is in the place of the magic number.
        magic: u32,
    },
    /// A parameter that Xen has for every PVH guest is none.
    #[error("hvm parameter {index} is {value:#x}")]
    Param {
        /// Its number in `xen/hvm/params.h`.
        index: u32,
        /// What it is.
        value: u64,
    },
    /// Xen refused.
    #[error(transparent)]
    Hypercall(#[from] HypercallError),
    /// The grant table cannot be had.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Another version of grant tables is in use.
    #[error("no grant table: {0}")]
    GrantTable(ringfence_core::platform::GrantStatus),
    /// The page of a ring is no ring.
    #[error("ring of console or xenstore: {0}")]
    Ring(#[from] AttachError),
    /// XenStore does not say who we are.
    #[error("xenstore node domid: {0}")]
    Store(#[from] StoreError),
    /// What it says is no domain's number.
    #[error("xenstore node domid is no number")]
    Domid,
}

/// A page shared with a domain that serves us, and the port to ring it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(crate) page: NonNull<u8>,
    pub(crate) port: EvtchnPort,
}

/// What Xen and the toolstack give anew to every domain: at the start, and when a saved one goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    /// The machine address of `shared_info` (PV).
    pub(crate) shared_info: u64,
    pub(crate) store: Ring,
    pub(crate) console: Ring,
}

/// Where that is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Pv(NonNull<StartInfo>),
    Pvh,
}

impl Source {
    pub(crate) fn given(self) -> Result<Given, StartError> {
        match self {
            Self::Pv(info) => pv::given(info),
            Self::Pvh => pvh::given(),
        }
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) translation: Translation,
    pub(crate) source: Source,
    pub(crate) given: Given,
    /// Up to the first NUL.
    pub(crate) command_line: [u8; COMMAND_LINE],
    /// Pages that are free and mapped.
    pub(crate) frames: Range<u32>,
}
