//! The block service in a simulated world, with a frontend driven by hand: its whole life, and what a request costs.

use ringfence_blkback::sink::IoOp;
use ringfence_core::platform::{Access, Granted, Platform};
use ringfence_core::store::{Store, StoreExt, Tx};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_core::{DomId, SharedMem};
use ringfence_sim::World;
use ringfence_tests::blkback_rig::{BACK, Rig, read, request, write};

#[test]
fn the_first_read() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().bytes[40 * 512..41 * 512].fill(0xC3);
    let gref = guest.page.grant_ref();
    assert_eq!(
        guest.ask(&mut rig, &request(1, Op::READ, 40, &[(gref, 3, 3)])),
        Status::OKAY
    );
    let mut sector = [0; 512];
    guest.page.read(3 * 512, &mut sector);
    assert_eq!(sector, [0xC3; 512]);
    assert_eq!(
        rig.usage().mapped,
        1,
        "the ring; data pages are never mapped"
    );
}

#[test]
fn what_the_frontend_is_told() {
    let mut rig = Rig::new();
    let guest = rig.connected(7, "w");
    let dir = guest.back_dir.clone();
    for (node, value) in [
        ("feature-flush-cache", "1"),
        ("feature-barrier", "1"),
        ("feature-persistent", "1"),
        ("max-ring-page-order", "4"),
        ("max-ring-pages", "16"),
        ("multi-queue-max-queues", "4"),
        ("feature-max-indirect-segments", "256"),
        ("feature-discard", "1"),
        ("discard-granularity", "512"),
        ("discard-alignment", "0"),
        ("discard-secure", "1"),
        ("sectors", "1000"),
        ("sector-size", "512"),
        ("physical-sector-size", "512"),
        ("info", "0"),
    ] {
        assert_eq!(rig.node(&dir, node).as_deref(), Some(value), "{node}");
    }
    let mut rig = Rig::new();
    let guest = rig.connected(7, "r");
    assert_eq!(
        rig.node(&guest.back_dir, "info").as_deref(),
        Some("4"),
        "VDISK_READONLY"
    );
    assert_eq!(
        rig.node(&guest.back_dir, "feature-discard").as_deref(),
        Some("0")
    );
    assert_eq!(
        rig.node(&guest.back_dir, "feature-barrier").as_deref(),
        Some("0")
    );
}

#[test]
fn segments_land_in_order_each_in_its_page() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    let disk = rig.disks.of(&guest.back_dir);
    for (sector, bytes) in disk.borrow_mut().bytes.chunks_mut(512).enumerate() {
        bytes.fill(sector as u8);
    }
    let pages: Vec<_> = (0..11)
        .map(|_| guest.sim.alloc(BACK, Access::ReadWrite).expect("a page"))
        .collect();
    // One sector in the first page, two in the second and so on; the last ones begin in the middle.
    let places: Vec<(u8, u8)> = (0..11u8).map(|i| (i % 5, (i % 5) + i % 4)).collect();
    let segments: Vec<_> = pages
        .iter()
        .zip(&places)
        .map(|(page, (first, last))| (page.grant_ref(), *first, *last))
        .collect();
    assert_eq!(
        guest.ask(&mut rig, &request(5, Op::READ, 100, &segments)),
        Status::OKAY
    );
    let mut sector = 100u8;
    for (page, (first, last)) in pages.iter().zip(&places) {
        for at in 0..8u8 {
            let mut bytes = [0xEE; 512];
            page.read(usize::from(at) * 512, &mut bytes);
            let expected = if (*first..=*last).contains(&at) {
                sector += 1;
                sector - 1
            } else {
                0
            };
            assert_eq!(bytes, [expected; 512]);
        }
    }
    // And back to another place: the same bytes.
    assert_eq!(
        guest.ask(&mut rig, &request(6, Op::WRITE, 500, &segments)),
        Status::OKAY
    );
    let disk = disk.borrow();
    let count = usize::from(sector) - 100;
    assert!(disk.bytes[100 * 512..][..count * 512] == disk.bytes[500 * 512..][..count * 512]);
}

