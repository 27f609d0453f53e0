//! Guests that attack a block backend where a number counts for more than 512 bytes: on disks with sectors of 4096 bytes, in the
//! conventions of others than Linux. The oracle is that of `hostile_blkback`.

use ringfence_blkback::sink::IoOp;
use ringfence_core::SharedMem;
use ringfence_core::ids::Sector;
use ringfence_core::platform::{Access, Granted, Platform};
use ringfence_core::wire::blkif::{Convention, Op, RequestNative, Status};
use ringfence_tests::blkback_rig::{
    BACK, Guest, Rig, SECTORS, discard, indirect, request, write_segments,
};

/// Numbers times 8 that are no places of the disk; most of them are ones if the product wraps around.
const BEYOND: [u64; 12] = [
    1 << 61,
    (1 << 61) + 1,
    (1 << 61) + 124,
    (3 << 61) + 5,
    (7 << 61) + 1,
    1 << 63,
    u64::MAX,
    u64::MAX - 7,
    u64::MAX / 8 + 2,
    u64::MAX / 8,
    SECTORS / 8,
    SECTORS,
];

/// An attacker on a disk of such sectors, and somebody else.
fn scene(counted: Convention) -> (Rig, Guest, Guest) {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let mut attacker = rig.attach(7, 51712, "w");
    let disk = rig.disks.of(&attacker.back_dir);
    disk.borrow_mut().logical = 4096;
    disk.borrow_mut().counted = counted;
    disk.borrow_mut().bytes.fill(0x5A);
    attacker.connect(&mut rig);
    (rig, attacker, bystander)
}

fn is_untouched(rig: &Rig, guest: &Guest) -> bool {
    let disk = rig.disks.of(&guest.back_dir);
    let disk = disk.borrow();
    disk.seen.is_empty() && disk.bytes.iter().all(|byte| *byte == 0x5A)
}

#[test]
fn lba_units_whose_product_wraps() {
    let (mut rig, mut guest, bystander) = scene(Convention::FreeBsd);
    let gref = guest.page.grant_ref();
    let table = guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    write_segments(&table, 0, &[(gref, 0, 7)]);
    for number in BEYOND {
        for op in [Op::READ, Op::WRITE, Op::WRITE_BARRIER] {
            let bad = request(1, op, number, &[(gref, 0, 7)]);
            assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR, "{op} at {number}");
        }
        for op in [Op::READ, Op::WRITE] {
            let bad = indirect(2, op, number, 1, &[table.grant_ref()]);
            assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR, "{op} at {number}");
        }
        for (sector, count) in [
            (number, 1),
            (0, number.max(SECTORS / 8 + 1)),
            (number, number),
        ] {
            let bad = discard(3, sector, count, 0);
            let status = guest.ask(&mut rig, &bad);
            assert_eq!(status, Status::ERROR, "{count} sectors at {sector}");
        }
    }
    assert!(is_untouched(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn lba_segments_outside_a_page_of_larger_units() {
    let (mut rig, mut guest, mut bystander) = scene(Convention::Qemu);
    let gref = guest.page.grant_ref();
    let table = guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    let good = |first, last| [(gref, 0, 0), (gref, first, last)];
    for (first, last) in [
        (0, 1),
        (0, 7),
        (1, 0),
        (1, 1),
        (7, 7),
        (8, 8),
        (0, 31),
        (32, 32),
        (0, 255),
        (255, 255),
        (255, 0),
    ] {
        write_segments(&table, 0, &good(first, last));
        for op in [Op::READ, Op::WRITE] {
            let bad = request(1, op, 0, &good(first, last));
            let status = guest.ask(&mut rig, &bad);
            assert_eq!(status, Status::ERROR, "{op}: {first} to {last}");
            let bad = indirect(2, op, 0, 2, &[table.grant_ref()]);
            let status = guest.ask(&mut rig, &bad);
            assert_eq!(status, Status::ERROR, "{op}: {first} to {last}, indirect");
        }
    }
    assert!(is_untouched(&rig, &guest));
    bystander.round_trip(&mut rig, 7);
    let whole = ask(&mut rig, &mut guest, &request(3, Op::WRITE, 5, &good(0, 0)));
    assert_eq!(whole, (IoOp::Write(Sector::new(40)), 8192));
}

/// What reaches the disk of a request that is done.
fn ask(rig: &mut Rig, guest: &mut Guest, request: &RequestNative) -> (IoOp, usize) {
    assert_eq!(guest.ask(rig, request), Status::OKAY);
    let disk = rig.disks.of(&guest.back_dir);
    let seen = disk.borrow().seen.last().copied();
    seen.expect("a request")
}

#[test]
fn lba_a_unit_larger_than_a_page_fits_none() {
    let mut rig = Rig::new();
    let mut guest = rig.attach(7, 51712, "w");
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().logical = 8192;
    disk.borrow_mut().counted = Convention::Qemu;
    guest.connect(&mut rig);
    let gref = guest.page.grant_ref();
    guest.page.write(0, &[9; 4096]);
    for (first, last) in [(0, 0), (0, 7), (0, 255)] {
        let bad = request(1, Op::WRITE, 0, &[(gref, first, last), (gref, first, last)]);
        assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR);
    }
    assert!(disk.borrow().seen.is_empty());
}
