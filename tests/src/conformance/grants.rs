//! G: grants.

use ringfence_core::platform::{Access, GrantCopy, GrantError, GrantStatus, Granted, Platform};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};

use super::world::{Who, World, domids, observes, until};

/// More than any platform keeps in a cache of freed pages for one peer before it uses them again.
const MANY: usize = 48;

fn bytes<M: SharedMem>(mem: &M) -> Vec<u8> {
    let mut all = vec![0; mem.len()];
    mem.read(0, &mut all);
    all
}

fn filled(value: u8) -> Vec<u8> {
    vec![value; PAGE]
}

/// The status with which a map is refused.
fn refusal<P: Platform>(by: &P, peer: DomId, refs: &[GrantRef], access: Access) -> GrantStatus {
    match by.map(peer, refs, access) {
        Err(GrantError::Refused { status, .. }) => status,
        Err(other) => panic!("refused, but not by the grant table: {other}"),
        Ok(_) => panic!("{refs:?} of domain {peer} mapped by domain {}", by.domid()),
    }
}

/// The status of a copy of 16 bytes each way.
fn copies<P: Platform>(by: &P, peer: DomId, gref: GrantRef) -> [GrantStatus; 2] {
    let mut room = [0; 16];
    let mut ops = [
        GrantCopy::from_peer(gref, 0, &mut room),
        GrantCopy::to_peer(gref, 0, &[0xC0; 16]),
    ];
    by.copy(peer, &mut ops).expect("the platform works");
    [ops[0].status, ops[1].status]
}

/// A reference that the peer cannot have granted.
fn never_granted(of: GrantRef) -> GrantRef {
    GrantRef::new(of.get() ^ 0x7FFF_0000)
}

pub(super) fn g1<W: World>(world: &mut W) {
    let (a, [_, b, _]) = (world.domain(Who::A), domids(world));
    for round in 0..3 {
        let pages: Vec<_> = (0..MANY)
            .map(|_| a.alloc(b, Access::ReadWrite).expect("a page"))
            .collect();
        for page in &pages {
            assert_eq!(page.len(), PAGE);
            assert!(bytes(page).iter().all(|byte| *byte == 0), "round {round}");
            page.write(0, &filled(0xA5));
        }
    }
}

pub(super) fn g2<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let pages: Vec<_> = (0..3)
        .map(|_| a.alloc(b.domid(), Access::ReadWrite).expect("a page"))
        .collect();
    let refs: Vec<_> = pages.iter().rev().map(Granted::grant_ref).collect();
    let mapping = b.map(a.domid(), &refs, Access::ReadWrite).expect("mapped");
    assert_eq!(mapping.len(), 3 * PAGE);
    for (page, value) in pages.iter().zip(1..) {
        page.write(0, &filled(value));
    }
    // In the order of the references, not of the pages.
    assert_eq!(bytes(&mapping), [filled(3), filled(2), filled(1)].concat());
    mapping.write(PAGE - 2, b"abcd");
    assert_eq!(bytes(&pages[2])[PAGE - 2..], *b"ab");
    assert_eq!(bytes(&pages[1])[..2], *b"cd");
    mapping.store_u32(2 * PAGE + 8, 0x0102_0304);
    mapping.fence();
    assert_eq!(pages[0].load_u32(8), 0x0102_0304);
    let to = GrantCopy::to_peer(refs[0], 100, b"copied");
    b.copy(a.domid(), &mut [to]).expect("the platform works");
    assert_eq!(bytes(&pages[2])[100..106], *b"copied");
}

pub(super) fn g3<W: World>(world: &mut W) {
    let (a, b, c) = (
        world.domain(Who::A),
        world.domain(Who::B),
        world.domain(Who::C),
    );
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    page.write(0, &filled(7));
    let gref = page.grant_ref();
    assert!(!refusal(&c, a.domid(), &[gref], Access::ReadOnly).is_okay());
    assert!(!refusal(&c, a.domid(), &[gref], Access::ReadWrite).is_okay());
    assert!(
        copies(&c, a.domid(), gref)
            .iter()
            .all(|status| !status.is_okay())
    );
    assert_eq!(bytes(&page), filled(7));
    drop(
        b.map(a.domid(), &[gref], Access::ReadWrite)
            .expect("its peer may"),
    );
}

pub(super) fn g4<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadOnly).expect("a page");
    page.write(0, &filled(9));
    let gref = page.grant_ref();
    assert!(!refusal(&b, a.domid(), &[gref], Access::ReadWrite).is_okay());
    let [from, to] = copies(&b, a.domid(), gref);
    assert_eq!(from, GrantStatus::OKAY);
    assert!(!to.is_okay());
    let mapping = b
        .map(a.domid(), &[gref], Access::ReadOnly)
        .expect("to read");
    assert_eq!(bytes(&mapping), filled(9));
    page.write(0, &filled(10));
    assert_eq!(bytes(&mapping), filled(10));
}

pub(super) fn g5<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let mut pages: Vec<_> = (0..2)
        .map(|_| a.alloc(b.domid(), Access::ReadWrite).expect("a page"))
        .collect();
    let good: Vec<_> = pages.iter().map(Granted::grant_ref).collect();
    for bad in [never_granted(good[0]), GrantRef::new(u32::MAX)] {
        let status = refusal(&b, a.domid(), &[bad], Access::ReadOnly);
        assert_eq!(status, GrantStatus::BAD_GNTREF);
        let refused = [GrantStatus::BAD_GNTREF; 2];
        assert_eq!(copies(&b, a.domid(), bad), refused);
        for at in 0..=2 {
            let mut refs = good.clone();
            refs.insert(at, bad);
            match b.map(a.domid(), &refs, Access::ReadWrite) {
                Err(GrantError::Refused { peer, gref, status }) => {
                    assert_eq!((peer, gref), (a.domid(), bad));
                    assert_eq!(status, GrantStatus::BAD_GNTREF);
                }
                other => panic!("bad at {at}: {:?}", other.err()),
            }
        }
    }
    // Nothing is left mapped.
    if observes(world) {
        for page in &mut pages {
            page.try_revoke().expect("not mapped");
        }
    }
}

