//! Attacks on grants and event channels. `A` grants and allocates, `B` is its peer, `C` has no business with either; whichever
//! of them is hostile in an attack, the others' pages, ports and processes are to be as before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ringfence_core::platform::{
    Access, Channel, GrantCopy, GrantError, GrantStatus, Granted, Platform,
};
use ringfence_core::{DomId, EvtchnPort, GrantRef, PAGE, SharedMem};
use ringfence_tests::conformance::{Lives, Who, World};

use super::Attack;

/// More pages than a platform keeps in a cache.
const MANY: usize = 48;
/// How long the kernel of a domain may take to notice that a page which it kept for the peer's sake is free.
const PATIENCE: Duration = Duration::from_secs(30);

/// All attacks. The last one ends domain A.
#[must_use]
pub fn attacks<W: Lives>() -> Vec<Attack<W>> {
    vec![
        ("revoked while mapped", revoked_while_mapped),
        ("unmapped long after the granter's death", late_unmap),
        ("neighbours of a page", neighbours),
        ("references that are none", bad_references),
        ("domains that are none", bad_domains),
        ("ports of others", ports_of_others),
        ("a storm of events", storm),
        ("all pages that there are", exhaustion),
        (DESTROYED, destroyed_while_mapped),
    ]
}

/// The attack after which domain A is no more.
pub const DESTROYED: &str = "destroyed while mapped";

fn bytes<M: SharedMem>(memory: &M) -> Vec<u8> {
    let mut all = vec![0; memory.len()];
    memory.read(0, &mut all);
    all
}

/// Statuses of a copy of one byte each way.
fn copies<P: Platform>(by: &P, peer: DomId, gref: GrantRef) -> [GrantStatus; 2] {
    let mut room = [0];
    let mut ops = [
        GrantCopy::from_peer(gref, 0, &mut room),
        GrantCopy::to_peer(gref, PAGE as u16 - 1, &[0xEE]),
    ];
    by.copy(peer, &mut ops).expect("the platform works");
    ops.map(|op| op.status)
}

fn reaches<P: Platform>(by: &P, peer: DomId, gref: GrantRef) -> bool {
    let copied = copies(by, peer, gref).iter().any(|status| status.is_okay());
    copied || by.map(peer, &[gref], Access::ReadOnly).is_ok()
}

/// Refused by the grant table, and by nothing else.
fn assert_unreachable<P: Platform>(by: &P, peer: DomId, gref: GrantRef) {
    for access in [Access::ReadOnly, Access::ReadWrite] {
        match by.map(peer, &[gref], access) {
            Err(GrantError::Refused { status, .. }) => assert!(!status.is_okay()),
            Err(other) => panic!("grant {gref} of domain {peer}: {other}"),
            Ok(_) => panic!("grant {gref} of domain {peer} is mapped by {}", by.domid()),
        }
    }
    let statuses = copies(by, peer, gref);
    assert!(
        statuses.iter().all(|status| !status.is_okay()),
        "grant {gref} of domain {peer}: {statuses:?}"
    );
}

/// `B` works as ever with `A`.
fn assert_works<W: World>(world: &W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    page.write(0, b"as ever");
    let refs = [page.grant_ref()];
    let mapping = b.map(a.domid(), &refs, Access::ReadWrite).expect("mapped");
    assert_eq!(&bytes(&mapping)[..7], b"as ever");
    let ours = a.alloc_unbound(b.domid()).expect("a port");
    let theirs = b.bind(a.domid(), ours.port()).expect("bound");
    world.rung(&theirs);
    ours.notify().expect("rung");
    assert!(world.rung(&theirs));
}

/// Waits until the page that the granter gave up is out of the peer's reach.
fn assert_gone<P: Platform>(by: &P, peer: DomId, gref: GrantRef) {
    let end = Instant::now() + PATIENCE;
    while reaches(by, peer, gref) {
        assert!(Instant::now() < end, "grant {gref} of domain {peer} stays");
    }
}

