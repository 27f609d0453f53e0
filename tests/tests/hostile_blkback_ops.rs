//! Guests that attack a block backend by operations beyond read and write: discards and indirect requests. The oracle is that
//! of `hostile_blkback`.

use ringfence_blkback::sink::IoOp;
use ringfence_core::SharedMem;
use ringfence_core::ids::{GrantRef, Sector, SectorCount};
use ringfence_core::platform::{Access, GrantStatus, Granted, Platform};
use ringfence_core::wire::blkif::{DISCARD_SECURE, Op, Status};
use ringfence_sim::Fault;
use ringfence_tests::blkback_rig::{
    BACK, Guest, Rig, SECTORS, discard, indirect, request, write, write_segments,
};

fn scene(mode: &str) -> (Rig, Guest, Guest) {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let attacker = rig.connected(7, mode);
    (rig, attacker, bystander)
}

/// Whether the attacker's disk was asked nothing that changes it, and still has all its bytes.
fn unchanged(rig: &Rig, guest: &Guest) -> bool {
    let disk = rig.disks.of(&guest.back_dir);
    let disk = disk.borrow();
    let mut seen = disk.seen.iter();
    seen.all(|(op, _)| matches!(op, IoOp::Read(_))) && disk.bytes.iter().all(|byte| *byte == 0x5A)
}

fn fill(rig: &Rig, guest: &Guest) {
    rig.disks.of(&guest.back_dir).borrow_mut().bytes.fill(0x5A);
}

#[test]
fn cve_2013_2140_a_read_only_disk_is_not_changed_by_any_operation() {
    let (mut rig, mut guest, bystander) = scene("r");
    fill(&rig, &guest);
    let gref = guest.page.grant_ref();
    let page = guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    write_segments(&page, 0, &[(gref, 0, 7); 12]);
    for flag in [0, DISCARD_SECURE, 2, 255] {
        let status = guest.ask(&mut rig, &discard(1, 0, 8, flag));
        assert_ne!(status, Status::OKAY, "discard with flag {flag}");
    }
    for op in 1..=255 {
        let bad = indirect(2, Op(op), 0, 12, &[page.grant_ref()]);
        assert_ne!(guest.ask(&mut rig, &bad), Status::OKAY, "indirect {op}");
    }
    for op in (1..=255).filter(|op| ![Op::FLUSH_DISKCACHE, Op::INDIRECT].contains(&Op(*op))) {
        for count in [0, 1, 2] {
            let bad = request(3, Op(op), 0, &[(gref, 0, 7), (gref, 1, 1)][..count]);
            assert_ne!(guest.ask(&mut rig, &bad), Status::OKAY, "{op}");
        }
    }
    assert!(unchanged(&rig, &guest));
    drop(bystander);
}

