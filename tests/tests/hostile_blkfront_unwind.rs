//! A frontend whose start fails half way, and one that is told whom to trust: rows of `docs/threats.md`.

use ringfence_blkfront::Op;
use ringfence_core::store::{Store, Tx};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{GrantRef, PAGE, Sector, SharedMem};
use ringfence_sim::Fault;
use ringfence_tests::blkfront_rig::{FRONT, FRONT_DIR, Rig};

/// How many watches a guest may have.
const WATCHES: usize = 128;
/// How many transactions it may have open.
const TRANSACTIONS: usize = 10;

/// A rig whose frontend would publish its ring at the next step.
fn ready() -> Rig {
    let mut rig = Rig::new();
    rig.state(XenbusState::InitWait);
    rig
}

/// The step fails and keeps nothing.
fn fails(rig: &mut Rig) {
    let step = rig.front.step(&mut rig.store);
    assert!(step.is_err(), "{step:?}");
    let usage = rig.world.usage(FRONT);
    assert_eq!((usage.granted, usage.quarantined, usage.ports), (0, 0, 0));
    assert_eq!(rig.front_state(), "1");
}

#[test]
fn cve_2024_53198_a_watch_that_fails_leaves_nothing() {
    // First there is room for no watch, then for that of the own directory only.
    for room in [0, 1] {
        let mut rig = ready();
        for n in room..WATCHES {
            let watched = rig.store.watch("data", &n.to_string());
            watched.expect("within the quota");
        }
        fails(&mut rig);
        fails(&mut rig);
        for n in room..WATCHES {
            let unwatched = rig.store.unwatch("data", &n.to_string());
            unwatched.expect("was set");
        }
        rig.connect();
    }
}

#[test]
fn cve_2024_53198_a_port_that_is_refused_leaves_no_grant() {
    let mut rig = ready();
    for fault in [
        Fault::AllocUnbound { nth: 0, errno: 28 },
        Fault::Alloc { nth: 0, errno: 12 },
    ] {
        rig.world.inject(fault);
        fails(&mut rig);
        assert_eq!(rig.world.faults_waiting(), 0, "it struck");
    }
    rig.connect();
}

#[test]
fn cve_2024_53198_a_publication_that_fails_leaves_no_ring() {
    let mut rig = ready();
    let open: Vec<Tx> = (0..TRANSACTIONS)
        .map(|_| rig.store.transaction_start().expect("within the quota"))
        .collect();
    fails(&mut rig);
    assert_eq!(rig.get(&format!("{FRONT_DIR}/ring-ref")), "");
    for tx in open {
        rig.store.transaction_end(tx, false).expect("was open");
    }
    rig.connect();
}

#[test]
fn xsa_403_trusted_changes_nothing() {
    const SENTINEL: u8 = 0xC7;
    for trusted in ["", "0", "1", "2", "yes"] {
        let mut rig = Rig::new();
        if !trusted.is_empty() {
            rig.set(FRONT_DIR, "trusted", trusted);
        }
        rig.connect();
        // A page that held something else goes back and comes again; a short write shares the rest of its page.
        for _ in 0..4 {
            let mut buffer = rig.front.buffer(1).expect("pages enough");
            buffer.write_at(0, &[SENTINEL; PAGE]).expect("it fits");
        }
        let mut buffer = rig.front.buffer(1).expect("pages enough");
        buffer.set_len(512).expect("a sector");
        let submitted = rig.front.submit(Op::Write, Sector::new(0), buffer);
        submitted.expect("room");
        rig.front.kick().expect("a live world");
        let mut pages = 0;
        for gref in 0..64 {
            if let Some(page) = rig.world.page(FRONT, GrantRef::new(gref)) {
                let mut bytes = [0; PAGE];
                page.read(0, &mut bytes);
                assert!(
                    !bytes.contains(&SENTINEL),
                    "trusted={trusted:?}: grant {gref}"
                );
                pages += 1;
            }
        }
        assert_eq!(pages, 2, "the ring and the buffer");
    }
}
