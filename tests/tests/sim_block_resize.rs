//! Disks that change their size while they are used.

use ringfence_core::platform::Granted;
use ringfence_core::wire::blkif::Status;
use ringfence_tests::blkback_rig::{Guest, Rig, SECTORS, discard, read, write};

fn set_size(rig: &Rig, guest: &Guest, sectors: u64) {
    let disk = rig.disks.of(&guest.back_dir);
    let mut disk = disk.borrow_mut();
    disk.sectors = sectors;
    disk.bytes.resize(sectors as usize * 512, 0);
}

fn told(rig: &mut Rig, guest: &Guest) -> (String, String) {
    let sectors = rig.node(&guest.back_dir, "sectors").unwrap_or_default();
    (sectors, rig.state(guest))
}

#[test]
fn a_disk_that_grows_is_told_and_used_to_its_end() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    set_size(&rig, &guest, 2 * SECTORS);
    let last = write(1, 2 * SECTORS - 8, guest.page.grant_ref());
    assert_eq!(
        guest.ask(&mut rig, &last),
        Status::ERROR,
        "not looked at yet"
    );
    rig.service.refresh().expect("the store lives");
    assert_eq!(told(&mut rig, &guest), ("2000".into(), "4".into()));
    assert_eq!(guest.ask(&mut rig, &last), Status::OKAY);
    guest.round_trip(&mut rig, 3);
    // The next connection begins with the new size.
    guest.reset(&mut rig);
    guest.connect(&mut rig);
    assert_eq!(told(&mut rig, &guest), ("2000".into(), "4".into()));
    assert_eq!(guest.ask(&mut rig, &last), Status::OKAY);
}

#[test]
fn lba_a_disk_that_shrinks_has_no_more_than_is_left() {
    let mut rig = Rig::new();
    let mut guest = rig.connected(7, "w");
    let gref = guest.page.grant_ref();
    assert_eq!(guest.ask(&mut rig, &write(1, 500, gref)), Status::OKAY);
    set_size(&rig, &guest, 500);
    rig.service.refresh().expect("the store lives");
    assert_eq!(told(&mut rig, &guest), ("500".into(), "4".into()));
    for sector in [493, 500, SECTORS - 8] {
        assert_eq!(guest.ask(&mut rig, &write(1, sector, gref)), Status::ERROR);
        assert_eq!(guest.ask(&mut rig, &read(2, sector, gref)), Status::ERROR);
        assert_eq!(
            guest.ask(&mut rig, &discard(3, sector, 8, 0)),
            Status::ERROR
        );
    }
    assert_eq!(guest.ask(&mut rig, &write(1, 492, gref)), Status::OKAY);
}

#[test]
fn all_queues_of_a_disk_see_its_size() {
    let mut rig = Rig::new();
    let mut guest = rig.attach(7, 51712, "w");
    rig.settle();
    let mut rings = guest.publish_queues(3, 0);
    guest.set("state", "3");
    rig.settle();
    set_size(&rig, &guest, 2 * SECTORS);
    rig.service.refresh().expect("the store lives");
    for ring in &mut rings {
        assert!(ring.push(&write(1, 2 * SECTORS - 8, guest.page.grant_ref())));
        ring.kick();
        rig.settle();
        assert_eq!(ring.answers()[0].status, Status::OKAY);
    }
}

#[test]
fn a_device_that_closes_is_not_brought_back_by_its_size() {
    let mut rig = Rig::new();
    let guest = rig.connected(7, "w");
    set_size(&rig, &guest, 2 * SECTORS);
    rig.detach(&guest);
    rig.service.refresh().expect("the store lives");
    assert_eq!(told(&mut rig, &guest), ("1000".into(), "5".into()));
}
