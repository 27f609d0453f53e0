//! Our frontend against our backend with all that both can do: large rings, long requests, several queues, discards, a resize,
//! and a guest that is restored in the middle of it.

use ringfence_blkback::sink::IoOp;
use ringfence_blkfront::{Event, Frontend, ManyFrontend, Op, Shared};
use ringfence_core::ids::{DomId, Sector, SectorCount};
use ringfence_core::store::{StoreExt, Tx};
use ringfence_core::{PAGE, SharedMem};
use ringfence_sim::Sim;
use ringfence_tests::blkback_rig::{BACK, Guest, Rig, SECTORS};

const FRONT: u16 = 7;
type Large = Frontend<Sim, 64, 40>;

/// One disk of the rig's, and a frontend for it.
struct Pair {
    rig: Rig,
    guest: Guest,
    front: Large,
}

impl Pair {
    fn new() -> Self {
        let mut rig = Rig::new();
        let guest = rig.attach(FRONT, 51712, "w");
        let front = Large::with_limits(guest.sim.clone(), &guest.dir).expect("a short path");
        Self { rig, guest, front }
    }

    /// Lets both sides work until they rest.
    fn settle(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..20 {
            self.rig.settle();
            let (front, store) = (&mut self.front, &mut self.guest.store);
            events.extend(std::iter::from_fn(|| front.step(store).expect("a store")));
        }
        events
    }

    /// Every request that is over, all of which succeeded.
    fn reap(&mut self) -> usize {
        let mut over = 0;
        loop {
            self.rig.settle();
            match self.front.reap().expect("honest") {
                Some(done) => assert_eq!(done.result, Ok(())),
                None if self.front.in_flight() == 0 => return over,
                None => assert!(self.front.kick().is_ok()),
            }
            over += 1;
            assert!(over < 10_000, "no end");
        }
    }

    fn write(&mut self, sector: u64, pages: usize, seed: u8) {
        let mut buffer = self.front.buffer(pages).expect("pages");
        buffer.write_at(0, &pattern(pages, seed)).expect("fits");
        let submitted = self.front.submit(Op::Write, Sector::new(sector), buffer);
        submitted.expect("room");
    }

    fn bytes(&self, sector: usize, len: usize) -> Vec<u8> {
        let disk = self.rig.disks.of(&self.guest.back_dir);
        let disk = disk.borrow();
        disk.bytes[sector * 512..][..len].to_vec()
    }
}

fn pattern(pages: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at / 512) as u8 ^ (at as u8) ^ seed;
    (0..pages * PAGE).map(byte).collect()
}

#[test]
fn long_requests_on_a_large_ring() {
    let mut pair = Pair::new();
    let events = pair.settle();
    let [Event::Connected(info)] = events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((info.max_pages, info.discard.is_some()), (40, true));
    let order = pair.rig.node(&pair.guest.dir, "ring-page-order");
    assert_eq!(order.as_deref(), Some("1"));
    // More than a page of the ring holds, all at once.
    for n in 0..48 {
        pair.write(n * 8, 1, n as u8);
    }
    pair.write(400, 40, 99);
    pair.front.kick().expect("a bell");
    pair.reap();
    for n in 0..48 {
        assert_eq!(pair.bytes(n * 8, PAGE), pattern(1, n as u8));
    }
    assert_eq!(pair.bytes(400, 40 * PAGE), pattern(40, 99));
    assert_eq!(pair.front.counters().requests, 49);
    let sectors = SectorCount::new(16);
    pair.front
        .discard(Sector::new(408), sectors, true)
        .expect("room");
    pair.front.kick().expect("a bell");
    pair.reap();
    assert_eq!(pair.bytes(408, 16 * 512), vec![0; 16 * 512]);
    pair.front.close();
    assert_eq!(pair.settle().last(), Some(&Event::Closed));
    let usage = pair.rig.world.usage(DomId::new(FRONT));
    assert_eq!(
        (usage.granted, usage.quarantined),
        (1, 0),
        "the rig's own page"
    );
}