/// The granter gives a page up that the peer has mapped: the mapping is good as long as it is there, and the page is not
/// used for anything else.
fn revoked_while_mapped<W: Lives>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    page.write(0, &[5; PAGE]);
    let gref = page.grant_ref();
    let mapping = b.map(a.domid(), &[gref], Access::ReadWrite);
    let mapping = mapping.expect("mapped");
    drop(page);
    world.settle();
    assert_eq!(bytes(&mapping), [5; PAGE]);
    mapping.write(0, &[6; PAGE]);
    let others: Vec<_> = (0..MANY)
        .map(|_| a.alloc(b.domid(), Access::ReadWrite).expect("a page"))
        .collect();
    for other in &others {
        assert_ne!(other.grant_ref(), gref);
        assert!(bytes(other).iter().all(|byte| *byte == 0), "not of zeros");
        other.write(0, &[7; PAGE]);
    }
    assert_eq!(bytes(&mapping), [6; PAGE]);
    mapping.write(0, &[8; PAGE]);
    assert!(others.iter().all(|other| bytes(other) == [7; PAGE]));
    drop((mapping, others));
    world.settle();
    assert_gone(&b, a.domid(), gref);
    assert_works(world);
}

/// The granter's process dies while the peer has a page mapped, and its next one takes all the pages it can get.
fn late_unmap<W: Lives>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    page.write(0, &[1; PAGE]);
    let gref = page.grant_ref();
    let mapping = b.map(a.domid(), &[gref], Access::ReadWrite);
    let mapping = mapping.expect("mapped");
    world.kill(Who::A);
    drop(page);
    world.settle();
    let a = world.domain(Who::A);
    let others: Vec<_> = (0..MANY)
        .map(|_| a.alloc(b.domid(), Access::ReadWrite).expect("a page"))
        .collect();
    for other in &others {
        assert_ne!(other.grant_ref(), gref);
        assert!(bytes(other).iter().all(|byte| *byte == 0), "not of zeros");
    }
    mapping.write(0, &[2; PAGE]);
    assert_eq!(bytes(&mapping), [2; PAGE]);
    for other in &others {
        assert!(
            bytes(other).iter().all(|byte| *byte == 0),
            "the page was used again"
        );
    }
    drop((mapping, others));
    world.settle();
    if !a.capabilities().outlives_process {
        assert_gone(&b, a.domid(), gref);
    }
    assert_works(world);
}

/// What lies beside a granted page, in the granter's memory and behind the end of a mapping, is nobody's.
fn neighbours<W: Lives>(world: &mut W) {
    let (a, b, c) = (
        world.domain(Who::A),
        world.domain(Who::B),
        world.domain(Who::C),
    );
    let pages: Vec<_> = [&b, &c]
        .into_iter()
        .cycle()
        .take(8)
        .map(|peer| a.alloc(peer.domid(), Access::ReadWrite).expect("a page"))
        .collect();
    for (page, value) in pages.iter().zip(1..) {
        page.write(0, &[value; PAGE]);
    }
    let of_b: Vec<_> = pages.iter().step_by(2).collect();
    for page in pages.iter().skip(1).step_by(2) {
        assert_unreachable(&b, a.domid(), page.grant_ref());
    }
    let gref = of_b[1].grant_ref();
    let mapping = b.map(a.domid(), &[gref], Access::ReadWrite);
    let mapping = mapping.expect("mapped");
    assert_eq!(mapping.len(), PAGE);
    assert_eq!(bytes(&mapping), [3; PAGE]);
    // Our own layer refuses what is past the end: the process would read its own memory there, or die.
    let refused = |what: &str, reach: &dyn Fn()| {
        let reached = catch_unwind(AssertUnwindSafe(reach));
        assert!(reached.is_err(), "{what} past the end");
    };
    for offset in [PAGE, PAGE + 4, 2 * PAGE, usize::MAX & !3] {
        refused("load", &|| {
            mapping.load_u32(offset);
        });
        refused("store", &|| mapping.store_u32(offset, 0));
    }
    for offset in [PAGE - 1, PAGE, usize::MAX] {
        refused("read", &|| mapping.read(offset, &mut [0; 2]));
        refused("write", &|| mapping.write(offset, &[3; 2]));
    }
    // So does a copy, element by element.
    let (last, past) = (PAGE as u16 - 1, PAGE as u16);
    let (mut one, mut two) = ([0], [0; 2]);
    let mut ops = [
        GrantCopy::from_peer(gref, last, &mut two),
        GrantCopy::to_peer(gref, last, &[0xBB; 2]),
        GrantCopy::to_peer(gref, past, &[0xBB]),
        GrantCopy::to_peer(gref, u16::MAX, &[0xBB]),
        GrantCopy::to_peer(gref, 0, &[0xBB; PAGE + 1]),
        GrantCopy::from_peer(gref, last, &mut one),
    ];
    b.copy(a.domid(), &mut ops).expect("the platform works");
    let [bad @ .., good] = ops.each_ref().map(|op| op.status);
    assert_eq!(bad, [GrantStatus::BAD_COPY_ARG; 5]);
    assert_eq!((good, one), (GrantStatus::OKAY, [3]));
    for (page, value) in pages.iter().zip(1..) {
        assert_eq!(bytes(page), [value; PAGE], "page {value}");
    }
}

