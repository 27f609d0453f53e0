//! The nodes that `ringfence block-attach --platform xen` writes: a service takes the disk on, reasons reach the caller, and
//! nothing is left behind.

use ringfence_blkback::service::{BackendType, Toolstack};
use ringfence_cli::disk::DiskAccess;
use ringfence_cli::xen::block::attached::{self, Domains, FindError};
use ringfence_cli::xen::block::nodes::{self, AttachError, Disk, Place};
use ringfence_core::DomId;
use ringfence_core::store::{Store, StoreError, StoreExt, Tx};
use ringfence_sim::World;
use ringfence_tests::blkback_rig::{BACK, Guest, Rig};

const PLACE: Place = Place {
    kind: BackendType::Vbd,
    guest: DomId::new(7),
    backend: BACK,
    vdev: 51728,
};

/// A disk of dom0's, or of a driver domain's.
const fn disk(local: bool) -> Disk<'static> {
    Disk {
        params: "/images/a.img",
        dev: "xvdb",
        access: DiskAccess::ReadWrite,
        cdrom: false,
        discard: true,
        local,
    }
}

fn scene(toolstack: Toolstack) -> (Rig, Guest) {
    let mut rig = Rig::served(World::new(), toolstack);
    let guest = rig.guest(PLACE.guest.get(), PLACE.vdev);
    for (dir, name) in [("/local/domain/1", "disks"), ("/local/domain/7", "web")] {
        write(&mut rig, dir, "name", name);
    }
    rig.toolstack.mkdir(Tx::NONE, "/libxl/7").expect("dom0 may");
    (rig, guest)
}

fn write(rig: &mut Rig, dir: &str, node: &'static str, value: &str) {
    let written = rig.toolstack.write_str(Tx::NONE, dir, node, value);
    written.expect("dom0 may");
}

fn is_there(rig: &mut Rig, path: &str) -> bool {
    let mut buf = [0; 1024];
    match rig.toolstack.directory(Tx::NONE, path, &mut buf) {
        Ok(_) => true,
        Err(StoreError::Missing) => false,
        Err(error) => panic!("{path}: {error}"),
    }
}

fn look(rig: &mut Rig) -> nodes::Attaching {
    nodes::attaching(&mut rig.toolstack, &PLACE).expect("dom0 may")
}

/// Whether nothing of the disk is left in the store.
fn is_gone(rig: &mut Rig) -> bool {
    let dirs = [
        "/local/domain/7/device/vbd",
        "/local/domain/1/backend/vbd/7",
        "/libxl/7/device/vbd",
    ];
    dirs.into_iter().all(|dir| !is_there(rig, dir))
}

#[test]
fn a_disk_connects_and_goes() {
    for (toolstack, local) in [(Toolstack::DOM0, true), (Toolstack::DRIVER_DOMAIN, false)] {
        let (mut rig, mut guest) = scene(toolstack);
        nodes::write(&mut rig.toolstack, &PLACE, &disk(local)).expect("a free number");
        assert!(!look(&mut rig).was_seen());
        guest.connect(&mut rig);
        let seen = look(&mut rig);
        assert!(seen.is_connected() && seen.failure().is_none(), "{seen:?}");
        guest.round_trip(&mut rig, 9);

        let again = nodes::write(&mut rig.toolstack, &PLACE, &disk(local));
        assert!(matches!(again, Err(AttachError::Attached { .. })));
        let record = rig.node("/libxl/7/device/vbd/51728", "backend");
        assert_eq!(record.as_deref(), Some(guest.back_dir.as_str()));

        nodes::begin_detach(&mut rig.toolstack, &PLACE).expect("dom0 may");
        rig.settle();
        let going = nodes::detaching(&mut rig.toolstack, &PLACE).expect("dom0 may");
        assert!(!going.is_over());
        assert_eq!(going.to_string(), "frontend in state 4, backend in state 5");
        guest.set("state", "5");
        rig.settle();
        guest.set("state", "6");
        rig.settle();
        let gone = nodes::detaching(&mut rig.toolstack, &PLACE).expect("dom0 may");
        assert!(gone.is_over(), "{gone}");
        nodes::remove(&mut rig.toolstack, &PLACE).expect("dom0 may");
        assert!(is_gone(&mut rig));
        rig.settle();
        assert_eq!((rig.service.devices(), rig.usage().mapped), (0, 0));
    }
}

#[test]
fn a_drive_and_a_disk_without_discard_are_told_as_such() {
    for cdrom in [false, true] {
        let access = match cdrom {
            true => DiskAccess::ReadOnly,
            false => DiskAccess::ReadWrite,
        };
        let disk = Disk {
            access,
            cdrom,
            discard: false,
            ..disk(true)
        };
        let (mut rig, mut guest) = scene(Toolstack::DOM0);
        nodes::write(&mut rig.toolstack, &PLACE, &disk).expect("a free number");
        guest.connect(&mut rig);
        let (front, back) = (guest.dir.clone(), guest.back_dir.clone());
        let kind = if cdrom { "cdrom" } else { "disk" };
        let places = [&front, &back, "/libxl/7/device/vbd/51728"];
        let kinds = places.map(|dir| rig.node(dir, "device-type"));
        assert_eq!(kinds.each_ref().map(Option::as_deref), [Some(kind); 3]);
        let removable = rig.node(&back, "removable");
        assert_eq!(removable.as_deref(), Some(if cdrom { "1" } else { "0" }));
        // VDISK_CDROM and VDISK_READONLY.
        let info = rig.node(&back, "info");
        assert_eq!(info.as_deref(), Some(if cdrom { "5" } else { "0" }));
        let discards = rig.node(&back, "feature-discard");
        assert_ne!(discards.as_deref(), Some("1"));
    }
}

