//! `xen/io/xs_wire.h`: the wire protocol of XenStore, as in Xen 4.17.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct xsd_sockmsg`: the header before every request, reply and event. Host byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SockMsg {
    /// What is asked, or what this answers (`type` in C).
    pub op: Op,
    /// Chosen by the client, echoed in the reply; 0 in events.
    pub req_id: u32,
    /// The transaction, or 0.
    pub tx_id: u32,
    /// Bytes of payload that follow, at most [`PAYLOAD_MAX`].
    pub len: u32,
}

const _: () = assert!(size_of::<SockMsg>() == 16);
const _: () = assert!(offset_of!(SockMsg, op) == 0);
const _: () = assert!(offset_of!(SockMsg, req_id) == 4);
const _: () = assert!(offset_of!(SockMsg, tx_id) == 8);
const _: () = assert!(offset_of!(SockMsg, len) == 12);

/// `enum xsd_sockmsg_type`. Open: an unknown number is answered with [`Errno::NoSys`].
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct Op(u32);

impl Op {
    /// `XS_CONTROL` (also `XS_DEBUG`).
    pub const CONTROL: Self = Self(0);
    /// `XS_DIRECTORY`: names of a node's children.
    pub const DIRECTORY: Self = Self(1);
    /// `XS_READ`: a node's value.
    pub const READ: Self = Self(2);
    /// `XS_GET_PERMS`.
    pub const GET_PERMS: Self = Self(3);
    /// `XS_WATCH`: path, token.
    pub const WATCH: Self = Self(4);
    /// `XS_UNWATCH`: path, token.
    pub const UNWATCH: Self = Self(5);
    /// `XS_TRANSACTION_START`.
    pub const TRANSACTION_START: Self = Self(6);
    /// `XS_TRANSACTION_END`: `T` commits, `F` aborts.
    pub const TRANSACTION_END: Self = Self(7);
    /// `XS_INTRODUCE`: domid, frame, port.
    pub const INTRODUCE: Self = Self(8);
    /// `XS_RELEASE`: domid.
    pub const RELEASE: Self = Self(9);
    /// `XS_GET_DOMAIN_PATH`: domid.
    pub const GET_DOMAIN_PATH: Self = Self(10);
    /// `XS_WRITE`: path, NUL, value without NUL.
    pub const WRITE: Self = Self(11);
    /// `XS_MKDIR`.
    pub const MKDIR: Self = Self(12);
    /// `XS_RM`: a node and everything below.
    pub const RM: Self = Self(13);
    /// `XS_SET_PERMS`: path, then one string per entry.
    pub const SET_PERMS: Self = Self(14);
    /// `XS_WATCH_EVENT`: only from the server.
    pub const WATCH_EVENT: Self = Self(15);
    /// `XS_ERROR`: only from the server.
    pub const ERROR: Self = Self(16);
    /// `XS_IS_DOMAIN_INTRODUCED`: domid.
    pub const IS_DOMAIN_INTRODUCED: Self = Self(17);
    /// `XS_RESUME`: domid.
    pub const RESUME: Self = Self(18);
    /// `XS_SET_TARGET`: domid, target domid.
    pub const SET_TARGET: Self = Self(19);
    /// `XS_RESTRICT` of old, removed; its number stays unused.
    pub const RESTRICT: Self = Self(20);
    /// `XS_RESET_WATCHES`.
    pub const RESET_WATCHES: Self = Self(21);
    /// `XS_DIRECTORY_PART`: path, offset.
    pub const DIRECTORY_PART: Self = Self(22);
    /// `XS_TYPE_COUNT` of 4.17. The four numbers from here on are GET_FEATURE, SET_FEATURE, GET_QUOTA and SET_QUOTA of
    /// later versions, and are answered with [`Errno::NoSys`] like any unknown one.
    pub const TYPE_COUNT: Self = Self(23);
    /// `XS_INVALID`: guaranteed to stay invalid.
    pub const INVALID: Self = Self(0xffff);

    /// Wraps the raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $number:literal;)*) => {
        /// `xsd_errors`: an error of the wire, which travels as its name.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Errno {
            $($(#[$doc])* $variant,)*
        }

        impl Errno {
            /// Every error, in the header's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire, without its NUL.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The number on Linux.
            pub const fn number(self) -> i32 {
                match self { $(Self::$variant => $number,)* }
            }
        }
    };
}

