//! Linux on real Xen, from user space: dom0, a driver domain, or a guest.
//!
//! [`Linux`] is the platform that drivers run on. Below it, each usable alone: the devices of `/dev/xen` ([`gntdev`],
//! [`gntalloc`], [`evtchn`]), the way to XenStore ([`store`]) and what the control domain can ask about others ([`domains`]).
//! Descriptors come from [`files::DeviceFiles`], so that a process in a sandbox, which opens nothing by path, has the same platform.

pub mod domains;
pub mod evtchn;
pub mod files;
pub mod gntalloc;
pub mod gntdev;
mod ioctl;
mod platform;
pub mod privcmd;
pub mod store;
pub mod xsd;

pub use evtchn::Channel;
pub use files::{ByPath, DeviceFiles};
pub use gntalloc::Granted;
pub use gntdev::Mapping;
pub use platform::{Linux, OpenError};
pub use store::{LinuxStore, open_store};
