//! The frontend's end.

use crate::fault::{AttachError, Full, PeerFault};
use crate::layout::{Entries, HEADER, PRIVATE, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use crate::notify::{Armed, Notify};
use crate::{Protocol, RingIndex, RingMem};
use ringfence_core::weakened;
use zerocopy::IntoBytes;

/// The frontend's end of a ring: requests out, responses in.
pub struct Front<M, P> {
    mem: M,
    entries: Entries<P>,
    /// Where the next request goes (`req_prod_pvt`).
    req_prod_pvt: RingIndex,
    /// `req_prod` as we last published it; never read back.
    req_prod: RingIndex,
    /// The next response to take.
    rsp_cons: RingIndex,
    /// How far the current pass goes; checked.
    rsp_seen: RingIndex,
    fault: Option<PeerFault>,
}

impl<M: RingMem, P: Protocol> Front<M, P> {
    /// Initialises the shared pages (`XEN_FRONT_RING_INIT`) and starts at 0. To be done before the peer is told of the ring.
    pub fn init(mem: M) -> Result<Self, AttachError> {
        let front = Self::attach_at(mem, RingIndex::new(0))?;
        front.mem.store_u32(REQ_PROD, 0);
        front.mem.store_u32(REQ_EVENT, 1);
        front.mem.store_u32(RSP_PROD, 0);
        front.mem.store_u32(RSP_EVENT, 1);
        let zeroes = [0; HEADER.saturating_sub(PRIVATE)];
        front.mem.write(PRIVATE, &zeroes);
        Ok(front)
    }

    /// Attaches to an idle ring where it stands, without writing to it. Each index is read once.
    ///
    /// # Errors
    /// [`AttachError::Indices`] when requests are open: who could their answers be given to?
    pub fn attach(mem: M) -> Result<Self, AttachError> {
        let entries = Entries::<P>::of(&mem)?;
        let req_prod = RingIndex::new(mem.load_u32(REQ_PROD));
        let rsp_prod = RingIndex::new(mem.load_u32(RSP_PROD));
        if req_prod != rsp_prod {
            return Err(AttachError::Indices {
                req_prod,
                rsp_prod,
                size: entries.size(),
            });
        }
        Self::attach_at(mem, req_prod)
    }

    /// Starts all private indices at `index` (`FRONT_RING_ATTACH`), without reading or writing the pages.
    pub fn attach_at(mem: M, index: RingIndex) -> Result<Self, AttachError> {
        Ok(Self {
            entries: Entries::of(&mem)?,
            mem,
            req_prod_pvt: index,
            req_prod: index,
            rsp_cons: index,
            rsp_seen: index,
            fault: None,
        })
    }

    /// Entries in the ring.
    #[inline]
    pub const fn size(&self) -> u32 {
        self.entries.size()
    }

    /// How many requests can be pushed before [`Full`].
    #[inline]
    pub const fn free(&self) -> u32 {
        self.size().wrapping_sub(self.open())
    }

    /// How many requests have been pushed and their responses not taken.
    #[inline]
    pub const fn open(&self) -> u32 {
        self.req_prod_pvt.since(self.rsp_cons)
    }

    /// The index that the next request gets.
    #[inline]
    pub const fn req_prod_pvt(&self) -> RingIndex {
        self.req_prod_pvt
    }

    /// The index of the next response to take.
    #[inline]
    pub const fn rsp_cons(&self) -> RingIndex {
        self.rsp_cons
    }

    /// The fault that ended this ring, if any.
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

    /// Writes a request to the next entry. The peer does not see it before [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Full`] when every entry holds an open request.
    #[inline]
    pub fn push(&mut self, request: &P::Request) -> Result<(), Full> {
        if self.open() >= self.size() {
            return Err(Full);
        }
        self.mem
            .write(self.entries.offset(self.req_prod_pvt), request.as_bytes());
        self.req_prod_pvt = self.req_prod_pvt.plus(1);
        Ok(())
    }

    /// Shows all pushed requests to the peer and says whether to ring its doorbell (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`).
    #[inline]
    pub fn publish(&mut self) -> Notify {
        let new = self.req_prod_pvt;
        let old = if weakened!("xsa_155_own_index") {
            RingIndex::new(self.mem.load_u32(REQ_PROD))
        } else {
            self.req_prod
        };
        if old == new {
            return Notify::No;
        }
        self.req_prod = new;
        self.mem.store_u32(REQ_PROD, new.get());
        // The peer sees the requests before we look whether it sleeps.
        self.mem.fence();
        Notify::decide(RingIndex::new(self.mem.load_u32(REQ_EVENT)), old, new)
    }

    /// Begins a pass: reads the peer's index once and says how many responses can be taken before the next reading.
    #[inline]
    pub fn pass(&mut self) -> Result<u32, PeerFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let rsp_prod = RingIndex::new(self.mem.load_u32(RSP_PROD));
        let claimed = rsp_prod.since(self.rsp_cons);
        // `req_prod`, not `req_prod_pvt`: what the peer cannot have seen it cannot have answered.
        let possible = self.req_prod.since(self.rsp_cons);
        if weakened!("xsa_376_front_index") || claimed <= possible {
            self.rsp_seen = if weakened!("xsa_155_front_index") {
                RingIndex::new(self.mem.load_u32(RSP_PROD))
            } else {
                rsp_prod
            };
            return Ok(claimed);
        }
        Err(self.latch(rsp_prod))
    }

    #[cold]
    fn latch(&mut self, rsp_prod: RingIndex) -> PeerFault {
        // An empty pass, so that every later call comes by the latch.
        self.rsp_seen = self.rsp_cons;
        *self.fault.insert(PeerFault::ResponseIndex {
            rsp_prod,
            rsp_cons: self.rsp_cons,
            req_prod: self.req_prod,
        })
    }

    /// Takes the next response: copied out once, never to be looked at again where the peer can write. When the pass is used
    /// up it begins another; `None` if that one is empty.
    #[inline]
    pub fn take_response(&mut self) -> Result<Option<P::Response>, PeerFault> {
        if self.rsp_cons == self.rsp_seen && self.pass()? == 0 {
            return Ok(None);
        }
        let offset = self.entries.offset(self.rsp_cons);
        let mut response: P::Response = self.mem.read_value(offset);
        if weakened!("xsa_155_front_slot") {
            response = self.mem.read_value(offset);
        }
        self.rsp_cons = self.rsp_cons.plus(1);
        Ok(Some(response))
    }

    /// Asks to be woken at the next response and looks once more (`RING_FINAL_CHECK_FOR_RESPONSES`).
    #[inline]
    pub fn arm(&mut self) -> Armed {
        self.arm_at(1)
    }

    /// Like [`arm`](Self::arm), but to be woken only at the `responses`-th response from here. At least 1 and, as further ones
    /// would never come, at most the number of published requests still open.
    #[inline]
    pub fn arm_at(&mut self, responses: u32) -> Armed {
        if self.rsp_cons != self.rsp_seen || !matches!(self.pass(), Ok(0)) {
            return Armed::Again;
        }
        let possible = self.req_prod.since(self.rsp_cons);
        let event = self.rsp_cons.plus(responses.min(possible).max(1));
        self.mem.store_u32(RSP_EVENT, event.get());
        // The peer sees where we wait before we look whether it came by.
        self.mem.fence();
        match self.pass() {
            Ok(0) => Armed::Sleep,
            _ => Armed::Again,
        }
    }
}
