//! `xen/io/blkif.h`: the requests and responses of a paravirtual disk.
//!
//! Sector numbers and counts are in units of 512 bytes, whatever the disk's logical sector size; [`units`] has what others made
//! of that. The layout depends on how the frontend's compiler aligned `u64`: [`native`] on x86_64 and arm, [`x86_32`] for 32-bit
//! x86 guests.

pub mod native;
pub mod units;
pub mod x86_32;

pub use native::{RequestDiscardNative, RequestIndirectNative, RequestNative, ResponseNative};
pub use units::{Convention, SectorUnits};
pub use x86_32::{RequestDiscardX86_32, RequestIndirectX86_32, RequestX86_32, ResponseX86_32};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Segments that fit into a request itself, `BLKIF_MAX_SEGMENTS_PER_REQUEST`.
pub const MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments that an indirect request names, `BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`.
pub const MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;
/// Segments in one page of an indirect request.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = crate::PAGE / size_of::<Segment>();
/// The most segments an indirect request can describe.
pub const MAX_INDIRECT_SEGMENTS: usize =
    MAX_INDIRECT_PAGES_PER_REQUEST * SEGMENTS_PER_INDIRECT_PAGE;
/// The highest `ring-page-order` that a backend offers: sixteen pages, 512 requests.
pub const MAX_RING_PAGE_ORDER: u32 = 4;
/// Sectors of 512 bytes in a page; `last_sect` is below it.
pub const SECTORS_PER_PAGE: u8 = 8;

/// `BLKIF_DISCARD_SECURE`, bit of a discard's `flag`: the data must be unrecoverable afterwards.
pub const DISCARD_SECURE: u8 = 1 << 0;

/// `VDISK_CDROM`, bit of the backend's `info` node.
pub const VDISK_CDROM: u32 = 0x1;
/// `VDISK_REMOVABLE`, bit of the backend's `info` node.
pub const VDISK_REMOVABLE: u32 = 0x2;
/// `VDISK_READONLY`, bit of the backend's `info` node.
pub const VDISK_READONLY: u32 = 0x4;

/// `XEN_IO_PROTO_ABI_X86_32` of `xen/io/protocols.h`: the frontend's `protocol` node names the 108-byte layout.
pub const PROTOCOL_X86_32: &str = "x86_32-abi";
/// `XEN_IO_PROTO_ABI_X86_64` of `xen/io/protocols.h`.
pub const PROTOCOL_X86_64: &str = "x86_64-abi";
/// `XEN_IO_PROTO_ABI_ARM` of `xen/io/protocols.h`: the layout is the one of x86_64.
pub const PROTOCOL_ARM: &str = "arm-abi";
/// The protocol that a frontend of this build speaks.
pub const PROTOCOL_NATIVE: &str = if cfg!(target_arch = "aarch64") {
    PROTOCOL_ARM
} else {
    PROTOCOL_X86_64
};

/// How the requests of a ring are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Abi {
    /// [`native`]: x86_64 and arm.
    #[default]
    Native,
    /// [`x86_32`].
    X86_32,
}

impl Abi {
    /// The layout that a `protocol` node names; without a node it is the backend's own. `None` for one that nobody defined.
    #[must_use]
    pub fn of_protocol(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some(PROTOCOL_X86_64 | PROTOCOL_ARM) => Some(Self::Native),
            Some(PROTOCOL_X86_32) => Some(Self::X86_32),
            Some(_) => None,
        }
    }
}

open_enum! {
    /// What a request asks for, `BLKIF_OP_*`. An unknown one is answered with [`Status::EOPNOTSUPP`].
    Op(u8) {
        /// Read the segments.
        READ = 0, "BLKIF_OP_READ";
        /// Write the segments.
        WRITE = 1, "BLKIF_OP_WRITE";
        /// Write after everything before it is durable, and be durable before anything after it.
        WRITE_BARRIER = 2, "BLKIF_OP_WRITE_BARRIER";
        /// Make every completed write durable; carries no segments.
        FLUSH_DISKCACHE = 3, "BLKIF_OP_FLUSH_DISKCACHE";
        /// Once a private packet command; never valid.
        RESERVED_1 = 4, "BLKIF_OP_RESERVED_1";
        /// Give sectors back to the storage.
        DISCARD = 5, "BLKIF_OP_DISCARD";
        /// A read or write whose segments are in pages of their own.
        INDIRECT = 6, "BLKIF_OP_INDIRECT";
    }
}

open_enum! {
    /// How a request ended, `BLKIF_RSP_*`.
    Status(i16) {
        /// The request was done completely.
        OKAY = 0, "BLKIF_RSP_OKAY";
        /// It failed, for whatever reason.
        ERROR = -1, "BLKIF_RSP_ERROR";
        /// The backend does not do this operation.
        EOPNOTSUPP = -2, "BLKIF_RSP_EOPNOTSUPP";
    }
}

/// `struct blkif_request_segment`: a run of sectors within one granted page; the same in every layout.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Segment {
    /// The granted page.
    pub gref: u32,
    /// First sector of the page that takes part, 0 to 7.
    pub first_sect: u8,
    /// Last sector of the page that takes part, `first_sect` to 7.
    pub last_sect: u8,
    /// Padding.
    pub pad: [u8; 2],
}
layout!(Segment, 8 { gref @ 0, first_sect @ 4, last_sect @ 5 });

