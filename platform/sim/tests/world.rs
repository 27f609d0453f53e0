//! What the simulator does beyond the platform contracts.

use ringfence_core::platform::{
    Access, Channel as _, EvtchnError, GrantCopy, GrantError, GrantStatus, Granted as _,
    Platform as _, PlatformError,
};
use ringfence_core::store::{Store as _, StoreError, Tx};
use ringfence_core::{DomId, SharedMem as _};
use ringfence_sim::{Adversary, Fault, Limits, Sim, SimMapping, SimPage, StoreClosed, World};

const A: DomId = DomId::new(1);
const B: DomId = DomId::new(2);

fn pair(world: &World) -> (Sim, Sim) {
    (world.domain(A), world.domain(B))
}

fn mapped(world: &World, access: Access) -> SimMapping {
    let (a, b) = pair(world);
    let page = a.alloc(B, Access::ReadWrite).expect("a page");
    b.map(A, &[page.grant_ref()], access).expect("mapped")
}

#[test]
#[should_panic(expected = "use of a mapping by a dead process of domain 2")]
fn memory_of_a_dead_process_cannot_be_reached() {
    let world = World::new();
    let mapping = mapped(&world, Access::ReadWrite);
    world.kill(B);
    mapping.load_u32(0);
}

#[test]
#[should_panic(expected = "write to grant 8 of domain 1, which is mapped read-only")]
fn a_read_only_mapping_cannot_be_written() {
    mapped(&World::new(), Access::ReadOnly).store_u32(0, 1);
}

#[test]
#[should_panic(expected = "domain 1 was destroyed")]
fn a_destroyed_domain_does_not_come_back_by_itself() {
    let world = World::new();
    world.domain(A);
    world.destroy(A);
    world.domain(A);
}

#[test]
fn what_others_mapped_outlives_a_domain_and_not_its_successor() {
    let world = World::new();
    let mapping = mapped(&world, Access::ReadWrite);
    mapping.store_u32(0, 7);
    world.destroy(A);
    assert_eq!(mapping.load_u32(0), 7);
    let next = world.create(A);
    let page = next.alloc(B, Access::ReadWrite).expect("a page");
    mapping.store_u32(0, 8);
    assert_eq!(page.load_u32(0), 0);
    drop(mapping);
    assert_eq!(world.usage(A).granted, 1, "the successor's grant");
}

#[test]
fn handles_of_a_dead_process_fail_and_touch_nothing() {
    let world = World::new();
    let (a, b) = pair(&world);
    let bell = a.alloc_unbound(B).expect("a port");
    let page = a.alloc(B, Access::ReadWrite).expect("a page");
    let (port, gref) = (bell.port(), page.grant_ref());
    world.kill(A);
    assert!(!a.is_alive() && b.is_alive() && world.domain(A).is_alive());
    let dead = |op| PlatformError { op, errno: 3 };
    assert_eq!(bell.notify(), Err(dead("notify")));
    assert_eq!(bell.take_pending(), Err(dead("take_pending")));
    let error = a.alloc(B, Access::ReadWrite).err();
    assert_eq!(error, Some(GrantError::Platform(dead("grant"))));
    drop((bell, page));
    assert_eq!(world.usage(A).granted, 1);
    let next = world.domain(A);
    assert!(next.adopt_granted(gref).is_some());
    assert!(next.adopt_channel(port).is_some(), "not closed by the drop");
    assert!(next.adopt_channel(port).is_none(), "closed by the drop");
}

#[test]
fn an_event_taken_silences_the_port_until_it_is_unmasked() {
    let world = World::new();
    let (a, b) = pair(&world);
    let ours = a.alloc_unbound(B).expect("a port");
    let theirs = b.bind(A, ours.port()).expect("bound");
    assert_eq!(theirs.take_pending(), Ok(true));
    ours.notify().expect("rung");
    assert_eq!(theirs.take_pending(), Ok(false));
    theirs.unmask().expect("the platform works");
    assert_eq!(theirs.take_pending(), Ok(true));
}

