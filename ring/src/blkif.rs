//! The rings of `xen/io/blkif.h`, one type for each layout, for both ends.

use ringfence_core::wire::blkif::{RequestNative, ResponseNative};

use crate::{Field, Protocol};

/// The layout of x86_64 and arm: 112-byte entries.
#[derive(Clone, Copy, Debug)]
pub enum BlkifNative {}

impl Protocol for BlkifNative {
    type Request = RequestNative;
    type Response = ResponseNative;
    const STRIDE: usize = size_of::<RequestNative>();
    const RESPONSE_FIELDS: &'static [Field] =
        &[Field::new(0, 8), Field::new(8, 1), Field::new(10, 2)];
}

const _: () = assert!(BlkifNative::STRIDE == 112);
