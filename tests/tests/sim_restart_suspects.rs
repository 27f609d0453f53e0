//! What kills is found out with nothing else in flight: whoever else has something to do waits, and goes on afterwards.

use ringfence_blkback::service::{DeviceId, RingId};
use ringfence_core::platform::Granted;
use ringfence_core::wire::blkif::{Op, RequestNative, Status};
use ringfence_tests::blkback_rig::{BACK, BUDGET, Guest, OtherRing, Rig, request, write};

fn rig() -> Rig {
    let rig = Rig::new();
    rig.disks.keep_journals();
    rig
}

#[test]
fn suspects_of_two_disks_are_not_blamed_for_each_other() {
    let mut rig = rig();
    let guests = [7, 8].map(|front| rig.in_flight(front, 2));
    let disks = guests.each_ref().map(|guest| rig.disks.of(&guest.back_dir));
    let hold = |on| disks.iter().for_each(|disk| disk.borrow_mut().hold = on);
    let held = || disks.each_ref().map(|disk| disk.borrow().held());
    // None of these processes gets to the end of anything.
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(held(), [2, 2], "all at once");
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(held(), [1, 0], "one at a time, of all disks");
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(held(), [1, 0], "the next one");
    hold(false);
    disks[0].borrow_mut().release();
    rig.settle();
    let statuses =
        |mut guest: Guest| -> Vec<Status> { guest.answers().iter().map(|it| it.status).collect() };
    let wanted = [vec![Status::ERROR, Status::OKAY], vec![Status::OKAY; 2]];
    assert_eq!(guests.map(statuses), wanted);
}

#[test]
fn a_suspect_waits_for_what_other_disks_have_in_flight() {
    let mut rig = rig();
    let suspect = rig.in_flight(7, 1);
    let disk = rig.disks.of(&suspect.back_dir);
    let mut rig = rig.restarted();
    rig.settle();
    let mut rig = rig.restarted();
    // Others are served until its disk is to be had.
    rig.disks.withhold(&suspect.back_dir, true);
    let mut bystander = rig.in_flight(8, 2);
    rig.disks.withhold(&suspect.back_dir, false);
    rig.service.ask_again();
    rig.settle();
    assert_eq!(disk.borrow().held(), 0, "two are in flight");
    rig.disks.of(&bystander.back_dir).borrow_mut().release();
    rig.settle();
    assert_eq!(bystander.answers().len(), 2);
    assert_eq!(disk.borrow().held(), 1);
}

#[test]
fn nothing_of_its_own_ring_is_taken_beside_a_suspect_and_what_comes_after_it_is_not_alone() {
    let mut rig = rig();
    let mut guest = rig.in_flight(7, 1);
    let mut bystander = rig.connected(8, "w");
    let disk = rig.disks.of(&guest.back_dir);
    let held = || disk.borrow().held();
    let mut rig = rig.restarted();
    rig.settle();
    let gref = guest.page.grant_ref();
    guest.push(&write(1, 8, gref));
    guest.kick();
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(held(), 1, "what is new waits");
    disk.borrow_mut().release();
    rig.settle();
    assert_eq!(held(), 1, "the new one");
    guest.push(&write(2, 16, gref));
    guest.kick();
    rig.settle();
    assert_eq!(held(), 2, "as many at once as before");
    bystander.round_trip(&mut rig, 3);
}

#[test]
fn a_suspect_waits_for_what_was_taken_after_the_one_before_it() {
    let mut rig = rig();
    let mut guests = [7, 8].map(|front| rig.in_flight(front, 1));
    let disks = guests.each_ref().map(|guest| rig.disks.of(&guest.back_dir));
    let held = || disks.each_ref().map(|disk| disk.borrow().held());
    let mut rig = rig.restarted();
    rig.settle();
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(held(), [1, 0]);
    let gref = guests[0].page.grant_ref();
    guests[0].push(&write(1, 8, gref));
    guests[0].kick();
    disks[0].borrow_mut().release();
    rig.settle();
    assert_eq!(guests[0].answers().len(), 1);
    assert_eq!(held(), [1, 0], "the new one, and nothing beside it");
    disks[0].borrow_mut().release();
    rig.settle();
    assert_eq!(held(), [0, 1]);
    disks[1].borrow_mut().release();
    rig.settle();
    assert_eq!(guests.each_mut().map(|guest| guest.answers().len()), [1, 1]);
}