#[test]
fn a_page_is_granted_where_it_is_and_stays_after_the_grant() {
    let world = World::new();
    let (a, b) = pair(&world);
    let page = SimPage::zeroed();
    page.write(0, b"already here");
    let granted = a.grant_in_place(B, &page, Access::ReadWrite);
    let granted = granted.expect("granted");
    let mapping = b.map(A, &[granted.grant_ref()], Access::ReadWrite);
    mapping.expect("mapped").write(0, b"answer");
    drop(granted);
    let fresh = a.alloc(B, Access::ReadWrite).expect("a page");
    fresh.write(0, &[0xFF; 12]);
    let mut bytes = [0; 12];
    page.read(0, &mut bytes);
    assert_eq!(&bytes, b"answery here");
}

#[test]
fn the_page_behind_a_grant_is_open_to_whoever_looks_from_outside() {
    let world = World::new();
    let (a, _) = pair(&world);
    let page = a.alloc(B, Access::ReadOnly).expect("a page");
    let outside = world.page(A, page.grant_ref()).expect("granted");
    outside.store_u32(4, 0xBAD);
    assert_eq!(page.load_u32(4), 0xBAD);
    let gref = page.grant_ref();
    drop(page);
    assert!(world.page(A, gref).is_none());
}

/// Rings each way at random moments and returns what was seen, and the trace.
fn ring_for_a_while(seed: u64) -> (Vec<bool>, u64) {
    let world = World::hostile(seed);
    let (a, b) = pair(&world);
    let ours = a.alloc_unbound(B).expect("a port");
    let theirs = b.bind(A, ours.port()).expect("bound");
    let mut seen = Vec::new();
    for step in 0..200 {
        if step % 3 == 0 {
            ours.notify().expect("rung");
        }
        seen.push(theirs.take_pending().expect("the platform works"));
        theirs.unmask().expect("the platform works");
    }
    ours.notify().expect("rung");
    world.settle();
    assert_eq!(theirs.take_pending(), Ok(true), "a doorbell was lost");
    assert!(!world.advance(), "nothing is under way");
    (seen, world.trace())
}

#[test]
fn the_same_seed_gives_the_same_world_and_no_doorbell_is_lost() {
    let first = ring_for_a_while(1);
    assert_eq!(first, ring_for_a_while(1));
    let others: Vec<_> = (2..20).map(ring_for_a_while).collect();
    assert!(others.iter().all(|other| other.1 != first.1));
    // Late, early and spurious ones are all there.
    let exact: Vec<_> = (0..200).map(|step| step % 3 == 0).collect();
    assert_ne!(first.0, exact);
}

#[test]
fn a_doorbell_is_late_by_no_more_than_it_may() {
    let slow = Adversary {
        delay: 3,
        duplicate: 0,
        merge: 0,
    };
    let world = World::with(5, slow, Limits::DEFAULT);
    let (a, b) = pair(&world);
    let ours = a.alloc_unbound(B).expect("a port");
    let theirs = b.bind(A, ours.port()).expect("bound");
    assert_eq!(theirs.take_pending(), Ok(true));
    let mut latest = 0;
    for _ in 0..100 {
        theirs.unmask().expect("the platform works");
        ours.notify().expect("rung");
        let polls = (1..=3).find(|_| theirs.take_pending() == Ok(true));
        latest = latest.max(polls.expect("it arrives in time"));
    }
    assert_eq!(latest, 3);
}

#[test]
fn failures_strike_where_and_when_they_were_ordered() {
    let world = World::new();
    let (a, b) = pair(&world);
    let errno = 12;
    world.inject(Fault::Alloc { nth: 1, errno });
    let page = a.alloc(B, Access::ReadWrite).expect("the one before");
    let failed = |op| PlatformError { op, errno };
    let error = a.alloc(B, Access::ReadWrite).err();
    assert_eq!(error, Some(GrantError::Platform(failed("grant"))));

    world.inject(Fault::MapCall { nth: 0, errno });
    let batch = [page.grant_ref(); 3];
    let error = b.map(A, &batch, Access::ReadOnly).err();
    assert_eq!(error, Some(GrantError::Platform(failed("map"))));
    drop(b.map(A, &batch, Access::ReadOnly).expect("once only"));

    world.inject(Fault::CopyCall { nth: 0, errno });
    let mut ops = [GrantCopy::to_peer(batch[0], 0, b"x")];
    assert_eq!(b.copy(A, &mut ops), Err(failed("copy")));
    assert_eq!(ops[0].status, GrantStatus::GENERAL_ERROR);

    world.inject(Fault::AllocUnbound { nth: 0, errno });
    let error = a.alloc_unbound(B).err();
    assert_eq!(error, Some(EvtchnError::Platform(failed("alloc_unbound"))));
    let ours = a.alloc_unbound(B).expect("once only");
    world.inject(Fault::Bind { nth: 0, errno });
    let error = b.bind(A, ours.port()).err();
    assert_eq!(error, Some(EvtchnError::Platform(failed("bind"))));
    let theirs = b.bind(A, ours.port()).expect("once only");
    assert_eq!(theirs.take_pending(), Ok(true));
    theirs.unmask().expect("the platform works");
    world.inject(Fault::Notify { nth: 1, errno });
    world.inject(Fault::Notify { nth: 1, errno });
    ours.notify().expect("the one before");
    assert_eq!(theirs.take_pending(), Ok(true));
    theirs.unmask().expect("the platform works");
    assert_eq!(ours.notify(), Err(failed("notify")));
    assert_eq!(ours.notify(), Err(failed("notify")), "the second of two");
    assert_eq!(theirs.take_pending(), Ok(false));
    assert_eq!(world.faults_waiting(), 0);
    world.inject(Fault::Notify { nth: 0, errno });
    world.clear_faults();
    assert_eq!(ours.notify(), Ok(()));
}

