//! A disk with several queues, each with an owner of its own.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::thread;

use ringfence_blkfront::{
    Event, Fault, IoError, ManyFrontend, Op, PeerFault, QueueHandle, Reason, Shared,
};
use ringfence_core::wire::blkif::{Op as WireOp, Status};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{PAGE, Sector};
use ringfence_sim::{Fault as Failure, Sim};
use ringfence_tests::blkfront_rig::{FRONT, FRONT_DIR, Peer, Rig, response};

const QUEUES: usize = 4;
type Parts = Shared<Sim, QUEUES>;
type Front<S> = ManyFrontend<S, Sim, QUEUES>;
type Queue<S> = QueueHandle<S, Sim, QUEUES, 32, 12>;

/// The rig's world and backend with another frontend.
struct Many<S: Deref<Target = Parts>> {
    rig: Rig,
    front: Front<S>,
    queues: Vec<Queue<S>>,
    peers: Vec<Peer>,
}

impl<'s> Many<&'s Parts> {
    fn new(shared: &'s mut Parts) -> Self {
        let rig = Rig::new();
        let guest = rig.world.domain(FRONT);
        let split = shared.split(guest, "device/vbd/51712");
        let (front, queues) = split.expect("a short path");
        Self {
            rig,
            front,
            queues: queues.into(),
            peers: Vec::new(),
        }
    }
}

impl Many<Rc<Parts>> {
    /// With no more queues than that.
    fn counted(queues: usize) -> Self {
        let rig = Rig::new();
        let guest = rig.world.domain(FRONT);
        let made = Front::counted(Rc::new, guest, "device/vbd/51712", queues);
        let (front, queues) = made.expect("a short path");
        Self {
            rig,
            front,
            queues: queues.collect(),
            peers: Vec::new(),
        }
    }
}

impl<S: Deref<Target = Parts>> Many<S> {
    fn events(&mut self) -> Vec<Event> {
        let (front, store) = (&mut self.front, &mut self.rig.store);
        std::iter::from_fn(|| front.step(store).expect("the world works")).collect()
    }

    /// Connects to a backend that takes so many queues.
    fn connect(&mut self, offer: &str) {
        self.rig.node("multi-queue-max-queues", offer);
        self.rig.state(XenbusState::InitWait);
        assert_eq!(self.events(), []);
        assert_eq!(self.rig.front_state(), "3");
        let count = self.rig.get(&format!("{FRONT_DIR}/multi-queue-num-queues"));
        self.peers = match count.parse() {
            Err(_) => vec![self.rig.attach_to(FRONT_DIR)],
            Ok(count) => (0..count)
                .map(|n: usize| self.rig.attach_to(&format!("{FRONT_DIR}/queue-{n}")))
                .collect(),
        };
        self.rig.describe();
        self.rig.state(XenbusState::Connected);
        let events = self.events();
        assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
    }

    fn close_back(&mut self) {
        self.peers.clear();
        self.rig.state(XenbusState::Closed);
    }

    /// Submits on a queue and shows it.
    fn submit(&mut self, n: usize, op: Op, sector: u64, fill: u8) -> Result<(), Reason> {
        let mut queue = self.queues[n].turn();
        let mut buffer = queue.buffer(1).map_err(|_| Reason::NotConnected)?;
        buffer.write_at(0, &[fill; PAGE]).expect("it fits");
        queue
            .submit(op, Sector::new(sector), buffer)
            .map_err(|r| r.reason)?;
        queue.kick().expect("a live world");
        Ok(())
    }

    fn serve(&mut self) {
        for peer in &mut self.peers {
            self.rig.serve_on(peer);
        }
    }

    fn reap(&mut self, n: usize) -> Vec<Result<(), IoError>> {
        let mut queue = self.queues[n].turn();
        let reap = || queue.reap().expect("no lie on the ring");
        std::iter::from_fn(reap).map(|done| done.result).collect()
    }

    /// What the backend finds on a ring.
    fn taken(&mut self, n: usize) -> Vec<WireOp> {
        let peer = &mut self.peers[n];
        let taken: Vec<_> = std::iter::from_fn(|| peer.take()).collect();
        for request in &taken {
            self.rig.transfer(request);
            peer.answer(response(request.id, request.operation, Status::OKAY));
        }
        taken.iter().map(|request| request.operation).collect()
    }
}