#[test]
fn who_rings_while_a_suspect_is_alone_is_heard_once_and_served_later() {
    let mut rig = rig();
    let suspect = rig.in_flight(7, 1);
    let mut bystander = rig.connected(8, "w");
    let mut rig = rig.restarted();
    rig.settle();
    let mut rig = rig.restarted();
    rig.settle();
    let device = DeviceId::from_backend_dir(BACK, &bystander.back_dir).expect("a device");
    let ring = RingId { device, queue: 0 };
    bystander.push(&write(1, 8, bystander.page.grant_ref()));
    bystander.kick();
    let _ = rig.service.rung(ring, BUDGET, rig.now);
    let masked = |rig: &Rig| rig.service.doorbells().masked.contains(&ring);
    assert!(masked(&rig), "it would be readable all the time");
    let _ = rig.service.serve(BUDGET, rig.now);
    assert!(masked(&rig) && bystander.answers().is_empty());
    rig.disks.of(&suspect.back_dir).borrow_mut().release();
    while rig.service.serve(BUDGET, rig.now).again {}
    assert!(!masked(&rig));
    assert_eq!(
        bystander.answers().len(),
        1,
        "though it does not ring again"
    );
    bystander.round_trip(&mut rig, 4);
}

fn barrier(guest: &Guest, id: u64) -> RequestNative {
    let page = [(guest.page.grant_ref(), 0, 7)];
    request(id, Op::WRITE_BARRIER, 64, &page)
}

fn ids(ring: &mut OtherRing) -> Vec<(u64, Status)> {
    let answers = ring.answers();
    answers.iter().map(|it| (it.id, it.status)).collect()
}

#[test]
fn a_barrier_that_is_a_suspect_waits_for_the_other_rings_of_its_disk() {
    for older in [false, true] {
        let mut rig = rig();
        let (guest, mut rings) = rig.with_rings(7, 2);
        let mut bystander = rig.connected(8, "w");
        let disk = rig.disks.of(&guest.back_dir);
        disk.borrow_mut().hold = true;
        let gref = guest.page.grant_ref();
        if older {
            assert!(rings[1].push(&write(1, 8, gref)));
            rings[1].kick();
            rig.settle();
        }
        assert!(rings[0].push(&write(2, 0, gref)));
        assert!(rings[0].push(&barrier(&guest, 3)));
        rings[0].kick();
        rig.settle();
        for _ in 0..2 {
            rig = rig.restarted();
            rig.settle();
        }
        assert_eq!(disk.borrow().held(), 1, "one at a time");
        assert!(rings[1].push(&write(4, 16, gref)));
        rings[1].kick();
        disk.borrow_mut().hold = false;
        disk.borrow_mut().release();
        rig.settle();
        assert_eq!(ids(&mut rings[0]), [(2, Status::OKAY), (3, Status::OKAY)]);
        let mut others = ids(&mut rings[1]);
        others.sort_by_key(|(id, _)| *id);
        let wanted: &[u64] = if older { &[1, 4] } else { &[4] };
        assert!(others.iter().map(|(id, _)| id).eq(wanted), "{others:?}");
        assert!(others.iter().all(|(_, status)| *status == Status::OKAY));
        bystander.round_trip(&mut rig, 4);
    }
}

/// A barrier on the first of two rings, and maybe before that a write on the second, of a disk that holds whatever it is given: how
/// much it holds after three deaths, each of which found one request there, and the answers of both rings when it lets go.
fn after_three_deaths(second: bool) -> (usize, [Vec<(u64, Status)>; 2]) {
    let mut rig = rig();
    let (guest, mut rings) = rig.with_rings(7, 2);
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().hold = true;
    if second {
        assert!(rings[1].push(&write(1, 8, guest.page.grant_ref())));
        rings[1].kick();
        rig.settle();
    }
    assert!(rings[0].push(&barrier(&guest, 2)));
    rings[0].kick();
    rig.settle();
    for _ in 0..3 {
        assert_eq!(disk.borrow().held(), 1);
        rig = rig.restarted();
        rig.settle();
    }
    let held = disk.borrow().held();
    disk.borrow_mut().hold = false;
    disk.borrow_mut().release();
    rig.settle();
    (held, [ids(&mut rings[0]), ids(&mut rings[1])])
}

#[test]
fn a_barrier_that_waits_is_not_blamed_for_what_it_waits_for() {
    let (held, [barrier, write]) = after_three_deaths(true);
    assert_eq!(held, 1, "its turn has come");
    assert_eq!(write, [(1, Status::ERROR)]);
    assert_eq!(barrier, [(2, Status::OKAY)]);
}

#[test]
fn a_barrier_whose_time_has_come_is_blamed() {
    let (held, [barrier, write]) = after_three_deaths(false);
    assert_eq!(held, 0);
    assert_eq!((barrier, write), (vec![(2, Status::ERROR)], vec![]));
}
