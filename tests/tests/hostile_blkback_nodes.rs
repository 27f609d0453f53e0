//! Guests that attack a block backend through XenStore.

use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::store::{Store, StoreExt, Tx};
use ringfence_core::wire::blkif::{Abi, Status};
use ringfence_core::{DomId, SharedMem};
use ringfence_tests::blkback_rig::{BACK, Guest, Rig, read, write};

fn scene() -> (Rig, Guest, Guest) {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let guest = rig.attach(7, 51712, "w");
    rig.settle();
    (rig, guest, bystander)
}

/// Connects with one node changed; the backend refuses, says which node, and recovers.
fn refused(node: &str, value: &[u8], told: &str) {
    let (mut rig, mut guest, bystander) = scene();
    guest.publish();
    let path = format!("{}/{node}", guest.dir);
    guest
        .store
        .write(Tx::NONE, &path, value)
        .expect("its own node");
    guest.set("state", "3");
    rig.settle();
    let value = String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned();
    assert_eq!(rig.state(&guest), "5", "{node} = {value:?}");
    let error = rig.error(&guest);
    assert!(error.contains(told), "{node} = {value:?}: {error}");
    assert_eq!(rig.usage().mapped, 1, "only the other guest's ring");
    guest.unpublish();
    rig.recovers(guest, bystander);
}

const GARBAGE: &[&[u8]] = &[
    b"",
    b"-1",
    b"+1",
    b" 1",
    b"1 ",
    b"0x10",
    b"4294967296",
    b"18446744073709551616",
    b"1\x002",
    b"foo",
    // As long as the store's quota lets a node be.
    &[b'9'; 2000],
    b"\xff\xfe",
];

#[test]
fn frontend_garbage_in_numbers() {
    for node in [
        "ring-ref",
        "event-channel",
        "ring-page-order",
        "num-ring-pages",
        "multi-queue-num-queues",
    ] {
        for value in GARBAGE {
            refused(node, value, node);
        }
    }
    for value in GARBAGE {
        refused("feature-persistent", value, "feature-persistent");
    }
    refused("event-channel", b"0", "event-channel");
}

#[test]
fn frontend_garbage_missing_nodes() {
    for node in ["ring-ref", "event-channel"] {
        let (mut rig, mut guest, bystander) = scene();
        guest.publish();
        let path = format!("{}/{node}", guest.dir);
        guest.store.rm(Tx::NONE, &path).expect("its own node");
        guest.set("state", "3");
        rig.settle();
        assert_eq!(rig.state(&guest), "5");
        assert!(rig.error(&guest).contains(node), "{}", rig.error(&guest));
        rig.recovers(guest, bystander);
    }
}

#[test]
fn frontend_garbage_protocol() {
    for protocol in [
        "x86_32",
        "x86_32-abi ",
        "sparc-abi",
        "x86_64",
        "x86_64-abi\n",
        "native",
    ] {
        refused("protocol", protocol.as_bytes(), "protocol");
    }
}

#[test]
fn frontend_garbage_ring_page_order() {
    for order in ["5", "31", "64", "4294967295"] {
        refused("ring-page-order", order.as_bytes(), "ring-page-order");
    }
    for pages in ["0", "3", "15", "17", "32", "4294967295"] {
        refused("num-ring-pages", pages.as_bytes(), "num-ring-pages");
    }
    // What was offered, but the pages have no nodes.
    for order in ["0", "1", "4"] {
        refused("ring-page-order", order.as_bytes(), "ring-ref0");
    }
}

#[test]
fn frontend_garbage_one_page_of_several() {
    for bad in [0u32, 7, 15] {
        for (value, told) in [("nothing", "ring-ref"), ("3999", "ring-ref")] {
            let (mut rig, mut guest, bystander) = scene();
            guest.publish_ring(4, Abi::Native);
            guest.set(&format!("ring-ref{bad}"), value);
            guest.set("state", "3");
            rig.settle();
            assert_eq!(rig.state(&guest), "5", "ring-ref{bad} = {value}");
            let error = rig.error(&guest);
            assert!(error.contains(told) && error.contains(value), "{error}");
            assert_eq!(rig.usage().mapped, 1, "only the other guest's ring");
            guest.unpublish();
            rig.recovers(guest, bystander);
        }
    }
}

#[test]
fn frontend_garbage_queues() {
    for queues in ["0", "5", "17", "65537", "4294967295"] {
        refused(
            "multi-queue-num-queues",
            queues.as_bytes(),
            "multi-queue-num-queues",
        );
    }
}