errors! {
    /// The request makes no sense.
    Inval = "EINVAL", 22;
    /// The node's permissions forbid it.
    Acces = "EACCES", 13;
    /// It is there already.
    Exist = "EEXIST", 17;
    /// Unused by this protocol's servers.
    IsDir = "EISDIR", 21;
    /// There is no such node, watch, domain or transaction.
    NoEnt = "ENOENT", 2;
    /// Out of memory, or above a memory quota.
    NoMem = "ENOMEM", 12;
    /// A quota is exhausted.
    NoSpc = "ENOSPC", 28;
    /// The store is damaged.
    Io = "EIO", 5;
    /// Unused by this protocol's servers.
    NotEmpty = "ENOTEMPTY", 39;
    /// No such operation.
    NoSys = "ENOSYS", 38;
    /// Unused by this protocol's servers.
    RoFs = "EROFS", 30;
    /// Busy.
    Busy = "EBUSY", 16;
    /// The transaction met a conflict: start again.
    Again = "EAGAIN", 11;
    /// The domain is introduced already.
    IsConn = "EISCONN", 106;
    /// The message would be too long.
    TooBig = "E2BIG", 7;
    /// The caller may not do this at all.
    Perm = "EPERM", 1;
}

impl Errno {
    /// The error of that name (without NUL), or `None` when the name is none of the header's.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|e| e.name().as_bytes() == name)
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// `XENSTORE_PAYLOAD_MAX`: longer payloads end the connection.
pub const PAYLOAD_MAX: usize = 4096;
/// `XENSTORE_ABS_PATH_MAX`: bytes of an absolute path, without its NUL.
pub const ABS_PATH_MAX: usize = 3072;
/// `XENSTORE_REL_PATH_MAX`: bytes of a path relative to the caller's home.
pub const REL_PATH_MAX: usize = 2048;

/// `XENSTORE_RING_SIZE`: bytes of each of the two byte rings.
pub const RING_SIZE: usize = 1024;

/// `struct xenstore_domain_interface`: the ring page. Only its layout: the page is shared, so it is never a Rust reference.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomainInterface {
    /// Requests, client to server.
    pub req: [u8; RING_SIZE],
    /// Replies and events, server to client.
    pub rsp: [u8; RING_SIZE],
    /// The server's index into `req`.
    pub req_cons: u32,
    /// The client's index into `req`.
    pub req_prod: u32,
    /// The client's index into `rsp`.
    pub rsp_cons: u32,
    /// The server's index into `rsp`.
    pub rsp_prod: u32,
    /// What the server can do, `FEATURE_*`.
    pub server_features: u32,
    /// [`CONNECTED`] or [`RECONNECT`].
    pub connection: u32,
    /// Why the server stopped, `ERROR_*`.
    pub error: u32,
}

const _: () = assert!(size_of::<DomainInterface>() == 2076);
const _: () = assert!(offset_of!(DomainInterface, req) == 0);
const _: () = assert!(offset_of!(DomainInterface, rsp) == 1024);
const _: () = assert!(offset_of!(DomainInterface, req_cons) == 2048);
const _: () = assert!(offset_of!(DomainInterface, req_prod) == 2052);
const _: () = assert!(offset_of!(DomainInterface, rsp_cons) == 2056);
const _: () = assert!(offset_of!(DomainInterface, rsp_prod) == 2060);
const _: () = assert!(offset_of!(DomainInterface, server_features) == 2064);
const _: () = assert!(offset_of!(DomainInterface, connection) == 2068);
const _: () = assert!(offset_of!(DomainInterface, error) == 2072);

/// `XENSTORE_SERVER_FEATURE_RECONNECTION`: the client may ask for a reset of the ring.
pub const FEATURE_RECONNECTION: u32 = 1;
/// `XENSTORE_SERVER_FEATURE_ERROR`: [`DomainInterface::error`] means something.
pub const FEATURE_ERROR: u32 = 2;

/// `XENSTORE_CONNECTED`: the steady state.
pub const CONNECTED: u32 = 0;
/// `XENSTORE_RECONNECT`: a reset of the ring is in progress.
pub const RECONNECT: u32 = 1;

/// `XENSTORE_ERROR_NONE`.
pub const ERROR_NONE: u32 = 0;
/// `XENSTORE_ERROR_COMM`: communication problem.
pub const ERROR_COMM: u32 = 1;
/// `XENSTORE_ERROR_RINGIDX`: an index is further ahead than the ring is long.
pub const ERROR_RINGIDX: u32 = 2;
/// `XENSTORE_ERROR_PROTO`: protocol violation (payload too long).
pub const ERROR_PROTO: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_errors_correspond_one_to_one() {
        for &errno in Errno::ALL {
            assert_eq!(Errno::from_name(errno.name().as_bytes()), Some(errno));
        }
        assert_eq!(Errno::from_name(b"EINVAL\0"), None);
        assert_eq!(Errno::from_name(b"ETIME"), None);
    }

    #[test]
    fn a_header_is_sixteen_bytes_in_host_order() {
        let header = SockMsg {
            op: Op::WRITE,
            req_id: 2,
            tx_id: 3,
            len: 4,
        };
        let mut expected = [0u8; 16];
        for (word, out) in [11u32, 2, 3, 4].iter().zip(expected.chunks_mut(4)) {
            out.copy_from_slice(&word.to_ne_bytes());
        }
        assert_eq!(header.as_bytes(), expected);
    }
}
