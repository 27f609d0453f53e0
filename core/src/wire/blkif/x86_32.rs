//! The layout of 32-bit x86 (`protocol` = `x86_32-abi`): `u64` is aligned to 4 bytes only, a ring slot has 108.

use super::{
    MAX_INDIRECT_PAGES_PER_REQUEST, MAX_SEGMENTS_PER_REQUEST, Op, RequestNative, ResponseNative,
    Segment, Status,
};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// `struct blkif_request`: a read, write, barrier or flush, and the slot that the other requests travel in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestX86_32 {
    /// What to do.
    pub operation: Op,
    /// How many of `seg` are used.
    pub nr_segments: u8,
    /// The frontend's number for the disk; backends ignore it.
    pub handle: u16,
    /// Chosen by the frontend, echoed in the response.
    pub id: U64,
    /// First sector on the disk, in units of 512 bytes.
    pub sector_number: U64,
    /// The pages, in the order of the sectors.
    pub seg: [Segment; MAX_SEGMENTS_PER_REQUEST],
}
layout!(RequestX86_32, 108 {
    operation @ 0, nr_segments @ 1, handle @ 2, id @ 4, sector_number @ 12, seg @ 20,
});

/// `struct blkif_request_discard`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestDiscardX86_32 {
    /// [`Op::DISCARD`].
    pub operation: Op,
    /// Zero or [`DISCARD_SECURE`](super::DISCARD_SECURE).
    pub flag: u8,
    /// The frontend's number for the disk; backends ignore it.
    pub handle: u16,
    /// Chosen by the frontend, echoed in the response.
    pub id: U64,
    /// First sector on the disk, in units of 512 bytes.
    pub sector_number: U64,
    /// Length, in units of 512 bytes.
    pub nr_sectors: U64,
}
layout!(RequestDiscardX86_32, 28 {
    operation @ 0, flag @ 1, handle @ 2, id @ 4, sector_number @ 12, nr_sectors @ 20,
});

/// `struct blkif_request_indirect`: the segments are in granted pages of their own, 512 in each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestIndirectX86_32 {
    /// [`Op::INDIRECT`].
    pub operation: Op,
    /// [`Op::READ`] or [`Op::WRITE`].
    pub indirect_op: Op,
    /// Segments in all the pages together.
    pub nr_segments: u16,
    /// Chosen by the frontend, echoed in the response.
    pub id: U64,
    /// First sector on the disk, in units of 512 bytes.
    pub sector_number: U64,
    /// The frontend's number for the disk; backends ignore it.
    pub handle: u16,
    /// Padding up to the alignment of `indirect_grefs`.
    pub pad2: [u8; 2],
    /// The granted pages of segments.
    pub indirect_grefs: [u32; MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding up to 64 bytes.
    pub pad3: [u8; 8],
}
layout!(RequestIndirectX86_32, 64 {
    operation @ 0, indirect_op @ 1, nr_segments @ 2, id @ 4, sector_number @ 12, handle @ 20,
    indirect_grefs @ 24,
});

/// `struct blkif_response`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResponseX86_32 {
    /// Copied from the request.
    pub id: U64,
    /// Copied from the request.
    pub operation: Op,
    /// Padding; never carries anything of the backend's memory (XSA-216).
    pub pad: u8,
    /// How it ended.
    pub status: Status,
}
layout!(ResponseX86_32, 12 { id @ 0, operation @ 8, status @ 10 });

/// A discard in a slot of the ring.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct DiscardSlot {
    request: RequestDiscardX86_32,
    rest: [u8; 80],
}

/// An indirect request in a slot of the ring.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct IndirectSlot {
    request: RequestIndirectX86_32,
    rest: [u8; 44],
}

impl RequestX86_32 {
    /// The same slot read as a discard.
    pub fn discard(self) -> RequestDiscardX86_32 {
        let slot: DiscardSlot = transmute!(self);
        slot.request
    }

    /// The same slot read as an indirect request.
    pub fn indirect(self) -> RequestIndirectX86_32 {
        let slot: IndirectSlot = transmute!(self);
        slot.request
    }
}

impl From<RequestDiscardX86_32> for RequestX86_32 {
    fn from(request: RequestDiscardX86_32) -> Self {
        let rest = [0; 80];
        transmute!(DiscardSlot { request, rest })
    }
}

impl From<RequestIndirectX86_32> for RequestX86_32 {
    fn from(request: RequestIndirectX86_32) -> Self {
        let rest = [0; 44];
        transmute!(IndirectSlot { request, rest })
    }
}

/// [`RequestX86_32`] as the other layout has it.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Widened {
    head: [u8; 4],
    pad: [u8; 4],
    rest: [u8; 104],
}

/// [`RequestX86_32`] in two parts.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Parts {
    head: [u8; 4],
    rest: [u8; 104],
}

/// Whatever the request is: from `id` on, every field of every kind lies 4 bytes further in [`RequestNative`].
impl From<RequestX86_32> for RequestNative {
    fn from(request: RequestX86_32) -> Self {
        let Parts { head, rest } = transmute!(request);
        let pad = [0; 4];
        transmute!(Widened { head, pad, rest })
    }
}

impl From<ResponseNative> for ResponseX86_32 {
    fn from(response: ResponseNative) -> Self {
        Self {
            id: U64::new(response.id),
            operation: response.operation,
            pad: response.pad,
            status: response.status,
        }
    }
}
