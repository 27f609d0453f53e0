//! A frontend that puts any bytes on the ring of a block backend.

use ringfence_core::SharedMem;
use ringfence_core::platform::Channel;
use ringfence_ring::layout::{HEADER, REQ_PROD};

use crate::blkback_rig::{BUDGET, Rig};

/// Each 113 bytes are a request and how far to move the index before the bell; what is left over moves the index by itself.
/// The backend must come to rest, and hold only its ring.
///
/// # Panics
/// If it does not, or an engine panics.
pub fn backend_requests(data: &[u8]) {
    let mut rig = Rig::new();
    let guest = rig.connected(7, "w");
    let bell = guest.channel.as_ref().expect("connected");
    let mut index = 0u32;
    for (slot, chunk) in data.chunks(113).take(64).enumerate() {
        let (step, request) = chunk.split_last().expect("chunks are not empty");
        guest.shared().write(HEADER + 112 * (slot % 32), request);
        // Mostly honest, or the ring would end at once.
        index = index.wrapping_add(if *step < 250 { 1 } else { u32::from(*step) });
        guest.shared().store_u32(REQ_PROD, index);
        bell.notify().expect("a bell");
        rig.service.poll(BUDGET, rig.now);
    }
    rig.settle();
    let usage = rig.usage();
    assert!(usage.mapped <= 1 && usage.ports <= 1);
}