#[test]
fn a_domain_has_no_more_than_its_limits() {
    let limits = Limits {
        grants: 2,
        maps: 3,
        ports: 1,
    };
    let world = World::with(0, Adversary::EXACT, limits);
    let (a, b) = pair(&world);
    let pages = [(); 2].map(|()| a.alloc(B, Access::ReadWrite).expect("a page"));
    let error = a.alloc(B, Access::ReadWrite).err();
    assert_eq!(error, Some(GrantError::Exhausted { peer: B, limit: 2 }));
    let refs = pages.each_ref().map(|page| page.grant_ref());
    let _two = b.map(A, &refs, Access::ReadOnly).expect("mapped");
    match b.map(A, &refs, Access::ReadOnly) {
        Err(GrantError::Refused { status, gref, .. }) => {
            assert_eq!((status, gref), (GrantStatus::NO_SPACE, refs[1]));
        }
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(world.usage(B).mapped, 2);
    let _port = a.alloc_unbound(B).expect("a port");
    assert_eq!(a.alloc_unbound(B).err(), Some(EvtchnError::Exhausted));
}

#[test]
fn calls_pages_and_doorbells_are_counted() {
    let world = World::new();
    let (a, b) = pair(&world);
    let page = a.alloc(B, Access::ReadWrite).expect("a page");
    let refs = [page.grant_ref(); 3];
    drop(b.map(A, &refs, Access::ReadOnly).expect("mapped"));
    let mut ops = [
        GrantCopy::to_peer(refs[0], 0, &[1; 512]),
        GrantCopy::to_peer(refs[0], 4095, b"xy"),
    ];
    b.copy(A, &mut ops).expect("the platform works");
    let bell = a.alloc_unbound(B).expect("a port");
    let theirs = b.bind(A, bell.port()).expect("bound");
    theirs.notify().expect("rung");
    theirs.notify().expect("rung");
    assert_eq!(bell.take_pending(), Ok(true));
    let (of_a, of_b) = (world.counts(A), world.counts(B));
    assert_eq!((of_a.grants, of_a.events, of_a.notifications), (1, 1, 0));
    assert_eq!((of_b.map_calls, of_b.mapped, of_b.unmapped), (1, 3, 3));
    assert_eq!(
        (of_b.copy_calls, of_b.copies, of_b.copied_bytes),
        (1, 1, 512)
    );
    assert_eq!((of_b.notifications, of_b.events), (2, 0));
}

#[test]
fn a_store_connection_ends_with_its_process() {
    let world = World::new();
    let mut old = world.store(A);
    old.write(Tx::NONE, "data/x", b"1").expect("its own");
    assert_eq!(old.wait(None), Err(StoreError::Transport));
    assert_eq!(old.transport_error(), Some(&StoreClosed::Stuck));
    let mut old = world.store(A);
    world.kill(A);
    let mut room = [0; 8];
    let dead = old.read(Tx::NONE, "data/x", &mut room);
    assert_eq!(dead, Err(StoreError::Transport));
    assert_eq!(old.transport_error(), Some(&StoreClosed::Dead));
    let mut new = world.store(A);
    assert_eq!(new.read(Tx::NONE, "data/x", &mut room), Ok(&b"1"[..]));
}
