//! The layout of x86_64 and arm: `u64` is aligned to 8 bytes, a ring slot has 112.

use super::{MAX_INDIRECT_PAGES_PER_REQUEST, MAX_SEGMENTS_PER_REQUEST, Op, Segment, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// `struct blkif_request`: a read, write, barrier or flush, and the slot that the other requests travel in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestNative {
    /// What to do.
    pub operation: Op,
    /// How many of `seg` are used.
    pub nr_segments: u8,
    /// The frontend's number for the disk; backends ignore it.
    pub handle: u16,
    /// Padding up to the alignment of `id`.
    pub pad: [u8; 4],
    /// Chosen by the frontend, echoed in the response.
    pub id: u64,
    /// First sector on the disk, in units of 512 bytes.
    pub sector_number: u64,
    /// The pages, in the order of the sectors.
    pub seg: [Segment; MAX_SEGMENTS_PER_REQUEST],
}
layout!(RequestNative, 112 {
    operation @ 0, nr_segments @ 1, handle @ 2, id @ 8, sector_number @ 16, seg @ 24,
});

/// `struct blkif_request_discard`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestDiscardNative {
    /// [`Op::DISCARD`].
    pub operation: Op,
    /// Zero or [`DISCARD_SECURE`](super::DISCARD_SECURE).
    pub flag: u8,
    /// The frontend's number for the disk; backends ignore it.
    pub handle: u16,
    /// Padding up to the alignment of `id`.
    pub pad: [u8; 4],
    /// Chosen by the frontend, echoed in the response.
    pub id: u64,
    /// First sector on the disk, in units of 512 bytes.
    pub sector_number: u64,
    /// Length, in units of 512 bytes.
    pub nr_sectors: u64,
}
layout!(RequestDiscardNative, 32 {
    operation @ 0, flag @ 1, handle @ 2, id @ 8, sector_number @ 16, nr_sectors @ 24,
});

/// `struct blkif_request_indirect`: the segments are in granted pages of their own, 512 in each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestIndirectNative {
    /// [`Op::INDIRECT`].
    pub operation: Op,
    /// [`Op::READ`] or [`Op::WRITE`].
    pub indirect_op: Op,
    /// Segments in all the pages together.
    pub nr_segments: u16,
    /// Padding up to the alignment of `id`.
    pub pad: [u8; 4],
    /// Chosen by the frontend, echoed in the response.
    pub id: u64,
    /// First sector on the disk, in units of 512 bytes.
    pub sector_number: u64,
    /// The frontend's number for the disk; backends ignore it.
    pub handle: u16,
    /// Padding up to the alignment of `indirect_grefs`.
    pub pad2: [u8; 2],
    /// The granted pages of segments.
    pub indirect_grefs: [u32; MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding up to 64 bytes.
    pub pad3: [u8; 4],
}
layout!(RequestIndirectNative, 64 {
    operation @ 0, indirect_op @ 1, nr_segments @ 2, id @ 8, sector_number @ 16, handle @ 24,
    indirect_grefs @ 28,
});

/// `struct blkif_response`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResponseNative {
    /// Copied from the request.
    pub id: u64,
    /// Copied from the request.
    pub operation: Op,
    /// Padding; never carries anything of the backend's memory (XSA-216).
    pub pad: u8,
    /// How it ended.
    pub status: Status,
    /// Padding up to the alignment of `id`; as `pad`.
    pub pad2: [u8; 4],
}
layout!(ResponseNative, 16 { id @ 0, operation @ 8, status @ 10 });

/// A discard in a slot of the ring.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct DiscardSlot {
    request: RequestDiscardNative,
    rest: [u8; 80],
}

/// An indirect request in a slot of the ring.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct IndirectSlot {
    request: RequestIndirectNative,
    rest: [u8; 48],
}

impl RequestNative {
    /// The same slot read as a discard.
    pub fn discard(self) -> RequestDiscardNative {
        let slot: DiscardSlot = transmute!(self);
        slot.request
    }

    /// The same slot read as an indirect request.
    pub fn indirect(self) -> RequestIndirectNative {
        let slot: IndirectSlot = transmute!(self);
        slot.request
    }
}

impl From<RequestDiscardNative> for RequestNative {
    fn from(request: RequestDiscardNative) -> Self {
        let rest = [0; 80];
        transmute!(DiscardSlot { request, rest })
    }
}

impl From<RequestIndirectNative> for RequestNative {
    fn from(request: RequestIndirectNative) -> Self {
        let rest = [0; 48];
        transmute!(IndirectSlot { request, rest })
    }
}
