//! Write barriers: nothing crosses them, on one ring and on several.

use ringfence_blkback::sink::IoOp;
use ringfence_core::ids::Sector;
use ringfence_core::platform::{Channel, Granted};
use ringfence_core::wire::blkif::{Op, RequestNative, Status};
use ringfence_core::{PAGE, SharedMem};
use ringfence_ring::layout::REQ_PROD;
use ringfence_tests::blkback_rig::{Guest, OtherRing, Rig, request, write};

const fn written(sector: u64) -> (IoOp, usize) {
    (IoOp::Write(Sector::new(sector)), PAGE)
}

const FLUSHED: (IoOp, usize) = (IoOp::Flush, 0);

fn barrier(guest: &Guest, id: u64, sector: u64) -> RequestNative {
    request(
        id,
        Op::WRITE_BARRIER,
        sector,
        &[(guest.page.grant_ref(), 0, 7)],
    )
}

/// What the disk has been asked since the last time, in order.
fn seen(rig: &Rig, guest: &Guest) -> Vec<(IoOp, usize)> {
    let disk = rig.disks.of(&guest.back_dir);
    std::mem::take(&mut disk.borrow_mut().seen)
}

fn release(rig: &mut Rig, guest: &Guest) {
    rig.disks.of(&guest.back_dir).borrow_mut().release();
    rig.settle();
}

fn scene(queues: u32) -> (Rig, Guest, Vec<OtherRing>) {
    let mut rig = Rig::new();
    let (guest, rings) = rig.with_rings(7, queues);
    rig.disks.of(&guest.back_dir).borrow_mut().hold = true;
    (rig, guest, rings)
}

fn ids(ring: &mut OtherRing) -> Vec<(u64, Status)> {
    let answers = ring.answers();
    answers
        .iter()
        .map(|answer| (answer.id, answer.status))
        .collect()
}

#[test]
fn a_barrier_is_flush_write_flush_between_what_is_older_and_what_is_newer() {
    let (mut rig, guest, mut rings) = scene(1);
    let gref = guest.page.grant_ref();
    let ring = &mut rings[0];
    assert!(ring.push(&write(1, 0, gref)));
    assert!(ring.push(&write(2, 8, gref)));
    assert!(ring.push(&barrier(&guest, 3, 16)));
    assert!(ring.push(&write(4, 24, gref)));
    ring.kick();
    rig.settle();
    assert_eq!(seen(&rig, &guest), [written(0), written(8)]);
    release(&mut rig, &guest);
    assert_eq!(seen(&rig, &guest), [FLUSHED]);
    let mut answers = ids(ring);
    answers.sort_by_key(|(id, _)| *id);
    assert_eq!(answers, [(1, Status::OKAY), (2, Status::OKAY)]);
    release(&mut rig, &guest);
    assert_eq!(seen(&rig, &guest), [written(16)]);
    release(&mut rig, &guest);
    assert_eq!(seen(&rig, &guest), [FLUSHED]);
    assert_eq!(ids(ring), []);
    release(&mut rig, &guest);
    assert_eq!(seen(&rig, &guest), [written(24)]);
    assert_eq!(ids(ring), [(3, Status::OKAY)]);
    release(&mut rig, &guest);
    assert_eq!(ids(ring), [(4, Status::OKAY)]);
}

#[test]
fn a_barrier_without_data_is_a_flush_that_nothing_crosses() {
    let (mut rig, guest, mut rings) = scene(1);
    let gref = guest.page.grant_ref();
    let ring = &mut rings[0];
    assert!(ring.push(&write(1, 0, gref)));
    assert!(ring.push(&request(2, Op::WRITE_BARRIER, 0, &[])));
    assert!(ring.push(&write(3, 8, gref)));
    ring.kick();
    rig.settle();
    assert_eq!(seen(&rig, &guest), [written(0)]);
    release(&mut rig, &guest);
    assert_eq!(seen(&rig, &guest), [FLUSHED]);
    release(&mut rig, &guest);
    assert_eq!(seen(&rig, &guest), [written(8)]);
    assert_eq!(ids(ring), [(1, Status::OKAY), (2, Status::OKAY)]);
}