#[test]
fn answers_go_out_as_the_disk_finishes() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().hold = true;
    let gref = guest.page.grant_ref();
    // The guest's numbers are its own business: all the same here.
    for sector in 0..32 {
        guest.push(&read(9, sector * 8, gref));
    }
    guest.kick();
    rig.settle();
    assert_eq!(disk.borrow().held(), 32);
    assert!(guest.answers().is_empty());
    disk.borrow_mut().release();
    rig.settle();
    let answers = guest.answers();
    assert_eq!(answers.len(), 32);
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == Status::OKAY && answer.id == 9)
    );
    disk.borrow_mut().hold = false;
    guest.round_trip(&mut rig, 4);
}

#[test]
fn a_flush_reaches_the_disk_and_its_failure_the_guest() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    let disk = rig.disks.of(&guest.back_dir);
    let flush = request(3, Op::FLUSH_DISKCACHE, 0, &[]);
    assert_eq!(
        guest.ask(&mut rig, &write(1, 0, guest.page.grant_ref())),
        Status::OKAY
    );
    assert_eq!(guest.ask(&mut rig, &flush), Status::OKAY);
    assert_eq!(disk.borrow().seen.last(), Some(&(IoOp::Flush, 0)));
    disk.borrow_mut().fail_flush = true;
    assert_eq!(guest.ask(&mut rig, &flush), Status::ERROR);
}

#[test]
fn closes_connects_again_and_goes() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    for seed in 0..5 {
        guest.round_trip(&mut rig, seed);
        guest.reset(&mut rig);
        assert_eq!(rig.usage().mapped, 0);
        guest.connect(&mut rig);
    }
    guest.round_trip(&mut rig, 9);
    rig.detach(&guest);
    rig.settle();
    assert_eq!(rig.state(&guest), "5", "until the frontend has closed");
    guest.round_trip(&mut rig, 10);
    guest.set("state", "5");
    rig.settle();
    guest.set("state", "6");
    rig.settle();
    assert_eq!(rig.state(&guest), "6");
    assert_eq!(
        (rig.usage().mapped, rig.usage().ports, rig.service.devices()),
        (0, 0, 0)
    );
    let disk = rig.disks.of(&guest.back_dir);
    assert_eq!(disk.borrow().opened, 1, "one opening for all connections");
}

#[test]
fn a_disk_that_cannot_be_opened_says_why() {
    let mut rig = Rig::new();
    rig.disks.refuse(Some("/images/a.img: no such file"));
    let mut guest = rig.attach(7, 51712, "w");
    rig.settle();
    assert_eq!(rig.error(&guest), "22 /images/a.img: no such file");
    assert!(["5", "6"].contains(&rig.state(&guest).as_str()));
    guest.set("state", "5");
    rig.settle();
    guest.set("state", "6");
    rig.settle();
    assert_eq!(rig.state(&guest), "6");
}

#[test]
fn a_disk_that_is_not_to_be_had_yet_is_asked_for_again() {
    let mut rig = Rig::new();
    let mut guest = rig.attach(7, 51712, "w");
    rig.disks.withhold(&guest.back_dir, true);
    rig.settle();
    for _ in 0..2 {
        assert_eq!(
            (rig.state(&guest).as_str(), rig.error(&guest)),
            ("1", String::new())
        );
        assert!(rig.service.awaits_disks());
        rig.service.ask_again();
        rig.settle();
    }
    rig.disks.withhold(&guest.back_dir, false);
    rig.service.ask_again();
    rig.settle();
    assert_eq!(rig.state(&guest), "2");
    assert!(!rig.service.awaits_disks());
    guest.connect(&mut rig);
    guest.round_trip(&mut rig, 1);
    // One that is gone is asked for no more.
    let guest = rig.attach(8, 51712, "w");
    rig.disks.withhold(&guest.back_dir, true);
    rig.settle();
    assert!(rig.service.awaits_disks());
    rig.remove(&guest);
    rig.settle();
    assert!(!rig.service.awaits_disks());
}

