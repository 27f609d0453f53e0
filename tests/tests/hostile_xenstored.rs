//! What guests have done to stores: THREATS H, one test per row, at wire level. The rows on permissions, on quotas and on the
//! ring page have files of their own.

use std::time::Duration;

use ringfence_core::DomId;
use ringfence_core::wire::xs_wire::{ERROR_PROTO, Op};
use ringfence_tests::xenstore::{World, message};
use ringfence_xenstored::fairness::HOLD;

fn err(name: &str) -> Result<Vec<u8>, String> {
    Err(name.to_owned())
}

fn path(len: usize) -> String {
    format!("/{}", "p".repeat(len - 1))
}

#[test]
fn xsa_72_an_answer_longer_than_a_message_is_e2big() {
    let mut world = World::new();
    for n in 0..400 {
        world
            .write(
                world.dom0,
                0,
                &format!("/many/a-rather-long-name-{n:05}"),
                b"",
            )
            .unwrap();
    }
    world.write(world.dom0, 0, "/long", &[b'x'; 4090]).unwrap();
    assert_eq!(
        world.ask(world.dom0, Op::DIRECTORY, 0, b"/many\0"),
        err("E2BIG")
    );
    assert_eq!(world.read(world.dom0, 0, "/long").unwrap().len(), 4090);
    let (mut offset, mut names) = (0, 0);
    loop {
        let payload = format!("/many\0{offset}\0");
        let part = world
            .ask(world.dom0, Op::DIRECTORY_PART, 0, payload.as_bytes())
            .unwrap();
        let start = part.iter().position(|byte| *byte == 0).unwrap() + 1;
        let last = part.ends_with(b"\0\0");
        let list = &part[start..part.len() - usize::from(last)];
        names += list.iter().filter(|byte| **byte == 0).count();
        offset += list.len();
        if last {
            break;
        }
    }
    assert_eq!(names, 400);
    world.alive();
}

/// Dom0's transaction loses against a guest's writes; it must get through in the end.
#[test]
fn xsa_206_a_starved_transaction_commits() {
    let mut world = World::new();
    let guest = world.guest(1);
    let node = "/local/domain/1/data/x";
    world.write(guest, 0, node, b"0").unwrap();
    let write = message(Op::WRITE, 9, 0, b"data/x\0again");
    let mut lost = 0;
    loop {
        let tx = world.start(world.dom0).unwrap();
        world.read(world.dom0, tx, node).unwrap();
        world
            .write(world.dom0, tx, "/local/domain/1/control", b"1")
            .unwrap();
        world.store.feed(guest, &write);
        if world.commit(world.dom0, tx).is_ok() {
            break;
        }
        world.drain(guest);
        lost += 1;
        assert!(lost < 10, "starved");
    }
    assert_eq!(lost, 3);
    // The write that had to wait was done after the commit.
    assert_eq!(world.drain(guest), [Ok(b"OK\0".to_vec())]);
    world.alive();
}

#[test]
fn xsa_206_a_held_transaction_does_not_hold_for_ever() {
    let mut world = World::new();
    let (victim, guest) = (world.guest(1), world.guest(2));
    world.write(world.dom0, 0, "/shared", b"").unwrap();
    world.chmod(world.dom0, 0, "/shared", &["b0"]).unwrap();
    for _ in 0..3 {
        let tx = world.start(victim).unwrap();
        world.read(victim, tx, "/shared").unwrap();
        world.write(guest, 0, "/shared", b"x").unwrap();
        assert_eq!(world.commit(victim, tx), err("EAGAIN"));
    }
    let tx = world.start(victim).unwrap();
    world.read(victim, tx, "/shared").unwrap();
    let write = message(Op::WRITE, 9, 0, b"/shared\0y");
    world.store.feed(guest, &write);
    assert_eq!(world.drain(guest), []);
    // Others are not concerned, nor is the guest's own data.
    world.alive();
    assert_eq!(world.store.next_deadline(), Some(HOLD));
    world.store.advance(HOLD);
    world.store.feed(guest, &[]);
    assert_eq!(world.drain(guest), [Ok(b"OK\0".to_vec())]);
    assert_eq!(world.commit(victim, tx), err("EAGAIN"));
    // Conflicts do not buy another hold at once.
    let tx = world.start(victim).unwrap();
    world.read(victim, tx, "/shared").unwrap();
    world.store.advance(HOLD + Duration::from_millis(1));
    world.write(guest, 0, "/shared", b"z").unwrap();
}

