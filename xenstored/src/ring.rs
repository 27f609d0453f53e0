//! The ring page of `xs_wire.h`, both ends.
//!
//! [`RingServer`] serves one domain's page from a [`Store`]; [`RingTransport`] is the domain's end, for
//! [`ringfence_core::store::Connection`]. Whose page it is and how a doorbell rings is the caller's.

use std::time::Duration;

use ringfence_core::mem::SharedMem;
use ringfence_core::store::{Interest, Transport};
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::{
    CONNECTED, DomainInterface, ERROR_COMM, ERROR_NONE, ERROR_RINGIDX, FEATURE_ERROR,
    FEATURE_RECONNECTION, RECONNECT,
};
use ringfence_core::{DomId, PAGE};
use ringfence_ring::bytes::{ByteReader, ByteWriter, Lane};
use ringfence_ring::{AttachError, PeerFault};
use thiserror::Error;

use crate::connection::ConnId;
use crate::store::Store;

const REQ_CONS: usize = std::mem::offset_of!(DomainInterface, req_cons);
const REQ_PROD: usize = std::mem::offset_of!(DomainInterface, req_prod);
const RSP_CONS: usize = std::mem::offset_of!(DomainInterface, rsp_cons);
const RSP_PROD: usize = std::mem::offset_of!(DomainInterface, rsp_prod);
const SERVER_FEATURES: usize = std::mem::offset_of!(DomainInterface, server_features);
const CONNECTION: usize = std::mem::offset_of!(DomainInterface, connection);
const ERROR: usize = std::mem::offset_of!(DomainInterface, error);

/// Why a domain's ring page is served no more. The page's `error` field says the same to the domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RingError {
    /// An index is further ahead than the ring is long (XSA-38).
    #[error("the domain moved an index out of the ring")]
    Index(#[from] PeerFault),
    /// The indices found when the page was attached to cannot be.
    #[error("the page holds impossible indices")]
    Attach(#[from] AttachError),
    /// The domain sent what is no message; holds the `XENSTORE_ERROR_*` number.
    #[error("the domain violated the protocol: error {0}")]
    Protocol(u32),
    /// The store closed the connection: the domain was released.
    #[error("the domain was released")]
    Released,
}

/// What one turn at a page did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Served {
    /// The domain's doorbell is to be rung: bytes moved.
    pub notify: bool,
    /// The budget ended before the work did: come again, nobody will ring.
    pub more: bool,
}

/// The store's end of one domain's page. `M` is a handle on the page, cheap to clone.
#[derive(Debug)]
pub struct RingServer<M: SharedMem + Clone> {
    mem: M,
    domid: DomId,
    conn: ConnId,
    lanes: Result<Lanes<M>, RingError>,
    /// Taken from the ring, not yet by the store.
    rest: Vec<u8>,
}

struct Lanes<M> {
    requests: ByteReader<M>,
    answers: ByteWriter<M>,
}

impl<M> std::fmt::Debug for Lanes<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lanes")
    }
}

impl<M: SharedMem + Clone> Lanes<M> {
    fn attach(mem: &M) -> Result<Self, RingError> {
        Ok(Self {
            requests: ByteReader::attach(mem.clone(), Lane::XENSTORE_REQ)?,
            answers: ByteWriter::attach(mem.clone(), Lane::XENSTORE_RSP)?,
        })
    }
}

impl<M: SharedMem + Clone> RingServer<M> {
    /// Connects the page of `domid`, an introduced domain, to the store. Goes on where the page's indices stand.
    ///
    /// # Panics
    /// If `mem` is shorter than a page: our own caller's mistake, not the domain's.
    pub fn new(store: &mut Store, domid: DomId, mem: M) -> Self {
        assert!(mem.len() >= PAGE, "a ring page of {} bytes", mem.len());
        mem.store_u32(SERVER_FEATURES, FEATURE_RECONNECTION | FEATURE_ERROR);
        let conn = store.connect(domid);
        let lanes = Lanes::attach(&mem);
        let mut server = Self {
            mem,
            domid,
            conn,
            lanes,
            rest: Vec::new(),
        };
        if let Err(error) = server.lanes {
            server.stop(store, error);
        }
        server
    }

    /// The connection that the page is bound to.
    pub const fn conn(&self) -> ConnId {
        self.conn
    }

    /// Moves everything that can move now, in both directions. Returns whether to ring the domain's doorbell. An error is
    /// latched; the connection is closed then, and only a domain that asks for a reset of its ring is served again.
    pub fn service(&mut self, store: &mut Store) -> Result<bool, RingError> {
        self.serve_some(store, usize::MAX)
            .map(|served| served.notify)
    }

    /// As [`service`](Self::service), but stops once `budget` bytes or a little more went either way: a domain that fills its
    /// ring as fast as it is emptied would otherwise never let go.
    pub fn serve_some(&mut self, store: &mut Store, budget: usize) -> Result<Served, RingError> {
        // A released domain has no second life on its old page.
        let reset = self.mem.load_u32(CONNECTION) == RECONNECT && store.is_introduced(self.domid);
        if reset {
            self.reset(store);
        }
        match self.transfer(store, budget) {
            Ok(served) => Ok(Served {
                notify: served.notify || reset,
                ..served
            }),
            Err(error) => {
                self.stop(store, error);
                Err(error)
            }
        }
    }

    /// The control domain introduced the domain once more: whatever it had open is gone, and its ring begins anew.
    pub fn restart(&mut self, store: &mut Store) {
        self.reset(store);
    }

