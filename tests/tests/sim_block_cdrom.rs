//! A CD-ROM whose medium is changed while the guest goes on, as toolstacks do it: they write the node that names it.

use ringfence_blkback::service::{BackendType, DeviceId, Toolstack};
use ringfence_core::DomId;
use ringfence_core::SharedMem as _;
use ringfence_core::platform::Granted;
use ringfence_core::store::{Perm, Store, StoreExt, Tx};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_sim::World;
use ringfence_tests::blkback_rig::{BACK, Guest, Rig, SECTORS, read, request};

const FRONT: u16 = 7;

/// A guest that is connected to a CD-ROM with a medium of `1`s in it, of a toolstack of this kind.
fn connected(kind: Toolstack, nodes: &[(&'static str, &str)]) -> (Rig, Guest) {
    let mut rig = Rig::served(World::new(), kind);
    rig.disks.keep_journals();
    let place = format!("/local/domain/{BACK}/backend");
    rig.toolstack.mkdir(Tx::NONE, &place).expect("dom0 may");
    let owned = rig
        .toolstack
        .set_perms(Tx::NONE, &place, &[Perm::owner(BACK)]);
    owned.expect("dom0 may");
    let id = DeviceId {
        backend: BackendType::Vbd,
        front: DomId::new(FRONT),
        vdev: 51712,
    };
    let mut guest = rig.guest(FRONT, id.vdev);
    guest.back_dir = id.backend_dir(BACK).to_string();
    let (own, other) = (guest.dir.clone(), guest.back_dir.clone());
    let made = rig.toolstack.transaction(|store, tx| {
        store.mkdir(tx, &own)?;
        store.set_perms(tx, &own, &[Perm::owner(id.front), Perm::read(BACK)])?;
        store.mkdir(tx, &other)?;
        store.set_perms(tx, &other, &[Perm::owner(BACK), Perm::read(id.front)])?;
        store.write_str(tx, &own, "backend", &other)?;
        store.write_str(tx, &own, "state", "1")?;
        for (node, value) in [
            ("frontend", own.as_str()),
            ("online", "1"),
            ("mode", "r"),
            ("device-type", "cdrom"),
        ] {
            store.write_str(tx, &other, node, value)?;
        }
        for (node, value) in nodes {
            store.write_str(tx, &other, node, value)?;
        }
        store.write_str(tx, &other, "state", "1")
    });
    made.expect("dom0 may");
    let is_empty = nodes.contains(&("params", ""));
    fill(&rig, &guest, 1, if is_empty { 0 } else { SECTORS });
    guest.connect(&mut rig);
    (rig, guest)
}

/// What the image that is opened next holds, and how large it is.
fn fill(rig: &Rig, guest: &Guest, byte: u8, sectors: u64) {
    let medium = rig.disks.replace(&guest.back_dir);
    let mut medium = medium.borrow_mut();
    medium.sectors = sectors;
    medium.bytes.fill(byte);
}

/// The first byte of this sector, if it can be read.
fn byte_at(rig: &mut Rig, guest: &mut Guest, sector: u64) -> Option<u8> {
    let request = read(9, sector, guest.page.grant_ref());
    if guest.ask(rig, &request) != Status::OKAY {
        return None;
    }
    let mut byte = [0];
    guest.page.read(0, &mut byte);
    Some(byte[0])
}

fn size(rig: &mut Rig, guest: &Guest) -> Option<String> {
    rig.node(&guest.back_dir, "sectors")
}

fn name(rig: &mut Rig, guest: &Guest, node: &str, value: &str) {
    rig.set(&guest.back_dir.clone(), node, value);
    rig.settle();
}

#[test]
fn a_medium_is_changed_without_a_new_connection() {
    let (mut rig, mut guest) =
        connected(Toolstack::DRIVER_DOMAIN, &[("params", "/images/one.iso")]);
    assert_eq!(byte_at(&mut rig, &mut guest, 992), Some(1));
    // One read is at the old medium when the new one comes.
    let old = rig.disks.of(&guest.back_dir);
    old.borrow_mut().hold = true;
    guest.push(&read(5, 0, guest.page.grant_ref()));
    guest.kick();
    rig.settle();
    fill(&rig, &guest, 2, 96);
    name(&mut rig, &guest, "params", "/images/two.iso");
    assert_eq!(
        (
            rig.state(&guest).as_str(),
            size(&mut rig, &guest).as_deref()
        ),
        ("4", Some("96"))
    );
    assert_eq!(guest.answers().len(), 0);
    old.borrow_mut().hold = false;
    old.borrow_mut().release();
    rig.service.serve(32, rig.now);
    let answers = guest.answers();
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].id, answers[0].status), (5, Status::OKAY));
    let mut byte = [0];
    guest.page.read(0, &mut byte);
    assert_eq!(byte, [1], "of the old medium");
    assert_eq!(byte_at(&mut rig, &mut guest, 88), Some(2));
    assert_eq!(byte_at(&mut rig, &mut guest, 96), None, "behind its end");
    // Once for each name, however often the node is written.
    let new = rig.disks.of(&guest.back_dir);
    name(&mut rig, &guest, "params", "/images/two.iso");
    assert_eq!(new.borrow().opened, 1);
    assert_eq!(rig.usage().mapped, 1, "the ring is the one it was");
    guest.close(&mut rig);
}

