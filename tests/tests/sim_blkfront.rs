//! The frontend where mappings cannot be seen, and where the store denies what is missing: Linux on Xen.

use ringfence_blkfront::{BufferError, Event, IoError, Op, Reason, SLOTS};
use ringfence_core::platform::{Access, Platform};
use ringfence_core::store::{Perm, Store, Tx};
use ringfence_core::wire::blkif::Status;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{DomId, GrantRef, PAGE, Sector};
use ringfence_sim::Fault;
use ringfence_tests::blkfront_rig::{BACK, BACK_DIR, FRONT, FRONT_DIR, Rig, response};

/// Connected, in a world where nobody sees what is mapped.
fn veiled() -> Rig {
    let rig = Rig::connected();
    let world = rig.world.clone().veiled();
    assert!(!world.domain(FRONT).capabilities().observes_mappings);
    rig
}

/// Fills the ring with reads and shows them to the backend.
fn fill(rig: &mut Rig) {
    for n in 0..SLOTS as u64 {
        let buffer = rig.front.buffer(1).expect("pages enough");
        let submitted = rig.front.submit(Op::Read, Sector::new(n * 8), buffer);
        submitted.expect("room");
    }
    rig.front.kick().expect("a live world");
    rig.take_all();
}

/// Every request that is over, with its buffer or without.
fn over(rig: &mut Rig) -> Vec<(Result<(), IoError>, bool)> {
    let reap = || rig.front.reap().expect("no lie on the ring");
    std::iter::from_fn(reap)
        .map(|done| (done.result, done.buffer.is_some()))
        .collect()
}

#[test]
fn lost_requests_come_back_without_their_pages_and_free_their_slots() {
    let mut rig = veiled();
    rig.front.set_replay(false);
    for _ in 0..3 {
        fill(&mut rig);
        assert_eq!(rig.front.free(), 0);
        rig.close_back();
        assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
        assert_eq!(over(&mut rig), vec![(Err(IoError::Aborted), false); SLOTS]);
        assert_eq!(rig.front.free(), SLOTS);
        rig.connect();
    }
    // Nothing of it is left but the ring.
    let usage = rig.world.usage(FRONT);
    assert_eq!((usage.granted, usage.quarantined), (1, 0));
}

#[test]
fn pages_that_a_backend_keeps_mapped_are_used_for_nothing_else() {
    let mut rig = veiled();
    rig.front.set_replay(false);
    fill(&mut rig);
    let grefs: Vec<u32> = rig.seen.iter().map(|request| request.seg[0].gref).collect();
    let refs: Vec<GrantRef> = grefs.iter().copied().map(GrantRef::new).collect();
    let kept = rig.back.map(FRONT, &refs, Access::ReadWrite);
    let kept = kept.expect("pages of requests");
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    assert_eq!(over(&mut rig).len(), SLOTS);
    assert_eq!(rig.world.usage(FRONT).quarantined, SLOTS);
    rig.connect();
    rig.seen.clear();
    fill(&mut rig);
    let reused = rig.seen.iter().map(|request| request.seg[0].gref);
    assert_eq!(reused.filter(|gref| grefs.contains(gref)).count(), 0);
    drop(kept);
    assert_eq!(rig.world.usage(FRONT).quarantined, 0);
}

#[test]
fn after_the_answer_the_page_serves_the_same_backend_again() {
    let mut rig = veiled();
    let buffer = rig.front.buffer(1).expect("pages enough");
    rig.front
        .submit(Op::Read, Sector::new(0), buffer)
        .expect("room");
    rig.front.kick().expect("a live world");
    let request = rig.take_all();
    let answer = response(request.id, request.operation, Status::OKAY);
    rig.peer().answer(answer);
    let done = rig.front.reap().expect("honest").expect("answered");
    let buffer = done.buffer.expect("a read has one");
    rig.front
        .submit(Op::Read, Sector::new(8), buffer)
        .expect("the same backend");
    rig.front.kick().expect("a live world");
    assert_eq!(rig.take_all().seg[0].gref, request.seg[0].gref);
}

/// The other backend's domain, and its directory.
const OTHER: DomId = DomId::new(3);
const OTHER_DIR: &str = "/local/domain/3/backend/vbd/1/51712";

/// The backend closes, and the toolstack moves the disk to the other domain.
fn moved(rig: &mut Rig) {
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    rig.world.create(OTHER);
    let nodes = [
        ("frontend", FRONT_DIR),
        ("frontend-id", "1"),
        ("state", "2"),
        ("sectors", "2048"),
        ("sector-size", "512"),
        ("info", "0"),
    ];
    let perms = [Perm::owner(OTHER), Perm::read(FRONT)];
    for (name, value) in nodes {
        rig.set(OTHER_DIR, name, value);
        for path in [OTHER_DIR, &format!("{OTHER_DIR}/{name}")] {
            let set = rig.toolstack.set_perms(Tx::NONE, path, &perms);
            set.expect("dom0 may");
        }
    }
    rig.set(FRONT_DIR, "backend", OTHER_DIR);
    rig.set(FRONT_DIR, "backend-id", "3");
    rig.set(FRONT_DIR, "state", "1");
    assert_eq!(rig.events(), []);
    assert_eq!(rig.front_state(), "3");
    rig.set(OTHER_DIR, "state", "4");
    let events = rig.events();
    assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
}

/// And back.
fn moved_back(rig: &mut Rig) {
    rig.set(OTHER_DIR, "state", "6");
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    rig.set(FRONT_DIR, "backend", BACK_DIR);
    rig.set(FRONT_DIR, "backend-id", "2");
    rig.set(FRONT_DIR, "state", "1");
    rig.connect();
}