/// XenStore is for states: a ring that runs empty and goes on costs no look at them.
#[test]
fn a_ring_that_runs_empty_asks_nothing_of_the_store() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    let disk = rig.disks.of(&guest.back_dir);
    for stop in [false, true] {
        disk.borrow_mut().hold = true;
        guest.push(&write(1, 0, guest.page.grant_ref()));
        guest.kick();
        rig.settle();
        assert_eq!(disk.borrow().held(), 1);
        if stop {
            rig.service.stop();
        }
        disk.borrow_mut().release();
        let turn = rig.service.serve(32, rig.now);
        assert_eq!(guest.answers().len(), 1);
        assert_eq!(
            turn.control, stop,
            "only a device that is to end is looked at"
        );
    }
}

#[test]
fn a_stopped_service_finishes_flushes_and_leaves_the_states_to_the_next() {
    let mut rig = Rig::new();
    rig.disks.keep_journals();
    let mut guest = rig.connected(7, "w");
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().hold = true;
    guest.push(&write(1, 0, guest.page.grant_ref()));
    guest.kick();
    rig.settle();
    rig.service.stop();
    guest.push(&write(2, 8, guest.page.grant_ref()));
    guest.kick();
    rig.settle();
    assert_eq!(disk.borrow().held(), 1, "the second is not taken");
    assert!(!rig.service.is_idle());
    disk.borrow_mut().release();
    rig.settle();
    assert_eq!(guest.answers().len(), 1);
    rig.service.flush();
    disk.borrow_mut().hold = false;
    rig.settle();
    assert!(rig.service.is_idle());
    assert_eq!(disk.borrow().seen.last(), Some(&(IoOp::Flush, 0)));
    let Rig {
        world,
        service,
        disks,
        ..
    } = rig;
    service.leave();
    let usage = world.usage(BACK);
    assert_eq!((usage.mapped, usage.ports), (0, 0));

    // The next process of the domain: same ring, same port, states untouched.
    world.kill(BACK);
    let mut rig = Rig::next(world, &disks);
    assert_eq!(rig.state(&guest), "4");
    rig.settle();
    assert_eq!(rig.state(&guest), "4");
    let answers = guest.answers();
    assert_eq!(answers.len(), 1, "what waited on the ring is served");
    assert_eq!((answers[0].id, answers[0].status), (2, Status::OKAY));
    guest.round_trip(&mut rig, 8);
}

#[test]
fn doorbells_may_be_late_merged_and_doubled() {
    for seed in 0..20 {
        let mut rig = Rig::on(World::hostile(seed));
        let mut guest = rig.connected(7, "w");
        for round in 0..20 {
            guest.round_trip(&mut rig, round);
        }
    }
}

#[test]
fn a_disk_that_comes_while_others_are_looked_at_is_found() {
    for step in 0.. {
        let mut rig = Rig::new();
        rig.settle();
        let toolstack = &mut rig.toolstack;
        let place = format!("/local/domain/{BACK}/backend/vbd/7/51728");
        // What is gone already when the service hears of it.
        toolstack.mkdir(Tx::NONE, &place).expect("dom0 may");
        toolstack.rm(Tx::NONE, &place).expect("dom0 may");
        let mut toolstack = rig.world.store(DomId::DOM0);
        rig.world.meanwhile(BACK, step, move || {
            let dir = format!("/local/domain/{BACK}/backend/vbd/8/51712");
            let made = toolstack.write_str(Tx::NONE, &dir, "state", "1");
            made.expect("dom0 may");
        });
        let before = rig.world.steps(BACK);
        while rig.service.control().expect("the store lives") {}
        if rig.world.steps(BACK) - before <= step {
            assert!(step > 0, "it looks");
            return;
        }
        // Nobody rings for it again.
        assert_eq!(rig.service.devices(), 1, "it came at step {step}");
    }
}
