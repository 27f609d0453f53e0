//! What guests have read and written without permission: THREATS H, the rows on permissions, at wire level.

use ringfence_core::DomId;
use ringfence_core::wire::xs_wire::Op;
use ringfence_tests::xenstore::World;

fn err(name: &str) -> Result<Vec<u8>, String> {
    Err(name.to_owned())
}

#[test]
fn xsa_115_events_need_read_permission() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.write(world.dom0, 0, "/secret/node", b"").unwrap();
    world.watch(guest, "/", b"all").unwrap();
    world.watch(guest, "/secret/node", b"node").unwrap();
    world.events(guest);
    world.write(world.dom0, 0, "/secret/node", b"1").unwrap();
    world.rm(world.dom0, 0, "/secret/node").unwrap();
    assert_eq!(world.events(guest), []);
    world.write(world.dom0, 0, "/secret/node", b"1").unwrap();
    world
        .chmod(world.dom0, 0, "/secret/node", &["n0", "r1"])
        .unwrap();
    assert_eq!(
        world.events(guest).len(),
        2,
        "told when the permission is given"
    );
    world.chmod(world.dom0, 0, "/secret/node", &["n0"]).unwrap();
    assert_eq!(world.events(guest).len(), 2, "and when it is taken");
    world.alive();
}

#[test]
fn xsa_115_events_of_special_watches_are_for_dom0() {
    let mut world = World::new();
    let guest = world.guest(1);
    for special in ["@introduceDomain", "@releaseDomain"] {
        world.watch(guest, special, b"t").unwrap();
        world.watch(world.dom0, special, b"t").unwrap();
    }
    world.events(guest);
    world.events(world.dom0);
    world.guest(2);
    world.store.release(DomId::new(2));
    assert_eq!(world.events(guest), []);
    let heard: Vec<_> = world
        .events(world.dom0)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    assert_eq!(heard, ["@introduceDomain", "@releaseDomain"]);
    assert_eq!(
        world.chmod(guest, 0, "@releaseDomain", &["n1"]),
        err("EACCES")
    );
    world
        .chmod(world.dom0, 0, "@releaseDomain", &["n0", "r1"])
        .unwrap();
    world.events(guest);
    world.guest(3);
    world.store.release(DomId::new(3));
    assert_eq!(
        world.events(guest),
        [("@releaseDomain".to_owned(), b"t".to_vec())]
    );
}

#[test]
fn xsa_115_introduced_domains_are_dom0s_to_know() {
    let mut world = World::new();
    let guest = world.guest(1);
    assert_eq!(
        world.ask(guest, Op::IS_DOMAIN_INTRODUCED, 0, b"0\0"),
        err("EACCES")
    );
    assert_eq!(
        world
            .ask(world.dom0, Op::IS_DOMAIN_INTRODUCED, 0, b"1\0")
            .unwrap(),
        b"T\0"
    );
    assert_eq!(
        world
            .ask(world.dom0, Op::IS_DOMAIN_INTRODUCED, 0, b"2\0")
            .unwrap(),
        b"F\0"
    );
}

#[test]
fn xsa_115_a_watch_ignores_the_transaction() {
    let mut world = World::new();
    let guest = world.guest(1);
    let payload = b"data\0t\0";
    world.ask(guest, Op::WATCH, 4711, payload).unwrap();
    world.ask(guest, Op::UNWATCH, 4712, payload).unwrap();
    assert_eq!(world.ask(guest, Op::UNWATCH, 0, payload), err("ENOENT"));
    assert_eq!(world.store.usage(DomId::new(1)).watches, 0);
}

#[test]
fn xsa_115_a_create_that_fails_costs_nothing() {
    let mut world = World::new();
    let guest = world.guest(1);
    let before = world.store.usage(DomId::new(1));
    // The node itself is too large, after parents would have been made.
    assert_eq!(
        world.write(guest, 0, "data/a/b/c", &[b'x'; 2048]),
        err("ENOSPC")
    );
    assert_eq!(
        world.write(guest, 0, "/local/domain/1/other/a", b""),
        err("EACCES")
    );
    assert_eq!(world.store.usage(DomId::new(1)), before);
    assert_eq!(world.ask(guest, Op::DIRECTORY, 0, b"data\0").unwrap(), b"");
    world.alive();
}