#[test]
fn every_queue_has_a_ring_and_a_port_of_its_own() {
    let mut shared = Shared::new();
    let mut many = Many::new(&mut shared);
    many.connect("8");
    assert_eq!(many.peers.len(), QUEUES);
    for flat in ["ring-ref", "event-channel"] {
        assert_eq!(many.rig.get(&format!("{FRONT_DIR}/{flat}")), "");
    }
    for n in 0..QUEUES {
        many.submit(n, Op::Write, n as u64 * 8, n as u8 + 1)
            .expect("room");
        assert_eq!(many.taken(n), [WireOp::WRITE]);
        assert_eq!(many.reap(n), [Ok(())]);
        assert_eq!(many.rig.disk[n * PAGE], n as u8 + 1);
    }
    let usage = many.rig.world.usage(FRONT);
    assert_eq!((usage.granted, usage.ports), (QUEUES, QUEUES));
    many.front.close();
    assert_eq!(many.events(), [Event::Closing]);
    many.close_back();
    assert_eq!(many.events(), [Event::Disconnected, Event::Closed]);
    for queue in &mut many.queues {
        assert!(queue.turn().info().is_none());
    }
    let usage = many.rig.world.usage(FRONT);
    assert_eq!((usage.granted, usage.quarantined, usage.ports), (0, 0, 0));
}

#[test]
fn no_more_queues_than_the_backend_takes() {
    for (offer, queues) in [("0", 1), ("1", 1), ("2", 2), ("4", 4), ("4294967295", 4)] {
        let mut shared = Shared::new();
        let mut many = Many::new(&mut shared);
        many.connect(offer);
        assert_eq!(many.peers.len(), queues, "{offer}");
        let flat = many.rig.get(&format!("{FRONT_DIR}/ring-ref"));
        assert_eq!(flat.is_empty(), queues > 1);
        for n in 0..QUEUES {
            let submitted = many.submit(n, Op::Read, 0, 0);
            let there = if n < queues {
                Ok(())
            } else {
                Err(Reason::NotConnected)
            };
            assert_eq!(submitted, there, "queue {n} of {offer}");
        }
    }
}

#[test]
fn no_more_queues_than_were_asked_for_and_none_waits_for_those_that_are_not_there() {
    for (asked, queues) in [(0, 1), (1, 1), (2, 2), (4, 4), (5, 4)] {
        let mut many = Many::counted(asked);
        assert_eq!(many.queues.len(), queues);
        many.connect("8");
        assert_eq!(many.peers.len(), queues, "{asked}");
        for n in 0..queues {
            many.submit(n, Op::Write, n as u64 * 8, 7).expect("room");
        }
        let channel = many.queues[queues - 1].queue().channel();
        assert!(channel.is_some(), "what its last turn left");
        many.close_back();
        assert_eq!(many.events(), [Event::Closing, Event::Disconnected]);
        many.connect("8");
        // All say what is to be repeated on them, before anything is.
        for _ in 0..2 {
            many.queues.iter_mut().for_each(|queue| drop(queue.turn()));
        }
        many.serve();
        for n in 0..queues {
            assert_eq!(many.reap(n), [Ok(())], "queue {n} of {asked}");
        }
    }
}

#[test]
fn with_pages_for_fewer_queues_there_are_fewer() {
    for (nth, queues) in [(1, 1), (2, 2), (3, 3)] {
        let mut shared = Shared::new();
        let mut many = Many::new(&mut shared);
        many.rig.world.inject(Failure::Alloc { nth, errno: 12 });
        many.connect("4");
        assert_eq!(many.peers.len(), queues);
        many.submit(queues - 1, Op::Write, 0, 9).expect("room");
        many.serve();
        assert_eq!(many.reap(queues - 1), [Ok(())]);
    }
}

#[test]
fn a_closing_device_waits_for_the_answers_on_every_queue() {
    let mut shared = Shared::new();
    let mut many = Many::new(&mut shared);
    many.connect("4");
    for n in [1, 3] {
        many.submit(n, Op::Write, 0, 1).expect("room");
    }
    many.front.close();
    assert_eq!(many.events(), [Event::Closing]);
    assert_eq!(many.rig.front_state(), "5");
    assert_eq!(many.submit(0, Op::Read, 0, 0), Err(Reason::NotConnected));
    many.serve();
    assert_eq!(many.reap(3), [Ok(())]);
    assert_eq!(many.events(), []);
    assert_eq!(many.rig.front_state(), "5");
    assert_eq!(many.reap(1), [Ok(())]);
    assert_eq!(many.events(), []);
    assert_eq!(many.rig.front_state(), "6");
}

