//! The C macros' two ends, in c/loops.c.

use crate::world::World;
use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;

unsafe extern "C" {
    fn c_front(
        pages: *mut c_void,
        bytes: u32,
        count: u64,
        batch: u32,
        spin: c_int,
        to_peer: c_int,
        from_peer: c_int,
    ) -> u64;
    fn c_back(
        pages: *mut c_void,
        bytes: u32,
        count: u64,
        spin: c_int,
        to_peer: c_int,
        from_peer: c_int,
    );
}

/// As [`crate::ours::front`].
pub(crate) fn front(pages: *mut u8, bytes: usize, world: &World) -> u64 {
    let (to_peer, from_peer) = (world.to_peer.as_raw_fd(), world.from_peer.as_raw_fd());
    // SAFETY: `pages` are `bytes` mapped bytes, a ring that was zeroed, and both descriptors are open eventfds.
    unsafe {
        c_front(
            pages.cast(),
            bytes as u32,
            world.count,
            world.batch,
            world.spin.into(),
            to_peer,
            from_peer,
        )
    }
}

/// As [`crate::ours::back`].
pub(crate) fn back(pages: *mut u8, bytes: usize, world: &World) {
    let (to_peer, from_peer) = (world.to_peer.as_raw_fd(), world.from_peer.as_raw_fd());
    // SAFETY: as in `front`.
    unsafe {
        c_back(
            pages.cast(),
            bytes as u32,
            world.count,
            world.spin.into(),
            to_peer,
            from_peer,
        )
    }
}
