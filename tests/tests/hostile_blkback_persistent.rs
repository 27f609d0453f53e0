//! Guests that attack a block backend through grants that stay mapped. The oracle is that of `hostile_blkback`.

use ringfence_core::SharedMem;
use ringfence_core::ids::GrantRef;
use ringfence_core::platform::{Access, GrantStatus, Granted, Platform};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_sim::{Fault, SimGranted};
use ringfence_tests::blkback_rig::{
    BACK, Guest, Rig, indirect, read, request, write, write_segments,
};

/// An attacker with persistent grants, and a guest without.
fn scene() -> (Rig, Guest, Guest) {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let mut guest = rig.attach(7, 51712, "w");
    guest.set("feature-persistent", "1");
    guest.connect(&mut rig);
    (rig, guest, bystander)
}

fn pages(guest: &Guest, count: usize) -> Vec<SimGranted> {
    let page = || guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    (0..count).map(|_| page()).collect()
}

fn bytes(page: &SimGranted) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    page.read(0, &mut bytes);
    bytes
}

#[test]
fn persistent_grants_are_mapped_once_and_copied_never() {
    let (mut rig, mut guest, bystander) = scene();
    let before = rig.usage().mapped;
    let copies = rig.world.counts(BACK).copies;
    for round in 0..50 {
        guest.round_trip(&mut rig, round);
    }
    assert_eq!(rig.usage().mapped, before + 1);
    assert_eq!(rig.world.counts(BACK).copies, copies);
    assert!(guest.page.try_revoke().is_err(), "it is in use");
    rig.recovers(guest, bystander);
}

#[test]
fn persistent_grants_take_both_sides() {
    for (own, theirs) in [(None, true), (Some("0"), true), (Some("1"), false)] {
        let mut rig = Rig::new();
        let mut guest = rig.attach(7, 51712, "w");
        if let Some(own) = own {
            guest.set("feature-persistent", own);
        }
        rig.settle();
        if !theirs {
            // As an earlier process would have left it.
            let dir = guest.back_dir.clone();
            rig.set(&dir, "feature-persistent", "0");
        }
        guest.connect(&mut rig);
        guest.round_trip(&mut rig, 1);
        assert_eq!(rig.usage().mapped, 1, "the ring, and no data: {own:?}");
    }
}

#[test]
fn persistent_grants_the_same_page_many_times_in_one_request() {
    let (mut rig, mut guest, bystander) = scene();
    let gref = guest.page.grant_ref();
    for sector in 0..8u8 {
        guest
            .page
            .write(usize::from(sector) * 512, &[sector + 1; 512]);
    }
    // Backwards, each sector of the page on its own.
    let segments: Vec<_> = (0..8).rev().map(|at| (gref, at, at)).collect();
    let status = guest.ask(&mut rig, &request(1, Op::WRITE, 0, &segments));
    assert_eq!(status, Status::OKAY);
    let disk = rig.disks.of(&guest.back_dir);
    for sector in 0..8u8 {
        let at = usize::from(7 - sector) * 512;
        assert_eq!(disk.borrow().bytes[at..][..512], [sector + 1; 512]);
    }
    assert_eq!(
        guest.ask(&mut rig, &request(2, Op::READ, 0, &segments)),
        Status::OKAY
    );
    assert_eq!(rig.usage().mapped, 3, "two rings and one page");
    rig.recovers(guest, bystander);
}

#[test]
fn persistent_grants_carry_every_page_of_an_indirect_request() {
    let (mut rig, mut guest, bystander) = scene();
    let (before, copies) = (rig.usage().mapped, rig.world.counts(BACK).copies);
    let (table, data) = (pages(&guest, 1), pages(&guest, 120));
    let runs: Vec<_> = data.iter().map(|page| (page.grant_ref(), 0, 7)).collect();
    write_segments(&table[0], 0, &runs);
    for (number, page) in data.iter().enumerate() {
        page.write(0, &[number as u8 + 1; 4096]);
    }
    let table = [table[0].grant_ref()];
    let status = guest.ask(&mut rig, &indirect(1, Op::WRITE, 0, 120, &table));
    assert_eq!(status, Status::OKAY);
    data.iter().for_each(|page| page.write(0, &[0; 4096]));
    let status = guest.ask(&mut rig, &indirect(2, Op::READ, 0, 120, &table));
    assert_eq!(status, Status::OKAY);
    for (number, page) in data.iter().enumerate() {
        assert_eq!(bytes(page), [number as u8 + 1; 4096]);
    }
    assert_eq!(rig.usage().mapped, before + 121, "that of the segments too");
    assert_eq!(rig.world.counts(BACK).copies, copies);
    rig.recovers(guest, bystander);
}