/// References that grant nothing to `B`: reserved ones, those of the kernel, those of others, and some that no table has.
fn bad_references<W: Lives>(world: &mut W) {
    let (a, b, c) = (
        world.domain(Who::A),
        world.domain(Who::B),
        world.domain(Who::C),
    );
    let own = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let others = a.alloc(c.domid(), Access::ReadWrite).expect("a page");
    // Granted to B as well, but by C, and under a number that A has not given to B.
    let foreign: Vec<_> = (0..MANY)
        .map(|_| c.alloc(b.domid(), Access::ReadWrite).expect("a page"))
        .collect();
    let of_a = own.grant_ref();
    let foreign = foreign.iter().map(Granted::grant_ref);
    let mut bad: Vec<u32> = vec![
        others.grant_ref().get(),
        0x7FFF_FFFF,
        0x8000_0000,
        u32::MAX - 1,
        u32::MAX,
        of_a.get() | 1 << 16,
        of_a.get() | 1 << 31,
    ];
    if b.domid() != DomId::DOM0 {
        // dom0 is granted more than B asked for: the pages of the console and of XenStore, and whatever the agent has.
        bad.extend([0, 1]);
        bad.extend(foreign.filter(|gref| *gref != of_a).map(GrantRef::get));
    }
    bad.extend((2..8).filter(|gref| *gref != of_a.get()));
    for gref in bad {
        assert_unreachable(&b, a.domid(), GrantRef::new(gref));
    }
    let refs: Vec<_> = [of_a, GrantRef::new(u32::MAX), of_a].to_vec();
    assert!(b.map(a.domid(), &refs, Access::ReadWrite).is_err());
    assert_works(world);
}

/// Numbers of domains that name none, or none that granted anything.
fn bad_domains<W: Lives>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let port = a.alloc_unbound(b.domid()).expect("a port");
    let nobody = [
        0x7FEF, 0x7FF0, 0x7FF1, 0x7FF2, 0x7FF4, 0x7FFF, 0x8000, 0xFFFF,
    ];
    for domid in nobody.map(DomId::new) {
        assert!(b.map(domid, &[page.grant_ref()], Access::ReadOnly).is_err());
        let mut room = [0];
        let mut ops = [GrantCopy::from_peer(page.grant_ref(), 0, &mut room)];
        let copied = b.copy(domid, &mut ops);
        assert!(
            copied.is_err() || !ops[0].status.is_okay(),
            "domain {domid}"
        );
        assert!(b.bind(domid, port.port()).is_err(), "domain {domid}");
    }
    // The page is there; only the name of its owner was wrong.
    let refs = [page.grant_ref()];
    drop(b.map(a.domid(), &refs, Access::ReadWrite).expect("mapped"));
    assert_works(world);
}

