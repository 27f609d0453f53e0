//! Guests that attack a block backend through their rings. After each attack the oracle of docs/threats.md
//! ([`Rig::recovers`]): the attacker's device can be used again, another guest's never stopped, nothing stays held.

use std::time::Duration;

use ringfence_blkback::sink::IoOp;
use ringfence_core::SharedMem;
use ringfence_core::ids::GrantRef;
use ringfence_core::platform::{Access, GrantStatus, Granted, Platform};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_ring::layout::{HEADER, REQ_PROD};
use ringfence_sim::Fault;
use ringfence_tests::blkback_rig::{BACK, BUDGET, Guest, Rig, SECTORS, read, request, write};

fn scene(mode: &str) -> (Rig, Guest, Guest) {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let attacker = rig.connected(7, mode);
    (rig, attacker, bystander)
}

/// What the attacker's disk was asked, and whether its bytes are all zero.
fn untouched(rig: &Rig, guest: &Guest) -> bool {
    let disk = rig.disks.of(&guest.back_dir);
    let disk = disk.borrow();
    disk.seen.is_empty() && disk.bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn cve_2007_5498_more_segments_than_a_request_has() {
    let (mut rig, mut guest, bystander) = scene("w");
    let gref = guest.page.grant_ref();
    for op in [Op::READ, Op::WRITE] {
        for count in [0, 12, 128, 255] {
            let mut bad = request(1, op, 0, &[(gref, 0, 7); 11]);
            bad.nr_segments = count;
            assert_eq!(
                guest.ask(&mut rig, &bad),
                Status::ERROR,
                "{op} with {count}"
            );
        }
    }
    assert!(untouched(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn cve_2010_4247_an_index_that_claims_too_much_or_goes_back() {
    for lie in [33, 1 << 31, u32::MAX, 0x8000_0021] {
        let (mut rig, mut guest, bystander) = scene("w");
        guest.shared().store_u32(REQ_PROD, lie);
        guest.ring_bell();
        rig.settle();
        assert_eq!(rig.state(&guest), "5");
        assert!(
            rig.error(&guest).starts_with("22 req_prod"),
            "{}",
            rig.error(&guest)
        );
        assert!(untouched(&rig, &guest));
        rig.recovers(guest, bystander);
    }
    let (mut rig, mut guest, bystander) = scene("w");
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().hold = true;
    for id in 0..10 {
        guest.push(&read(id, 0, guest.page.grant_ref()));
    }
    guest.kick();
    rig.settle();
    guest.shared().store_u32(REQ_PROD, 5);
    guest.ring_bell();
    rig.settle();
    assert_eq!(rig.state(&guest), "5", "backwards, with ten requests open");
    disk.borrow_mut().hold = false;
    disk.borrow_mut().release();
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_216_responses_write_nothing_but_their_fields() {
    let (mut rig, mut guest, bystander) = scene("w");
    let gref = guest.page.grant_ref();
    for id in 0..64u64 {
        // Padding of the request, where the padding of its response will be.
        let slot = HEADER + 112 * (id as usize % 32);
        guest.push(&read(u64::MAX - id, 0, gref));
        guest.shared().write(slot + 9, &[0xA5]);
        guest.shared().write(slot + 12, &[0xA5; 4]);
        guest.kick();
        rig.settle();
        let mut response = [0; 16];
        guest.shared().read(slot, &mut response);
        assert_eq!(guest.answers().len(), 1);
        assert_eq!((response[9], &response[12..]), (0xA5, &[0xA5; 4][..]));
    }
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_361_one_bad_page_fails_its_request_and_no_other() {
    for op in [Op::READ, Op::WRITE] {
        let (mut rig, mut guest, bystander) = scene("w");
        let gref = guest.page.grant_ref();
        for bad in [vec![0], vec![5], vec![10], (0..11).collect()] {
            let mut segments = [(gref, 0, 7); 11];
            for index in &bad {
                segments[*index].0 = GrantRef::new(3999);
            }
            guest.push(&request(1, op, 0, &[(gref, 0, 7)]));
            guest.push(&request(2, op, 100, &segments));
            guest.push(&request(3, op, 8, &[(gref, 0, 7)]));
            guest.kick();
            rig.settle();
            let mut answers: Vec<_> = guest.answers().iter().map(|a| (a.id, a.status)).collect();
            answers.sort_by_key(|(id, _)| *id);
            let expected = [(1, Status::OKAY), (2, Status::ERROR), (3, Status::OKAY)];
            assert_eq!(answers, expected, "{op}, bad pages {bad:?}");
        }
        rig.recovers(guest, bystander);
    }
}

#[test]
fn xsa_361_a_page_revoked_or_read_only_is_no_target() {
    let (mut rig, mut guest, bystander) = scene("w");
    let mut page = guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    let gref = page.grant_ref();
    assert_eq!(guest.ask(&mut rig, &read(1, 0, gref)), Status::OKAY);
    page.try_revoke().expect("nothing is mapped");
    assert_eq!(guest.ask(&mut rig, &read(2, 0, gref)), Status::ERROR);
    let page = guest.sim.alloc(BACK, Access::ReadOnly).expect("a page");
    assert_eq!(
        guest.ask(&mut rig, &write(3, 0, page.grant_ref())),
        Status::OKAY
    );
    assert_eq!(
        guest.ask(&mut rig, &read(4, 0, page.grant_ref())),
        Status::ERROR
    );
    for status in [
        GrantStatus::EAGAIN,
        GrantStatus::NO_SPACE,
        GrantStatus::BAD_PAGE,
    ] {
        rig.world.inject(Fault::Copy { nth: 0, status });
        let gref = guest.page.grant_ref();
        assert_eq!(
            guest.ask(&mut rig, &write(5, 0, gref)),
            Status::ERROR,
            "{status}"
        );
    }
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_362_failing_copies_fail_requests() {
    let (mut rig, mut guest, bystander) = scene("w");
    let gref = guest.page.grant_ref();
    guest.page.write(0, &[9; 4096]);
    for op in [Op::WRITE, Op::READ] {
        rig.world.inject(Fault::CopyCall { nth: 0, errno: 12 });
        assert_eq!(
            guest.ask(&mut rig, &request(1, op, 0, &[(gref, 0, 7)])),
            Status::ERROR
        );
    }
    let disk = rig.disks.of(&guest.back_dir);
    assert!(
        disk.borrow().bytes.iter().all(|byte| *byte == 0),
        "nothing was written"
    );
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_362_failing_maps_end_the_connection_only() {
    let status = GrantStatus::NO_SPACE;
    for fault in [
        Fault::MapCall { nth: 0, errno: 12 },
        Fault::Map { nth: 0, status },
        Fault::Bind { nth: 0, errno: 12 },
    ] {
        let mut rig = Rig::new();
        let bystander = rig.connected(8, "w");
        let mut guest = rig.attach(7, 51712, "w");
        rig.settle();
        guest.publish();
        rig.world.inject(fault);
        guest.set("state", "3");
        rig.settle();
        assert_eq!(rig.state(&guest), "5", "{fault:?}");
        assert!(!rig.error(&guest).is_empty());
        assert_eq!(
            rig.usage().mapped,
            1,
            "the other guest's ring, and nothing else"
        );
        rig.recovers(guest, bystander);
    }
}

#[test]
fn xsa_142_a_read_only_disk_is_not_written() {
    let (mut rig, mut guest, bystander) = scene("r");
    guest.page.write(0, &[7; 4096]);
    assert_eq!(
        guest.ask(&mut rig, &write(1, 0, guest.page.grant_ref())),
        Status::ERROR
    );
    assert!(untouched(&rig, &guest));
    assert_eq!(
        guest.ask(&mut rig, &read(2, 0, guest.page.grant_ref())),
        Status::OKAY
    );
    rig.detach(&guest);
    guest.close(&mut rig);
    drop(bystander);
}

#[test]
fn lba_sectors_that_the_disk_does_not_have() {
    let (mut rig, mut guest, bystander) = scene("w");
    let gref = guest.page.grant_ref();
    for op in [Op::READ, Op::WRITE] {
        for sector in [
            SECTORS,
            SECTORS - 1,
            SECTORS - 7,
            1 << 63,
            1 << 55,
            u64::MAX - 8,
        ] {
            let status = guest.ask(&mut rig, &request(1, op, sector, &[(gref, 0, 7)]));
            assert_eq!(status, Status::ERROR, "{op} at {sector}");
        }
    }
    assert!(untouched(&rig, &guest));
    assert_eq!(
        guest.ask(&mut rig, &read(1, SECTORS - 8, gref)),
        Status::OKAY
    );
    rig.recovers(guest, bystander);
}

#[test]
fn lba_an_end_that_wraps_around() {
    let (mut rig, mut guest, bystander) = scene("w");
    let gref = guest.page.grant_ref();
    for (sector, last) in [
        (u64::MAX, 0),
        (u64::MAX, 7),
        (u64::MAX - 3, 7),
        (u64::MAX - 7, 7),
    ] {
        let bad = request(1, Op::WRITE, sector, &[(gref, 0, last)]);
        assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR, "at {sector}");
    }
    assert!(untouched(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn lba_segments_outside_their_page() {
    let (mut rig, mut guest, bystander) = scene("w");
    let gref = guest.page.grant_ref();
    for op in [Op::READ, Op::WRITE] {
        for (first, last) in [
            (5, 4),
            (0, 8),
            (8, 8),
            (7, 0),
            (0, 255),
            (255, 255),
            (255, 0),
        ] {
            let bad = request(1, op, 0, &[(gref, 0, 0), (gref, first, last)]);
            assert_eq!(
                guest.ask(&mut rig, &bad),
                Status::ERROR,
                "{op}: {first} to {last}"
            );
        }
    }
    assert!(untouched(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_332_an_event_storm_costs_the_one_who_sends_it() {
    let (mut rig, mut guest, mut bystander) = scene("w");
    let looks = |rig: &Rig| rig.world.counts(BACK).events;
    let before = looks(&rig);
    for _ in 0..1000 {
        guest.ring_bell();
        rig.service.poll(BUDGET, rig.now);
    }
    assert!(
        looks(&rig) - before < 10,
        "{} events were looked at",
        looks(&rig) - before
    );
    bystander.round_trip(&mut rig, 1);
    // A request that comes after the storm is served when the delay is over.
    guest.push(&write(1, 0, guest.page.grant_ref()));
    guest.kick();
    rig.settle();
    assert!(guest.answers().is_empty());
    rig.now += Duration::from_secs(2);
    rig.settle();
    assert_eq!(guest.answers().len(), 1);
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_331_bells_while_the_port_changes() {
    let (mut rig, mut guest, bystander) = scene("w");
    for _ in 0..20 {
        guest.ring_bell();
        guest.set("state", "5");
        guest.ring_bell();
        rig.service.poll(BUDGET, rig.now);
        guest.set("state", "6");
        guest.ring_bell();
        rig.settle();
        guest.ring_bell();
        guest.set("state", "1");
        rig.settle();
        guest.connect(&mut rig);
    }
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_155_what_is_checked_is_what_is_done() {
    // The slot is rewritten between the bell and the disk's answer: nothing of it is looked at a second time.
    let (mut rig, mut guest, bystander) = scene("w");
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().hold = true;
    guest.push(&read(21, 16, guest.page.grant_ref()));
    guest.kick();
    rig.settle();
    guest.shared().write(HEADER, &[0xFF; 112]);
    disk.borrow_mut().hold = false;
    disk.borrow_mut().release();
    rig.settle();
    let answers = guest.answers();
    assert_eq!((answers[0].id, answers[0].operation), (21, Op::READ));
    assert_eq!(answers[0].status, Status::OKAY);
    assert!(matches!(disk.borrow().seen[..], [(IoOp::Read(_), 4096)]));
    rig.recovers(guest, bystander);
}
