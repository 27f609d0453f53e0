//! `xen/grant_table.h`: the table a domain grants its pages in, and the operations on other domains' tables.
//!
//! Layouts are those of 64-bit domains; of the structs here only [`GrantCopy`]'s depends on the caller's word size.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// References that a new table keeps for itself, `GNTTAB_NR_RESERVED_ENTRIES`.
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// The reference of the console's page, `GNTTAB_RESERVED_CONSOLE`.
pub const RESERVED_CONSOLE: u32 = 0;
/// The reference of the XenStore ring's page, `GNTTAB_RESERVED_XENSTORE`.
pub const RESERVED_XENSTORE: u32 = 1;

/// `GTF_invalid`: the entry grants nothing.
pub const GTF_INVALID: u16 = 0;
/// `GTF_permit_access`: the domain may map or copy the frame.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// `GTF_accept_transfer`: the domain may give us a frame.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// `GTF_transitive`: the domain may use a grant that we hold (version 2).
pub const GTF_TRANSITIVE: u16 = 3;
/// `GTF_type_mask`: the bits of the four above.
pub const GTF_TYPE_MASK: u16 = 3;
/// `GTF_readonly`: for reading only.
pub const GTF_READONLY: u16 = 1 << 2;
/// `GTF_reading`: set by Xen while the peer may read.
pub const GTF_READING: u16 = 1 << 3;
/// `GTF_writing`: set by Xen while the peer may write.
pub const GTF_WRITING: u16 = 1 << 4;
/// `GTF_PWT`, cache attribute.
pub const GTF_PWT: u16 = 1 << 5;
/// `GTF_PCD`, cache attribute.
pub const GTF_PCD: u16 = 1 << 6;
/// `GTF_PAT`, cache attribute.
pub const GTF_PAT: u16 = 1 << 7;
/// `GTF_sub_page`: only a part of the frame (version 2, copies only).
pub const GTF_SUB_PAGE: u16 = 1 << 8;

/// `GNTMAP_device_map`: map for the device's I/O.
pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
/// `GNTMAP_host_map`: map for the processor.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// `GNTMAP_readonly`.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// `GNTMAP_application_map`: accessible in user mode.
pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
/// `GNTMAP_contains_pte`: `host_addr` is the machine address of a page table entry.
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;

/// `GNTCOPY_source_gref`: the source is a reference, not a frame of our own.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// `GNTCOPY_dest_gref`: the destination is a reference, not a frame of our own.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

open_enum! {
    /// `GNTTABOP_*`, the operation of the grant table hypercall.
    Op(u32) {
        /// [`MapGrantRef`].
        MAP_GRANT_REF = 0, "GNTTABOP_map_grant_ref";
        /// [`UnmapGrantRef`].
        UNMAP_GRANT_REF = 1, "GNTTABOP_unmap_grant_ref";
        /// Where the caller's table lies.
        SETUP_TABLE = 2, "GNTTABOP_setup_table";
        /// Print a table to the console of Xen.
        DUMP_TABLE = 3, "GNTTABOP_dump_table";
        /// Give a frame away.
        TRANSFER = 4, "GNTTABOP_transfer";
        /// [`GrantCopy`].
        COPY = 5, "GNTTABOP_copy";
        /// [`QuerySize`].
        QUERY_SIZE = 6, "GNTTABOP_query_size";
        /// Unmap, and put another page in its place.
        UNMAP_AND_REPLACE = 7, "GNTTABOP_unmap_and_replace";
        /// Choose version 1 or 2.
        SET_VERSION = 8, "GNTTABOP_set_version";
        /// Where the status of version 2 lies.
        GET_STATUS_FRAMES = 9, "GNTTABOP_get_status_frames";
        /// [`GetVersion`].
        GET_VERSION = 10, "GNTTABOP_get_version";
        /// Exchange two entries.
        SWAP_GRANT_REF = 11, "GNTTABOP_swap_grant_ref";
        /// Clean the cache of a page.
        CACHE_FLUSH = 12, "GNTTABOP_cache_flush";
    }
}

open_enum! {
    /// `GNTST_*`, how an operation on a grant ended. Every element of a batch has its own; each is to be looked at.
    Status(i16) {
        /// Done.
        OKAY = 0, "GNTST_okay";
        /// Failed, for no reason that has a number.
        GENERAL_ERROR = -1, "GNTST_general_error";
        /// No such domain.
        BAD_DOMAIN = -2, "GNTST_bad_domain";
        /// No such reference, or none for this use.
        BAD_GNTREF = -3, "GNTST_bad_gntref";
        /// No such mapping.
        BAD_HANDLE = -4, "GNTST_bad_handle";
        /// Nothing can be mapped at this address.
        BAD_VIRT_ADDR = -5, "GNTST_bad_virt_addr";
        /// Nothing is mapped at this bus address.
        BAD_DEV_ADDR = -6, "GNTST_bad_dev_addr";
        /// The I/O MMU is full.
        NO_DEVICE_SPACE = -7, "GNTST_no_device_space";
        /// Not allowed.
        PERMISSION_DENIED = -8, "GNTST_permission_denied";
        /// The frame cannot be used for this.
        BAD_PAGE = -9, "GNTST_bad_page";
        /// The copy crosses a page.
        BAD_COPY_ARG = -10, "GNTST_bad_copy_arg";
        /// The frame is beyond the receiver's reach.
        ADDRESS_TOO_BIG = -11, "GNTST_address_too_big";
        /// The page is away; try again.
        EAGAIN = -12, "GNTST_eagain";
        /// No handle is free.
        NO_SPACE = -13, "GNTST_no_space";
    }
}

impl Status {
    /// Wraps the raw number.
    pub const fn new(raw: i16) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> i16 {
        self.0
    }

