//! The operations of `xs_wire.h` that no attack and no tool touches.

use ringfence_core::DomId;
use ringfence_core::wire::xs_wire::{Errno, Op};
use ringfence_tests::xenstore::World;
use ringfence_xenstored::Effect;

fn err(name: &str) -> Result<Vec<u8>, String> {
    Err(name.to_owned())
}

#[test]
fn what_4_17_does_not_know_is_enosys() {
    let mut world = World::new();
    let guest = world.guest(1);
    for op in [15, 16, 20, 23, 24, 25, 26, 27, 0xffff, u32::MAX] {
        for conn in [world.dom0, guest] {
            assert_eq!(
                world.ask(conn, Op::new(op), 0, b"data\0"),
                err("ENOSYS"),
                "{op}"
            );
        }
    }
}

#[test]
fn domains_are_introduced_and_released_over_the_wire() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.watch(world.dom0, "@introduceDomain", b"i").unwrap();
    world.events(world.dom0);
    world
        .ask(world.dom0, Op::INTRODUCE, 0, b"5\x004711\x003\0")
        .unwrap();
    let introduced = Effect::Introduced {
        domid: DomId::new(5),
        frame: 4711,
        port: 3,
    };
    assert_eq!(world.store.next_effect(), Some(introduced));
    assert_eq!(world.events(world.dom0).len(), 1);
    // Again with another port: told to the transport, no news to watchers.
    world
        .ask(world.dom0, Op::INTRODUCE, 0, b"5\x004711\x004\0")
        .unwrap();
    assert!(matches!(
        world.store.next_effect(),
        Some(Effect::Introduced { port: 4, .. })
    ));
    assert_eq!(world.events(world.dom0), []);
    assert_eq!(
        world.ask(world.dom0, Op::RESUME, 0, b"5\0").unwrap(),
        b"OK\0"
    );
    world.ask(world.dom0, Op::RELEASE, 0, b"5\0").unwrap();
    assert_eq!(
        world.store.next_effect(),
        Some(Effect::Released {
            domid: DomId::new(5)
        })
    );
    assert_eq!(world.ask(world.dom0, Op::RESUME, 0, b"5\0"), err("ENOENT"));
    assert_eq!(
        world
            .ask(world.dom0, Op::IS_DOMAIN_INTRODUCED, 0, b"5\0")
            .unwrap(),
        b"F\0"
    );
    for (op, payload) in [
        (Op::INTRODUCE, &b"5\x001\x001\0"[..]),
        (Op::RELEASE, b"1\0"),
        (Op::RESUME, b"1\0"),
        (Op::SET_TARGET, b"1\x002\0"),
        (Op::CONTROL, b"check\0"),
    ] {
        assert_eq!(world.ask(guest, op, 0, payload), err("EACCES"), "{op:?}");
    }
}

#[test]
fn anybody_may_ask_for_a_home() {
    let mut world = World::new();
    let guest = world.guest(1);
    let answer = world.ask(guest, Op::GET_DOMAIN_PATH, 0, b"77\0").unwrap();
    assert_eq!(answer, b"/local/domain/77\0");
}

#[test]
fn control_answers_or_refuses() {
    let mut world = World::new();
    world.guest(1);
    assert_eq!(
        world.ask(world.dom0, Op::CONTROL, 0, b"check\0").unwrap(),
        b"OK\0"
    );
    assert_eq!(
        world
            .ask(world.dom0, Op::CONTROL, 0, b"print\0hello\0")
            .unwrap(),
        b"OK\0"
    );
    let text = |answer: Vec<u8>| String::from_utf8(answer).unwrap();
    let help = text(world.ask(world.dom0, Op::CONTROL, 0, b"help\0").unwrap());
    assert!(help.contains("quota"));
    let quota = text(world.ask(world.dom0, Op::CONTROL, 0, b"quota\0").unwrap());
    assert!(quota.contains("nodes 1000\nnode-size 2048\nwatches 128\n"));
    let usage = text(
        world
            .ask(world.dom0, Op::CONTROL, 0, b"quota\x001\0")
            .unwrap(),
    );
    assert!(usage.starts_with("nodes 1\n"), "{usage}");
    assert_eq!(
        world.ask(world.dom0, Op::CONTROL, 0, b"live-update\0-s\0"),
        err("EINVAL")
    );
    assert_eq!(
        world.ask(world.dom0, Op::CONTROL, 0, b"check"),
        err("EINVAL")
    );
}

