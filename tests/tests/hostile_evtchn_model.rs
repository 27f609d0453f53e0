//! THREATS F on the hypervisor's own event channels, held against both models of them that we have: the simulator's and the
//! broker's. A reference of a few lines says what must happen.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use ringfence_core::platform::{Access, Channel, EvtchnError, Granted as _, Platform};
use ringfence_core::{DomId, EvtchnPort};
use ringfence_hosted::admin::DomainKind;
use ringfence_sim::{Adversary, Limits, World};
use ringfence_tests::hosted::{Host, Peer};

fn host() -> (Host, [Peer; 3]) {
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")));
    let peers = ["a", "b", "c"].map(|name| host.peer(name, DomainKind::Guest));
    (host, peers)
}

fn rung(channel: &impl Channel) -> bool {
    let rung = channel.take_pending().expect("the platform works");
    channel.unmask().expect("the platform works");
    rung
}

const DOMAINS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Alloc {
        by: usize,
        peer: usize,
    },
    /// A port that is open, or was, of whomever.
    Bind {
        by: usize,
        port: Index,
    },
    Close(Index),
    Ring(Index),
    Take(Index),
    /// The process dies, and the next one takes over what outlives it: the simulator's way to reset a domain.
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..DOMAINS;
    let index = any::<Index>;
    prop_oneof![
        4 => (who.clone(), 1..DOMAINS)
            .prop_map(|(by, other)| Step::Alloc { by, peer: (by + other) % DOMAINS }),
        6 => (who.clone(), index()).prop_map(|(by, port)| Step::Bind { by, port }),
        4 => index().prop_map(Step::Close),
        5 => index().prop_map(Step::Ring),
        4 => index().prop_map(Step::Take),
        1 => who.prop_map(Step::Kill),
    ]
}

/// Whose, and its number.
type PortId = (usize, u32);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Link {
    /// For this domain to bind.
    Unbound(usize),
    Bound(PortId),
}

/// What the reference knows of a port.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Port {
    link: Link,
    pending: bool,
    allocated: bool,
}

struct Model<P: Platform> {
    platforms: Vec<P>,
    ports: BTreeMap<PortId, Port>,
    handles: BTreeMap<PortId, P::Channel>,
    /// Every port that ever was.
    known: Vec<PortId>,
}

impl<P: Platform> Model<P> {
    fn new(platforms: Vec<P>) -> Self {
        Self {
            platforms,
            ports: BTreeMap::new(),
            handles: BTreeMap::new(),
            known: Vec::new(),
        }
    }

    fn domid(&self, who: usize) -> DomId {
        self.platforms[who].domid()
    }

    /// The lowest number that is free.
    fn next(&self, who: usize) -> u32 {
        let free = (1..).find(|port| !self.ports.contains_key(&(who, *port)));
        free.expect("few ports")
    }

    fn open(&mut self, id: PortId, port: Port, handle: P::Channel) {
        assert_eq!(handle.port(), EvtchnPort::new(id.1), "of domain {}", id.0);
        self.ports.insert(id, port);
        self.handles.insert(id, handle);
        if !self.known.contains(&id) {
            self.known.push(id);
        }
    }

