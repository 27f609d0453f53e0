//! Protocols to run over rings under test.

use ringfence_core::wire::blkif::{RequestNative, RequestX86_32, ResponseNative, ResponseX86_32};
use ringfence_ring::{Field, Protocol};

/// blkif as 64-bit peers lay it out: 112-byte entries, 32 in a page.
pub struct Blk64;

impl Protocol for Blk64 {
    type Request = RequestNative;
    type Response = ResponseNative;
    const STRIDE: usize = 112;
    const RESPONSE_FIELDS: &'static [Field] = &[Field::new(0, 9), Field::new(10, 2)];
}

/// blkif as 32-bit x86 lays it out: 108-byte entries, which are not aligned to 8.
pub struct Blk32;

impl Protocol for Blk32 {
    type Request = RequestX86_32;
    type Response = ResponseX86_32;
    const STRIDE: usize = 108;
    const RESPONSE_FIELDS: &'static [Field] = &[Field::new(0, 9), Field::new(10, 2)];
}

/// One number each way in entries of `STRIDE` bytes, for rings of any size.
pub struct Number<const STRIDE: usize>;

impl<const STRIDE: usize> Protocol for Number<STRIDE> {
    type Request = u32;
    type Response = u32;
    const STRIDE: usize = STRIDE;
    const RESPONSE_FIELDS: &'static [Field] = &[Field::new(0, 4)];
}