#[test]
fn frontend_garbage_one_queue_of_several() {
    for (queue, node, value) in [
        (0, "ring-ref", None),
        (1, "ring-ref", Some("3999")),
        (3, "ring-ref", Some("-1")),
        (3, "event-channel", None),
        (2, "event-channel", Some("0")),
        // Bound already, by the queue before.
        (1, "event-channel", Some("the first's")),
    ] {
        let (mut rig, mut guest, bystander) = scene();
        let mut queues = guest.publish_queues(4, 0);
        let dir = format!("{}/queue-{queue}", guest.dir);
        let path = format!("{dir}/{node}");
        match value {
            None => guest.store.rm(Tx::NONE, &path).expect("its own node"),
            Some("the first's") => {
                let first = queues[0].channel.port().to_string();
                let told = guest.store.write_str(Tx::NONE, &dir, node, &first);
                told.expect("its own node");
            }
            Some(value) => {
                let told = guest.store.write_str(Tx::NONE, &dir, node, value);
                told.expect("its own node");
            }
        }
        guest.set("state", "3");
        rig.settle();
        assert_eq!(rig.state(&guest), "5", "queue-{queue}/{node} {value:?}");
        let error = rig.error(&guest);
        let named = error.contains(&format!("queue-{queue}")) && error.contains(node);
        assert!(named, "queue-{queue}/{node} {value:?}: {error}");
        let usage = rig.usage();
        assert_eq!(
            (usage.mapped, usage.ports),
            (1, 1),
            "only the other guest's ring"
        );
        queues.clear();
        guest.unpublish();
        rig.recovers(guest, bystander);
    }
}

#[test]
fn frontend_garbage_order_zero_names_ring_ref0() {
    let (mut rig, mut guest, bystander) = scene();
    guest.publish();
    guest.set("ring-page-order", "0");
    let gref = guest.shared().grant_ref();
    guest.set("ring-ref0", &gref.to_string());
    guest.set("ring-ref", "nothing");
    guest.set("state", "3");
    rig.settle();
    assert_eq!(rig.state(&guest), "4", "{}", rig.error(&guest));
    drop(bystander);
}

#[test]
fn frontend_garbage_grants_and_ports_of_others() {
    let (mut rig, mut guest, bystander) = scene();
    // Granted to a third domain, read-only, never granted, out of range; a page of the backend's own number.
    let third = guest
        .sim
        .alloc(DomId::new(8), Access::ReadWrite)
        .expect("a page");
    let read_only = guest.sim.alloc(BACK, Access::ReadOnly).expect("a page");
    let theirs = bystander.shared().grant_ref();
    let grefs = [
        third.grant_ref().get(),
        read_only.grant_ref().get(),
        3999,
        u32::MAX,
        0,
    ];
    for gref in grefs
        .into_iter()
        .chain((theirs.get() > 40).then_some(theirs.get()))
    {
        guest.publish();
        guest.set("ring-ref", &gref.to_string());
        guest.set("state", "3");
        rig.settle();
        assert_eq!(rig.state(&guest), "5", "ring-ref {gref}");
        assert!(
            rig.error(&guest).contains("ring-ref"),
            "{}",
            rig.error(&guest)
        );
        guest.reset(&mut rig);
    }
    let for_third = guest.sim.alloc_unbound(DomId::new(8)).expect("a port");
    for port in [for_third.port().get(), 4000, u32::MAX] {
        guest.publish();
        guest.set("event-channel", &port.to_string());
        guest.set("state", "3");
        rig.settle();
        assert_eq!(rig.state(&guest), "5", "event-channel {port}");
        assert!(
            rig.error(&guest).contains("event-channel"),
            "{}",
            rig.error(&guest)
        );
        guest.reset(&mut rig);
    }
    rig.recovers(guest, bystander);
}

#[test]
fn frontend_garbage_states() {
    for connected in [false, true] {
        for state in [
            "0",
            "9",
            "-1",
            "foo",
            "",
            "4\u{0}4",
            "7",
            "8",
            "2",
            "99999999999",
        ] {
            let (mut rig, mut guest, bystander) = scene();
            if connected {
                guest.connect(&mut rig);
            }
            guest.set("state", state);
            rig.settle();
            let own = rig.state(&guest);
            assert!(
                ["2", "4", "5", "6"].contains(&own.as_str()),
                "{state:?} led to {own}"
            );
            rig.recovers(guest, bystander);
        }
    }
}

#[test]
fn frontend_garbage_a_deleted_directory() {
    let (mut rig, mut guest, mut bystander) = scene();
    guest.connect(&mut rig);
    let dir = guest.dir.clone();
    rig.toolstack.rm(Tx::NONE, &dir).expect("dom0 may");
    rig.settle();
    assert_eq!(rig.state(&guest), "6");
    assert_eq!(rig.usage().mapped, 1, "only the other guest's ring");
    let back = guest.back_dir.clone();
    rig.toolstack.rm(Tx::NONE, &back).expect("dom0 may");
    rig.settle();
    assert_eq!(rig.service.devices(), 1);
    bystander.round_trip(&mut rig, 3);
}

