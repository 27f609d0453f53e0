//! The ring in whichever layout its frontend speaks; behind it every request has the native one.

use ringfence_core::wire::blkif::{Abi, RequestNative, ResponseNative};
use ringfence_ring::blkif::{BlkifNative, BlkifX86_32};
use ringfence_ring::{Armed, AttachError, Back, Notify, PeerFault, RingIndex, RingMem, Slot};

/// One ring.
pub(super) enum Ring<M> {
    Native(Back<M, BlkifNative>),
    X86_32(Back<M, BlkifX86_32>),
}

macro_rules! either {
    ($self:expr, $ring:ident => $result:expr) => {
        match $self {
            Ring::Native($ring) => $result,
            Ring::X86_32($ring) => $result,
        }
    };
}

impl<M: RingMem> Ring<M> {
    /// See [`Back::attach`].
    pub(super) fn attach(mem: M, abi: Abi) -> Result<Self, AttachError> {
        match abi {
            Abi::Native => Back::attach(mem).map(Self::Native),
            Abi::X86_32 => Back::attach(mem).map(Self::X86_32),
        }
    }

    /// See [`Back::resume`].
    pub(super) fn resume(mem: M, abi: Abi, req_cons: RingIndex) -> Result<Self, AttachError> {
        match abi {
            Abi::Native => Back::resume(mem, req_cons).map(Self::Native),
            Abi::X86_32 => Back::resume(mem, req_cons).map(Self::X86_32),
        }
    }

    /// See [`Back::reopen`].
    pub(super) fn reopen(&mut self, index: RingIndex) -> Option<Slot> {
        either!(self, ring => ring.reopen(index))
    }

    /// See [`Back::mark`].
    pub(super) fn mark(&self, word: u64) {
        either!(self, ring => ring.mark(word));
    }

    pub(super) fn pass(&mut self) -> Result<u32, PeerFault> {
        either!(self, ring => ring.pass())
    }

    /// Takes the next request. The copy that leaves the shared page is the only one that is looked at.
    #[inline]
    pub(super) fn take(&mut self) -> Result<Option<(RequestNative, Slot)>, PeerFault> {
        Ok(match self {
            Self::Native(ring) => ring.take()?.map(ringfence_ring::Taken::into_parts),
            Self::X86_32(ring) => ring.take()?.map(|taken| {
                let (request, slot) = taken.into_parts();
                (request.into(), slot)
            }),
        })
    }

    /// Answers in the next response entry.
    #[inline]
    pub(super) fn respond(&mut self, slot: Slot, response: ResponseNative) {
        match self {
            Self::Native(ring) => ring.respond(slot, &response),
            Self::X86_32(ring) => ring.respond(slot, &response.into()),
        }
    }

    pub(super) const fn size(&self) -> u32 {
        either!(self, ring => ring.size())
    }

    pub(super) const fn req_cons(&self) -> RingIndex {
        either!(self, ring => ring.req_cons())
    }

    pub(super) const fn rsp_prod(&self) -> RingIndex {
        either!(self, ring => ring.rsp_prod())
    }

    pub(super) const fn rsp_prod_pvt(&self) -> RingIndex {
        either!(self, ring => ring.rsp_prod_pvt())
    }

    #[inline]
    pub(super) fn publish(&mut self) -> Notify {
        either!(self, ring => ring.publish())
    }

    #[inline]
    pub(super) fn arm(&mut self) -> Armed {
        either!(self, ring => ring.arm())
    }
}