#[test]
fn a_page_of_one_backend_is_never_shown_to_another() {
    let mut rig = veiled();
    let buffer = rig.front.buffer(1).expect("pages enough");
    moved(&mut rig);
    let rejected = rig.front.submit(Op::Read, Sector::new(0), buffer);
    let reason = rejected.map_err(|rejected| rejected.reason);
    assert_eq!(reason, Err(Reason::ForeignBuffer { peer: OTHER }));
    let fresh = rig.front.buffer(1).expect("pages enough");
    rig.front
        .submit(Op::Read, Sector::new(0), fresh)
        .expect("its own page");
}

#[test]
fn a_buffer_with_pages_of_two_backends_is_of_neither() {
    let mut rig = Rig::connected();
    let mut buffer = rig.front.buffer(2).expect("pages enough");
    buffer.write_at(0, &[7; 2 * PAGE]).expect("it fits");
    moved(&mut rig);
    rig.world.inject(Fault::Alloc { nth: 1, errno: 12 });
    let failed = rig.front.renew(&mut buffer);
    assert!(matches!(failed, Err(BufferError::Grant(_))), "{failed:?}");
    moved_back(&mut rig);
    let rejected = rig.front.submit(Op::Write, Sector::new(0), buffer);
    let rejected = rejected.expect_err("half of it is the other's");
    assert_eq!(rejected.reason, Reason::ForeignBuffer { peer: BACK });
    let mut buffer = rejected.buffer;
    rig.front.renew(&mut buffer).expect("pages enough");
    let submitted = rig.front.submit(Op::Write, Sector::new(0), buffer);
    submitted.expect("renewed");
    rig.front.kick().expect("a live world");
    rig.serve();
    assert_eq!(rig.disk[..2 * PAGE], [7; 2 * PAGE]);
    assert_eq!(over(&mut rig), [(Ok(()), true)]);
}

/// Lets the frontend read the backend's directory, or not.
fn readable(rig: &mut Rig, node: &str, allowed: bool) {
    let mut perms = vec![Perm::owner(BACK)];
    perms.extend(allowed.then(|| Perm::read(FRONT)));
    let path = format!("{BACK_DIR}{node}");
    let set = rig.toolstack.set_perms(Tx::NONE, &path, &perms);
    set.expect("dom0 may");
}

fn woken(rig: &mut Rig) -> bool {
    let mut any = false;
    while rig.store.next_watch().expect("the store works").is_some() {
        any = true;
    }
    any
}

#[test]
fn a_backend_that_may_not_be_read_yet_is_waited_for_and_announced() {
    let nodes = ["", "/frontend", "/frontend-id", "/state", "/online"];
    let mut rig = Rig::new();
    for node in nodes {
        readable(&mut rig, node, false);
    }
    assert_eq!(rig.events(), []);
    assert_eq!((rig.front_state(), rig.front.fault()), ("1".into(), None));
    assert!(woken(&mut rig), "its own watch");
    for node in nodes {
        readable(&mut rig, node, true);
    }
    assert!(woken(&mut rig), "or it would sleep for ever");
    rig.connect();
}

#[test]
fn a_backend_whose_nodes_come_late_wakes_the_frontend() {
    let mut rig = Rig::new();
    rig.unset(BACK_DIR);
    assert_eq!(rig.events(), []);
    assert!(woken(&mut rig), "its own watch");
    let front = "/local/domain/1/device/vbd/51712";
    for (name, value) in [("frontend", front), ("frontend-id", "1"), ("state", "2")] {
        rig.set(BACK_DIR, name, value);
    }
    for node in ["", "/frontend", "/frontend-id", "/state"] {
        readable(&mut rig, node, true);
    }
    assert!(woken(&mut rig), "or it would sleep for ever");
    rig.connect();
}

#[test]
fn a_backend_that_is_gone_has_let_go_also_where_the_store_says_denied() {
    let mut rig = Rig::connected();
    rig.front.close();
    assert_eq!(rig.events(), [Event::Closing]);
    assert_eq!(rig.front_state(), "6");
    // What libxl leaves: nothing up to a directory of dom0's own.
    rig.unset("/local/domain/2/backend");
    let own = [Perm::owner(DomId::DOM0)];
    let set = rig.toolstack.set_perms(Tx::NONE, "/local/domain/2", &own);
    set.expect("dom0 may");
    let mut room = [0; 16];
    let read = rig.store.read(Tx::NONE, BACK_DIR, &mut room);
    assert_eq!(read, Err(ringfence_core::store::StoreError::Denied));
    assert_eq!(rig.events(), [Event::Disconnected, Event::Closed]);
}

#[test]
fn a_backend_without_any_feature_is_used_without() {
    let mut rig = Rig::new();
    rig.published();
    rig.describe();
    rig.unset(&format!("{BACK_DIR}/feature-flush-cache"));
    // What Linux and QEMU offer, and we do not take up.
    for (name, value) in [
        ("feature-persistent", "1"),
        ("feature-max-indirect-segments", "256"),
        ("max-ring-page-order", "4"),
        ("multi-queue-max-queues", "4"),
        ("feature-barrier", "1"),
        ("physical-sector-size", "4096"),
    ] {
        rig.node(name, value);
    }
    rig.state(XenbusState::Connected);
    let events = rig.events();
    let [Event::Connected(info)] = events[..] else {
        panic!("{events:?}");
    };
    assert!(!info.flush);
    let refused = rig.front.flush();
    assert_eq!(refused, Err(Reason::Unsupported));
}
