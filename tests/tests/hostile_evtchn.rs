//! THREATS F, as far as a platform is concerned: doorbells that come at the wrong moment.

use ringfence_core::DomId;
use ringfence_core::platform::{Channel, Platform as _};
use ringfence_sim::{Adversary, Limits, Sim, SimChannel, World};

const FRONT: DomId = DomId::new(1);
const BACK: DomId = DomId::new(2);

fn rung(channel: &SimChannel) -> bool {
    let rung = channel.take_pending().expect("the platform works");
    channel.unmask().expect("the platform works");
    rung
}

fn connect(front: &Sim, back: &Sim) -> (SimChannel, SimChannel) {
    let ours = front.alloc_unbound(back.domid()).expect("a port");
    let theirs = back.bind(front.domid(), ours.port()).expect("bound");
    assert!(rung(&theirs), "pending once after the bind");
    (ours, theirs)
}

#[test]
fn xsa_331_a_late_event_does_not_reach_the_next_channel_of_that_port() {
    // Everything arrives at once, and again later.
    let late = Adversary {
        delay: 0,
        duplicate: 100,
        merge: 0,
    };
    let world = World::with(1, late, Limits::DEFAULT);
    let (front, back) = (world.domain(FRONT), world.domain(BACK));
    let (ours, theirs) = connect(&front, &back);
    let port = theirs.port();
    ours.notify().expect("rung");
    assert_eq!(world.doorbells(), 1, "one is under way");
    drop((ours, theirs));
    // Allocated and not bound, so that nothing is pending and no tick has passed.
    let next = back.alloc_unbound(FRONT).expect("a port");
    assert_eq!(next.port(), port, "the number is used again");
    assert_eq!(world.doorbells(), 1, "still under way");
    world.settle();
    assert_eq!(world.doorbells(), 0);
    assert!(!rung(&next), "the event was for the channel before");
}

#[test]
fn xsa_331_ports_close_and_open_while_events_pour_in() {
    let world = World::hostile(331);
    let (front, back) = (world.domain(FRONT), world.domain(BACK));
    let (steady, steady_back) = connect(&front, &back);
    for _ in 0..300 {
        let (ours, theirs) = connect(&front, &back);
        for _ in 0..5 {
            ours.notify().expect("rung");
            theirs.notify().expect("rung");
        }
        drop(theirs);
        ours.notify().expect("nobody is there, and that is fine");
        let again = back.bind(FRONT, ours.port()).expect("unbound again");
        drop(ours);
        again.notify().expect("nobody is there, and that is fine");
        // The neighbour is served all the time.
        steady.notify().expect("rung");
        world.settle();
        assert!(rung(&steady_back));
    }
    assert_eq!(world.usage(FRONT).ports, 1);
    assert_eq!(world.usage(BACK).ports, 1);
}