    /// Whether this is [`OKAY`](Self::OKAY).
    pub const fn is_okay(self) -> bool {
        self.0 == 0
    }
}

impl Default for Status {
    /// What goes into a request; a hypercall that never looked at it is not to read as done.
    fn default() -> Self {
        Self::GENERAL_ERROR
    }
}

/// `struct grant_entry_v1`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EntryV1 {
    /// `GTF_*`; written last, behind a write barrier.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// The granted frame.
    pub frame: u32,
}
layout!(EntryV1, 8 { flags @ 0, domid @ 2, frame @ 4 });

/// `union grant_entry_v2`, member `full_page`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EntryV2FullPage {
    /// `GTF_*`; written last, behind a write barrier.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// Padding.
    pub pad: [u8; 4],
    /// The granted frame.
    pub frame: u64,
}
layout!(EntryV2FullPage, 16 { flags @ 0, domid @ 2, frame @ 8 });

/// `union grant_entry_v2`, member `sub_page`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EntryV2SubPage {
    /// `GTF_*`; written last, behind a write barrier.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// First byte of the frame that is granted.
    pub page_off: u16,
    /// Bytes granted.
    pub length: u16,
    /// The granted frame.
    pub frame: u64,
}
layout!(EntryV2SubPage, 16 { flags @ 0, domid @ 2, page_off @ 4, length @ 6, frame @ 8 });

/// `union grant_entry_v2`, member `transitive`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EntryV2Transitive {
    /// `GTF_*`; written last, behind a write barrier.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// Whose grant it passes on.
    pub trans_domid: u16,
    /// Padding.
    pub pad: [u8; 2],
    /// The reference in that domain.
    pub gref: u32,
    /// Padding up to the size of the union.
    pub pad2: [u8; 4],
}
layout!(EntryV2Transitive, 16 { flags @ 0, domid @ 2, trans_domid @ 4, gref @ 8 });

/// `struct gnttab_map_grant_ref`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MapGrantRef {
    /// Where to map it.
    pub host_addr: u64,
    /// `GNTMAP_*`.
    pub flags: u32,
    /// `ref` of the header: the reference.
    pub gref: u32,
    /// Who granted it.
    pub dom: u16,
    /// Out: how it ended.
    pub status: Status,
    /// Out: the name of the mapping.
    pub handle: u32,
    /// Out: the address for devices.
    pub dev_bus_addr: u64,
}
layout!(MapGrantRef, 32 { host_addr @ 0, flags @ 8, gref @ 12, dom @ 16, status @ 18, handle @ 20, dev_bus_addr @ 24 });

/// `struct gnttab_unmap_grant_ref`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// Where it is mapped.
    pub host_addr: u64,
    /// The address for devices, or 0.
    pub dev_bus_addr: u64,
    /// The name of the mapping.
    pub handle: u32,
    /// Out: how it ended.
    pub status: Status,
    /// Padding.
    pub pad: [u8; 2],
}
layout!(UnmapGrantRef, 24 { host_addr @ 0, dev_bus_addr @ 8, handle @ 16, status @ 20 });

/// `struct gnttab_copy_ptr`: one end of a copy, in the layout of 64-bit domains.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CopyPtr {
    /// `u` of the header: a reference in its lower half, or a frame number of our own.
    pub frame: u64,
    /// Whose it is.
    pub domid: u16,
    /// First byte within the page.
    pub offset: u16,
    /// Padding.
    pub pad: [u8; 4],
}
layout!(CopyPtr, 16 { frame @ 0, domid @ 8, offset @ 10 });

/// `struct gnttab_copy`, in the layout of 64-bit domains. `offset + len` stays within the page at both ends.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GrantCopy {
    /// From here.
    pub source: CopyPtr,
    /// To here.
    pub dest: CopyPtr,
    /// Bytes.
    pub len: u16,
    /// `GNTCOPY_*`.
    pub flags: u16,
    /// Out: how it ended.
    pub status: Status,
    /// Padding.
    pub pad: [u8; 2],
}
layout!(GrantCopy, 40 { source @ 0, dest @ 16, len @ 32, flags @ 34, status @ 36 });

/// `struct gnttab_query_size`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct QuerySize {
    /// Whose table.
    pub dom: u16,
    /// Padding.
    pub pad: [u8; 2],
    /// Out: pages it has.
    pub nr_frames: u32,
    /// Out: pages it may have.
    pub max_nr_frames: u32,
    /// Out: how it ended.
    pub status: Status,
    /// Padding.
    pub pad2: [u8; 2],
}
layout!(QuerySize, 16 { dom @ 0, nr_frames @ 4, max_nr_frames @ 8, status @ 12 });

/// `struct gnttab_get_version`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GetVersion {
    /// Whose table.
    pub dom: u16,
    /// Padding.
    pub pad: [u8; 2],
    /// Out: 1 or 2.
    pub version: u32,
}
layout!(GetVersion, 8 { dom @ 0, version @ 4 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_name_of_the_header() {
        assert_eq!(Status::BAD_GNTREF.name(), Some("GNTST_bad_gntref"));
        assert_eq!(Status(-14).name(), None);
        assert_eq!(Status(1).name(), None);
        assert_ne!(Status::default(), Status::OKAY);
        assert_eq!(MapGrantRef::default().status, Status::GENERAL_ERROR);
    }

    #[test]
    fn the_types_of_an_entry_fit_its_mask() {
        for flags in [GTF_PERMIT_ACCESS, GTF_ACCEPT_TRANSFER, GTF_TRANSITIVE] {
            assert_eq!(flags & !GTF_TYPE_MASK, 0);
            assert_eq!((flags | GTF_READONLY | GTF_WRITING) & GTF_TYPE_MASK, flags);
        }
    }
}
