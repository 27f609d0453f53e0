//! XenStore as drivers see it.
//!
//! Three layers, each usable alone:
//!
//! * [`Client`]: sans-IO. Encodes requests, takes received bytes in any fragmentation, yields replies and watch events.
//! * [`Connection`]: a `Client` on a [`Transport`]; blocking, one request at a time. It implements
//! * [`Store`]: what frontends, backends and tools are written against. [`StoreExt`] adds typed reads.
//!
//! ```
//! use ringfence_core::store::{FieldError, Store, StoreExt, StoreError, Tx, WatchEvent, join};
//!
//! fn publish<S: Store>(store: &mut S, dir: &str, gref: u32, port: u32) -> Result<(), StoreError> {
//!     // Retried as a whole when the commit meets a conflict.
//!     store.transaction(|store, tx| {
//!         store.write_u32(tx, dir, "ring-ref", gref)?;
//!         store.write_u32(tx, dir, "event-channel", port)
//!     })
//! }
//!
//! fn sectors<S: Store>(store: &mut S, backend: &str) -> Result<Option<u64>, FieldError> {
//!     store.read_opt(Tx::NONE, backend, "sectors") // `None`: no such node yet
//! }
//!
//! fn wait_for_peer<S: Store>(store: &mut S, backend: &str) -> Result<(), StoreError> {
//!     store.watch(&join(backend, "state")?, "peer")?; // fires once at registration
//!     loop {
//!         match store.next_watch()? {
//!             Some(WatchEvent::Changed(event)) if event.token == "peer" => return Ok(()),
//!             Some(WatchEvent::Changed(_)) => {}
//!             Some(WatchEvent::Rescan) => return Ok(()), // events were lost: look at everything again
//!             None => store.wait(None)?,
//!         }
//!     }
//! }
//! ```

mod client;
#[cfg(test)]
mod client_tests;
mod connection;
mod error;
mod field;
mod list;
pub mod number;
mod path;
mod perm;
mod queue;

use core::time::Duration;

pub use client::{Client, ClientStats, EncodeError, Event, ReplyError};
pub use connection::{Connection, Interest, Transport};
pub use error::{FieldError, StoreError};
pub use field::{Field, StoreExt};
pub use list::Names;
pub use path::{StorePath, domain_path, join};
pub use perm::{NodeAccess, Perm, Perms};
pub use queue::{Changed, EVENT_PATH_MAX, EVENT_TOKEN_MAX, WatchEvent};

/// How often [`Store::transaction`] tries before it gives up with [`StoreError::Contended`].
pub const TRANSACTION_RETRIES: u32 = 64;

/// A transaction's number, as the store gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tx(u32);

impl Tx {
    /// No transaction: the operation stands alone.
    pub const NONE: Self = Self(0);

    /// Wraps the raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A connection to XenStore on behalf of one domain.
///
/// Paths are absolute, or relative to `/local/domain/<own id>`. Every operation but [`next_watch`](Self::next_watch) waits for
/// its answer; watch events that arrive meanwhile are kept.
pub trait Store {
    /// Reads a node's value into `buf` and returns the part of it that was filled. Values have no trailing NUL.
    fn read<'b>(&mut self, tx: Tx, path: &str, buf: &'b mut [u8]) -> Result<&'b [u8], StoreError>;

    /// Writes a node, creating it and its parents where missing.
    fn write(&mut self, tx: Tx, path: &str, value: &[u8]) -> Result<(), StoreError>;

    /// Creates an empty node and its parents; nothing happens when it exists.
    fn mkdir(&mut self, tx: Tx, path: &str) -> Result<(), StoreError>;

    /// Removes a node and everything below it. [`StoreError::Missing`] only when its parent is missing as well.
    fn rm(&mut self, tx: Tx, path: &str) -> Result<(), StoreError>;

