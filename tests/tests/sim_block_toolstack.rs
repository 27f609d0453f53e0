//! The block service under toolstacks that do what libxl does, step by step: xl in the same domain with its hotplug script, and
//! xl elsewhere, where the service stands in for `xl devd`.

use ringfence_blkback::service::{BackendType, DeviceId, Toolstack};
use ringfence_core::DomId;
use ringfence_core::platform::Platform;
use ringfence_core::store::{Perm, Store, StoreError, StoreExt, Tx};
use ringfence_sim::World;
use ringfence_tests::blkback_rig::{BACK, Guest, Rig};

const SCRIPT: &str = "/etc/xen/scripts/block-ringfence";

/// xl, in the domain of the disks or in another.
struct Xl {
    rig: Rig,
}

impl Xl {
    fn here() -> Self {
        Self::on(World::new(), Toolstack::DOM0)
    }

    fn elsewhere() -> Self {
        Self::on(World::new(), Toolstack::DRIVER_DOMAIN)
    }

    fn on(world: World, toolstack: Toolstack) -> Self {
        let mut rig = Rig::served(world, toolstack);
        // A domain that is created as a driver domain owns the place of its backends.
        let place = format!("/local/domain/{BACK}/backend");
        rig.toolstack.mkdir(Tx::NONE, &place).expect("dom0 may");
        let perms = [Perm::owner(BACK)];
        rig.toolstack
            .set_perms(Tx::NONE, &place, &perms)
            .expect("dom0 may");
        Self { rig }
    }

