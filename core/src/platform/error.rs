//! What can go wrong below the drivers.

use core::fmt;

use crate::ids::{DomId, EvtchnPort, GrantRef};

/// The system below us failed: neither the peer's fault nor the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{op} failed: errno {errno}")]
pub struct PlatformError {
    /// The system call, ioctl or hypercall.
    pub op: &'static str,
    /// The positive error number of the system.
    pub errno: i32,
}

/// `GNTST_*` of `xen/grant_table.h`: 0 is success, negative numbers are failures.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrantStatus(i16);

impl GrantStatus {
    /// `GNTST_okay`
    pub const OKAY: Self = Self(0);
    /// `GNTST_general_error`
    pub const GENERAL_ERROR: Self = Self(-1);
    /// `GNTST_bad_domain`
    pub const BAD_DOMAIN: Self = Self(-2);
    /// `GNTST_bad_gntref`
    pub const BAD_GNTREF: Self = Self(-3);
    /// `GNTST_bad_handle`
    pub const BAD_HANDLE: Self = Self(-4);
    /// `GNTST_bad_virt_addr`
    pub const BAD_VIRT_ADDR: Self = Self(-5);
    /// `GNTST_bad_dev_addr`
    pub const BAD_DEV_ADDR: Self = Self(-6);
    /// `GNTST_no_device_space`
    pub const NO_DEVICE_SPACE: Self = Self(-7);
    /// `GNTST_permission_denied`
    pub const PERMISSION_DENIED: Self = Self(-8);
    /// `GNTST_bad_page`
    pub const BAD_PAGE: Self = Self(-9);
    /// `GNTST_bad_copy_arg`
    pub const BAD_COPY_ARG: Self = Self(-10);
    /// `GNTST_address_too_big`
    pub const ADDRESS_TOO_BIG: Self = Self(-11);
    /// `GNTST_eagain`: the page is paged out, try again.
    pub const EAGAIN: Self = Self(-12);
    /// `GNTST_no_space`: out of handles.
    pub const NO_SPACE: Self = Self(-13);

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

    /// The name in the header without its prefix, or `None` for numbers that the header does not know.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "okay",
            -1 => "general_error",
            -2 => "bad_domain",
            -3 => "bad_gntref",
            -4 => "bad_handle",
            -5 => "bad_virt_addr",
            -6 => "bad_dev_addr",
            -7 => "no_device_space",
            -8 => "permission_denied",
            -9 => "bad_page",
            -10 => "bad_copy_arg",
            -11 => "address_too_big",
            -12 => "eagain",
            -13 => "no_space",
            _ => return None,
        })
    }
}

impl fmt::Display for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "unknown status {}", self.0),
        }
    }
}

impl fmt::Debug for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a page could not be granted or mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// No page or no reference left to grant to this peer.
    #[error("out of grants for domain {peer}: {limit} in use")]
    Exhausted {
        /// The peer.
        peer: DomId,
        /// How many pages this world can grant to one peer.
        limit: u32,
    },
    /// The grant table refused this reference.
    #[error("grant {gref} of domain {peer} refused: {status}")]
    Refused {
        /// Whose grant.
        peer: DomId,
        /// Which one: the first of the batch that was refused.
        gref: GrantRef,
        /// Why.
        status: GrantStatus,
    },
    /// The system failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// Why a port could not be allocated or bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvtchnError {
    /// No port left.
    #[error("out of event channels")]
    Exhausted,
    /// The peer has no such port, did not allocate it for us, or somebody is bound to it.
    #[error("event channel {port} of domain {peer} cannot be bound")]
    Refused {
        /// Whose port.
        peer: DomId,
        /// Which one.
        port: EvtchnPort,
    },
    /// There is no such domain, or it is being destroyed.
    #[error("no domain {peer}")]
    NoDomain {
        /// The peer.
        peer: DomId,
    },
    /// The system failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}