const _: () = assert!(SEGMENTS_PER_INDIRECT_PAGE == 512);

/// Pages that hold this many segments of an indirect request.
#[must_use]
pub const fn indirect_pages(segments: u16) -> usize {
    (segments as usize).div_ceil(SEGMENTS_PER_INDIRECT_PAGE)
}

/// Where in the pages of an indirect request a segment lies: which page, and at which byte of it.
#[must_use]
pub const fn indirect_place(segment: u16) -> (usize, usize) {
    let segment = segment as usize;
    (
        segment / SEGMENTS_PER_INDIRECT_PAGE,
        segment % SEGMENTS_PER_INDIRECT_PAGE * size_of::<Segment>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn an_unknown_operation_keeps_its_number() {
        assert_eq!(Op(9).name(), None);
        assert_eq!(std_format(Op(9)).as_str(), "Op 9");
        assert_eq!(std_format(Op::INDIRECT).as_str(), "BLKIF_OP_INDIRECT");
        assert_eq!(std_format(Status(-7)).as_str(), "Status -7");
    }

    #[test]
    fn a_discard_travels_in_the_slot_of_a_request() {
        let discard = RequestDiscardNative {
            operation: Op::DISCARD,
            flag: DISCARD_SECURE,
            id: 7,
            sector_number: 11,
            nr_sectors: 13,
            ..RequestDiscardNative::new_zeroed()
        };
        let slot = RequestNative::from(discard);
        assert_eq!(slot.operation, Op::DISCARD);
        assert_eq!(slot.nr_segments, DISCARD_SECURE);
        assert_eq!(
            slot.seg[0].gref, 13,
            "nr_sectors lies where the first segment does"
        );
        assert_eq!(slot.discard(), discard);
    }

    #[test]
    fn an_indirect_request_of_a_32_bit_guest_keeps_its_grants() {
        let mut indirect = RequestIndirectX86_32::new_zeroed();
        indirect.operation = Op::INDIRECT;
        indirect.id.set(0x0102_0304_0506_0708);
        indirect.indirect_grefs = [1, 2, 3, 4, 5, 6, 7, 8];
        let slot = RequestX86_32::from(indirect);
        assert_eq!(slot.as_bytes()[4], 8, "the id is little-endian at 4");
        assert_eq!(slot.as_bytes()[24], 1, "the first grant is at 24");
        assert_eq!(slot.indirect(), indirect);
    }

    #[test]
    fn segments_of_an_indirect_request_fill_page_after_page() {
        assert_eq!([1, 512, 513, 4096].map(indirect_pages), [1, 1, 2, 8]);
        assert_eq!(indirect_pages(0), 0);
        assert_eq!(indirect_place(511), (0, 4088));
        assert_eq!(indirect_place(512), (1, 0));
    }

    #[test]
    fn every_kind_of_request_of_a_32_bit_guest_reads_the_same_in_the_native_layout() {
        let mut write = RequestX86_32::new_zeroed();
        (write.operation, write.nr_segments, write.handle) = (Op::WRITE, 11, 0xBEEF);
        write.id.set(0x0102_0304_0506_0708);
        write.sector_number.set(0x1112_1314_1516_1718);
        for (index, seg) in write.seg.iter_mut().enumerate() {
            seg.gref = 100 + u32::try_from(index).unwrap();
            (seg.first_sect, seg.last_sect) = (1, 6);
        }
        let native = RequestNative::from(write);
        assert_eq!(
            (native.operation, native.nr_segments, native.handle),
            (Op::WRITE, 11, 0xBEEF)
        );
        assert_eq!(
            (native.id, native.sector_number, native.seg),
            (write.id.get(), write.sector_number.get(), write.seg)
        );

        let mut discard = RequestDiscardX86_32::new_zeroed();
        (discard.operation, discard.flag) = (Op::DISCARD, DISCARD_SECURE);
        discard.sector_number.set(5);
        discard.nr_sectors.set(1 << 40);
        let native = RequestNative::from(RequestX86_32::from(discard)).discard();
        assert_eq!(
            (native.flag, native.sector_number, native.nr_sectors),
            (DISCARD_SECURE, 5, 1 << 40)
        );

        let mut indirect = RequestIndirectX86_32::new_zeroed();
        (indirect.operation, indirect.indirect_op) = (Op::INDIRECT, Op::READ);
        (indirect.nr_segments, indirect.handle) = (300, 51712);
        indirect.sector_number.set(9);
        indirect.indirect_grefs = [1, 2, 3, 4, 5, 6, 7, 8];
        let native = RequestNative::from(RequestX86_32::from(indirect)).indirect();
        assert_eq!(
            (native.indirect_op, native.nr_segments, native.handle),
            (Op::READ, 300, 51712)
        );
        assert_eq!(
            (native.sector_number, native.indirect_grefs),
            (9, indirect.indirect_grefs)
        );
    }

    fn std_format(value: impl core::fmt::Display) -> heapless::String<32> {
        let mut text = heapless::String::new();
        core::fmt::write(&mut text, format_args!("{value}")).expect("fits");
        text
    }
}
