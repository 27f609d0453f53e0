//! Domains as processes on any Linux: no Xen, no privileges.
//!
//! A [`Broker`](broker::Broker) starts every domain's process and hands it one socket. The process calls
//! [`Hosted::inherited`] and has a [`Platform`](ringfence_core::platform::Platform): grants in [arenas](Hosted), event
//! channels, and a [store](HostedStore). The `ringfence` command talks to the broker through an [`admin::Client`].
//!
//! ```no_run
//! use ringfence_hosted::admin::{Client, DomainKind, NewDomain, RestartPolicy};
//! use ringfence_hosted::{RunDir, broker::Broker};
//! use std::os::fd::AsFd as _;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = RunDir::resolve(None)?;
//! let mut broker = Broker::new(dir.clone())?;
//! let stop = broker.stop_handle(); // for whoever handles signals
//! let serving = std::thread::spawn(move || broker.run());
//!
//! let client = Client::connect(&dir)?;
//! let blk0 = NewDomain {
//!     name: "blk0".into(),
//!     kind: DomainKind::DriverDomain,
//!     argv: vec!["domain-main".into(), "--kind".into(), "driver-domain".into()],
//!     env: vec![],
//!     restart: RestartPolicy::OnFailure,
//!     destroy_on_exit: false,
//! };
//! let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
//! let domid = client.create_domain(blk0, [input.as_fd(), output.as_fd(), error.as_fd()])?;
//! # let _ = domid;
//! stop.stop();
//! serving.join().unwrap()?;
//! # Ok(())
//! # }
//! ```

pub mod admin;
mod arena;
pub mod broker;
mod control;
mod domain;
mod evtchn;
mod grants;
pub mod probe;
mod rundir;
mod store;
mod table;

pub use control::{CONTROL_FD_ENV, DomainKind};
pub use domain::{Hosted, InheritError, OpenImageError, OpenedImage, inherited_socket};
pub use evtchn::Channel;
pub use grants::{Granted, Mapping};
pub use ringfence_process::{
    Backing, Cache, ImageError, ImageFormat, ImageSpec, RestrictedRing, sandbox,
};
pub use rundir::{RunDir, RunDirError};
pub use store::{HostedStore, StoreSocket};