    /// Makes both directories in one transaction.
    fn add(
        &mut self,
        kind: BackendType,
        front: u16,
        vdev: u32,
        nodes: &[(&'static str, &str)],
    ) -> Guest {
        let id = DeviceId {
            backend: kind,
            front: DomId::new(front),
            vdev,
        };
        let mut guest = self.rig.guest(front, vdev);
        guest.back_dir = id.backend_dir(BACK).to_string();
        let (own, other) = (guest.dir.clone(), guest.back_dir.clone());
        let (own_perms, other_perms) = (
            [Perm::owner(id.front), Perm::read(BACK)],
            [Perm::owner(BACK), Perm::read(id.front)],
        );
        let made = self.rig.toolstack.transaction(|store, tx| {
            store.mkdir(tx, &own)?;
            store.set_perms(tx, &own, &own_perms)?;
            store.mkdir(tx, &other)?;
            store.set_perms(tx, &other, &other_perms)?;
            store.write_str(tx, &own, "backend", &other)?;
            store.write_str(tx, &own, "state", "1")?;
            store.write_str(tx, &other, "frontend", &own)?;
            store.write_str(tx, &other, "online", "1")?;
            store.write_str(tx, &other, "mode", "w")?;
            for (node, value) in nodes {
                store.write_str(tx, &other, node, value)?;
            }
            store.write_str(tx, &other, "state", "1")
        });
        made.expect("dom0 may");
        self.rig.settle();
        guest
    }

    fn write(&mut self, guest: &Guest, node: &'static str, value: &str) {
        let written = self
            .rig
            .toolstack
            .write_str(Tx::NONE, &guest.back_dir, node, value);
        written.expect("dom0 may");
        self.rig.settle();
    }

    fn node(&mut self, guest: &Guest, node: &'static str) -> Option<String> {
        self.rig.node(&guest.back_dir, node)
    }

    /// What the hotplug script waits for, or libxl in another domain: the status and the words.
    fn plugged(&mut self, guest: &Guest) -> (String, String) {
        let status = self.node(guest, "hotplug-status").unwrap_or_default();
        (
            status,
            self.node(guest, "hotplug-error").unwrap_or_default(),
        )
    }

    /// `xl block-detach`, up to state 6.
    fn detach(&mut self, guest: &mut Guest) {
        self.rig.detach(guest);
        self.rig.settle();
        guest.set("state", "5");
        self.rig.settle();
        guest.set("state", "6");
        self.rig.settle();
    }

    fn is_there(&mut self, dir: &str) -> bool {
        let mut buf = [0; 1024];
        match self.rig.toolstack.directory(Tx::NONE, dir, &mut buf) {
            Ok(_) => true,
            Err(StoreError::Missing) => false,
            Err(error) => panic!("{dir}: {error}"),
        }
    }

    fn rm(&mut self, dir: &str) {
        self.rig.toolstack.rm(Tx::NONE, dir).expect("dom0 may");
        self.rig.settle();
    }

    fn opened(&self, guest: &Guest) -> u32 {
        self.rig.disks.of(&guest.back_dir).borrow().opened
    }
}

fn phy(xl: &mut Xl) -> Guest {
    let nodes = [
        ("script", SCRIPT),
        ("params", "/images/a.img"),
        ("type", "phy"),
    ];
    xl.add(BackendType::Vbd, 7, 51712, &nodes)
}

#[test]
fn a_script_runs_when_state_2_is_there_and_the_disk_is_opened_then() {
    let mut xl = Xl::here();
    let mut guest = phy(&mut xl);
    assert_eq!(xl.rig.state(&guest), "2", "what libxl waits for");
    assert_eq!(xl.opened(&guest), 0);
    assert_eq!(xl.node(&guest, "hotplug-status"), None);
    xl.write(&guest, "physical-device-path", "/images/a.img");
    assert_eq!(xl.plugged(&guest), ("connected".into(), String::new()));
    assert_eq!(xl.opened(&guest), 1);
    guest.connect(&mut xl.rig);
    for (node, value) in [
        ("feature-flush-cache", "1"),
        ("sectors", "1000"),
        ("info", "0"),
    ] {
        assert_eq!(xl.node(&guest, node).as_deref(), Some(value), "{node}");
    }
    guest.round_trip(&mut xl.rig, 3);
    guest.reset(&mut xl.rig);
    guest.connect(&mut xl.rig);
    assert_eq!(xl.opened(&guest), 1, "once for all connections");
    xl.detach(&mut guest);
    assert_eq!(xl.rig.state(&guest), "6");
    assert_eq!(xl.rig.service.devices(), 0);
    assert!(xl.is_there(&guest.back_dir), "libxl removes it itself");
    xl.rm(&guest.back_dir.clone());
    assert_eq!(xl.rig.service.devices(), 0);
    assert_eq!(xl.rig.usage().mapped, 0);
}

#[test]
fn a_guest_that_is_faster_than_the_script_waits() {
    let mut xl = Xl::here();
    let mut guest = phy(&mut xl);
    guest.publish();
    guest.set("state", "3");
    xl.rig.settle();
    assert_eq!(xl.rig.state(&guest), "2");
    xl.write(&guest, "physical-device-path", "");
    assert_eq!((xl.rig.state(&guest).as_str(), xl.opened(&guest)), ("2", 0));
    xl.write(&guest, "physical-device-path", "/images/a.img");
    assert_eq!(xl.rig.state(&guest), "4");
    assert_eq!(
        xl.node(&guest, "feature-flush-cache").as_deref(),
        Some("1"),
        "before 4"
    );
    guest.set("state", "4");
    guest.round_trip(&mut xl.rig, 1);
}

/// What `xl migrate` to the same host does: the new domain's disks are there before the old one's are gone.
#[test]
fn a_disk_that_the_same_machine_has_elsewhere_is_there_and_connects_once_it_is_free() {
    let mut xl = Xl::here();
    let nodes = [("script", SCRIPT), ("type", "phy")];
    let mut guest = xl.add(BackendType::Vbd, 8, 51712, &nodes);
    xl.rig.disks.hold_elsewhere(&guest.back_dir, true);
    xl.write(&guest, "physical-device-path", "/images/a.img");
    assert_eq!(xl.plugged(&guest), ("connected".into(), String::new()));
    assert!(xl.rig.service.awaits_disks());
    guest.publish();
    guest.set("state", "3");
    for _ in 0..2 {
        xl.rig.settle();
        xl.rig.service.ask_again();
        assert_eq!((xl.rig.state(&guest).as_str(), xl.opened(&guest)), ("2", 0));
        assert_eq!(xl.rig.error(&guest), "");
    }
    xl.rig.disks.hold_elsewhere(&guest.back_dir, false);
    xl.rig.service.ask_again();
    xl.rig.settle();
    assert_eq!((xl.rig.state(&guest).as_str(), xl.opened(&guest)), ("4", 1));
    assert!(!xl.rig.service.awaits_disks());
    guest.set("state", "4");
    guest.round_trip(&mut xl.rig, 3);
}

#[test]
fn a_disk_that_cannot_be_opened_is_reported_to_the_script_and_state_2_stays() {
    let mut xl = Xl::here();
    xl.rig.disks.refuse(Some("/images/a.img: no such file"));
    let mut guest = phy(&mut xl);
    xl.write(&guest, "physical-device-path", "/images/a.img");
    let told = ("error".to_owned(), "/images/a.img: no such file".to_owned());
    assert_eq!(xl.plugged(&guest), told);
    assert_eq!(xl.rig.error(&guest), "22 /images/a.img: no such file");
    guest.publish();
    guest.set("state", "3");
    xl.rig.settle();
    assert_eq!(xl.rig.state(&guest), "2");
    // The same again is not tried again, another is.
    xl.rig.disks.refuse(None);
    xl.write(&guest, "online", "1");
    assert_eq!(xl.opened(&guest), 0);
    xl.write(&guest, "physical-device-path", "/images/b.img");
    assert_eq!(xl.plugged(&guest).0, "connected");
    assert_eq!(xl.rig.state(&guest), "4");
}

#[test]
fn xl_takes_a_device_away_whose_disk_could_not_be_opened() {
    for mut xl in [Xl::here(), Xl::elsewhere()] {
        xl.rig.disks.refuse(Some("in use"));
        let guest = phy(&mut xl);
        xl.write(&guest, "physical-device-path", "/images/a.img");
        assert_eq!(xl.plugged(&guest), ("error".into(), "in use".into()));
        assert_eq!(xl.rig.error(&guest), "22 in use");
        xl.rig.detach(&guest);
        xl.rig.settle();
        assert_eq!(xl.rig.service.devices(), 0);
        let errors = format!("/local/domain/{BACK}/error/backend");
        assert!(!xl.is_there(&errors), "what was told is over");
        if xl.is_there(&guest.back_dir) {
            assert_eq!(xl.rig.state(&guest), "6");
        }
    }
}

#[test]
fn devices_of_other_scripts_are_left_alone() {
    let mut xl = Xl::here();
    let nodes = [
        ("script", "/etc/xen/scripts/block"),
        ("params", "/images/a.img"),
    ];
    let other = xl.add(BackendType::Vbd, 8, 51712, &nodes);
    let none = xl.add(BackendType::Vbd, 9, 51712, &[("params", "/images/a.img")]);
    let mut guest = phy(&mut xl);
    xl.write(&guest, "physical-device-path", "/images/a.img");
    guest.connect(&mut xl.rig);
    assert_eq!(xl.rig.service.devices(), 1);
    for foreign in [&other, &none] {
        xl.write(foreign, "physical-device-path", "/images/a.img");
        assert_eq!(xl.rig.state(foreign), "1");
        assert_eq!(xl.opened(foreign), 0);
        assert_eq!(xl.node(foreign, "hotplug-status"), None);
    }
    // Whoever writes the nodes one by one may write this one last.
    xl.write(&none, "script", "block-ringfence");
    assert_eq!(xl.rig.state(&none), "2");
    assert_eq!(xl.plugged(&none).0, "connected");
}

#[test]
fn the_next_process_goes_on_without_the_script() {
    let mut xl = Xl::here();
    let mut guest = phy(&mut xl);
    xl.write(&guest, "physical-device-path", "/images/a.img");
    guest.connect(&mut xl.rig);
    let world = xl.rig.world.clone();
    world.kill(BACK);
    let mut next = Xl::on(world.clone(), Toolstack::DOM0);
    next.rig.settle();
    assert_eq!(
        (next.rig.state(&guest).as_str(), next.opened(&guest)),
        ("4", 1)
    );
    guest.round_trip(&mut next.rig, 5);
    // And one that finds the image gone.
    world.kill(BACK);
    let mut last = Xl::on(world, Toolstack::DOM0);
    last.rig.disks.refuse(Some("/images/a.img: no such file"));
    last.rig.settle();
    assert_eq!(last.rig.state(&guest), "5");
    assert_eq!(
        last.plugged(&guest),
        ("error".into(), "/images/a.img: no such file".into())
    );
    assert_eq!(last.rig.error(&guest), "22 /images/a.img: no such file");
}

#[test]
fn a_process_that_died_before_its_frontend_came_is_followed_by_one_that_opens_the_disk() {
    for toolstack in [Toolstack::HOSTED, Toolstack::DOM0, Toolstack::DRIVER_DOMAIN] {
        let world = World::new();
        let mut xl = Xl::on(world.clone(), toolstack);
        let mut guest = phy(&mut xl);
        xl.write(&guest, "physical-device-path", "/images/a.img");
        world.kill(BACK);
        guest.publish();
        guest.set("state", "3");
        let mut next = Xl::on(world, toolstack);
        next.rig.settle();
        assert_eq!(next.rig.state(&guest), "4", "{toolstack:?}");
        assert_eq!(next.opened(&guest), 1);
    }
}

#[test]
fn a_driver_domain_opens_what_params_say_and_removes_what_is_over() {
    let mut xl = Xl::elsewhere();
    let mut first = xl.add(BackendType::Vbd, 7, 51712, &[("params", "/dev/vg/a")]);
    let mut second = xl.add(
        BackendType::Qdisk,
        7,
        51728,
        &[("params", "aio:/images/b.img")],
    );
    for guest in [&mut first, &mut second] {
        assert_eq!(xl.rig.state(guest), "2");
        assert_eq!(xl.plugged(guest), ("connected".into(), String::new()));
        guest.connect(&mut xl.rig);
        guest.round_trip(&mut xl.rig, 1);
    }
    let above = first
        .back_dir
        .rsplit_once('/')
        .expect("a path")
        .0
        .to_owned();
    let mut third = xl.add(BackendType::Vbd, 7, 51744, &[("params", "/dev/vg/c")]);
    third.connect(&mut xl.rig);
    xl.detach(&mut first);
    assert!(!xl.is_there(&first.back_dir));
    assert!(xl.is_there(&above), "another device is there");
    third.round_trip(&mut xl.rig, 2);
    xl.detach(&mut third);
    assert!(!xl.is_there(&above));
    let types = above.rsplit_once('/').expect("a path").0;
    assert!(!xl.is_there(types), "the last one");
    second.round_trip(&mut xl.rig, 3);
    xl.detach(&mut second);
    assert!(!xl.is_there(&second.back_dir));
    assert_eq!((xl.rig.service.devices(), xl.rig.usage().mapped), (0, 0));
}

#[test]
fn a_driver_domain_says_what_is_wrong_with_params() {
    for (kind, params, words) in [
        (
            BackendType::Qdisk,
            "vhd:/images/a",
            "params \"vhd:/images/a\": format vhd is not supported, only aio, raw and qcow2 are",
        ),
        (
            BackendType::Qdisk,
            "aio:images/a",
            "params \"aio:images/a\" is no absolute path",
        ),
        (
            BackendType::Vbd,
            "iqn.2001:target",
            "params \"iqn.2001:target\" is no absolute path",
        ),
        (
            BackendType::Vbd,
            "aio:/images/a",
            "params \"aio:/images/a\" is no absolute path",
        ),
    ] {
        let mut xl = Xl::elsewhere();
        let guest = xl.add(kind, 7, 51712, &[("params", params)]);
        assert_eq!(xl.plugged(&guest), ("error".into(), words.into()));
        assert_eq!(xl.rig.error(&guest), format!("22 {words}"));
        assert_eq!(xl.rig.state(&guest), "6", "libxl waits for 2 and gives up");
        assert_eq!(xl.opened(&guest), 0);
    }
    // Nothing yet: whoever writes the nodes one by one is still at it.
    let mut xl = Xl::elsewhere();
    let guest = xl.add(BackendType::Vbd, 7, 51712, &[]);
    assert_eq!(xl.rig.state(&guest), "1");
    let path = format!("{}/params", guest.back_dir);
    let written = xl.rig.toolstack.write(Tx::NONE, &path, b"/\xff");
    written.expect("dom0 may");
    xl.rig.settle();
    let told = ("error".into(), "params is not UTF-8".into());
    assert_eq!(xl.plugged(&guest), told);
    // Also what has nothing to do with the image.
    let guest = xl.add(
        BackendType::Vbd,
        8,
        51712,
        &[("params", "/a"), ("mode", "x")],
    );
    assert_eq!(xl.plugged(&guest).0, "error");
    assert!(xl.plugged(&guest).1.contains("mode"));
}

#[test]
fn a_driver_domain_removes_a_device_whose_frontend_is_gone() {
    let mut xl = Xl::elsewhere();
    let mut guest = xl.add(BackendType::Vbd, 7, 51712, &[("params", "/dev/vg/a")]);
    guest.connect(&mut xl.rig);
    guest.round_trip(&mut xl.rig, 1);
    xl.rm(&guest.dir.clone());
    assert!(!xl.is_there(&guest.back_dir));
    assert_eq!((xl.rig.service.devices(), xl.rig.usage().mapped), (0, 0));
    // In dom0 that is libxl's.
    let mut xl = Xl::here();
    let mut guest = phy(&mut xl);
    xl.write(&guest, "physical-device-path", "/images/a.img");
    guest.connect(&mut xl.rig);
    xl.rm(&guest.dir.clone());
    assert_eq!(xl.rig.state(&guest), "6");
    assert_eq!(xl.rig.usage().mapped, 0);
}

#[test]
fn what_an_earlier_process_left_is_removed_if_we_may() {
    for may in [true, false] {
        let world = World::new();
        let mut xl = Xl::on(world.clone(), Toolstack::DRIVER_DOMAIN);
        world.kill(BACK);
        let guest = xl.rig.guest(7, 51712);
        let owner = if may { BACK } else { DomId::DOM0 };
        let dir = guest.back_dir.clone();
        for (node, value) in [("online", "0"), ("state", "6")] {
            xl.rig
                .toolstack
                .write_str(Tx::NONE, &dir, node, value)
                .expect("dom0 may");
        }
        let perms = [Perm::owner(owner), Perm::read(BACK)];
        for dir in [dir.clone(), format!("{dir}/state"), format!("{dir}/online")] {
            xl.rig
                .toolstack
                .set_perms(Tx::NONE, &dir, &perms)
                .expect("dom0 may");
        }
        let mut next = Xl::on(world, Toolstack::DRIVER_DOMAIN);
        // Comes to rest either way.
        next.rig.settle();
        assert_eq!(next.is_there(&dir), !may);
        assert_eq!(next.rig.service.devices(), 0);
    }
}

#[test]
fn a_frontend_that_may_not_be_read_yet_is_waited_for() {
    for mut xl in [Xl::here(), Xl::elsewhere()] {
        let mut guest = phy(&mut xl);
        xl.write(&guest, "physical-device-path", "/images/a.img");
        let front = guest.sim.domid();
        let (dir, state) = (guest.dir.clone(), format!("{}/state", guest.dir));
        let own = Perm::owner(front);
        for path in [&dir, &state] {
            guest
                .store
                .set_perms(Tx::NONE, path, &[own])
                .expect("its own");
        }
        guest.publish();
        guest.set("state", "3");
        xl.rig.settle();
        assert_eq!(xl.rig.state(&guest), "2");
        for node in ["", "/state", "/ring-ref", "/event-channel", "/protocol"] {
            let path = format!("{dir}{node}");
            guest
                .store
                .set_perms(Tx::NONE, &path, &[own, Perm::read(BACK)])
                .expect("its own");
        }
        guest.set("state", "3");
        xl.rig.settle();
        assert_eq!(xl.rig.state(&guest), "4", "{}", xl.rig.error(&guest));
    }
}
