//! Where things lie on the shared pages (`DEFINE_RING_TYPES` of `xen/io/ring.h`).

use crate::fault::AttachError;
use crate::protocol::{Protocol, assert_protocol};
use crate::{RingIndex, RingMem};
use core::marker::PhantomData;
use ringfence_core::mem::PAGE;

/// Offset of the frontend's request index.
pub const REQ_PROD: usize = 0;
/// Offset of the request index at which the backend wants to be woken.
pub const REQ_EVENT: usize = 4;
/// Offset of the backend's response index.
pub const RSP_PROD: usize = 8;
/// Offset of the response index at which the frontend wants to be woken.
pub const RSP_EVENT: usize = 12;
/// Offset of the private and padding bytes that `SHARED_RING_INIT` zeroes.
pub const PRIVATE: usize = 16;
/// Offset of the word by which a backend knows a ring again: the last of the padding bytes.
pub const MARK: usize = HEADER - 8;
/// Bytes before the first entry.
pub const HEADER: usize = 64;
/// The most pages a ring may have.
pub const MAX_PAGES: usize = 16;

/// Entries in a ring of `bytes` bytes: as many as fit, rounded down to a power of two (`__RING_SIZE`). `None` if none fits.
#[must_use]
pub const fn ring_size(bytes: usize, stride: usize) -> Option<u32> {
    let Some(room) = bytes.checked_sub(HEADER) else {
        return None;
    };
    let Some(entries) = room.checked_div(stride) else {
        return None;
    };
    match entries.checked_ilog2() {
        Some(log) if log < u32::BITS => 1u32.checked_shl(log),
        _ => None,
    }
}

/// The entries of one ring.
pub(crate) struct Entries<P> {
    mask: u32,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Entries<P> {
    const CHECKED: () = assert_protocol::<P>();

    /// The entries that fit into `mem`.
    pub(crate) fn of<M: RingMem>(mem: &M) -> Result<Self, AttachError> {
        let () = Self::CHECKED;
        let bytes = mem.len();
        let refused = AttachError::Memory {
            bytes,
            stride: P::STRIDE,
        };
        if !bytes.is_multiple_of(PAGE) || bytes > MAX_PAGES.saturating_mul(PAGE) {
            return Err(refused);
        }
        let size = ring_size(bytes, P::STRIDE).ok_or(refused)?;
        Ok(Self {
            mask: size.wrapping_sub(1),
            protocol: PhantomData,
        })
    }

    #[inline]
    pub(crate) const fn size(&self) -> u32 {
        self.mask.wrapping_add(1)
    }

    /// Offset of the entry that `index` falls on. Below `HEADER + size * STRIDE`, hence inside the memory, for every index.
    #[inline]
    pub(crate) const fn offset(&self, index: RingIndex) -> usize {
        let entry = (index.get() & self.mask) as usize;
        HEADER.wrapping_add(entry.wrapping_mul(P::STRIDE))
    }
}

#[cfg(test)]
mod tests {
    use super::ring_size;

    #[test]
    fn sizes_as_the_c_macro_computes_them() {
        for (order, size) in [32, 64, 128, 256, 512].into_iter().enumerate() {
            assert_eq!(ring_size(4096 << order, 112), Some(size));
            assert_eq!(ring_size(4096 << order, 108), Some(size));
        }
        assert_eq!(ring_size(4096, 12), Some(256));
        assert_eq!(ring_size(4096, 16), Some(128));
        assert_eq!(ring_size(4096, 4032), Some(1));
        assert_eq!(ring_size(4096, 4033), None);
        assert_eq!(ring_size(64, 4), None);
        assert_eq!(ring_size(0, 4), None);
        assert_eq!(ring_size(4096, 0), None);
    }
}
