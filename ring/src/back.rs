//! The backend's end.

mod resume;

pub use self::resume::mark_of;

use crate::fault::{AttachError, PeerFault};
use crate::layout::{Entries, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use crate::notify::{Armed, Notify};
use crate::{Protocol, RingIndex, RingMem};
use ringfence_core::weakened;
use zerocopy::IntoBytes;

/// The right, and the duty, to answer one request: neither `Copy` nor `Clone`, and [`Back::respond`] consumes it, so that a
/// response always has an entry of the ring to go to.
#[must_use = "a request that is never answered takes an entry of the ring for ever"]
#[derive(PartialEq, Eq, Debug)]
pub struct Slot {
    index: RingIndex,
}

impl Slot {
    /// The ring index that the request was taken from. Unique among the open requests of one ring.
    #[inline]
    pub const fn index(&self) -> RingIndex {
        self.index
    }
}

/// A request, copied out of the ring, with the right to answer it. It borrows nothing and may be kept for as long as it takes.
#[must_use = "a request that is never answered takes an entry of the ring for ever"]
pub struct Taken<P: Protocol> {
    request: P::Request,
    slot: Slot,
}

impl<P: Protocol> Taken<P> {
    /// The request.
    #[inline]
    pub const fn request(&self) -> &P::Request {
        &self.request
    }

    /// The ring index that the request was taken from.
    #[inline]
    pub const fn index(&self) -> RingIndex {
        self.slot.index
    }

    /// The request and the right to answer it, to be kept in different places.
    #[inline]
    pub fn into_parts(self) -> (P::Request, Slot) {
        (self.request, self.slot)
    }
}

impl<P: Protocol> From<Taken<P>> for Slot {
    #[inline]
    fn from(taken: Taken<P>) -> Self {
        taken.slot
    }
}

/// The backend's end of a ring: requests in, responses out.
pub struct Back<M, P> {
    mem: M,
    entries: Entries<P>,
    /// Where the next response goes (`rsp_prod_pvt`).
    rsp_prod_pvt: RingIndex,
    /// `rsp_prod` as we last published it; never read back.
    rsp_prod: RingIndex,
    /// The next request to take.
    req_cons: RingIndex,
    /// How far the current pass goes; checked.
    req_seen: RingIndex,
    /// Open requests of an earlier process whose slots nobody has asked for.
    unclaimed: u32,
    fault: Option<PeerFault>,
}

impl<M: RingMem, P: Protocol> Back<M, P> {
    /// Attaches to the ring where it stands: `rsp_prod` is read once and both private indices start there. Never writes:
    /// initialising would wipe requests that the frontend has already posted.
    ///
    /// # Errors
    /// [`AttachError::Indices`] when `req_prod` claims more requests than the ring holds.
    pub fn attach(mem: M) -> Result<Self, AttachError> {
        let entries = Entries::<P>::of(&mem)?;
        let rsp_prod = RingIndex::new(mem.load_u32(RSP_PROD));
        let req_prod = RingIndex::new(mem.load_u32(REQ_PROD));
        let size = entries.size();
        if weakened!("xsa_39_back_attach") || req_prod.since(rsp_prod) <= size {
            return Self::attach_at(mem, rsp_prod);
        }
        Err(AttachError::Indices {
            req_prod,
            rsp_prod,
            size,
        })
    }

    /// Starts both private indices at `index` (`BACK_RING_ATTACH`), without reading or writing the pages.
    pub fn attach_at(mem: M, index: RingIndex) -> Result<Self, AttachError> {
        Ok(Self {
            entries: Entries::of(&mem)?,
            mem,
            rsp_prod_pvt: index,
            rsp_prod: index,
            req_cons: index,
            req_seen: index,
            unclaimed: 0,
            fault: None,
        })
    }

    /// Entries in the ring.
    #[inline]
    pub const fn size(&self) -> u32 {
        self.entries.size()
    }

    /// How many requests have been taken and not answered.
    #[inline]
    pub const fn open(&self) -> u32 {
        self.req_cons.since(self.rsp_prod_pvt)
    }

    /// The index of the next request to take.
    #[inline]
    pub const fn req_cons(&self) -> RingIndex {
        self.req_cons
    }

    /// The index that the next response gets.
    #[inline]
    pub const fn rsp_prod_pvt(&self) -> RingIndex {
        self.rsp_prod_pvt
    }

    /// The response index as last published.
    #[inline]
    pub const fn rsp_prod(&self) -> RingIndex {
        self.rsp_prod
    }

    /// The fault that ended this ring, if any. Open requests may still be answered.
    #[inline]
    pub const fn fault(&self) -> Option<PeerFault> {
        self.fault
    }

    /// The shared pages.
    #[inline]
    pub const fn mem(&self) -> &M {
        &self.mem
    }

    /// Ends the ring and gives the memory back.
    pub fn into_mem(self) -> M {
        self.mem
    }

    /// Begins a pass: reads the peer's index once and says how many requests can be taken before the next reading.
    ///
    /// A frontend may raise its index while it is being served; who takes only as many as this says, or keeps a budget, does
    /// bounded work.
    #[inline]
    pub fn pass(&mut self) -> Result<u32, PeerFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let req_prod = RingIndex::new(self.mem.load_u32(REQ_PROD));
        let claimed = req_prod.since(self.req_cons);
        let possible = self.size().wrapping_sub(self.open());
        let plausible = if weakened!("cve_2010_4247_backwards") {
            // The header's own check, which an index behind req_cons passes.
            req_prod.since(self.rsp_prod_pvt) <= self.size()
        } else {
            claimed <= possible
        };
        if weakened!("cve_2010_4247_back") || plausible {
            self.req_seen = if weakened!("xsa_155_back_index") {
                RingIndex::new(self.mem.load_u32(REQ_PROD))
            } else {
                req_prod
            };
            return Ok(claimed);
        }
        Err(self.latch(req_prod))
    }

    #[cold]
    fn latch(&mut self, req_prod: RingIndex) -> PeerFault {
        // An empty pass, so that every later call comes by the latch.
        self.req_seen = self.req_cons;
        *self.fault.insert(PeerFault::RequestIndex {
            req_prod,
            req_cons: self.req_cons,
            rsp_prod: self.rsp_prod_pvt,
            size: self.size(),
        })
    }

    /// Takes the next request: copied out once, never to be looked at again where the peer can write. When the pass is used up
    /// it begins another; `None` if that one is empty.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Taken<P>>, PeerFault> {
        if self.req_cons == self.req_seen && self.pass()? == 0 {
            return Ok(None);
        }
        let index = self.req_cons;
        let offset = self.entries.offset(index);
        let mut request: P::Request = self.mem.read_value(offset);
        if weakened!("xsa_155_back_slot") {
            request = self.mem.read_value(offset);
        }
        self.req_cons = index.plus(1);
        Ok(Some(Taken {
            request,
            slot: Slot { index },
        }))
    }

    /// Answers a request in the next response entry. The peer does not see it before [`publish`](Self::publish).
    ///
    /// Takes a [`Slot`] or a whole [`Taken`] of *this* ring. One of another ring, when all of this ring's requests are
    /// answered, is dropped: there is no entry for it.
    #[inline]
    pub fn respond(&mut self, slot: impl Into<Slot>, response: &P::Response) {
        let Slot { index: _ } = slot.into();
        debug_assert!(self.open() > 0, "a slot of another ring");
        if self.open() == 0 {
            return;
        }
        let offset = self.entries.offset(self.rsp_prod_pvt);
        let bytes = response.as_bytes();
        if weakened!("xsa_216_padding") {
            self.mem.write(offset, bytes);
        }
        for field in P::RESPONSE_FIELDS {
            let end = field.offset.wrapping_add(field.len);
            if let Some(field_bytes) = bytes.get(field.offset..end) {
                self.mem
                    .write(offset.wrapping_add(field.offset), field_bytes);
            }
        }
        self.rsp_prod_pvt = self.rsp_prod_pvt.plus(1);
    }

    /// Shows all responses to the peer and says whether to ring its doorbell (`RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`).
    #[inline]
    pub fn publish(&mut self) -> Notify {
        let (old, new) = (self.rsp_prod, self.rsp_prod_pvt);
        if old == new {
            return Notify::No;
        }
        self.rsp_prod = new;
        self.mem.store_u32(RSP_PROD, new.get());
        // The peer sees the responses before we look whether it sleeps.
        self.mem.fence();
        Notify::decide(RingIndex::new(self.mem.load_u32(RSP_EVENT)), old, new)
    }

    /// Asks to be woken at the next request and looks once more (`RING_FINAL_CHECK_FOR_REQUESTS`).
    #[inline]
    pub fn arm(&mut self) -> Armed {
        self.arm_at(1)
    }

    /// Like [`arm`](Self::arm), but to be woken only at the `requests`-th request from here: at least 1, at most the size of
    /// the ring.
    #[inline]
    pub fn arm_at(&mut self, requests: u32) -> Armed {
        if self.req_cons != self.req_seen || !matches!(self.pass(), Ok(0)) {
            return Armed::Again;
        }
        let event = self.req_cons.plus(requests.min(self.size()).max(1));
        self.mem.store_u32(REQ_EVENT, event.get());
        // The peer sees where we wait before we look whether it came by.
        self.mem.fence();
        match self.pass() {
            Ok(0) => Armed::Sleep,
            _ => Armed::Again,
        }
    }
}