#[test]
fn transactions_begin_and_end() {
    let mut world = World::new();
    let guest = world.guest(1);
    let tx = world.start(guest).unwrap();
    assert_eq!(
        world.ask(guest, Op::TRANSACTION_START, tx, b"\0"),
        err("EBUSY")
    );
    world.write(guest, tx, "data/x", b"1").unwrap();
    assert_eq!(world.read(guest, 0, "data/x"), err("ENOENT"));
    assert_eq!(
        world.ask(guest, Op::TRANSACTION_END, tx, b"X\0"),
        err("EINVAL")
    );
    world.ask(guest, Op::TRANSACTION_END, tx, b"F\0").unwrap();
    assert_eq!(world.read(guest, 0, "data/x"), err("ENOENT"));
    for op in [Op::READ, Op::WRITE, Op::DIRECTORY, Op::RM] {
        assert_eq!(
            world.ask(guest, op, tx, b"data\0"),
            err("ENOENT"),
            "{op:?} in a transaction that is over"
        );
    }
    assert_eq!(world.commit(guest, tx), err("ENOENT"));
    // Watchers hear of it when it is committed, once.
    world.watch(guest, "data", b"t").unwrap();
    world.events(guest);
    let tx = world.start(guest).unwrap();
    for value in [b"1", b"2"] {
        world.write(guest, tx, "data/x", value).unwrap();
    }
    assert_eq!(world.events(guest), []);
    world.commit(guest, tx).unwrap();
    assert_eq!(world.events(guest), [("data/x".to_owned(), b"t".to_vec())]);
}

#[test]
fn removing_tells_watches_below() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.write(guest, 0, "data/a/b", b"").unwrap();
    world.watch(guest, "data/a/b", b"b").unwrap();
    world.watch(guest, "data", b"d").unwrap();
    world.events(guest);
    world.rm(guest, 0, "data/a").unwrap();
    let heard = world.events(guest);
    assert_eq!(
        heard,
        [
            ("data/a".to_owned(), b"d".to_vec()),
            ("data/a/b".to_owned(), b"b".to_vec())
        ]
    );
    // What is not there can be removed if it could have been there.
    assert_eq!(world.rm(guest, 0, "data/a").unwrap(), b"OK\0");
    assert_eq!(world.rm(guest, 0, "data/a/b"), err("ENOENT"));
}

#[test]
fn new_nodes_belong_to_whoever_makes_them() {
    let mut world = World::new();
    let (first, second) = (world.guest(1), world.guest(2));
    world.chmod(first, 0, "data", &["n1", "b2"]).unwrap();
    world
        .write(second, 0, "/local/domain/1/data/x", b"")
        .unwrap();
    let perms = |world: &mut World, path: &str| {
        world.ask(world.dom0, Op::GET_PERMS, 0, format!("{path}\0").as_bytes())
    };
    assert_eq!(
        perms(&mut world, "/local/domain/1/data/x").unwrap(),
        b"n2\0b2\0"
    );
    world
        .write(world.dom0, 0, "/local/domain/1/data/y", b"")
        .unwrap();
    assert_eq!(
        perms(&mut world, "/local/domain/1/data/y").unwrap(),
        b"n1\0b2\0"
    );
}

#[test]
fn every_error_of_ours_is_one_of_the_headers() {
    let mut world = World::new();
    let guest = world.guest(1);
    for op in 0..30 {
        for payload in [
            &b""[..],
            b"\0",
            b"a",
            b"a\0",
            b"a\0b\0",
            b"/\0",
            b"1\x002\x003\0",
            b"@x\0t\0",
        ] {
            for tx in [0, 5] {
                if let Err(name) = world.ask(guest, Op::new(op), tx, payload) {
                    assert!(Errno::from_name(name.as_bytes()).is_some(), "{name}");
                }
            }
        }
    }
    world.alive();
}
