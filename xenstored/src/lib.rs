//! The XenStore daemon, sans-IO.
//!
//! [`Store`] takes the bytes that clients send and holds the bytes that they are to be sent; a transport moves them: a Unix
//! socket, or a domain's ring page ([`ring`]). Every operation of Xen 4.17 is there, with Xen's permissions and quotas.
//!
//! ```
//! use ringfence_core::DomId;
//! use ringfence_xenstored::{MemoryTransport, Store};
//! use ringfence_core::store::{Connection, Store as _, Tx};
//!
//! let mut store = Store::new();
//! let conn = store.connect(DomId::DOM0);
//! let mut client = Connection::<_>::new(MemoryTransport::new(&mut store, conn));
//! client.write(Tx::NONE, "/tool/name", b"ringfence").unwrap();
//! assert_eq!(client.read(Tx::NONE, "/tool/name", &mut [0; 64]).unwrap(), b"ringfence");
//! ```
#![forbid(unsafe_code)]

mod check;
mod connection;
mod domain;
pub mod fairness;
mod memory;
mod ops;
mod outgoing;
mod path;
mod perms;
mod quota;
pub mod ring;
mod store;
mod transaction;
mod tree;
mod watch;

pub use check::Damage;
pub use connection::ConnId;
pub use memory::{MemoryTransport, Stuck};
pub use quota::{Limits, Usage};
pub use store::{Effect, Store};