/// The fence goes alone over all queues: after what was before it on any, before what came after it on any.
#[test]
fn what_is_repeated_keeps_its_order_over_all_queues() {
    for fence in [Op::Barrier, Op::Flush] {
        let mut shared = Shared::new();
        let mut many = Many::new(&mut shared);
        many.connect("4");
        many.submit(0, Op::Write, 0, 1).expect("room");
        many.submit(3, Op::Write, 8, 2).expect("room");
        if fence == Op::Barrier {
            many.submit(1, Op::Barrier, 16, 3).expect("room");
        } else {
            let mut queue = many.queues[1].turn();
            queue.flush().expect("room");
            queue.kick().expect("a live world");
        }
        many.submit(2, Op::Write, 24, 4).expect("room");
        many.submit(0, Op::Write, 32, 5).expect("room");
        many.close_back();
        assert_eq!(many.events(), [Event::Closing, Event::Disconnected]);
        many.connect("4");
        let mut groups = Vec::new();
        for _ in 0..20 {
            // Whoever has a turn first: the order is that of the requests.
            for n in [2, 1, 0, 3] {
                let _ = many.queues[n].turn();
            }
            if groups.len() < 2 {
                let refused = many.submit(3, Op::Read, 0, 0);
                assert!(
                    matches!(refused, Err(Reason::Repeating { .. })),
                    "{refused:?}"
                );
            }
            let group: Vec<_> = (0..QUEUES).map(|n| many.taken(n).len()).collect();
            if group.iter().sum::<usize>() > 0 {
                groups.push(group);
            }
            for n in 0..QUEUES {
                many.reap(n);
            }
        }
        assert_eq!(groups, [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0]]);
        many.submit(3, Op::Read, 0, 0).expect("all is repeated");
    }
}

#[test]
fn what_is_between_two_pieces_goes_on_with_other_pages_and_with_all_data() {
    for closing in [false, true] {
        let mut shared = Shared::new();
        let mut many = Many::new(&mut shared);
        many.connect("4");
        many.rig.disk[..12 * PAGE].fill(7);
        let mut queue = many.queues[2].turn();
        let buffer = queue.buffer(12).expect("pages enough");
        let submitted = queue.submit(Op::Read, Sector::new(0), buffer);
        submitted.expect("room");
        queue.kick().expect("a live world");
        drop(queue);
        if closing {
            many.rig.state(XenbusState::Closing);
            assert_eq!(many.events(), [Event::Closing]);
        }
        assert_eq!(many.taken(2), [WireOp::READ]);
        assert_eq!(many.reap(2), []);
        let next = many.peers[2].take();
        assert_eq!(next.is_none(), closing);
        many.close_back();
        assert_eq!(many.events().last(), Some(&Event::Disconnected));
        many.connect("4");
        let mut over = Vec::new();
        for _ in 0..4 {
            for n in 0..QUEUES {
                let mut queue = many.queues[n].turn();
                over.extend(queue.reap().expect("no lie on the ring"));
            }
            many.serve();
        }
        let [done] = &over[..] else {
            panic!("{over:?}");
        };
        assert_eq!(done.result, Ok(()));
        let mut back = vec![0; 12 * PAGE];
        let buffer = done.buffer.as_ref().expect("a read has one");
        buffer.read_at(0, &mut back).expect("in range");
        assert!(back.iter().all(|byte| *byte == 7), "both pieces");
        assert_eq!(many.queues[2].queue().counters().repeated, 1);
    }
}

#[test]
fn queues_that_the_next_backend_does_not_take_give_up() {
    let mut shared = Shared::new();
    let mut many = Many::new(&mut shared);
    many.connect("4");
    for n in 0..QUEUES {
        many.submit(n, Op::Write, n as u64 * 8, 7).expect("room");
    }
    many.close_back();
    assert_eq!(many.events(), [Event::Closing, Event::Disconnected]);
    many.connect("2");
    // All take note before anything is repeated.
    for n in (0..QUEUES).rev() {
        let _ = many.queues[n].turn();
    }
    for n in 0..QUEUES {
        let _ = many.queues[n].turn();
    }
    many.serve();
    for n in 0..QUEUES {
        let expected = if n < 2 { Ok(()) } else { Err(IoError::Aborted) };
        assert_eq!(many.reap(n), [expected], "queue {n}");
    }
}

