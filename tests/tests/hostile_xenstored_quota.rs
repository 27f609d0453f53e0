//! What guests have used up of stores: THREATS H, the rows on quotas, at wire level.

use ringfence_core::DomId;
use ringfence_core::wire::xs_wire::Op;
use ringfence_tests::xenstore::{World, message};

fn err(name: &str) -> Result<Vec<u8>, String> {
    Err(name.to_owned())
}

#[test]
fn xsa_272_the_node_quota_holds_and_is_given_back() {
    let mut world = World::new();
    let guest = world.guest(1);
    let fill = |world: &mut World| {
        let mut made = 0;
        while world
            .write(guest, 0, &format!("data/{}/{made}", made % 20), b"")
            .is_ok()
        {
            made += 1;
            assert!(made < 1100, "no quota");
        }
    };
    fill(&mut world);
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 1000);
    assert_eq!(world.write(guest, 0, "data/more", b""), err("ENOSPC"));
    for n in 0..20 {
        world.rm(guest, 0, &format!("data/{n}")).unwrap();
    }
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 1);
    fill(&mut world);
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 1000);
    world.alive();
}

#[test]
fn xsa_326_outstanding_answers_stop_the_reading() {
    let mut world = World::new();
    let guest = world.guest(1);
    let one = message(Op::READ, 1, 0, b"name\0");
    let mut taken = 0;
    for _ in 0..100 {
        taken += world.store.feed(guest, &one);
    }
    assert!(taken <= 21 * one.len(), "{taken} bytes taken");
    assert_eq!(world.store.backlog(guest), 20);
    world.alive();
    assert_eq!(
        world.drain(guest).len(),
        21,
        "the rest is done when the answers are read"
    );
}

#[test]
fn xsa_326_coalescing_of_equal_events() {
    let mut world = World::new();
    let guest = world.guest(1);
    world.watch(guest, "data", b"t").unwrap();
    world.events(guest);
    let writer = world.store.connect(DomId::new(1));
    for n in 0..10_000u32 {
        world.write(writer, 0, "data/x", &n.to_le_bytes()).unwrap();
    }
    assert_eq!(world.store.backlog(guest), 1);
    assert_eq!(world.events(guest).len(), 1);
}

#[test]
fn xsa_326_events_of_different_nodes_are_bounded() {
    let mut world = World::new();
    let guest = world.guest(1);
    for token in ["a", "b", "c", "d"] {
        world.watch(guest, "data", token.as_bytes()).unwrap();
    }
    world.events(guest);
    for n in 0..3000 {
        world
            .write(world.dom0, 0, &format!("/local/domain/1/data/{n}"), b"")
            .unwrap();
        assert!(world.store.backlog(guest) <= 1024 + 4);
    }
    // Nobody's events were lost: each watch was told at least of the node it is on.
    let heard = world.events(guest);
    for token in ["a", "b", "c", "d"] {
        assert!(heard.contains(&("data".to_owned(), token.as_bytes().to_vec())));
    }
    world.alive();
}

#[test]
fn xsa_326_transaction_nodes_are_bounded() {
    let mut world = World::new();
    let guest = world.guest(1);
    let tx = world.start(guest).unwrap();
    let mut answers = (0..3000).map(|n| world.read(guest, tx, &format!("data/{n}")));
    assert!(answers.any(|answer| answer == err("ENOSPC")));
    drop(answers);
    assert!(world.store.usage(DomId::new(1)).memory < 4 << 20);
    world.alive();
}

#[test]
fn xsa_326_memory_is_bounded() {
    let mut world = World::new();
    let guest = world.guest(1);
    // Values in many transactions, each below the quotas of its own.
    let mut refused = false;
    for _ in 0..10 {
        let tx = world.start(guest).unwrap();
        for n in 0..900 {
            match world.write(guest, tx, &format!("data/{}/{n}", n % 30), &[b'x'; 1800]) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error, "ENOMEM");
                    refused = true;
                }
            }
        }
    }
    assert!(refused);
    assert!(world.store.usage(DomId::new(1)).memory < 4 << 20);
    assert!(world.store.over_soft_limit().eq([DomId::new(1)]));
    world.alive();
}

#[test]
fn xsa_326_watches_and_transactions_are_counted() {
    let mut world = World::new();
    let guest = world.guest(1);
    let mut watches = 0;
    for n in 0..100_000 {
        if world.watch(guest, "data", n.to_string().as_bytes()).is_ok() {
            watches += 1;
            assert!(watches <= 128, "no limit");
        }
    }
    let transactions = (0..1000).filter(|_| world.start(guest).is_ok()).count();
    assert_eq!((watches, transactions), (128, 10));
    assert_eq!(world.watch(guest, "data", b"one more"), err("E2BIG"));
    assert_eq!(world.start(guest), Err("ENOSPC".to_owned()));
    // A second connection of the domain's is no way round.
    let second = world.store.connect(DomId::new(1));
    assert!(world.watch(second, "data", b"t").is_err());
    assert!(world.start(second).is_err());
    assert_eq!(world.watch(guest, "data", b"5"), err("EEXIST"));
    world.alive();
}

