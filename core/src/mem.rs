//! Memory that a peer may change at any moment.

use zerocopy::{FromBytes, IntoBytes};

/// Xen's page: 4096 bytes, never the host's page size.
pub const PAGE: usize = 4096;

/// Bytes that another domain reads and writes while we do.
///
/// There is no way to get a Rust reference into such memory: everything is copied in or out, each byte once. A platform's
/// `Granted` and `Mapping` implement this, a loom or a counting page in a test does too, and the ring crate knows nothing else.
///
/// Offsets are in bytes from the start. An offset or length out of range is the caller's bug and panics; callers check against
/// [`len`](Self::len) when they attach, so that nothing a peer writes can lead there.
pub trait SharedMem {
    /// Length in bytes, a multiple of [`PAGE`].
    fn len(&self) -> usize;

    /// Whether there is no page at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Loads the `u32` at `offset` (a multiple of 4) once, with acquire ordering.
    fn load_u32(&self, offset: usize) -> u32;

    /// Stores the `u32` at `offset` (a multiple of 4) once, with release ordering.
    fn store_u32(&self, offset: usize, value: u32);

    /// Copies `dst.len()` bytes out, each of them read exactly once, in words where alignment allows.
    fn read(&self, offset: usize, dst: &mut [u8]);

    /// Copies a message out, each byte read exactly once. By value, so that a message need not exist in memory before it is used.
    #[inline]
    fn read_value<T: FromBytes + IntoBytes>(&self, offset: usize) -> T
    where
        Self: Sized,
    {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes());
        value
    }

    /// Copies `src.len()` bytes in, each of them written exactly once, in words where alignment allows.
    fn write(&self, offset: usize, src: &[u8]);

    /// The full barrier (`mb()` of `xen/io/ring.h`): orders every store before it against every load after it.
    fn fence(&self);
}

impl<M: SharedMem + ?Sized> SharedMem for &M {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn load_u32(&self, offset: usize) -> u32 {
        (**self).load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        (**self).store_u32(offset, value);
    }
    fn read(&self, offset: usize, dst: &mut [u8]) {
        (**self).read(offset, dst);
    }
    fn write(&self, offset: usize, src: &[u8]) {
        (**self).write(offset, src);
    }
    fn fence(&self) {
        (**self).fence();
    }
}