#[test]
fn xsa_322_a_reused_domid_inherits_nothing() {
    let mut world = World::new();
    world.guest(1);
    world.write(world.dom0, 0, "/given", b"1").unwrap();
    world.chmod(world.dom0, 0, "/given", &["n0", "b1"]).unwrap();
    world.store.release(DomId::new(1));
    let second = world.guest(1);
    assert_eq!(world.read(second, 0, "/given"), err("EACCES"));
    assert_eq!(
        world
            .ask(world.dom0, Op::GET_PERMS, 0, b"/given\0")
            .unwrap(),
        b"n0\0"
    );
    world.chmod(world.dom0, 0, "/given", &["n0", "r1"]).unwrap();
    assert_eq!(world.read(second, 0, "/given").unwrap(), b"1");
}

#[test]
fn xsa_352_a_guest_gives_no_node_away() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.guest(2);
    world.write(guest, 0, "data/x", b"").unwrap();
    assert_eq!(world.chmod(guest, 0, "data/x", &["n2"]), err("EPERM"));
    world.chmod(guest, 0, "data/x", &["n1", "r2"]).unwrap();
    let before = world.store.usage(DomId::new(2)).nodes;
    world
        .chmod(world.dom0, 0, "/local/domain/1/data/x", &["n2"])
        .unwrap();
    assert_eq!(
        world.store.usage(DomId::new(2)).nodes,
        before + 1,
        "dom0 may, and it is counted"
    );
    world.alive();
}

#[test]
fn xsa_353_the_root_has_permissions_too() {
    let mut world = World::new();
    let guest = world.guest(1);
    assert_eq!(world.chmod(guest, 0, "/", &["b0"]), err("EACCES"));
    assert_eq!(world.write(guest, 0, "/", b"x"), err("EACCES"));
    assert_eq!(world.write(guest, 0, "/new", b"x"), err("EACCES"));
    assert_eq!(world.rm(guest, 0, "/"), err("EINVAL"));
    assert_eq!(world.ask(guest, Op::DIRECTORY, 0, b"/\0"), err("EACCES"));
    assert_eq!(world.rm(world.dom0, 0, "/"), err("EINVAL"));
}

#[test]
fn xsa_353_a_permission_list_is_checked() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.write(guest, 0, "data/x", b"").unwrap();
    assert_eq!(
        world.ask(guest, Op::SET_PERMS, 0, b"data/x\0"),
        err("EINVAL")
    );
    for bad in [
        "", "x1", "n", "n-1", "n32752", "n32767", "n65535", "n65536", "n1 ",
    ] {
        assert_eq!(
            world.chmod(guest, 0, "data/x", &[bad]),
            err("EINVAL"),
            "{bad:?}"
        );
    }
    world
        .chmod(guest, 0, "data/x", &["n1", "r2", "r3", "r4", "r5"])
        .unwrap();
    assert_eq!(
        world.chmod(guest, 0, "data/x", &["n1", "r2", "r3", "r4", "r5", "r6"]),
        err("ENOSPC")
    );
    world.alive();
}

#[test]
fn xsa_417_an_entry_for_a_domain_to_come_is_no_entry() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.write(guest, 0, "data/x", b"trap").unwrap();
    world.chmod(guest, 0, "data/x", &["n1", "b9"]).unwrap();
    assert_eq!(
        world.ask(guest, Op::GET_PERMS, 0, b"data/x\0").unwrap(),
        b"n1\0"
    );
    let newcomer = world.guest(9);
    assert_eq!(
        world.read(newcomer, 0, "/local/domain/1/data/x"),
        err("EACCES")
    );
    // What dom0 prepares for a domain that it is about to introduce does count.
    world
        .chmod(world.dom0, 0, "/local/domain/1/data/x", &["n1", "r10"])
        .unwrap();
    let prepared = world.guest(10);
    assert_eq!(
        world.read(prepared, 0, "/local/domain/1/data/x").unwrap(),
        b"trap"
    );
}