#[test]
fn xsa_414_a_create_that_fails_needs_no_undoing() {
    let mut world = World::new();
    let guest = world.guest(1);
    // The parent would get too large: found out after the child was thought of.
    let mut made = 0;
    let refused = loop {
        match world.write(guest, 0, &format!("data/{:0>60}", made), b"") {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 100, "no limit");
    };
    assert_eq!(refused, "ENOSPC");
    assert_eq!(world.store.usage(DomId::new(1)).nodes, made + 1);
    world.alive();
}

#[test]
fn xsa_415_a_create_that_fails_in_a_transaction_leaves_nothing() {
    let mut world = World::new();
    let guest = world.guest(1);
    let tx = world.start(guest).unwrap();
    assert_eq!(
        world.write(guest, tx, "data/a/b/c", &[b'x'; 2048]),
        err("ENOSPC")
    );
    assert_eq!(world.read(guest, tx, "data/a"), err("ENOENT"));
    world.commit(guest, tx).unwrap();
    assert_eq!(world.read(guest, 0, "data/a"), err("ENOENT"));
    assert_eq!(world.store.usage(DomId::new(1)).nodes, 1);
    world.alive();
}

#[test]
fn xsa_416_long_answers_that_nobody_reads_are_few() {
    let mut world = World::new();
    let guest = world.guest(1);
    world
        .write(world.dom0, 0, "/local/domain/1/data/long", &[b'x'; 4000])
        .unwrap();
    world
        .chmod(world.dom0, 0, "/local/domain/1/data/long", &["r0"])
        .unwrap();
    let one = message(Op::READ, 1, 0, b"data/long\0");
    for _ in 0..1000 {
        world.store.feed(guest, &one);
    }
    assert_eq!(world.store.backlog(guest), 20);
    world.alive();
}

#[test]
fn xsa_421_create_and_delete_in_a_transaction_is_nothing() {
    let mut world = World::new();
    let guest = world.guest(1);
    let before = world.store.usage(DomId::new(1));
    for _ in 0..50 {
        let tx = world.start(guest).unwrap();
        for n in 0..30 {
            world
                .write(guest, tx, &format!("data/a/{n}"), b"x")
                .unwrap();
        }
        world.rm(guest, tx, "data/a").unwrap();
        world.commit(guest, tx).unwrap();
    }
    assert_eq!(world.store.usage(DomId::new(1)), before);
    // And what is deleted outside and in a transaction is given back once.
    world.write(guest, 0, "data/b", b"").unwrap();
    let tx = world.start(guest).unwrap();
    world.rm(guest, tx, "data/b").unwrap();
    world.rm(guest, 0, "data/b").unwrap();
    assert_eq!(world.commit(guest, tx), err("EAGAIN"));
    assert_eq!(world.store.usage(DomId::new(1)), before);
    // The quota holds within a transaction, too.
    let tx = world.start(guest).unwrap();
    let made = (0..1100)
        .take_while(|n| {
            world
                .write(guest, tx, &format!("data/{}/{n}", n % 25), b"")
                .is_ok()
        })
        .count();
    assert_eq!(made, 974, "and 25 directories and data");
    world.alive();
}

#[test]
fn xsa_440_a_conflict_at_commit_changes_no_account() {
    let mut world = World::new();
    let guest = world.guest(1);
    for name in ["a", "b", "c"] {
        world.write(guest, 0, &format!("data/{name}"), b"").unwrap();
    }
    let tx = world.start(guest).unwrap();
    for name in ["a", "b", "c"] {
        world.rm(guest, tx, &format!("data/{name}")).unwrap();
    }
    world.rm(guest, 0, "data/a").unwrap();
    world.rm(guest, 0, "data/b").unwrap();
    let before = world.store.usage(DomId::new(1)).nodes;
    assert_eq!(world.commit(guest, tx), err("EAGAIN"));
    assert_eq!(world.store.usage(DomId::new(1)).nodes, before);
    assert_eq!(world.read(guest, 0, "data/c").unwrap(), b"");
    world.alive();
}

#[test]
fn xsa_483_a_reused_domid_has_its_whole_quota() {
    let mut world = World::new();
    for _ in 0..3 {
        let guest = world.guest(1);
        for n in 0..128 {
            world
                .watch(guest, "data", format!("{n}").as_bytes())
                .unwrap();
        }
        for n in 0..10 {
            let tx = world.start(guest).unwrap();
            world.write(guest, tx, &format!("data/{n}"), b"").unwrap();
        }
        for n in 0..500 {
            world
                .write(guest, 0, &format!("data/{}/{n}", n % 10), b"")
                .unwrap();
        }
        world.store.release(DomId::new(1));
        assert_eq!(world.store.usage(DomId::new(1)), Default::default());
    }
    world.alive();
}
