//! D: processes and domains die.

use ringfence_core::SharedMem;
use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::store::{Store, WatchEvent};

use super::evtchn::connect;
use super::world::{Lives, Who, domids, heard, next_event, observes, until};

pub(super) fn d1<W: Lives>(world: &mut W) {
    let (a, [a_id, b_id, _]) = (world.domain(Who::A), domids(world));
    let mut page = a.alloc(b_id, Access::ReadWrite).expect("a page");
    let refs = [page.grant_ref(); 2];
    let mapping = world
        .domain(Who::B)
        .map(a_id, &refs, Access::ReadWrite)
        .expect("mapped");
    let (ours, theirs) = connect(world);
    page.try_revoke().expect_err("mapped");
    world.kill(Who::B);
    world.settle();
    ours.notify().expect("nobody is there, and that is fine");
    let again = world.domain(Who::B).bind(a_id, ours.port());
    let again = again.expect("the port is unbound again");
    if observes(world) {
        page.try_revoke().expect("the mapping has ended");
    }
    // What the dead process held is dropped late here, and must do nothing.
    drop((mapping, theirs));
    world.settle();
    assert!(heard(world, &again), "pending after the bind");
    ours.notify().expect("rung");
    assert!(heard(world, &again), "rung by who was left");
}

pub(super) fn d2<W: Lives>(world: &mut W) {
    if !world.domain(Who::A).capabilities().outlives_process {
        return d2_ends(world);
    }
    let (b, [a_id, b_id, _]) = (world.domain(Who::B), domids(world));
    let page = world.domain(Who::A).alloc(b_id, Access::ReadWrite);
    let page = page.expect("a page");
    page.write(0, b"before");
    let gref = page.grant_ref();
    let mapping = b.map(a_id, &[gref], Access::ReadWrite).expect("mapped");
    let (ours, theirs) = connect(world);
    let port = ours.port();
    world.kill(Who::A);
    drop((page, ours));
    world.settle();
    let mut bytes = [0; 6];
    mapping.read(0, &mut bytes);
    assert_eq!(&bytes, b"before");
    theirs.notify().expect("rung while nobody looks");
    drop(
        b.map(a_id, &[gref], Access::ReadWrite)
            .expect("still granted"),
    );

    let mut page = world.adopt_granted(Who::A, b_id, gref);
    assert_eq!(page.grant_ref(), gref);
    page.read(0, &mut bytes);
    assert_eq!(&bytes, b"before");
    page.write(0, b"after!");
    mapping.read(0, &mut bytes);
    assert_eq!(&bytes, b"after!");
    let ours = world.adopt_channel(Who::A, port);
    assert_eq!(ours.port(), port);
    assert!(heard(world, &ours), "rung before it was there");
    theirs.notify().expect("rung");
    assert!(heard(world, &ours));
    ours.notify().expect("rung");
    assert!(heard(world, &theirs));
    page.try_revoke().expect_err("still mapped");
    drop(mapping);
    world.settle();
    if observes(world) {
        page.try_revoke().expect("unmapped");
    }
}

/// Contract D2 where nothing outlives a process.
fn d2_ends<W: Lives>(world: &mut W) {
    let (b, [a_id, b_id, _]) = (world.domain(Who::B), domids(world));
    let page = world.domain(Who::A).alloc(b_id, Access::ReadWrite);
    let page = page.expect("a page");
    page.write(0, b"before");
    let refs = [page.grant_ref()];
    let mapping = b.map(a_id, &refs, Access::ReadWrite).expect("mapped");
    let (ours, theirs) = connect(world);
    let port = ours.port();
    world.kill(Who::A);
    drop((page, ours));
    world.settle();
    // The peer keeps what it has mapped, and nobody else gets that page.
    let mut bytes = [0; 6];
    mapping.read(0, &mut bytes);
    assert_eq!(&bytes, b"before");
    theirs.notify().expect("nobody is there, and that is fine");
    until(world, "the port is closed", || b.bind(a_id, port).is_err());
    drop(mapping);
    until(world, "the page is granted no more", || {
        b.map(a_id, &refs, Access::ReadOnly).is_err()
    });
    // The next process starts with nothing.
    let a = world.domain(Who::A);
    let page = a.alloc(b_id, Access::ReadWrite).expect("a page");
    page.read(0, &mut bytes);
    assert_eq!(bytes, [0; 6]);
}

pub(super) fn d3<W: Lives>(world: &mut W) {
    let (a, [a_id, b_id, _]) = (world.domain(Who::A), domids(world));
    let page = a.alloc(b_id, Access::ReadWrite).expect("a page");
    let refs = [page.grant_ref()];
    let ours = a.alloc_unbound(b_id).expect("a port");
    for life in 0..3 {
        let b = world.domain(Who::B);
        let mapping = b.map(a_id, &refs, Access::ReadWrite).expect("mapped");
        assert_eq!(mapping.load_u32(0), life);
        mapping.store_u32(0, life + 1);
        let theirs = b.bind(a_id, ours.port()).expect("bound");
        assert!(heard(world, &theirs), "pending in life {life}");
        ours.notify().expect("rung");
        assert!(heard(world, &theirs), "rung in life {life}");
        theirs.notify().expect("rung");
        assert!(heard(world, &ours), "rung in life {life}");
        world.kill(Who::B);
        drop((mapping, theirs));
        world.settle();
    }
    assert_eq!(page.load_u32(0), 3);
}

pub(super) fn d4<W: Lives>(world: &mut W) {
    let (a, b, [a_id, b_id, _]) = (world.domain(Who::A), world.domain(Who::B), domids(world));
    let page = a.alloc(b_id, Access::ReadWrite).expect("a page");
    let refs = [page.grant_ref()];
    let ours = a.alloc_unbound(b_id).expect("a port");
    let port = ours.port();
    let mut dom0 = world.dom0_store();
    dom0.watch("@releaseDomain", "gone").expect("dom0 may");
    assert!(next_event(&mut dom0).is_some(), "once when it is set");
    assert_eq!(dom0.next_watch(), Ok(None));
    world.destroy(Who::A);
    match next_event(&mut dom0) {
        Some(WatchEvent::Changed(event)) => assert_eq!(event.path.as_str(), "@releaseDomain"),
        other => panic!("{other:?} after the end of domain {a_id}"),
    }
    assert!(b.map(a_id, &refs, Access::ReadOnly).is_err());
    assert!(b.bind(a_id, port).is_err());
    drop((page, ours));
}
