//! A client in the same process: no socket, no ring.

use std::borrow::BorrowMut;
use std::time::Duration;

use ringfence_core::store::{Interest, Transport};
use thiserror::Error;

use crate::connection::ConnId;
use crate::store::Store;

/// The client waits for something that only somebody else could bring about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the store has nothing for this client, and nobody else is running")]
pub struct Stuck;

/// Moves bytes between a client and a store that both live here. The store does a request as soon as it is complete, so
/// waiting for an answer never takes time; waiting for a watch event that is not there is [`Stuck`].
#[derive(Debug)]
pub struct MemoryTransport<S> {
    store: S,
    conn: ConnId,
}

impl<S: BorrowMut<Store>> MemoryTransport<S> {
    /// A transport for `conn` of `store`.
    pub const fn new(store: S, conn: ConnId) -> Self {
        Self { store, conn }
    }
}

impl<S: BorrowMut<Store>> Transport for MemoryTransport<S> {
    type Error = Stuck;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Stuck> {
        Ok(self.store.borrow_mut().feed(self.conn, bytes))
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, Stuck> {
        let store = self.store.borrow_mut();
        let bytes = store.outgoing(self.conn);
        let len = bytes.len().min(room.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        store.sent(self.conn, len);
        Ok(len)
    }

    fn wait(&mut self, _: Interest, _: Option<Duration>) -> Result<(), Stuck> {
        if self.store.borrow_mut().outgoing(self.conn).is_empty() {
            Err(Stuck)
        } else {
            Ok(())
        }
    }
}