#[test]
fn xsa_376_a_lie_on_one_queue_disables_all() {
    let mut shared = Shared::new();
    let mut many = Many::new(&mut shared);
    many.connect("4");
    for n in 0..QUEUES {
        many.submit(n, Op::Read, 0, 0).expect("room");
    }
    let fault = PeerFault::NotInFlight { id: 9 };
    many.peers[2].take().expect("a request");
    many.peers[2].answer(response(9, WireOp::READ, Status::OKAY));
    assert_eq!(many.queues[2].turn().reap().map(|_| ()), Err(fault));
    assert_eq!(many.events(), [Event::Failed(Fault::Peer(fault))]);
    assert_eq!(many.submit(0, Op::Read, 0, 0), Err(Reason::NotConnected));
    many.close_back();
    assert_eq!(many.events(), [Event::Disconnected, Event::Closed]);
    for n in 0..QUEUES {
        let over = many.queues[n].turn().reap().expect("handed back");
        let result = over.map(|done| done.result);
        assert_eq!(result, Some(Err(IoError::Aborted)), "queue {n}");
    }
    assert_eq!(many.rig.world.usage(FRONT).granted, 0);
}

/// Counts how often it was woken.
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn owners_that_sleep_are_woken_by_what_concerns_them() {
    let mut shared = Shared::new();
    let mut many = Many::new(&mut shared);
    let counts: Vec<_> = (0..QUEUES)
        .map(|_| Arc::new(Count(AtomicU64::new(0))))
        .collect();
    for (queue, count) in many.queues.iter().zip(&counts) {
        queue.set_waker(Waker::from(Arc::clone(count)));
    }
    let woken = || {
        counts
            .iter()
            .map(|count| count.0.swap(0, Ordering::Relaxed))
            .min()
    };
    many.connect("4");
    assert!(woken() > Some(0), "there is a connection");
    many.submit(0, Op::Write, 0, 1).expect("room");
    {
        let mut queue = many.queues[1].turn();
        queue.flush().expect("room");
        queue.kick().expect("a live world");
    }
    many.close_back();
    many.events();
    assert!(woken() > Some(0), "it is gone");
    many.connect("4");
    for n in 0..QUEUES {
        let _ = many.queues[n].turn();
    }
    let _ = many.queues[0].turn();
    assert_eq!(many.taken(0), [WireOp::WRITE]);
    let _ = woken();
    assert_eq!(many.taken(1), []);
    many.reap(0);
    assert!(woken() > Some(0), "the flush may go");
    let _ = many.queues[1].turn();
    assert_eq!(many.taken(1), [WireOp::FLUSH_DISKCACHE]);
}

/// One owner: writes a number to one of its own blocks and reads it back, over and over.
fn own(mut queue: Queue<&Parts>, rounds: u64) -> u64 {
    let base = queue.number() as u64 * 8;
    let (mut done, mut open) = (0, false);
    while done < rounds {
        let (pair, op) = (done / 2, [Op::Write, Op::Read][done as usize % 2]);
        {
            let mut turn = queue.turn();
            if !open && let Ok(mut buffer) = turn.buffer(1) {
                if op == Op::Write {
                    buffer.write_at(0, &pair.to_le_bytes()).expect("it fits");
                }
                let sector = Sector::new((base + pair % 8) * 8);
                open = turn.submit(op, sector, buffer).is_ok();
                turn.kick().expect("a live world");
            }
            if let Some(over) = turn.reap().expect("an honest backend") {
                assert_eq!((over.op, over.result), (op, Ok(())));
                let mut bytes = [0; 8];
                let buffer = over.buffer.expect("a transfer has one");
                buffer.read_at(0, &mut bytes).expect("in range");
                assert_eq!(u64::from_le_bytes(bytes), pair, "what it wrote");
                (open, done) = (false, done + 1);
            }
        }
        thread::yield_now();
    }
    done
}

#[test]
fn owners_in_threads_see_nothing_of_a_backend_that_comes_and_goes() {
    const ROUNDS: u64 = 300;
    let mut shared = Shared::new();
    let many = Many::new(&mut shared);
    let Many {
        rig, front, queues, ..
    } = many;
    thread::scope(|scope| {
        let spawn = |queue| scope.spawn(move || own(queue, ROUNDS));
        let owners: Vec<_> = queues.into_iter().map(spawn).collect();
        let mut shared = Shared::new();
        // The control plane and the backend are this thread's; the queues of this one have no owner.
        let idle = Many::new(&mut shared);
        let mut many = Many {
            rig,
            front,
            queues: idle.queues,
            peers: Vec::new(),
        };
        let mut lives = 0;
        while owners.iter().any(|owner| !owner.is_finished()) {
            many.connect("4");
            for _ in 0..40 + lives % 7 * 10 {
                many.serve();
                assert_eq!(many.events(), []);
                thread::yield_now();
            }
            many.close_back();
            let events = many.events();
            assert_eq!(events, [Event::Closing, Event::Disconnected]);
            lives += 1;
        }
        for owner in owners {
            assert_eq!(owner.join().expect("no assertion failed"), ROUNDS);
        }
        assert!(lives > 1, "{lives}");
    });
}