#[test]
fn the_reason_reaches_the_caller_and_the_disk_can_be_taken_away() {
    for (toolstack, local) in [(Toolstack::DOM0, true), (Toolstack::DRIVER_DOMAIN, false)] {
        let (mut rig, _guest) = scene(toolstack);
        rig.disks.refuse(Some("/images/a.img: in use"));
        nodes::write(&mut rig.toolstack, &PLACE, &disk(local)).expect("a free number");
        rig.settle();
        let seen = look(&mut rig);
        assert_eq!(seen.failure(), Some("/images/a.img: in use"));
        assert!(seen.was_seen());
        nodes::begin_detach(&mut rig.toolstack, &PLACE).expect("dom0 may");
        rig.settle();
        let gone = nodes::detaching(&mut rig.toolstack, &PLACE).expect("dom0 may");
        assert!(gone.is_over(), "{gone}");
        nodes::remove(&mut rig.toolstack, &PLACE).expect("dom0 may");
        assert!(is_gone(&mut rig));
    }
}

#[test]
fn the_guests_own_faults_are_told_too() {
    let (mut rig, mut guest) = scene(Toolstack::DRIVER_DOMAIN);
    nodes::write(&mut rig.toolstack, &PLACE, &disk(false)).expect("a free number");
    rig.settle();
    guest.publish();
    guest.set("protocol", "non\x1bsense");
    guest.set("state", "3");
    rig.settle();
    let seen = look(&mut rig);
    let words = seen.failure().expect("it failed");
    assert!(words.contains("protocol \"non"), "{words}");
    assert!(!words.contains(char::is_control), "{words:?}");
    // Also what it writes itself: whoever prints it is on a terminal.
    let path = "/local/domain/7/error/device/vbd/51728";
    let (mut rig, mut guest) = scene(Toolstack::DRIVER_DOMAIN);
    nodes::write(&mut rig.toolstack, &PLACE, &disk(false)).expect("a free number");
    guest.set("state", "6");
    write(&mut rig, path, "error", "22 red \x1b[31m");
    let seen = look(&mut rig);
    assert_eq!(seen.failure(), Some("red \u{fffd}[31m"));
}

#[test]
fn what_is_missing_is_said_when_the_time_is_over() {
    let waited = std::time::Duration::from_secs(30);
    let (mut rig, _guest) = scene(Toolstack::DOM0);
    nodes::write(&mut rig.toolstack, &PLACE, &disk(true)).expect("a free number");
    let words = look(&mut rig).reason(&PLACE, waited);
    assert_eq!(words, "no ringfence driver domain is running in domain 1");
    rig.settle();
    assert_eq!(
        look(&mut rig).reason(&PLACE, waited),
        "the guest has not connected in 30 s (frontend in state 1, backend in state 2)"
    );
}

#[test]
fn disks_and_domains_are_found_without_asking_the_guest() {
    let (mut rig, mut guest) = scene(Toolstack::DRIVER_DOMAIN);
    nodes::write(&mut rig.toolstack, &PLACE, &disk(false)).expect("a free number");
    rig.settle();
    let domains = Domains::read(&mut rig.toolstack).expect("dom0 may");
    assert_eq!(domains.find("web").expect("a name"), PLACE.guest);
    assert_eq!(domains.find("7").expect("a number"), PLACE.guest);
    assert!(matches!(domains.find("we"), Err(FindError::None { .. })));
    // The guest points elsewhere, and another domain claims the disk.
    guest.set("backend", "/local/domain/0/backend/vbd/7/51728");
    let claim = "/local/domain/9/backend/vbd/7/51728";
    write(&mut rig, claim, "state", "2");
    let place = attached::find(&mut rig.toolstack, PLACE.guest, PLACE.vdev);
    assert_eq!(place.expect("libxl's record decides"), PLACE);
    rig.toolstack.rm(Tx::NONE, "/libxl/7").expect("dom0 may");
    let place = attached::find(&mut rig.toolstack, PLACE.guest, PLACE.vdev);
    assert!(matches!(place, Err(FindError::SeveralBackends { .. })));
    rig.toolstack.rm(Tx::NONE, claim).expect("dom0 may");
    let place = attached::find(&mut rig.toolstack, PLACE.guest, PLACE.vdev);
    assert_eq!(place.expect("the only one"), PLACE);
    let place = attached::find(&mut rig.toolstack, PLACE.guest, 51744);
    assert!(matches!(place, Err(FindError::NoDisk { .. })));

    let disks = attached::all(&mut rig.toolstack, None).expect("dom0 may");
    let table = attached::table(&disks, &domains);
    let line = table.lines().nth(1).expect("one disk");
    let words: Vec<_> = line.split_whitespace().collect();
    let expected = ["51728", "xvdb", "web", "disks", "w", "1/2", "/images/a.img"];
    assert_eq!(words, expected);
    let json = attached::json(&disks, &domains);
    assert_eq!(json["disks"][0]["backend_state"], 2);
    assert_eq!(json["disks"][0]["guest"], "web");
}