    fn transfer(&mut self, store: &mut Store, budget: usize) -> Result<Served, RingError> {
        let lanes = match &mut self.lanes {
            Ok(lanes) => lanes,
            Err(error) => return Err(*error),
        };
        let mut served = Served::default();
        let mut bytes = 0usize;
        loop {
            if !store.is_connected(self.conn) {
                return Err(RingError::Released);
            }
            let mut progress = false;
            // What the store does not take stays; meanwhile the ring fills up and the domain has to wait.
            if self.rest.is_empty() {
                let mut chunk = [0; 1024];
                let len = lanes.requests.read(&mut chunk)?;
                self.rest
                    .extend_from_slice(chunk.get(..len).unwrap_or_default());
                progress |= len > 0;
            }
            let taken = store.feed(self.conn, &self.rest);
            self.rest.drain(..taken.min(self.rest.len()));
            match store.error(self.conn) {
                ERROR_NONE => {}
                error => return Err(RingError::Protocol(error)),
            }
            let sent = lanes.answers.write(store.outgoing(self.conn))?;
            store.sent(self.conn, sent);
            progress |= taken > 0 || sent > 0;
            if !progress {
                return Ok(served);
            }
            served.notify = true;
            bytes = bytes.saturating_add(taken).saturating_add(sent);
            if bytes >= budget && !weakened!("store_budget") {
                served.more = true;
                return Ok(served);
            }
            // A domain rings only if, after moving its own index, it finds ours where it had nothing left to do: ours must be
            // seen before we look at its index again and find nothing.
            self.mem.fence();
        }
    }

    fn stop(&mut self, store: &mut Store, error: RingError) {
        store.disconnect(self.conn);
        self.rest = Vec::new();
        self.lanes = Err(error);
        let number = match error {
            RingError::Index(_) | RingError::Attach(_) => ERROR_RINGIDX,
            RingError::Protocol(number) => number,
            RingError::Released => ERROR_COMM,
        };
        self.mem.store_u32(ERROR, number);
    }

    /// The domain asked for a new start: a fresh connection on an empty ring.
    fn reset(&mut self, store: &mut Store) {
        store.disconnect(self.conn);
        self.rest = Vec::new();
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            self.mem.store_u32(index, 0);
        }
        self.mem.store_u32(ERROR, ERROR_NONE);
        self.conn = store.connect(self.domid);
        self.lanes = Lanes::attach(&self.mem);
        self.mem.store_u32(CONNECTION, CONNECTED);
    }
}

/// The event channel between a domain and the store, as the domain sees it.
pub trait Doorbell {
    /// Tells the store that indices moved.
    fn ring(&mut self);

    /// Blocks until the store rang or `timeout` has passed; may return early. `false`: nobody will ever ring again.
    fn wait(&mut self, timeout: Option<Duration>) -> bool;
}

/// Why the domain's end of the page is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RingTransportError {
    /// The store moved an index out of the ring.
    #[error("the store moved an index out of the ring")]
    Index(#[from] PeerFault),
    /// The indices found on the page cannot be.
    #[error("the page holds impossible indices")]
    Attach(#[from] AttachError),
    /// The store gave up; holds the `XENSTORE_ERROR_*` number.
    #[error("the store stopped serving the page: error {0}")]
    Stopped(u32),
    /// Nobody is at the other end.
    #[error("nobody serves the page")]
    Gone,
}

/// The domain's end of the page.
pub struct RingTransport<M: SharedMem + Clone, D: Doorbell> {
    mem: M,
    doorbell: D,
    requests: ByteWriter<M>,
    answers: ByteReader<M>,
}

impl<M: SharedMem + Clone, D: Doorbell> RingTransport<M, D> {
    /// Attaches to the domain's own page where its indices stand.
    pub fn new(mem: M, doorbell: D) -> Result<Self, RingTransportError> {
        Ok(Self {
            requests: ByteWriter::attach(mem.clone(), Lane::XENSTORE_REQ)?,
            answers: ByteReader::attach(mem.clone(), Lane::XENSTORE_RSP)?,
            mem,
            doorbell,
        })
    }

    fn stopped(&self) -> Result<(), RingTransportError> {
        // Only servers that say so use the field.
        if self.mem.load_u32(SERVER_FEATURES) & FEATURE_ERROR == 0 {
            return Ok(());
        }
        match self.mem.load_u32(ERROR) {
            ERROR_NONE => Ok(()),
            error => Err(RingTransportError::Stopped(error)),
        }
    }
}

impl<M: SharedMem + Clone, D: Doorbell> Transport for RingTransport<M, D> {
    type Error = RingTransportError;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, RingTransportError> {
        let sent = self.requests.write(bytes)?;
        if sent > 0 {
            self.doorbell.ring();
        }
        Ok(sent)
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, RingTransportError> {
        let received = self.answers.read(room)?;
        if received > 0 {
            self.doorbell.ring();
        }
        Ok(received)
    }

    fn wait(
        &mut self,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> Result<(), RingTransportError> {
        self.stopped()?;
        // The doorbell rings for both directions.
        if (interest.recv && self.answers.queued()? > 0)
            || (interest.send && self.requests.free()? > 0)
        {
            return Ok(());
        }
        if self.doorbell.wait(timeout) {
            return Ok(());
        }
        self.stopped()?;
        Err(RingTransportError::Gone)
    }
}
