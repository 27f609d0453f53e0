//! What travels on a ring.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A run of bytes inside a message that carries meaning; what lies between fields is padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl Field {
    /// `len` bytes from `offset`.
    #[must_use]
    pub const fn new(offset: usize, len: usize) -> Self {
        Self { offset, len }
    }
}

/// A request/response pair of one of `xen/io/*.h`, in one ABI.
///
/// Both types are plain bytes: any bytes of the peer's are a value, and what they mean is for `parse` to say.
pub trait Protocol {
    /// What the frontend puts on the ring.
    type Request: FromBytes + IntoBytes + Immutable + KnownLayout;

    /// What the backend puts in its place.
    type Response: FromBytes + IntoBytes + Immutable + KnownLayout;

    /// Bytes from one entry to the next: the size of the C union of both, in the frontend's ABI.
    const STRIDE: usize;

    /// The bytes of a response that are not padding. Only these are ever written to the shared page, so that padding cannot
    /// carry the backend's memory to the guest (XSA-216). For blkif: id at 0, operation at 8, status at 10.
    const RESPONSE_FIELDS: &'static [Field];
}

/// Refuses, when a ring of `P` is instantiated, a protocol that contradicts itself.
pub(crate) const fn assert_protocol<P: Protocol>() {
    let response = size_of::<P::Response>();
    assert!(P::STRIDE > 0 && P::STRIDE.is_multiple_of(4));
    assert!(size_of::<P::Request>() <= P::STRIDE);
    assert!(response <= P::STRIDE);
    let mut fields = P::RESPONSE_FIELDS;
    while let [field, rest @ ..] = fields {
        assert!(field.len <= response && field.offset <= response.saturating_sub(field.len));
        fields = rest;
    }
}