#[test]
fn cve_2010_3699_every_connection_ends_once() {
    let (mut rig, mut guest, bystander) = scene();
    for round in 0..60u32 {
        if round % 3 == 0 {
            guest.publish();
        }
        let state = ["3", "4", "6", "1", "5", "3", "foo", "6", "1"][round as usize % 9];
        guest.set("state", state);
        if round % 2 == 0 {
            rig.settle();
        }
        if round % 2 == 0 && state == "1" {
            assert_eq!(rig.usage().mapped, 1, "who is at the start has no ring");
        }
    }
    assert!(rig.usage().mapped <= 2 && rig.usage().ports <= 2);
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_350_toggling_without_waiting_for_the_backend() {
    let (mut rig, mut guest, bystander) = scene();
    for round in 0..200 {
        guest.publish();
        guest.set("state", "3");
        if round % 5 == 0 {
            rig.service.control().expect("the store lives");
        }
        guest.set("state", "6");
        guest.set("state", "1");
    }
    rig.settle();
    let usage = rig.usage();
    assert_eq!((usage.mapped, usage.ports), (1, 1), "the other guest's");
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_175_the_backend_believes_its_own_directory_only() {
    let (mut rig, mut guest, bystander) = scene();
    guest.connect(&mut rig);
    for (node, value) in [
        ("backend", "/local/domain/0/backend/vbd/9/1"),
        ("backend-id", "0"),
    ] {
        guest.set(node, value);
    }
    guest.round_trip(&mut rig, 6);
    rig.recovers(guest, bystander);
}

#[test]
fn xsa_178_a_frontend_node_that_points_elsewhere() {
    let mut rig = Rig::new();
    let mut bystander = rig.connected(8, "w");
    let guest = rig.attach(7, 51712, "w");
    let (dir, theirs) = (guest.back_dir.clone(), bystander.dir.clone());
    rig.toolstack
        .write_str(Tx::NONE, &dir, "frontend", &theirs)
        .expect("dom0 may");
    rig.settle();
    assert!(
        rig.error(&guest).contains("frontend"),
        "{}",
        rig.error(&guest)
    );
    bystander.round_trip(&mut rig, 2);
    assert_eq!(rig.usage().mapped, 1);
}

#[test]
fn xsa_57_nothing_of_the_guests_names_an_image() {
    let (mut rig, mut guest, bystander) = scene();
    for node in [
        "params",
        "physical-device",
        "physical-device-path",
        "mode",
        "type",
        "target",
    ] {
        guest.set(node, "/etc/shadow");
    }
    guest.connect(&mut rig);
    guest.round_trip(&mut rig, 5);
    assert_eq!(rig.disks.of(&guest.back_dir).borrow().opened, 1);
    assert_eq!(guest.shared().len(), 4096);
    rig.recovers(guest, bystander);
}

#[test]
fn cve_2010_4238_a_cd_rom_with_and_without_its_medium() {
    for mode in ["r", "w"] {
        let mut rig = Rig::new();
        let mut guest = rig.attach(7, 51712, mode);
        let dir = guest.back_dir.clone();
        rig.set(&dir, "device-type", "cdrom");
        guest.connect(&mut rig);
        let info = rig.node(&dir, "info");
        assert_eq!(info.as_deref(), Some("5"), "VDISK_CDROM and VDISK_READONLY");
        let gref = guest.page.grant_ref();
        assert_eq!(guest.ask(&mut rig, &read(1, 0, gref)), Status::OKAY);
        assert_eq!(guest.ask(&mut rig, &write(2, 0, gref)), Status::ERROR);
        // Ejected: a medium of no size.
        rig.disks.of(&dir).borrow_mut().sectors = 0;
        rig.service.refresh().expect("the store lives");
        assert_eq!(rig.node(&dir, "sectors").as_deref(), Some("0"));
        assert_eq!(rig.state(&guest), "4");
        assert_eq!(guest.ask(&mut rig, &read(3, 0, gref)), Status::ERROR);
        // And another one.
        let disk = rig.disks.of(&dir);
        disk.borrow_mut().sectors = 3000;
        disk.borrow_mut().bytes.resize(3000 * 512, 0);
        rig.service.refresh().expect("the store lives");
        assert_eq!(guest.ask(&mut rig, &read(4, 2992, gref)), Status::OKAY);
    }
    let mut rig = Rig::new();
    rig.disks.refuse(Some("no medium"));
    let guest = rig.attach(7, 51712, "r");
    let dir = guest.back_dir.clone();
    rig.set(&dir, "device-type", "cdrom");
    rig.settle();
    assert_eq!(rig.error(&guest), "22 no medium");
}