#[test]
fn a_guest_that_is_restored_in_the_middle_loses_nothing() {
    let mut pair = Pair::new();
    pair.settle();
    for n in 0..12 {
        pair.write(n * 80, 10, n as u8);
    }
    pair.front.flush().expect("room");
    pair.write(0, 10, 77);
    pair.front.kick().expect("a bell");
    // Nothing of it is served. The toolstack of where the guest comes to makes its nodes anew.
    let dir = pair.guest.dir.clone();
    for node in [
        "ring-page-order",
        "num-ring-pages",
        "ring-ref0",
        "ring-ref1",
        "event-channel",
    ] {
        let path = format!("{dir}/{node}");
        ringfence_core::store::Store::rm(&mut pair.rig.toolstack, Tx::NONE, &path)
            .expect("dom0 may");
    }
    let written = pair.rig.toolstack.write_str(Tx::NONE, &dir, "state", "1");
    written.expect("dom0 may");
    pair.front.resume().expect("a short path");
    let events = pair.settle();
    assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
    assert_eq!(pair.reap(), 14);
    assert_eq!(pair.front.counters().repeated, 14);
    for n in 1..12 {
        assert_eq!(pair.bytes(n * 80, 10 * PAGE), pattern(10, n as u8));
    }
    assert_eq!(pair.bytes(0, 10 * PAGE), pattern(10, 77), "the later one");
    assert_eq!(
        pair.rig.usage().mapped,
        2,
        "the ring, and nothing of before"
    );
}

#[test]
fn every_queue_reaches_the_disk() {
    let mut rig = Rig::new();
    let mut guest = rig.attach(FRONT, 51712, "w");
    let mut shared = Shared::<_, 4>::new();
    let split = shared.split::<32, 11>(guest.sim.clone(), &guest.dir);
    let (mut front, mut queues) = split.expect("a short path");
    let mut settle = |rig: &mut Rig, front: &mut ManyFrontend<&Shared<Sim, 4>, Sim, 4>| {
        let mut events = Vec::new();
        for _ in 0..20 {
            rig.settle();
            let store = &mut guest.store;
            events.extend(std::iter::from_fn(|| front.step(store).expect("a store")));
        }
        events
    };
    let events = settle(&mut rig, &mut front);
    assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
    let count = rig.node(front.dir(), "multi-queue-num-queues");
    assert_eq!(count.as_deref(), Some("4"));
    for queue in &mut queues {
        let n = queue.number();
        let mut turn = queue.turn();
        let mut buffer = turn.buffer(11).expect("pages");
        buffer.write_at(0, &pattern(11, n as u8)).expect("fits");
        let sector = Sector::new(n as u64 * 88);
        turn.submit(Op::Write, sector, buffer).expect("room");
        turn.kick().expect("a bell");
    }
    rig.settle();
    for queue in &mut queues {
        let done = queue.turn().reap().expect("honest").expect("answered");
        assert_eq!(done.result, Ok(()));
    }
    let disk = rig.disks.of(&ringfence_tests::blkback_rig::backend_dir(
        DomId::new(FRONT),
        51712,
    ));
    for n in 0..4 {
        let bytes = &disk.borrow().bytes[n * 88 * 512..][..11 * PAGE];
        assert_eq!(bytes, pattern(11, n as u8));
    }
    // Below all queues is one disk: a flush on any of them covers what was answered on the others.
    {
        let mut turn = queues[1].turn();
        turn.flush().expect("room");
        turn.kick().expect("a bell");
    }
    rig.settle();
    let done = queues[1].turn().reap().expect("honest").expect("answered");
    assert_eq!((done.op, done.result), (Op::Flush, Ok(())));
    let last = disk.borrow().seen.last().copied();
    assert_eq!((disk.borrow().opened, last), (1, Some((IoOp::Flush, 0))));
    front.close();
    let events = settle(&mut rig, &mut front);
    assert_eq!(events.last(), Some(&Event::Closed));
    for queue in &mut queues {
        assert!(queue.turn().info().is_none());
    }
    let usage = rig.world.usage(DomId::new(FRONT));
    assert_eq!(
        (usage.granted, usage.quarantined),
        (1, 0),
        "the rig's own page"
    );
    let usage = rig.world.usage(BACK);
    assert_eq!((usage.mapped, usage.ports), (0, 0));
    assert_eq!(guest.page.len(), PAGE);
    const { assert!(SECTORS >= 4 * 88) };
}