    fn pick(&self, index: &Index) -> Option<PortId> {
        let open: Vec<_> = self.ports.keys().copied().collect();
        (!open.is_empty()).then(|| open[index.index(open.len())])
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Alloc { by, peer } => {
                let id = (*by, self.next(*by));
                let handle = self.platforms[*by].alloc_unbound(self.domid(*peer));
                let port = Port {
                    link: Link::Unbound(*peer),
                    pending: false,
                    allocated: true,
                };
                self.open(id, port, handle.expect("a port"));
            }
            Step::Bind { by, port } if !self.known.is_empty() => {
                self.bind(*by, self.known[port.index(self.known.len())]);
            }
            Step::Bind { .. } | Step::Kill(_) => {}
            Step::Close(index) => {
                let Some(id) = self.pick(index) else { return };
                self.handles.remove(&id);
                self.closed(id);
            }
            Step::Ring(index) => {
                let Some(id) = self.pick(index) else { return };
                self.handles[&id].notify().expect("the platform works");
                if let Link::Bound(other) = self.ports[&id].link {
                    self.ports.get_mut(&other).expect("bound").pending = true;
                }
            }
            Step::Take(index) => {
                let Some(id) = self.pick(index) else { return };
                let port = self.ports.get_mut(&id).expect("picked");
                let expected = std::mem::take(&mut port.pending);
                assert_eq!(rung(&self.handles[&id]), expected, "{id:?}: {port:?}");
            }
        }
    }

    fn bind(&mut self, by: usize, theirs: PortId) {
        let peer = self.domid(theirs.0);
        let bound = self.platforms[by].bind(peer, EvtchnPort::new(theirs.1));
        let open = self.ports.get(&theirs).map(|port| port.link);
        if open != Some(Link::Unbound(by)) {
            let port = EvtchnPort::new(theirs.1);
            let refused = EvtchnError::Refused { peer, port };
            assert_eq!(bound.err(), Some(refused), "{theirs:?}: {open:?}");
            return;
        }
        let ours = (by, self.next(by));
        let port = Port {
            link: Link::Bound(theirs),
            pending: true,
            allocated: false,
        };
        self.open(ours, port, bound.expect("a port for us"));
        self.ports.get_mut(&theirs).expect("open").link = Link::Bound(ours);
    }

    fn closed(&mut self, id: PortId) {
        let port = self.ports.remove(&id).expect("picked");
        if let Link::Bound(other) = port.link {
            self.ports.get_mut(&other).expect("bound").link = Link::Unbound(id.0);
        }
    }

    /// What nobody took is there, and nothing else.
    fn settle(&mut self) {
        for (id, port) in &mut self.ports {
            let expected = std::mem::take(&mut port.pending);
            assert_eq!(rung(&self.handles[id]), expected, "{id:?}: {port:?}");
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn evtchn_model_in_the_simulator(steps in prop::collection::vec(step(), 1..150)) {
        let world = World::new();
        let domids = [1, 2, 3].map(DomId::new);
        let mut model = Model::new(domids.map(|domid| world.create(domid)).into());
        for step in &steps {
            model.step(step);
            if let Step::Kill(who) = step {
                let domid = domids[*who];
                world.kill(domid);
                model.platforms[*who] = world.domain(domid);
                // The handles of the dead do nothing any more, neither here nor later.
                let of_dead = |id: &&PortId| id.0 == *who;
                let ports: Vec<_> = model.ports.keys().filter(of_dead).copied().collect();
                for id in ports {
                    model.handles.remove(&id);
                    if model.ports[&id].allocated {
                        let adopted = world.domain(domid).adopt_channel(EvtchnPort::new(id.1));
                        model.handles.insert(id, adopted.expect("it outlives the process"));
                    } else {
                        model.closed(id);
                    }
                }
            }
            for (who, domid) in domids.iter().enumerate() {
                let ports = model.ports.keys().filter(|id| id.0 == who).count();
                assert_eq!(world.usage(*domid).ports, ports);
            }
        }
        model.settle();
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn evtchn_model_of_the_broker(steps in prop::collection::vec(step(), 1..100)) {
        let (_host, peers) = host();
        let mut model = Model::new(peers.iter().map(|peer| peer.platform.clone()).collect());
        for step in &steps {
            model.step(step);
        }
        model.settle();
    }
}

#[test]
fn evtchn_model_no_number_is_beyond_the_layout() {
    let world = World::new();
    let (a, b) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    let all: Vec<_> = std::iter::from_fn(|| a.alloc_unbound(b.domid()).ok()).collect();
    let last = all.iter().map(|channel| channel.port().get()).max();
    // Of 4096 bits the first is nobody's.
    assert_eq!((all.len(), last), (4095, Some(4095)));
    assert_eq!(
        a.alloc_unbound(b.domid()).err(),
        Some(EvtchnError::Exhausted)
    );
}

/// Without a free port nothing can be bound, and nothing has happened to anybody then.
fn exhausted<P: Platform>(a: &P, b: &P, limit: usize) {
    let offered = a.alloc_unbound(b.domid()).expect("a port");
    let mut all: Vec<_> = std::iter::from_fn(|| b.alloc_unbound(a.domid()).ok()).collect();
    assert_eq!(all.len(), limit);
    let last = all.iter().map(|channel| channel.port().get()).max();
    assert_eq!(last, u32::try_from(limit).ok());
    for _ in 0..3 {
        let bound = b.bind(a.domid(), offered.port());
        assert_eq!(bound.err(), Some(EvtchnError::Exhausted));
        let more = b.alloc_unbound(a.domid());
        assert_eq!(more.err(), Some(EvtchnError::Exhausted));
        offered.notify().expect("nobody is there, and that is fine");
        assert!(!rung(&offered));
    }
    drop(all.swap_remove(limit / 2));
    // The port is as it was: for the peer to bind, once.
    let bound = b.bind(a.domid(), offered.port()).expect("one is free");
    assert!(rung(&bound) && !rung(&bound));
    bound.notify().expect("rung");
    assert!(rung(&offered));
    let peer = a.domid();
    let port = offered.port();
    drop(all.pop());
    let again = b.bind(peer, port);
    assert_eq!(again.err(), Some(EvtchnError::Refused { peer, port }));
    assert!(
        all.iter().all(|channel| !rung(channel)),
        "nobody else was rung"
    );
}

#[test]
fn xsa_496_a_bind_without_a_free_port_changes_nothing() {
    let limits = Limits {
        ports: 8,
        ..Limits::DEFAULT
    };
    let world = World::with(0, Adversary::EXACT, limits);
    let (a, b) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    exhausted(&a, &b, 8);
    let (_host, [a, b, _]) = host();
    // As many as a 32-bit domain has, and no port 1024.
    exhausted(&a.platform, &b.platform, 1023);
}

#[test]
fn xsa_496_the_dead_open_no_ports() {
    let world = World::new();
    let (a, b) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    let offered = b.alloc_unbound(a.domid()).expect("a port");
    for destroy in [false, true] {
        let before = if destroy {
            let before = world.domain(a.domid());
            world.destroy(a.domid());
            before
        } else {
            world.kill(a.domid());
            a.clone()
        };
        // In the middle of whatever it was doing.
        assert!(before.alloc_unbound(b.domid()).is_err());
        assert!(before.bind(b.domid(), offered.port()).is_err());
        assert_eq!(world.usage(a.domid()).ports, 0);
    }
    assert_eq!(world.usage(b.domid()).ports, 1);
    assert!(!rung(&offered));
}

/// Opens and closes channels for ever, it seems.
fn opens_and_closes<P: Platform>(a: &P, b: &P, rounds: u32) {
    for _ in 0..rounds {
        let ours = a.alloc_unbound(b.domid()).expect("a port");
        let theirs = b.bind(a.domid(), ours.port()).expect("bound");
        assert!(rung(&theirs) && !rung(&theirs));
        ours.notify().expect("rung");
        assert!(rung(&theirs), "the entry is there");
        theirs.notify().expect("rung");
        assert!(rung(&ours), "the entry is there");
        drop(theirs);
        ours.notify().expect("nobody is there, and that is fine");
    }
}

/// Rounds of each thread.
const ROUNDS: u32 = 300;

/// Runs some tasks at the same time. None of them may wait for ever for another.
fn together(tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let (done, ended) = mpsc::channel();
    let count = tasks.len();
    for task in tasks {
        let done = done.clone();
        thread::spawn(move || {
            task();
            done.send(()).expect("somebody waits");
        });
    }
    drop(done);
    for left in (1..=count).rev() {
        let ended = ended.recv_timeout(Duration::from_secs(120));
        ended.unwrap_or_else(|error| panic!("{left} tasks have not ended well: {error}"));
    }
}

fn closing<P>(a: P, b: P)
where
    P: Platform + Clone + Send + 'static,
    P::Channel: Send,
{
    let ours = a.alloc_unbound(b.domid()).expect("a port");
    let theirs = b.bind(a.domid(), ours.port()).expect("bound");
    let (closer_a, closer_b) = (a.clone(), b.clone());
    together(vec![
        Box::new(move || opens_and_closes(&closer_a, &closer_b, ROUNDS)),
        // A handler.
        Box::new(move || {
            for _ in 0..ROUNDS {
                theirs.notify().expect("rung");
                assert!(rung(&ours));
                ours.notify().expect("rung");
                assert!(rung(&theirs));
            }
        }),
        // Somebody who looks at the tables.
        Box::new(move || {
            for _ in 0..ROUNDS {
                let page = a.alloc(b.domid(), Access::ReadWrite).expect("a page");
                let mapped = b.map(a.domid(), &[page.grant_ref()], Access::ReadOnly);
                drop(mapped.expect("granted"));
            }
        }),
    ]);
}

#[test]
fn xsa_441_ports_are_closed_while_others_handle_events() {
    let world = World::new();
    let (a, b) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    closing(a, b);
    assert_eq!(world.usage(DomId::new(1)).ports, 0);
    let (_host, [a, b, _]) = host();
    closing(a.platform.clone(), b.platform.clone());
}

fn reusing<P>(a: P, b: P)
where
    P: Platform + Clone + Send + 'static,
{
    together(
        (0..4)
            .map(|_| {
                let (a, b) = (a.clone(), b.clone());
                Box::new(move || opens_and_closes(&a, &b, ROUNDS)) as Box<dyn FnOnce() + Send>
            })
            .collect(),
    );
}

#[test]
fn cve_2024_26687_a_number_that_is_used_again_at_once_loses_no_entry() {
    let world = World::new();
    let (a, b) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    reusing(a, b);
    assert_eq!(world.usage(DomId::new(1)).ports, 0);
    let (_host, [a, b, _]) = host();
    reusing(a.platform.clone(), b.platform.clone());
}
