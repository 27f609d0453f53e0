//! The rings of `xen/io/blkif.h`, one type for each layout, for both ends.

use ringfence_core::wire::blkif::{RequestNative, RequestX86_32, ResponseNative, ResponseX86_32};

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

/// The layout of 32-bit x86: 108-byte entries, of which not every one is aligned to 8 bytes.
#[derive(Clone, Copy, Debug)]
pub enum BlkifX86_32 {}

impl Protocol for BlkifX86_32 {
    type Request = RequestX86_32;
    type Response = ResponseX86_32;
    const STRIDE: usize = size_of::<RequestX86_32>();
    const RESPONSE_FIELDS: &'static [Field] =
        &[Field::new(0, 8), Field::new(8, 1), Field::new(10, 2)];
}

const _: () = assert!(BlkifX86_32::STRIDE == 108);
