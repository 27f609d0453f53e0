//! Ids, pages, wire structs, the xenbus state machine, the XenStore client and the platform traits of Xen's split
//! drivers. `no_std`, no allocator.
#![no_std]
#![forbid(unsafe_code)]

pub mod ids;
pub mod mem;
pub mod platform;
pub mod store;
#[doc(hidden)]
pub mod weaken;
pub mod wire;
pub mod words;
pub mod xenbus;

pub use ids::{DomId, EvtchnPort, GrantRef, Handle, RequestId, Sector, SectorCount};
pub use mem::{PAGE, SharedMem};
pub use words::Words;