/// Ports of A's that belong to its kernel, to dom0, or to C.
fn ports_of_others<W: Lives>(world: &mut W) {
    let (a, b, c) = (
        world.domain(Who::A),
        world.domain(Who::B),
        world.domain(Who::C),
    );
    let for_b = a.alloc_unbound(b.domid()).expect("a port");
    let for_c = a.alloc_unbound(c.domid()).expect("a port");
    let wild = [4095, 4096, 0x1_0000, 0x2_0000, 0x7FFF_FFFF, u32::MAX];
    let own = for_b.port().get();
    for port in (0..48).chain(wild).filter(|port| *port != own) {
        let bound = b.bind(a.domid(), EvtchnPort::new(port));
        assert!(bound.is_err(), "port {port} of domain {}", a.domid());
    }
    assert!(c.bind(a.domid(), for_b.port()).is_err());
    assert!(b.bind(a.domid(), for_c.port()).is_err());
    let theirs = b.bind(a.domid(), for_b.port()).expect("its own");
    assert!(b.bind(a.domid(), for_b.port()).is_err(), "bound twice");
    world.rung(&theirs);
    for_b.notify().expect("rung");
    assert!(world.rung(&theirs));
    assert!(!world.rung(&for_c));
    assert_works(world);
}

/// A side that rings without end, and without anything to say, is heard once.
fn storm<W: Lives>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let ours = a.alloc_unbound(b.domid()).expect("a port");
    let theirs = b.bind(a.domid(), ours.port()).expect("bound");
    let quiet = a.alloc_unbound(b.domid()).expect("a port");
    let beside = b.bind(a.domid(), quiet.port()).expect("bound");
    world.rung(&theirs);
    world.rung(&beside);
    for _ in 0..300 {
        ours.notify().expect("rung");
    }
    world.settle();
    // Masked from the first event until it was served: no matter how often the other side rings.
    assert!(theirs.take_pending().expect("the platform works"));
    for _ in 0..100 {
        ours.notify().expect("rung");
    }
    world.settle();
    quiet.notify().expect("rung");
    assert!(world.rung(&beside), "a port beside the storm");
    theirs.unmask().expect("the platform works");
    world.rung(&theirs);
    assert!(!world.rung(&theirs), "it is over");
    assert_works(world);
}

/// A domain that grants until there is nothing left harms itself, and only as long as it does.
fn exhaustion<W: Lives>(world: &mut W) {
    let (a, b, c) = (
        world.domain(Who::A),
        world.domain(Who::B),
        world.domain(Who::C),
    );
    let mut pages = Vec::new();
    let error = loop {
        match a.alloc(b.domid(), Access::ReadWrite) {
            Ok(page) => pages.push(page),
            Err(error) => break error,
        }
        assert!(pages.len() <= 100_000, "there is no end");
    };
    assert!(
        matches!(error, GrantError::Exhausted { peer, .. } if peer == b.domid()),
        "after {} pages: {error}",
        pages.len()
    );
    drop(
        c.alloc(b.domid(), Access::ReadWrite)
            .expect("its own table"),
    );
    drop(pages);
    world.settle();
    assert_works(world);
}

/// The granter's domain is destroyed under a mapping: what is mapped stays, and nothing else of it.
fn destroyed_while_mapped<W: Lives>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let beside = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let port = a.alloc_unbound(b.domid()).expect("a port");
    page.write(0, &[4; PAGE]);
    let mapping = b.map(a.domid(), &[page.grant_ref()], Access::ReadWrite);
    let mapping = mapping.expect("mapped");
    let theirs = b.bind(a.domid(), port.port()).expect("bound");
    world.rung(&theirs);
    let (a, beside_ref, port_number) = (a.domid(), beside.grant_ref(), port.port());
    world.destroy(Who::A);
    drop((page, beside, port));
    assert_eq!(bytes(&mapping), [4; PAGE]);
    mapping.write(0, &[5; PAGE]);
    theirs.notify().expect("nobody is there, and that is fine");
    assert!(b.map(a, &[beside_ref], Access::ReadOnly).is_err());
    assert!(b.bind(a, port_number).is_err());
    drop((mapping, theirs));
    let c = world.domain(Who::C);
    let page = c.alloc(b.domid(), Access::ReadWrite).expect("a page");
    let refs = [page.grant_ref()];
    drop(b.map(c.domid(), &refs, Access::ReadWrite).expect("mapped"));
}
