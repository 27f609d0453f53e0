//! XenStore, over the ring page that the toolstack gave every guest.

use core::time::Duration;

use ringfence_core::platform::PlatformError;
use ringfence_core::store::{Connection, Interest, Store, Transport, Tx, number};
use ringfence_core::{DomId, EvtchnPort};
use ringfence_mem::RawPages;
use ringfence_ring::bytes::{ByteReader, ByteWriter, Lane};
use ringfence_ring::{AttachError, PeerFault};
use zerocopy::IntoBytes as _;

use crate::boot::{Ring, StartError};
use crate::evtchn;
use crate::shared::SharedInfo;

/// A connection to XenStore. There is one ring, hence one connection.
pub type GuestStore = Connection<StoreRing>;

/// Why the ring is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreRingError {
    /// The store's indices make no sense.
    #[error("xenstore ring: {0}")]
    Peer(#[from] PeerFault),
    /// Xen refused.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// The two byte rings of `xenstore_domain_interface`, and their doorbell.
pub struct StoreRing {
    requests: ByteWriter<RawPages>,
    replies: ByteReader<RawPages>,
    port: EvtchnPort,
    shared: &'static SharedInfo,
}

impl StoreRing {
    /// # Safety
    /// The page is the store's ring, mapped for good, and nobody else's.
    pub(crate) unsafe fn new(ring: Ring, shared: &'static SharedInfo) -> Result<Self, AttachError> {
        let len = ringfence_core::PAGE;
        // SAFETY: as promised; the two ends touch different bytes.
        let pages = unsafe { (RawPages::new(ring.page, len), RawPages::new(ring.page, len)) };
        shared.unmask(ring.port);
        Ok(Self {
            requests: ByteWriter::attach(pages.0, Lane::XENSTORE_REQ)?,
            replies: ByteReader::attach(pages.1, Lane::XENSTORE_RSP)?,
            port: ring.port,
            shared,
        })
    }

    /// The port that the store rings, for whoever waits for it together with others.
    pub const fn port(&self) -> EvtchnPort {
        self.port
    }

    /// Throws away what the store said to the domain that we were.
    pub(crate) fn forget(&mut self) -> Result<(), StoreRingError> {
        let mut room = [0; 256];
        while self.recv(&mut room)? > 0 {}
        Ok(())
    }

    fn ring(&self, moved: usize) -> Result<usize, StoreRingError> {
        if moved > 0 {
            evtchn::send(self.port).map_err(PlatformError::from)?;
        }
        Ok(moved)
    }
}

impl Transport for StoreRing {
    type Error = StoreRingError;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, StoreRingError> {
        let sent = self.requests.write(bytes)?;
        self.ring(sent)
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, StoreRingError> {
        // First: what comes after the look makes it pending again.
        self.shared.clear(self.port);
        let received = self.replies.read(room)?;
        self.ring(received)
    }

    fn wait(&mut self, _: Interest, timeout: Option<Duration>) -> Result<(), StoreRingError> {
        Ok(self.shared.wait([self.port], timeout)?)
    }
}

/// The number of our domain, as the store has it.
pub(crate) fn own_domid(store: &mut GuestStore) -> Result<DomId, StartError> {
    let mut room = [0u64; 4];
    let text = store.read(Tx::NONE, "domid", room.as_mut_bytes())?;
    let number = number::unsigned(text).and_then(|number| u16::try_from(number).ok());
    let domid = number.map(DomId::new).ok_or(StartError::Domid)?;
    if domid < DomId::FIRST_RESERVED {
        Ok(domid)
    } else {
        Err(StartError::Domid)
    }
}