#[test]
fn cve_2013_2140_no_unknown_operation_reaches_a_disk() {
    let known = [
        Op::READ,
        Op::WRITE,
        Op::WRITE_BARRIER,
        Op::FLUSH_DISKCACHE,
        Op::DISCARD,
        Op::INDIRECT,
    ];
    let (mut rig, mut guest, bystander) = scene("w");
    fill(&rig, &guest);
    let gref = guest.page.grant_ref();
    for number in (0..=255).filter(|number| !known.contains(&Op(*number))) {
        for count in [0, 1, 2] {
            let bad = request(4, Op(number), 0, &[(gref, 0, 7), (gref, 1, 1)][..count]);
            let status = guest.ask(&mut rig, &bad);
            assert_eq!(status, Status::EOPNOTSUPP, "{number}");
        }
    }
    assert!(unchanged(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn lba_discards_beyond_the_end() {
    let (mut rig, mut guest, bystander) = scene("w");
    fill(&rig, &guest);
    for (sector, count) in [
        (SECTORS, 1),
        (SECTORS - 1, 2),
        (0, SECTORS + 1),
        (0, u64::MAX),
        (1, u64::MAX),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1 << 63, 1 << 63),
        (5, u64::MAX - 4),
        (0, 1 << 55),
        (0, 0),
    ] {
        for flag in [0, DISCARD_SECURE] {
            let status = guest.ask(&mut rig, &discard(1, sector, count, flag));
            assert_eq!(status, Status::ERROR, "{count} sectors at {sector}");
        }
    }
    assert!(unchanged(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn discard_flags_that_nobody_defined() {
    let (mut rig, mut guest, bystander) = scene("w");
    fill(&rig, &guest);
    for flag in [2, 3, 0x80, 0xFF] {
        let status = guest.ask(&mut rig, &discard(1, 0, 8, flag));
        assert_eq!(status, Status::ERROR, "{flag}");
    }
    assert!(unchanged(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn discards_that_are_not_offered() {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    for (secure, flag) in [
        (None, 0),
        (None, DISCARD_SECURE),
        (Some(false), DISCARD_SECURE),
    ] {
        let mut guest = rig.attach(9, 51712, "w");
        let disk = rig.disks.of(&guest.back_dir);
        let mut offered = disk.borrow().discard;
        offered = secure.and(offered).map(|mut offered| {
            offered.secure = false;
            offered
        });
        disk.borrow_mut().discard = offered;
        guest.connect(&mut rig);
        fill(&rig, &guest);
        let status = guest.ask(&mut rig, &discard(1, 0, 8, flag));
        assert_eq!(status, Status::EOPNOTSUPP);
        assert!(unchanged(&rig, &guest));
        rig.detach(&guest);
        guest.close(&mut rig);
    }
    let guest = rig.connected(7, "w");
    rig.recovers(guest, bystander);
}

#[test]
fn discards_are_off_where_the_toolstack_says_so() {
    let mut rig = Rig::new();
    let mut guest = rig.attach(7, 51712, "w");
    let dir = guest.back_dir.clone();
    rig.set(&dir, "discard-enable", "0");
    guest.connect(&mut rig);
    assert_eq!(rig.node(&dir, "feature-discard").as_deref(), Some("0"));
    assert_eq!(rig.node(&dir, "discard-granularity"), None);
    fill(&rig, &guest);
    let status = guest.ask(&mut rig, &discard(1, 0, 8, 0));
    assert_eq!(status, Status::EOPNOTSUPP);
    assert!(unchanged(&rig, &guest));
}

#[test]
fn a_discard_reaches_the_disk() {
    let (mut rig, mut guest, bystander) = scene("w");
    fill(&rig, &guest);
    for (flag, secure) in [(0, false), (DISCARD_SECURE, true)] {
        assert_eq!(guest.ask(&mut rig, &discard(1, 8, 16, flag)), Status::OKAY);
        let disk = rig.disks.of(&guest.back_dir);
        let expected = IoOp::Discard {
            sector: Sector::new(8),
            count: SectorCount::new(16),
            secure,
        };
        assert_eq!(disk.borrow().seen.last(), Some(&(expected, 0)));
    }
    let disk = rig.disks.of(&guest.back_dir);
    let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    assert!(zeros(&disk.borrow().bytes[8 * 512..24 * 512]));
    rig.recovers(guest, bystander);
}

/// A guest with a page of segments, each a page of data of its own.
fn indirect_scene(
    segments: usize,
) -> (
    Rig,
    Guest,
    Guest,
    ringfence_sim::SimGranted,
    Vec<ringfence_sim::SimGranted>,
) {
    let (rig, guest, bystander) = scene("w");
    let page = || guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    let (table, data) = (page(), (0..segments).map(|_| page()).collect::<Vec<_>>());
    let runs: Vec<_> = data.iter().map(|page| (page.grant_ref(), 0, 7)).collect();
    write_segments(&table, 0, &runs);
    (rig, guest, bystander, table, data)
}

#[test]
fn indirect_requests_move_every_page_to_its_place() {
    for segments in [1u16, 11, 12, 124] {
        let (mut rig, mut guest, bystander, table, data) = indirect_scene(segments.into());
        for (number, page) in data.iter().enumerate() {
            page.write(0, &[number as u8 + 1; 4096]);
        }
        let table = [table.grant_ref()];
        let status = guest.ask(&mut rig, &indirect(1, Op::WRITE, 8, segments, &table));
        assert_eq!(status, Status::OKAY);
        let disk = rig.disks.of(&guest.back_dir);
        let seen = disk.borrow().seen.last().copied();
        let bytes = usize::from(segments) * 4096;
        assert_eq!(seen, Some((IoOp::Write(Sector::new(8)), bytes)));
        for (number, page) in data.iter().enumerate() {
            let at = 8 * 512 + number * 4096;
            assert_eq!(disk.borrow().bytes[at..][..4096], [number as u8 + 1; 4096]);
            page.write(0, &[0xEE; 4096]);
        }
        let status = guest.ask(&mut rig, &indirect(2, Op::READ, 8, segments, &table));
        assert_eq!(status, Status::OKAY);
        for (number, page) in data.iter().enumerate() {
            let mut bytes = [0; 4096];
            page.read(0, &mut bytes);
            assert_eq!(bytes, [number as u8 + 1; 4096], "page {number}");
        }
        rig.recovers(guest, bystander);
    }
}

#[test]
fn indirect_requests_wait_for_buffers_and_all_are_answered() {
    let (mut rig, mut guest, bystander, table, _data) = indirect_scene(1);
    let gref = guest.page.grant_ref();
    let runs: Vec<_> = (0..256).map(|_| (gref, 0, 0)).collect();
    write_segments(&table, 0, &runs);
    let disk = rig.disks.of(&guest.back_dir);
    for hold in [true, false] {
        disk.borrow_mut().hold = hold;
        for id in 0..32 {
            guest.push(&indirect(id, Op::WRITE, 0, 256, &[table.grant_ref()]));
        }
        guest.kick();
        rig.settle();
        let most = disk.borrow().held();
        assert!(
            most < 33,
            "{most} requests of 128 KiB are at the disk at once"
        );
        let mut answered = guest.answers().len();
        while disk.borrow().held() > 0 {
            disk.borrow_mut().release();
            rig.settle();
            answered += guest.answers().len();
        }
        assert_eq!(answered, 32);
    }
    rig.recovers(guest, bystander);
}

#[test]
fn indirect_more_segments_than_were_offered() {
    let (mut rig, mut guest, bystander, table, _data) = indirect_scene(1);
    fill(&rig, &guest);
    let gref = guest.page.grant_ref();
    let runs: Vec<_> = (0..512).map(|_| (gref, 0, 0)).collect();
    write_segments(&table, 0, &runs);
    for op in [Op::READ, Op::WRITE] {
        for segments in [0, 257, 512, 513, 4096, 4097, u16::MAX] {
            let bad = indirect(1, op, 0, segments, &[table.grant_ref(); 8]);
            assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR, "{segments}");
        }
    }
    assert!(unchanged(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn indirect_op_that_is_neither_read_nor_write() {
    let (mut rig, mut guest, bystander, table, _data) = indirect_scene(12);
    fill(&rig, &guest);
    for op in 2..=255 {
        let bad = indirect(1, Op(op), 0, 12, &[table.grant_ref()]);
        assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR, "{op}");
    }
    assert!(unchanged(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn indirect_segments_outside_their_page_or_the_disk() {
    let (mut rig, mut guest, bystander, table, _data) = indirect_scene(12);
    fill(&rig, &guest);
    let gref = guest.page.grant_ref();
    for (first, last) in [(5, 4), (0, 8), (8, 8), (7, 0), (0, 255), (255, 255)] {
        for place in [0, 6, 11] {
            write_segments(&table, 0, &[(gref, 0, 0); 12]);
            write_segments(&table, place, &[(gref, first, last)]);
            for op in [Op::READ, Op::WRITE] {
                let bad = indirect(1, op, 0, 12, &[table.grant_ref()]);
                let status = guest.ask(&mut rig, &bad);
                assert_eq!(status, Status::ERROR, "{place}: {first} to {last}");
            }
        }
    }
    write_segments(&table, 0, &[(gref, 0, 7); 12]);
    for sector in [SECTORS, SECTORS - 95, u64::MAX, u64::MAX - 95, 1 << 63] {
        for op in [Op::READ, Op::WRITE] {
            let bad = indirect(1, op, sector, 12, &[table.grant_ref()]);
            assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR, "at {sector}");
        }
    }
    assert!(unchanged(&rig, &guest));
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_365_a_page_of_segments_that_cannot_be_copied() {
    let (mut rig, mut guest, bystander, table, data) = indirect_scene(12);
    // The buffers have held segments that would pass.
    for id in 0..40 {
        let good = indirect(id, Op::READ, 0, 12, &[table.grant_ref()]);
        assert_eq!(guest.ask(&mut rig, &good), Status::OKAY);
    }
    fill(&rig, &guest);
    for bad in [3999, 0, u32::MAX] {
        let bad = indirect(1, Op::WRITE, 0, 12, &[GrantRef::new(bad)]);
        assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR);
    }
    for status in [GrantStatus::EAGAIN, GrantStatus::NO_SPACE] {
        rig.world.inject(Fault::Copy { nth: 0, status });
        let bad = indirect(2, Op::WRITE, 0, 12, &[table.grant_ref()]);
        assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR, "{status}");
    }
    rig.world.inject(Fault::CopyCall { nth: 0, errno: 12 });
    let bad = indirect(3, Op::WRITE, 0, 12, &[table.grant_ref()]);
    assert_eq!(guest.ask(&mut rig, &bad), Status::ERROR);
    assert!(unchanged(&rig, &guest));
    // An early page of data is bad, the later ones are good; others in the same batch go on.
    for place in [0, 6, 11] {
        let runs: Vec<_> = data.iter().map(|page| (page.grant_ref(), 0, 7)).collect();
        write_segments(&table, 0, &runs);
        write_segments(&table, place, &[(GrantRef::new(3999), 0, 7)]);
        guest.push(&indirect(4, Op::WRITE, 0, 12, &[table.grant_ref()]));
        guest.push(&write(5, 100, guest.page.grant_ref()));
        guest.kick();
        rig.settle();
        let mut answers: Vec<_> = guest.answers().iter().map(|a| (a.id, a.status)).collect();
        answers.sort_by_key(|(id, _)| *id);
        assert_eq!(answers, [(4, Status::ERROR), (5, Status::OKAY)]);
        let disk = rig.disks.of(&guest.back_dir);
        assert_eq!(disk.borrow().bytes[..96 * 512], [0x5A; 96 * 512]);
    }
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_155_segments_are_looked_at_once() {
    // The page of segments is rewritten while the disk works: the data goes where they said at first.
    let (mut rig, mut guest, bystander, table, data) = indirect_scene(12);
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().bytes.fill(0x5A);
    disk.borrow_mut().hold = true;
    guest.push(&indirect(1, Op::READ, 0, 12, &[table.grant_ref()]));
    guest.kick();
    rig.settle();
    table.write(0, &[0xFF; 4096]);
    disk.borrow_mut().hold = false;
    disk.borrow_mut().release();
    rig.settle();
    assert_eq!(guest.answers()[0].status, Status::OKAY);
    for page in &data {
        let mut bytes = [0; 4096];
        page.read(0, &mut bytes);
        assert_eq!(bytes, [0x5A; 4096]);
    }
    rig.recovers(guest, bystander);
}
