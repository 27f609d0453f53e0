//! E: event channels.

use ringfence_core::EvtchnPort;
use ringfence_core::platform::{Channel, EvtchnError, Platform};

use super::world::{Who, World, domids, heard};

type ChannelOf<W> = <<W as World>::Platform as Platform>::Channel;

/// Both ends of a channel from A to B, with nothing pending.
pub(super) fn connect<W: World>(world: &W) -> (ChannelOf<W>, ChannelOf<W>) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let ours = a.alloc_unbound(b.domid()).expect("a port");
    let theirs = b.bind(a.domid(), ours.port()).expect("bound");
    assert!(heard(world, &theirs), "pending after the bind");
    (ours, theirs)
}

fn assert_refused<P: Platform>(by: &P, of: &P, port: EvtchnPort) {
    match by.bind(of.domid(), port) {
        Err(EvtchnError::Refused {
            peer,
            port: refused,
        }) => {
            assert_eq!((peer, refused), (of.domid(), port));
        }
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("port {port} was bound by domain {}", by.domid()),
    }
}

pub(super) fn e1<W: World>(world: &mut W) {
    let (ours, theirs) = connect(world);
    assert!(!world.rung(&ours) && !world.rung(&theirs));
    for _ in 0..3 {
        ours.notify().expect("rung");
        assert!(heard(world, &theirs));
        assert!(!world.rung(&ours), "the own end rang");
        theirs.notify().expect("rung");
        assert!(heard(world, &ours));
        assert!(!world.rung(&theirs), "the own end rang");
    }
}

pub(super) fn e2<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let ours = a.alloc_unbound(b.domid()).expect("a port");
    let theirs = b.bind(a.domid(), ours.port()).expect("bound");
    assert!(heard(world, &theirs), "pending after the bind");
    assert!(!world.rung(&theirs), "pending twice");
    assert!(!world.rung(&ours), "the allocator's end rang");
}

pub(super) fn e3<W: World>(world: &mut W) {
    let (ours, theirs) = connect(world);
    for count in [1, 2, 1000] {
        for _ in 0..count {
            ours.notify().expect("rung");
        }
        assert!(heard(world, &theirs), "{count} notifications");
        // A system that has taken the first one itself has the rest as one more.
        let more = world.rung(&theirs);
        assert!(!more || count > 1, "one notification rang twice");
        assert!(!world.rung(&theirs), "{count} notifications");
    }
}

pub(super) fn e4<W: World>(world: &mut W) {
    let (a, b, c) = (
        world.domain(Who::A),
        world.domain(Who::B),
        world.domain(Who::C),
    );
    let ours = a.alloc_unbound(b.domid()).expect("a port");
    assert_refused(&c, &a, ours.port());
    for none in [0, ours.port().get() ^ 0x400, u32::MAX] {
        assert_refused(&b, &a, EvtchnPort::new(none));
    }
    let theirs = b.bind(a.domid(), ours.port()).expect("for its peer");
    assert_refused(&b, &a, ours.port());
    // None of the attempts has broken the channel.
    assert!(heard(world, &theirs), "pending after the bind");
    ours.notify().expect("rung");
    assert!(heard(world, &theirs));
}

pub(super) fn e5<W: World>(world: &mut W) {
    let (ours, theirs) = connect(world);
    let (b, c, [a, ..]) = (world.domain(Who::B), world.domain(Who::C), domids(world));
    drop(theirs);
    world.settle();
    ours.notify().expect("nobody is there, and that is fine");
    assert!(c.bind(a, ours.port()).is_err(), "not the peer");
    let theirs = b.bind(a, ours.port()).expect("unbound again");
    assert!(heard(world, &theirs));
    ours.notify().expect("rung");
    assert!(heard(world, &theirs));
    theirs.notify().expect("rung");
    assert!(heard(world, &ours));
}

pub(super) fn e6<W: World>(world: &mut W) {
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let ours = a.alloc_unbound(b.domid()).expect("a port");
    let port = ours.port();
    drop(ours);
    world.settle();
    assert_refused(&b, &a, port);
    // Also when it was bound: the binder's end then rings nobody.
    let (ours, theirs) = connect(world);
    let port = ours.port();
    drop(ours);
    world.settle();
    theirs.notify().expect("nobody is there, and that is fine");
    assert_refused(&b, &a, port);
    // Numbers are not used up.
    for _ in 0..200 {
        let (ours, theirs) = connect(world);
        ours.notify().expect("rung");
        assert!(heard(world, &theirs));
        drop((ours, theirs));
        world.settle();
    }
}
