//! What backends may find in the pages that a disk's frontend grants them: zeros, but for what it means to send.

use ringfence_blkfront::Op;
use ringfence_core::wire::blkif::Op as WireOp;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{GrantRef, PAGE, Sector, SharedMem};
use ringfence_sim::World;
use ringfence_tests::blkfront_rig::{FRONT, Rig};

const SENTINEL: u8 = 0xA5;

/// Bytes of the sentinel in a granted page.
fn sentinels(world: &World, gref: u32, range: std::ops::Range<usize>) -> usize {
    let page = world.page(FRONT, GrantRef::new(gref));
    let mut bytes = [0; PAGE];
    page.expect("a granted page").read(0, &mut bytes);
    bytes[range]
        .iter()
        .filter(|byte| **byte == SENTINEL)
        .count()
}

#[test]
fn xsa_403_tail_of_a_short_write_is_zero() {
    let mut rig = Rig::connected();
    let mut buffer = rig.front.buffer(2).expect("pages enough");
    buffer.write_at(0, &[SENTINEL; 2 * PAGE]).expect("it fits");
    buffer.set_len(512).expect("a sector");
    buffer.write_at(0, &[1; 512]).expect("it fits");
    // Both pages stay granted, though only the first takes part.
    let all = [buffer.len(), buffer.capacity()];
    assert_eq!(all, [512, 2 * PAGE]);
    let submitted = rig.front.submit(Op::Write, Sector::new(0), buffer);
    submitted.expect("room");
    rig.front.kick().expect("a live world");
    let request = rig.take_all();
    assert_eq!((request.nr_segments, request.seg[0].last_sect), (1, 0));
    let ring: u32 = rig
        .get("/local/domain/1/device/vbd/51712/ring-ref")
        .parse()
        .expect("a number");
    let mut granted = 0;
    for gref in 0..64 {
        if rig.world.page(FRONT, GrantRef::new(gref)).is_some() {
            assert_eq!(
                sentinels(&rig.world, gref, 0..PAGE),
                0,
                "grant {gref} leaks"
            );
            granted += 1;
        }
    }
    assert_eq!(granted, 3, "two pages and the ring {ring}");
}

/// Rings of several pages and lists of segments are granted whole as well.
#[test]
fn xsa_403_rings_and_lists_hold_nothing_else() {
    let mut rig = Rig::<64, 16>::with_limits();
    rig.node("max-ring-page-order", "4");
    rig.published();
    rig.describe();
    rig.node("feature-max-indirect-segments", "256");
    rig.state(XenbusState::Connected);
    rig.events();
    // Pages that held something else go back and come again.
    for _ in 0..4 {
        let mut buffer = rig.front.buffer(16).expect("pages enough");
        buffer.write_at(0, &[SENTINEL; 16 * PAGE]).expect("it fits");
    }
    let mut buffer = rig.front.buffer(16).expect("pages enough");
    buffer.set_len(12 * PAGE + 512).expect("sectors");
    let submitted = rig.front.submit(Op::Write, Sector::new(0), buffer);
    submitted.expect("room");
    rig.front.kick().expect("a live world");
    let request = rig.take_all();
    let list = request.indirect();
    assert_eq!((list.operation, list.nr_segments), (WireOp::INDIRECT, 13));
    let mut granted = 0;
    for gref in 0..128 {
        if rig.world.page(FRONT, GrantRef::new(gref)).is_some() {
            let all = sentinels(&rig.world, gref, 0..PAGE);
            assert_eq!(all, 0, "grant {gref} leaks");
            granted += 1;
        }
    }
    assert_eq!(granted, 2 + 16 + 1, "ring, pages, list");
    let page = GrantRef::new(list.indirect_grefs[0]);
    let mut rest = [0; PAGE];
    rig.world
        .page(FRONT, page)
        .expect("granted")
        .read(0, &mut rest);
    assert!(rest[13 * 8..].iter().all(|byte| *byte == 0));
}

#[test]
fn xsa_403_pages_are_zero_when_granted() {
    let mut rig = Rig::connected();
    for _ in 0..8 {
        let mut buffer = rig.front.buffer(1).expect("pages enough");
        let mut bytes = [1; PAGE];
        buffer.read_at(0, &mut bytes).expect("in range");
        assert_eq!(bytes, [0; PAGE]);
        buffer.write_at(0, &[SENTINEL; PAGE]).expect("it fits");
    }
    let buffer = rig.front.buffer(1).expect("pages enough");
    let submitted = rig.front.submit(Op::Read, Sector::new(0), buffer);
    submitted.expect("room");
    rig.front.kick().expect("a live world");
    let request = rig.take_all();
    assert_eq!(sentinels(&rig.world, request.seg[0].gref, 0..PAGE), 0);
}