#[test]
fn persistent_grants_segments_that_cannot_be_mapped_so_are_copied() {
    let (mut rig, mut guest, bystander) = scene();
    let (before, copies) = (rig.usage().mapped, rig.world.counts(BACK).copies);
    let table = guest.sim.alloc(BACK, Access::ReadOnly).expect("a page");
    let data = pages(&guest, 20);
    let runs: Vec<_> = data.iter().map(|page| (page.grant_ref(), 0, 7)).collect();
    write_segments(&table, 0, &runs);
    data.iter().for_each(|page| page.write(0, &[9; 4096]));
    let table = [table.grant_ref()];
    let status = guest.ask(&mut rig, &indirect(1, Op::WRITE, 0, 20, &table));
    assert_eq!(status, Status::OKAY);
    let disk = rig.disks.of(&guest.back_dir);
    assert_eq!(disk.borrow().bytes[..20 * 4096], [9; 20 * 4096]);
    assert_eq!(rig.usage().mapped, before + 20);
    assert_eq!(rig.world.counts(BACK).copies, copies + 1);
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_300_a_device_keeps_so_many_pages_and_no_more() {
    let (mut rig, mut guest, bystander) = scene();
    let before = rig.usage().mapped;
    let data = pages(&guest, 1200);
    for (round, page) in data.iter().chain(&data).enumerate() {
        page.write(0, &[round as u8; 4096]);
        let gref = page.grant_ref();
        assert_eq!(guest.ask(&mut rig, &write(1, 0, gref)), Status::OKAY);
        page.write(0, &[!(round as u8); 4096]);
        assert_eq!(guest.ask(&mut rig, &read(2, 0, gref)), Status::OKAY);
        assert_eq!(bytes(page), [round as u8; 4096]);
        assert!(rig.usage().mapped - before <= 1056);
    }
    assert_eq!(rig.usage().mapped - before, 1056);
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_300_all_devices_together_keep_so_many_pages_and_copy_the_rest() {
    let mut rig = Rig::new();
    rig.service.limit_mappings(6);
    let bystander = rig.connected(9, "w");
    let mut guests: Vec<_> = [7u16, 8]
        .into_iter()
        .map(|front| {
            let mut guest = rig.attach(front, 51712, "w");
            guest.set("feature-persistent", "1");
            guest.connect(&mut rig);
            guest
        })
        .collect();
    let rings = rig.usage().mapped;
    for guest in &mut guests {
        let data = pages(guest, 11);
        let segments: Vec<_> = data.iter().map(|page| (page.grant_ref(), 0, 7)).collect();
        for round in 0..3u8 {
            data.iter().for_each(|page| page.write(0, &[round; 4096]));
            let status = guest.ask(&mut rig, &request(1, Op::WRITE, 0, &segments));
            assert_eq!(status, Status::OKAY);
            data.iter().for_each(|page| page.write(0, &[!round; 4096]));
            let status = guest.ask(&mut rig, &request(2, Op::READ, 0, &segments));
            assert_eq!(status, Status::OKAY);
            assert!(data.iter().all(|page| bytes(page) == [round; 4096]));
            assert!(rig.usage().mapped - rings <= 6);
        }
    }
    let mut last = guests.pop().expect("two");
    guests[0].close(&mut rig);
    // What the first gave back the second has.
    for round in 0..20 {
        last.round_trip(&mut rig, round);
    }
    rig.recovers(last, bystander);
}

#[test]
fn xsa_371_failing_maps_leave_nothing_mapped_and_are_copied() {
    let (mut rig, mut guest, bystander) = scene();
    let before = rig.usage().mapped;
    for (round, nth) in [0, 5, 10].into_iter().enumerate() {
        for system in [false, true] {
            let data = pages(&guest, 11);
            let segments: Vec<_> = data.iter().map(|page| (page.grant_ref(), 0, 7)).collect();
            data.iter().for_each(|page| page.write(0, &[7; 4096]));
            let status = GrantStatus::NO_SPACE;
            rig.world.inject(match system {
                true => Fault::MapCall { nth, errno: 12 },
                false => Fault::Map { nth, status },
            });
            let status = guest.ask(&mut rig, &request(1, Op::WRITE, 0, &segments));
            assert_eq!(status, Status::OKAY, "round {round}, page {nth}");
            let disk = rig.disks.of(&guest.back_dir);
            assert_eq!(disk.borrow().bytes[..11 * 4096], [7; 11 * 4096]);
        }
    }
    // Good ones before a bad one, many times: what was mapped is mapped once.
    let data = pages(&guest, 10);
    let mut segments: Vec<_> = data.iter().map(|page| (page.grant_ref(), 0, 7)).collect();
    segments.push((GrantRef::new(3999), 0, 7));
    let mut mapped = 0;
    for round in 0..20 {
        let status = guest.ask(&mut rig, &request(1, Op::READ, 0, &segments));
        assert_eq!(status, Status::ERROR);
        if round > 0 {
            assert_eq!(rig.usage().mapped, mapped);
        }
        mapped = rig.usage().mapped;
    }
    assert!(mapped > before);
    rig.recovers(guest, bystander);
}

#[test]
fn persistent_grants_read_only_ones_are_no_target() {
    let (mut rig, mut guest, bystander) = scene();
    let page = guest.sim.alloc(BACK, Access::ReadOnly).expect("a page");
    let gref = page.grant_ref();
    assert_eq!(guest.ask(&mut rig, &write(1, 0, gref)), Status::OKAY);
    assert_eq!(guest.ask(&mut rig, &read(2, 0, gref)), Status::ERROR);
    // Granted anew under another number of the same kind: no stale write.
    let mut page = guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    let other = page.grant_ref();
    assert_eq!(guest.ask(&mut rig, &read(3, 0, other)), Status::OKAY);
    assert!(
        page.try_revoke().is_err(),
        "in use until the connection ends"
    );
    rig.recovers(guest, bystander);
}

#[test]
fn persistent_grants_end_with_the_connection() {
    let (mut rig, mut guest, bystander) = scene();
    let mut data = pages(&guest, 40);
    for page in &data {
        let gref = page.grant_ref();
        assert_eq!(guest.ask(&mut rig, &read(1, 0, gref)), Status::OKAY);
    }
    assert!(data.iter_mut().all(|page| page.try_revoke().is_err()));
    guest.reset(&mut rig);
    for page in &mut data {
        assert_eq!(page.try_revoke(), Ok(()));
    }
    guest.connect(&mut rig);
    rig.recovers(guest, bystander);
}