#[test]
fn an_empty_drive_waits_for_the_next_medium() {
    let (mut rig, mut guest) =
        connected(Toolstack::DRIVER_DOMAIN, &[("params", "/images/one.iso")]);
    name(&mut rig, &guest, "params", "");
    assert_eq!(size(&mut rig, &guest).as_deref(), Some("0"));
    assert_eq!(byte_at(&mut rig, &mut guest, 0), None);
    let flush = request(3, Op::FLUSH_DISKCACHE, 0, &[]);
    assert_eq!(guest.ask(&mut rig, &flush), Status::OKAY);
    // What cannot be opened leaves it empty, and says why.
    rig.disks.refuse(Some("no such file"));
    name(&mut rig, &guest, "params", "/images/none.iso");
    let error = rig.error(&guest);
    assert!(error.ends_with("no such file"), "{error}");
    assert_eq!(
        (
            rig.state(&guest).as_str(),
            size(&mut rig, &guest).as_deref()
        ),
        ("4", Some("0"))
    );
    rig.disks.refuse(None);
    fill(&rig, &guest, 3, 200);
    name(&mut rig, &guest, "params", "/images/three.iso");
    assert_eq!(size(&mut rig, &guest).as_deref(), Some("200"));
    assert_eq!(byte_at(&mut rig, &mut guest, 0), Some(3));
    assert_eq!(guest.ask(&mut rig, &flush), Status::OKAY);
    assert_eq!(rig.error(&guest), "");
    guest.close(&mut rig);
}

#[test]
fn a_medium_that_is_awaited_is_not_put_in_under_the_name_of_another() {
    let (mut rig, mut guest) =
        connected(Toolstack::DRIVER_DOMAIN, &[("params", "/images/one.iso")]);
    rig.disks.withhold(&guest.back_dir, true);
    for (path, abandoned) in [("two", 0), ("two", 0), ("three", 1)] {
        let path = format!("/images/{path}.iso");
        name(&mut rig, &guest, "params", &path);
        assert!(rig.service.awaits_disks());
        assert_eq!(rig.disks.abandoned(), abandoned, "{path}");
        rig.service.ask_again();
        rig.settle();
    }
    rig.disks.withhold(&guest.back_dir, false);
    fill(&rig, &guest, 3, 200);
    rig.service.ask_again();
    rig.settle();
    assert_eq!(byte_at(&mut rig, &mut guest, 0), Some(3));
    assert_eq!(rig.disks.abandoned(), 1);
    name(&mut rig, &guest, "params", "/images/four.iso");
    assert_eq!(rig.disks.abandoned(), 1, "nothing was awaited");
    // Nobody goes on waiting for what is taken out again, or what nobody uses any more.
    rig.disks.withhold(&guest.back_dir, true);
    name(&mut rig, &guest, "params", "/images/five.iso");
    name(&mut rig, &guest, "params", "");
    assert_eq!(
        (rig.service.awaits_disks(), rig.disks.abandoned()),
        (false, 2)
    );
    name(&mut rig, &guest, "params", "/images/six.iso");
    assert!(rig.service.awaits_disks());
    guest.close(&mut rig);
    assert_eq!(
        (rig.service.awaits_disks(), rig.disks.abandoned()),
        (false, 3)
    );
}

#[test]
fn where_a_script_named_the_first_medium_params_names_the_next() {
    let nodes = [
        ("params", "/images/one.iso"),
        ("script", "/etc/xen/scripts/block-ringfence"),
        ("physical-device-path", "/images/one.iso"),
    ];
    let (mut rig, mut guest) = connected(Toolstack::DOM0, &nodes);
    assert_eq!(byte_at(&mut rig, &mut guest, 0), Some(1));
    fill(&rig, &guest, 2, 96);
    name(&mut rig, &guest, "params", "/images/two.iso");
    let path = rig.node(&guest.back_dir, "physical-device-path");
    assert_eq!(path.as_deref(), Some("/images/two.iso"));
    assert_eq!(size(&mut rig, &guest).as_deref(), Some("96"));
    assert_eq!(byte_at(&mut rig, &mut guest, 0), Some(2));
    name(&mut rig, &guest, "params", "");
    assert_eq!(size(&mut rig, &guest).as_deref(), Some("0"));
    guest.close(&mut rig);
}

#[test]
fn a_drive_may_be_empty_when_it_is_attached() {
    let script = ("script", "/etc/xen/scripts/block-ringfence");
    let named = ("physical-device-path", "");
    for (kind, nodes) in [
        (Toolstack::DRIVER_DOMAIN, &[("params", "")][..]),
        (Toolstack::DOM0, &[("params", ""), script, named]),
    ] {
        let (mut rig, mut guest) = connected(kind, nodes);
        assert_eq!(rig.state(&guest), "4");
        assert_eq!(size(&mut rig, &guest).as_deref(), Some("0"));
        assert_eq!(byte_at(&mut rig, &mut guest, 0), None);
        fill(&rig, &guest, 2, 96);
        name(&mut rig, &guest, "params", "/images/two.iso");
        assert_eq!(size(&mut rig, &guest).as_deref(), Some("96"));
        assert_eq!(byte_at(&mut rig, &mut guest, 0), Some(2));
        guest.close(&mut rig);
    }
}

#[test]
fn an_empty_drive_outlives_the_process() {
    let (mut rig, mut guest) =
        connected(Toolstack::DRIVER_DOMAIN, &[("params", "/images/one.iso")]);
    fill(&rig, &guest, 0, 0);
    name(&mut rig, &guest, "params", "");
    let mut rig = rig.restarted();
    rig.settle();
    let state = rig.state(&guest);
    assert_eq!((state.as_str(), rig.error(&guest)), ("4", String::new()));
    fill(&rig, &guest, 2, 96);
    name(&mut rig, &guest, "params", "/images/two.iso");
    assert_eq!(byte_at(&mut rig, &mut guest, 0), Some(2));
    guest.close(&mut rig);
}