#[test]
fn a_barrier_waits_for_the_other_rings_and_they_for_it() {
    let (mut rig, guest, mut rings) = scene(3);
    let gref = guest.page.grant_ref();
    // One is at the disk; one is on its ring, and nobody was rung for it.
    assert!(rings[1].push(&write(1, 0, gref)));
    rings[1].kick();
    rig.settle();
    assert!(rings[2].push(&write(2, 8, gref)));
    rings[2].show();
    assert!(rings[0].push(&barrier(&guest, 3, 16)));
    rings[0].kick();
    rig.settle();
    assert_eq!(seen(&rig, &guest), [written(0), written(8)]);
    // Newer ones.
    for (ring, sector) in [(1, 24), (2, 32)] {
        assert!(rings[ring].push(&write(4, sector, gref)));
        rings[ring].kick();
        rig.settle();
    }
    assert_eq!(seen(&rig, &guest), []);
    for expected in [FLUSHED, written(16), FLUSHED] {
        release(&mut rig, &guest);
        assert_eq!(seen(&rig, &guest), [expected]);
    }
    release(&mut rig, &guest);
    assert_eq!(ids(&mut rings[0]), [(3, Status::OKAY)]);
    let mut newer = seen(&rig, &guest);
    newer.sort_by_key(|(op, _)| format!("{op:?}"));
    assert_eq!(newer, [written(24), written(32)]);
    release(&mut rig, &guest);
    assert_eq!(ids(&mut rings[1]), [(1, Status::OKAY), (4, Status::OKAY)]);
    assert_eq!(ids(&mut rings[2]), [(2, Status::OKAY), (4, Status::OKAY)]);
}

#[test]
fn barriers_of_several_rings_come_one_after_the_other() {
    let (mut rig, guest, mut rings) = scene(4);
    rig.disks.of(&guest.back_dir).borrow_mut().hold = false;
    let gref = guest.page.grant_ref();
    for round in 0..20 {
        for ring in &mut rings {
            assert!(ring.push(&write(100, 0, gref)));
            assert!(ring.push(&barrier(&guest, round, 8)));
            assert!(ring.push(&write(101, 16, gref)));
            ring.kick();
        }
        rig.settle();
        for ring in &mut rings {
            let mut answers = ids(ring);
            answers.sort_by_key(|(id, _)| *id);
            assert_eq!(answers, [round, 100, 101].map(|id| (id, Status::OKAY)));
        }
        let order = seen(&rig, &guest);
        let barriers = order.windows(3);
        let whole = barriers.filter(|three| **three == [FLUSHED, written(8), FLUSHED]);
        assert_eq!(whole.count(), 4, "{order:?}");
    }
}

#[test]
fn a_barrier_that_fails_is_answered_and_over() {
    let (mut rig, guest, mut rings) = scene(2);
    let disk = rig.disks.of(&guest.back_dir);
    (disk.borrow_mut().hold, disk.borrow_mut().fail_flush) = (false, true);
    assert!(rings[0].push(&barrier(&guest, 1, 8)));
    rings[0].kick();
    rig.settle();
    assert_eq!(ids(&mut rings[0]), [(1, Status::ERROR)]);
    assert_eq!(seen(&rig, &guest), [FLUSHED]);
    for ring in &mut rings {
        assert!(ring.push(&write(2, 0, guest.page.grant_ref())));
        ring.kick();
        rig.settle();
        assert_eq!(ids(ring), [(2, Status::OKAY)]);
    }
}

#[test]
fn a_ring_that_lies_does_not_hold_up_a_barrier() {
    let (mut rig, guest, mut rings) = scene(2);
    let gref = guest.page.grant_ref();
    assert!(rings[0].push(&write(1, 0, gref)));
    rings[0].kick();
    rig.settle();
    assert!(rings[0].push(&barrier(&guest, 2, 8)));
    rings[0].show();
    rings[1].pages().store_u32(REQ_PROD, 1 << 31);
    rings[0].channel.notify().expect("a bell");
    rig.settle();
    for _ in 0..4 {
        release(&mut rig, &guest);
    }
    assert_eq!(ids(&mut rings[0]), [(1, Status::OKAY), (2, Status::OKAY)]);
    assert_eq!(rig.state(&guest), "5");
}