pub(super) fn g6<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mut page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
        let refs = [page.grant_ref()];
        let mapping = b.map(a.domid(), &refs, access).expect("mapped");
        page.try_revoke().expect_err("it is mapped");
        page.write(0, &filled(3));
        assert_eq!(bytes(&mapping), filled(3));
        drop(
            b.map(a.domid(), &refs, access)
                .expect("nothing has changed"),
        );
        drop(mapping);
        world.settle();
        if observes(world) {
            page.try_revoke().expect("unmapped");
            continue;
        }
        page.try_revoke().expect_err("nobody can know");
        assert_eq!(bytes(&page), filled(3));
        drop(
            b.map(a.domid(), &refs, access)
                .expect("nothing has changed"),
        );
    }
}

pub(super) fn g7<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let (a_id, b_id) = (a.domid(), b.domid());
    let refused = |gref| {
        let map = b.map(a_id, &[gref], Access::ReadOnly);
        map.is_err() && copies(&b, a_id, gref).iter().all(|s| !s.is_okay())
    };
    let mut page = a.alloc(b_id, Access::ReadWrite).expect("a page");
    page.write(0, &filled(4));
    let gref = page.grant_ref();
    if observes(world) {
        page.try_revoke().expect("not mapped");
        assert!(!refusal(&b, a_id, &[gref], Access::ReadOnly).is_okay());
        assert!(refused(gref), "revoked");
        assert_eq!(bytes(&page), filled(4));
    } else {
        assert!(!refused(gref), "still granted");
    }
    drop(page);
    until(world, "the dropped page is refused", || refused(gref));
    // Also when it was mapped at the time.
    let page = a.alloc(b_id, Access::ReadWrite).expect("a page");
    let gref = page.grant_ref();
    let mapping = b.map(a_id, &[gref], Access::ReadWrite).expect("mapped");
    drop(page);
    drop(mapping);
    until(world, "the unmapped page is refused", || refused(gref));
}

pub(super) fn g8<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let gref = page.grant_ref();
    page.write(0, &filled(5));
    let mapping = b
        .map(a.domid(), &[gref], Access::ReadWrite)
        .expect("mapped");
    drop(page);
    let others: Vec<_> = (0..MANY)
        .map(|_| a.alloc(b.domid(), Access::ReadWrite).expect("a page"))
        .collect();
    for other in &others {
        assert_ne!(other.grant_ref(), gref, "in quarantine");
        other.write(0, &filled(6));
    }
    assert_eq!(bytes(&mapping), filled(5));
    mapping.write(0, &filled(8));
    assert!(others.iter().all(|other| bytes(other) == filled(6)));
}

pub(super) fn g9<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let sealed = a.alloc(b.domid(), Access::ReadOnly).expect("a page");
    sealed.write(PAGE - 4, b"tail");
    let (gref, read_only) = (page.grant_ref(), sealed.grant_ref());
    let [mut tail, mut past, mut none] = [[0; 4]; 3];
    let long = vec![1; PAGE + 1];
    let last = u16::try_from(PAGE - 4).expect("fits");
    let mut ops = [
        GrantCopy::to_peer(gref, 0, b"first"),
        GrantCopy::to_peer(never_granted(gref), 0, b"nobody"),
        GrantCopy::from_peer(read_only, last, &mut tail),
        GrantCopy::from_peer(read_only, last + 1, &mut past),
        GrantCopy::to_peer(read_only, 0, b"sealed"),
        GrantCopy::to_peer(gref, 0, &long),
        GrantCopy::from_peer(gref, u16::MAX, &mut none),
        GrantCopy::to_peer(gref, last, b"last"),
    ];
    b.copy(a.domid(), &mut ops).expect("the platform works");
    let statuses = ops.each_ref().map(|op| op.status);
    let (okay, bad) = (GrantStatus::OKAY, GrantStatus::BAD_COPY_ARG);
    assert_eq!([statuses[0], statuses[2], statuses[7]], [okay; 3]);
    assert_eq!([statuses[3], statuses[5], statuses[6]], [bad; 3]);
    assert_eq!(statuses[1], GrantStatus::BAD_GNTREF);
    assert!(!statuses[4].is_okay());
    assert_eq!((&tail, &past, &none), (b"tail", &[0; 4], &[0; 4]));
    let mut expected = vec![0; PAGE];
    expected[..5].copy_from_slice(b"first");
    expected[PAGE - 4..].copy_from_slice(b"last");
    assert_eq!(bytes(&page), expected);
    assert_eq!(bytes(&sealed)[..6], [0; 6]);
}

pub(super) fn g10<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let mut page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let refs = [page.grant_ref(); 2];
    // Twice in one batch, and once more.
    let both = b.map(a.domid(), &refs, Access::ReadWrite).expect("mapped");
    let again = b
        .map(a.domid(), &refs[..1], Access::ReadOnly)
        .expect("mapped");
    both.write(0, &filled(2));
    assert_eq!(
        bytes(&both),
        [filled(2), filled(2)].concat()[..PAGE].repeat(2)
    );
    assert_eq!(bytes(&again), filled(2));
    drop(both);
    world.settle();
    page.try_revoke().expect_err("one mapping is left");
    drop(again);
    world.settle();
    if observes(world) {
        page.try_revoke().expect("none is left");
    }
}