#[test]
fn xsa_206_a_held_transaction_ends_with_its_domain() {
    let mut world = World::new();
    let (victim, guest) = (world.guest(1), world.guest(2));
    world.write(world.dom0, 0, "/shared", b"").unwrap();
    world.chmod(world.dom0, 0, "/shared", &["b0"]).unwrap();
    for _ in 0..4 {
        let tx = world.start(victim).unwrap();
        world.read(victim, tx, "/shared").unwrap();
        let write = message(Op::WRITE, 9, 0, b"/shared\0x");
        world.store.feed(guest, &write);
        if world.drain(guest).is_empty() {
            break;
        }
        let _ = world.commit(victim, tx);
    }
    // Asked over the wire, so that one request is under way while another goes on.
    assert_eq!(
        world.ask(world.dom0, Op::RELEASE, 0, b"1\0").unwrap(),
        b"OK\0"
    );
    assert_eq!(world.drain(guest), [Ok(b"OK\0".to_vec())]);
    assert_eq!(world.store.next_deadline(), None);
    world.alive();
}

#[test]
fn xsa_233_tearing_down_a_stub_domain_twice() {
    let mut world = World::new();
    world.guest(1);
    let stubdom = world.guest(2);
    world
        .ask(world.dom0, Op::SET_TARGET, 0, b"2\x001\0")
        .unwrap();
    world
        .write(stubdom, 0, "/local/domain/1/data/x", b"1")
        .unwrap();
    world.ask(world.dom0, Op::RELEASE, 0, b"1\0").unwrap();
    assert_eq!(world.ask(world.dom0, Op::RELEASE, 0, b"1\0"), err("ENOENT"));
    // What the target lent is gone with it, also for a new domain of its number.
    world.guest(1);
    assert_eq!(
        world.read(stubdom, 0, "/local/domain/1/data"),
        err("EACCES")
    );
    world.ask(world.dom0, Op::RELEASE, 0, b"2\0").unwrap();
    assert_eq!(world.ask(world.dom0, Op::RELEASE, 0, b"2\0"), err("ENOENT"));
    world.alive();
}

#[test]
fn xsa_323_paths_are_measured_with_their_home() {
    let mut world = World::new();
    // 2048 bytes are fine for a relative path; with a home that long the node would be out of everybody's reach.
    let guest = world.guest(1);
    for (path, fine) in [
        (path(3072), true),
        (path(3073), false),
        ("p".repeat(2048), true),
        ("p".repeat(2049), false),
    ] {
        let answer = world.write(world.dom0, 0, &path, b"x");
        assert_eq!(answer.is_ok(), fine, "{} bytes: {answer:?}", path.len());
        if fine {
            assert_eq!(world.read(world.dom0, 0, &path).unwrap(), b"x");
        }
    }
    for bad in [
        "",
        "//",
        "/a//b",
        "/a/",
        "data/",
        "/local/domain/",
        "/local/domain//x",
        "/a b",
        "/\u{e9}",
    ] {
        assert_eq!(world.write(guest, 0, bad, b""), err("EINVAL"), "{bad:?}");
        assert_eq!(world.read(guest, 0, bad), err("EINVAL"), "{bad:?}");
    }
    for op in [
        Op::READ,
        Op::DIRECTORY,
        Op::MKDIR,
        Op::RM,
        Op::GET_PERMS,
        Op::SET_PERMS,
        Op::WATCH,
        Op::WRITE,
    ] {
        assert_eq!(
            world.ask(guest, op, 0, b"data"),
            err("EINVAL"),
            "no NUL: {op:?}"
        );
        assert_eq!(
            world.ask(guest, op, 0, b""),
            err("EINVAL"),
            "nothing: {op:?}"
        );
    }
    world.alive();
}

#[test]
fn xsa_324_an_event_that_cannot_be_sent_is_dropped() {
    let mut world = World::new();
    let guest = world.guest(1);
    let token = vec![b't'; 4096 - "data".len() - 2];
    world.watch(guest, "data", &token).unwrap();
    assert_eq!(world.events(guest), [("data".to_owned(), token)]);
    world.write(guest, 0, "data/below", b"").unwrap();
    assert_eq!(world.events(guest), []);
    world.alive();
}

#[test]
fn xsa_325_a_misbehaving_client_does_not_stop_the_cleanup() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.watch(guest, "data", b"t").unwrap();
    let tx = world.start(guest).unwrap();
    world.write(guest, tx, "data/x", b"").unwrap();
    world.store.feed(guest, &[0xff; 64]);
    assert_eq!(world.store.error(guest), ERROR_PROTO);
    world.store.introduce(DomId::new(2));
    assert!(world.store.release(DomId::new(1)));
    assert!(!world.store.is_connected(guest));
    assert_eq!(world.store.usage(DomId::new(1)), Default::default());
    assert_eq!(
        world.read(world.dom0, 0, "/local/domain/1/data/x"),
        err("ENOENT")
    );
    world.alive();
}

#[test]
fn xsa_330_reset_watches_leaves_none_behind() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.watch(guest, "data", b"a").unwrap();
    world.watch(guest, "/local", b"b").unwrap();
    world.events(guest);
    world.ask(guest, Op::RESET_WATCHES, 0, b"\0").unwrap();
    world.write(guest, 0, "data/x", b"").unwrap();
    assert_eq!(world.events(guest), []);
    assert_eq!(world.store.usage(DomId::new(1)).watches, 0);
    world.watch(guest, "data", b"a").unwrap();
    assert_eq!(world.events(guest).len(), 1);
}