    /// Lists a node's children. `buf` takes the whole list, each name with a NUL.
    fn directory<'b>(
        &mut self,
        tx: Tx,
        path: &str,
        buf: &'b mut [u8],
    ) -> Result<Names<'b>, StoreError>;

    /// A node's permissions, owner first.
    fn get_perms(&mut self, tx: Tx, path: &str) -> Result<Perms, StoreError>;

    /// Replaces a node's permissions, owner first.
    fn set_perms(&mut self, tx: Tx, path: &str, perms: &[Perm]) -> Result<(), StoreError>;

    /// Asks for an event with `token` whenever the node or anything below it changes. Fires once at registration.
    /// `path` and `token` at most [`EVENT_PATH_MAX`] and [`EVENT_TOKEN_MAX`] bytes, else events arrive as
    /// [`WatchEvent::Rescan`].
    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;

    /// Takes a watch back. Events that are on their way may still arrive.
    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;

    /// The next pending watch event. Never blocks; `None` when nothing is pending. Identical pending events are one.
    fn next_watch(&mut self) -> Result<Option<WatchEvent>, StoreError>;

    /// Blocks until [`next_watch`](Self::next_watch) may have something, or until `timeout` has passed.
    ///
    /// Whoever sleeps on the connection's descriptor or port instead does so only right after `next_watch` had nothing: an event
    /// that came while another call waited for its answer is kept here, and nobody rings for it again.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), StoreError>;

    /// Starts a transaction.
    fn transaction_start(&mut self) -> Result<Tx, StoreError>;

    /// Ends a transaction: `commit` or abort. A conflict is an error for which [`StoreError::is_conflict`] holds.
    fn transaction_end(&mut self, tx: Tx, commit: bool) -> Result<(), StoreError>;

    /// Runs `body` in a transaction, again after each conflict, at most [`TRANSACTION_RETRIES`] times. When `body` fails the
    /// transaction is aborted and the error returned.
    fn transaction<R, E, F>(&mut self, mut body: F) -> Result<R, E>
    where
        Self: Sized,
        E: From<StoreError>,
        F: FnMut(&mut Self, Tx) -> Result<R, E>,
    {
        for _ in 0..TRANSACTION_RETRIES {
            let tx = self.transaction_start()?;
            match body(self, tx) {
                Ok(result) => match self.transaction_end(tx, true) {
                    Ok(()) => return Ok(result),
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error.into()),
                },
                Err(error) => {
                    // The body's failure is the news; that the abort fails as well adds nothing.
                    let _ = self.transaction_end(tx, false);
                    return Err(error);
                }
            }
        }
        Err(StoreError::Contended {
            tries: TRANSACTION_RETRIES,
        }
        .into())
    }
}

impl<S: Store> Store for &mut S {
    fn read<'b>(&mut self, tx: Tx, path: &str, buf: &'b mut [u8]) -> Result<&'b [u8], StoreError> {
        (**self).read(tx, path, buf)
    }
    fn write(&mut self, tx: Tx, path: &str, value: &[u8]) -> Result<(), StoreError> {
        (**self).write(tx, path, value)
    }
    fn mkdir(&mut self, tx: Tx, path: &str) -> Result<(), StoreError> {
        (**self).mkdir(tx, path)
    }
    fn rm(&mut self, tx: Tx, path: &str) -> Result<(), StoreError> {
        (**self).rm(tx, path)
    }
    fn directory<'b>(
        &mut self,
        tx: Tx,
        path: &str,
        buf: &'b mut [u8],
    ) -> Result<Names<'b>, StoreError> {
        (**self).directory(tx, path, buf)
    }
    fn get_perms(&mut self, tx: Tx, path: &str) -> Result<Perms, StoreError> {
        (**self).get_perms(tx, path)
    }
    fn set_perms(&mut self, tx: Tx, path: &str, perms: &[Perm]) -> Result<(), StoreError> {
        (**self).set_perms(tx, path, perms)
    }
    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        (**self).watch(path, token)
    }
    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        (**self).unwatch(path, token)
    }
    fn next_watch(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        (**self).next_watch()
    }
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), StoreError> {
        (**self).wait(timeout)
    }
    fn transaction_start(&mut self) -> Result<Tx, StoreError> {
        (**self).transaction_start()
    }
    fn transaction_end(&mut self, tx: Tx, commit: bool) -> Result<(), StoreError> {
        (**self).transaction_end(tx, commit)
    }
}
