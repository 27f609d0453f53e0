//! A driver domain whose process has several threads: each has its share of the devices, and none disturbs what must be alone.

use ringfence_blkback::service::{DeviceId, RingId};
use ringfence_core::platform::Granted;
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_tests::blkback_rig::{BACK, BUDGET, Guest, OtherRing, Rig, request, write};

/// Two guests, of which each has a thread of its own, with so many writes at the disk of each, which keeps them.
fn in_flight(rig: &mut Rig, writes: u64) -> [Guest; 2] {
    [7, 8].map(|front| rig.in_flight(front, writes))
}

#[test]
fn each_device_has_one_thread_and_each_thread_devices() {
    for threads in 1..=4 {
        let mut rig = Rig::in_threads(threads);
        let mut guests: Vec<Guest> = (7..15).map(|front| rig.connected(front, "w")).collect();
        let of = |rig: &Rig| -> Vec<usize> {
            let others = rig.others.iter().map(|other| other.devices());
            std::iter::once(rig.service.devices())
                .chain(others)
                .collect()
        };
        let devices = of(&rig);
        assert_eq!(devices.iter().sum::<usize>(), guests.len());
        assert!(devices.iter().all(|count| *count >= 2), "{devices:?}");
        for (seed, guest) in (0..).zip(&mut guests) {
            guest.round_trip(&mut rig, seed);
            guest.close(&mut rig);
            rig.remove(guest);
        }
        rig.settle();
        assert_eq!(of(&rig), vec![0; threads.into()]);
        let usage = rig.usage();
        assert_eq!((usage.mapped, usage.ports), (0, 0));
    }
}

#[test]
fn the_disks_of_one_guest_are_spread() {
    let mut rig = Rig::in_threads(2);
    let vdevs = [51712, 51728, 1 << 28 | 16 << 8, 1 << 28 | 17 << 8];
    let guests = vdevs.map(|vdev| rig.attach(7, vdev, "w"));
    rig.settle();
    let devices = [rig.service.devices(), rig.others[0].devices()];
    assert_eq!(devices, [2, 2], "of {}", guests.len());
}

#[test]
fn a_suspect_is_alone_in_all_threads() {
    let mut rig = Rig::in_threads(2);
    rig.disks.keep_journals();
    let guests = in_flight(&mut rig, 2);
    let disks = guests.each_ref().map(|guest| rig.disks.of(&guest.back_dir));
    let held = |rig: &Rig| {
        assert!(rig.service.devices() > 0 && rig.others[0].devices() > 0);
        disks.each_ref().map(|disk| disk.borrow().held())
    };
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(held(&rig), [2, 2], "all at once");
    let mut rig = rig.restarted();
    // Whoever has no suspects may not begin anything either.
    let mut bystanders = [9, 10].map(|front| rig.connected(front, "w"));
    let at_work = |held: [usize; 2]| held.iter().sum::<usize>();
    assert_eq!(at_work(held(&rig)), 1, "one at a time, of all threads");
    for guest in &mut bystanders {
        guest.push(&write(5, 0, guest.page.grant_ref()));
        guest.kick();
    }
    rig.settle();
    let begun = bystanders.each_mut().map(|guest| guest.answers().len());
    assert_eq!(begun, [0, 0], "nothing is begun beside it");
    for disk in &disks {
        disk.borrow_mut().hold = false;
        disk.borrow_mut().release();
        rig.settle();
    }
    let statuses =
        |mut guest: Guest| -> Vec<Status> { guest.answers().iter().map(|it| it.status).collect() };
    assert_eq!(guests.map(statuses), [const { [Status::OKAY; 2] }; 2]);
    assert_eq!(bystanders.map(statuses), [const { [Status::OKAY; 1] }; 2]);
}

#[test]
fn a_suspect_is_alone_also_when_a_disk_comes() {
    for threads in [1, 2] {
        let mut rig = Rig::in_threads(threads);
        rig.disks.keep_journals();
        let suspect = rig.in_flight(7, 1);
        let mut rig = rig.restarted();
        rig.settle();
        let mut late = rig.in_flight(8, 2);
        let mut rig = rig.restarted();
        rig.disks.withhold(&late.back_dir, true);
        rig.settle();
        let disks = [&suspect, &late].map(|guest| rig.disks.of(&guest.back_dir));
        let held = || disks.each_ref().map(|disk| disk.borrow().held());
        assert_eq!(held(), [1, 0]);
        rig.disks.withhold(&late.back_dir, false);
        let services = std::iter::once(&mut rig.service).chain(&mut rig.others);
        services.for_each(|service| service.ask_again());
        rig.settle();
        assert_eq!(held(), [1, 0], "{threads} threads");
        disks[0].borrow_mut().release();
        rig.settle();
        assert_eq!(held(), [0, 2], "{threads} threads");
        disks[1].borrow_mut().release();
        rig.settle();
        assert_eq!(late.answers().len(), 2);
    }
}

#[test]
fn a_suspect_does_not_wait_for_a_barrier_of_another_thread_that_cannot_go_on_beside_it() {
    let mut rig = Rig::in_threads(2);
    rig.disks.keep_journals();
    let suspect = rig.in_flight(7, 1);
    let disk = rig.disks.of(&suspect.back_dir);
    let mut rig = rig.restarted();
    rig.settle();
    let mut rig = rig.restarted();
    rig.disks.withhold(&suspect.back_dir, true);
    rig.settle();
    let (guest, mut rings) = rig.with_rings(8, 2);
    rig.disks.withhold(&suspect.back_dir, false);
    let gref = guest.page.grant_ref();
    let barrier = request(1, Op::WRITE_BARRIER, 0, &[(gref, 0, 7)]);
    assert!(rings[0].push(&barrier));
    assert!(rings[1].push(&write(2, 8, gref)));
    rings[1].show();
    rings[0].kick();
    // The barrier is taken, and before what is older on the other ring can be, nothing may be any more.
    let device = DeviceId::from_backend_dir(BACK, &guest.back_dir).expect("a device");
    let ring = RingId { device, queue: 0 };
    let now = rig.now;
    let mut threads = [&mut rig.service, &mut rig.others[0]];
    for service in &mut threads {
        let _ = service.rung(ring, BUDGET, now);
    }
    for service in &mut threads {
        service.ask_again();
        service.control().expect("a store");
        let _ = service.serve(0, now);
    }
    rig.settle();
    assert_eq!(disk.borrow().held(), 1, "alone");
    disk.borrow_mut().release();
    rings.iter_mut().for_each(OtherRing::kick);
    rig.settle();
    let ids =
        |ring: &mut OtherRing| -> Vec<u64> { ring.answers().iter().map(|it| it.id).collect() };
    assert_eq!([ids(&mut rings[0]), ids(&mut rings[1])], [vec![1], vec![2]]);
}

#[test]
fn nobody_waits_for_a_thread_that_ended() {
    let mut rig = Rig::in_threads(2);
    rig.disks.keep_journals();
    let guests = in_flight(&mut rig, 1);
    let mut rig = rig.restarted();
    rig.settle();
    let mut rig = rig.restarted();
    let other = rig.others.pop().expect("two threads");
    other.leave();
    for guest in &guests {
        let disk = rig.disks.of(&guest.back_dir);
        disk.borrow_mut().hold = false;
    }
    rig.settle();
    let answered = guests.map(|mut guest| guest.answers().len());
    assert_eq!(
        answered.iter().sum::<usize>(),
        1,
        "of the thread that goes on"
    );
}