#[test]
fn xsa_418_depth_costs_no_stack() {
    let mut world = World::new();
    let guest = world.guest(1);
    let deep = format!("data{}", "/d".repeat(990));
    world.write(guest, 0, &deep, b"").unwrap();
    let tx = world.start(guest).unwrap();
    assert_eq!(world.read(guest, tx, &deep).unwrap(), b"");
    world.rm(guest, 0, "data/d").unwrap();
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 1);
    // Dom0 may go to the end of the longest path.
    let deepest = "/d".repeat(1536);
    world.write(world.dom0, 0, &deepest, b"").unwrap();
    world.ask(world.dom0, Op::CONTROL, 0, b"check\0").unwrap();
    world.rm(world.dom0, 0, "/d").unwrap();
    world.alive();
}

#[test]
fn xsa_419_nodes_of_a_dead_domain_go_with_it() {
    let mut world = World::new();
    let (first, second) = (world.guest(1), world.guest(2));
    // The accomplice keeps a place for the other's nodes.
    world.chmod(second, 0, "data", &["n2", "w1"]).unwrap();
    for n in 0..100 {
        world
            .write(first, 0, &format!("/local/domain/2/data/hidden/{n}"), b"")
            .unwrap();
    }
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 102);
    world.store.release(DomId::new(1));
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 0);
    assert_eq!(world.ask(second, Op::DIRECTORY, 0, b"data\0").unwrap(), b"");
    world.alive();
}

#[test]
fn xsa_420_an_impossible_length_ends_the_connection() {
    for len in [4097u32, 1 << 31, u32::MAX] {
        let mut world = World::new();
        let guest = world.guest(1);
        let mut header = message(Op::WRITE, 1, 0, b"");
        header[12..16].copy_from_slice(&len.to_ne_bytes());
        let taken = world
            .store
            .feed(guest, &[header.as_slice(), &[b'x'; 8192]].concat());
        assert_eq!(taken, 16);
        assert_eq!(world.store.error(guest), ERROR_PROTO);
        assert_eq!(
            world.store.feed(guest, &message(Op::READ, 1, 0, b"name\0")),
            0
        );
        assert_eq!(world.store.outgoing(guest), b"");
        world.alive();
    }
}

#[test]
fn xsa_425_a_second_release_finds_nothing() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.watch(guest, "data", b"t").unwrap();
    let tx = world.start(guest).unwrap();
    world.write(guest, tx, "data/x", b"").unwrap();
    world.ask(world.dom0, Op::RELEASE, 0, b"1\0").unwrap();
    assert_eq!(world.ask(world.dom0, Op::RELEASE, 0, b"1\0"), err("ENOENT"));
    world.store.disconnect(guest);
    world.store.disconnect(guest);
    assert_eq!(world.ask(world.dom0, Op::RELEASE, 0, b"0\0"), err("EINVAL"));
    world.alive();
}

#[test]
fn xsa_481_an_empty_domid_is_no_domid() {
    let mut world = World::new();
    for (op, payloads) in [
        (
            Op::GET_DOMAIN_PATH,
            &[
                &b"\0"[..],
                b"-1\0",
                b"x\0",
                b"32752\0",
                b"99999999999999999999\0",
                b"",
            ][..],
        ),
        (Op::RELEASE, &[b"\0", b"-1\0", b"32767\0"]),
        (Op::IS_DOMAIN_INTRODUCED, &[b"\0", b" 1\0"]),
        (Op::RESUME, &[b"\0"]),
        (
            Op::INTRODUCE,
            &[b"\0\0\0", b"1\0", b"1\x001\0\0", b"32752\x001\x001\0"],
        ),
        (Op::SET_TARGET, &[b"\0\0", b"1\0\0"]),
        (Op::WRITE, &[b"/local/domain/\0x"]),
    ] {
        for payload in payloads {
            assert_eq!(
                world.ask(world.dom0, op, 0, payload),
                err("EINVAL"),
                "{op:?} {payload:?}"
            );
        }
    }
    world.alive();
}

#[test]
fn xsa_484_resetting_twice_is_resetting_once() {
    let mut world = World::new();
    let guest = world.guest(1);
    let transactions: Vec<_> = (0..10).map(|_| world.start(guest).unwrap()).collect();
    world.write(guest, transactions[3], "data/x", b"").unwrap();
    world.ask(guest, Op::RESET_WATCHES, 0, b"\0").unwrap();
    world
        .ask(guest, Op::RESET_WATCHES, transactions[3], b"\0")
        .unwrap();
    for tx in transactions {
        assert_eq!(world.commit(guest, tx), err("ENOENT"));
    }
    assert_eq!(world.store.usage(DomId::new(1)).transactions, 0);
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 1);
    assert!((0..10).all(|_| world.start(guest).is_ok()));
    world.alive();
}
