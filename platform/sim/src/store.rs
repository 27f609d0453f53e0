//! XenStore for the domains of a world.

use std::sync::Arc;
use std::time::Duration;

use ringfence_core::store::{Connection, Interest, Transport};
use ringfence_xenstored::ConnId;
use thiserror::Error;

use crate::domain::Sim;
use crate::world::Shared;

/// Why a connection to the world's store ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StoreClosed {
    /// Waiting without a deadline for an event that nobody is there to bring about: the world has one thread.
    #[error("waiting for a store event that nobody can send")]
    Stuck,
    /// The connection's process died, or its domain was destroyed.
    #[error("the process of this store connection is dead")]
    Dead,
}

/// A process's connection to the world's store. Closed when it is dropped and when the process dies.
#[derive(Debug)]
pub struct SimTransport {
    sim: Sim,
    shared: Arc<Shared>,
    conn: ConnId,
}

/// XenStore as one process of one domain sees it. Waiting never takes time: with a deadline it returns at once, without one
/// it fails when nothing is there.
pub type SimStore = Connection<SimTransport>;

impl SimTransport {
    pub(crate) const fn new(sim: Sim, shared: Arc<Shared>, conn: ConnId) -> Self {
        Self { sim, shared, conn }
    }
}

impl Transport for SimTransport {
    type Error = StoreClosed;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, StoreClosed> {
        self.sim.step();
        let mut store = self.shared.store();
        if !store.is_connected(self.conn) {
            return Err(StoreClosed::Dead);
        }
        Ok(store.feed(self.conn, bytes))
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, StoreClosed> {
        let mut store = self.shared.store();
        if !store.is_connected(self.conn) {
            return Err(StoreClosed::Dead);
        }
        let bytes = store.outgoing(self.conn);
        let len = bytes.len().min(room.len());
        room[..len].copy_from_slice(&bytes[..len]);
        store.sent(self.conn, len);
        Ok(len)
    }

    fn wait(&mut self, _: Interest, timeout: Option<Duration>) -> Result<(), StoreClosed> {
        let store = self.shared.store();
        if !store.is_connected(self.conn) {
            return Err(StoreClosed::Dead);
        }
        if timeout.is_none() && store.outgoing(self.conn).is_empty() {
            return Err(StoreClosed::Stuck);
        }
        Ok(())
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        self.shared.store().disconnect(self.conn);
    }
}
