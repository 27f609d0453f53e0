//! The platform contracts through agents: every operation travels through granted pages and comes back.

use std::rc::Rc;
use std::time::Duration;

use ringfence_core::platform::{Platform as _, PlatformError};
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_lab::Line;
use ringfence_lab::remote::Carrier;
use ringfence_lab::world::{Fleet, RemoteWorld};
use ringfence_lab_agent::pages::{GuestEnd, PagesError};
use ringfence_lab_agent::rpc::Census;
use ringfence_lab_agent::{Agent, HostEnd, Native};
use ringfence_sim::{Sim, SimChannel, SimGranted, SimStore, World};
use ringfence_tests::conformance::Who;

struct InSim(Sim);

impl Native for InSim {
    type Platform = Sim;

    fn platform(&self) -> &Sim {
        &self.0
    }

    fn open_store(&self) -> Result<SimStore, PlatformError> {
        Ok(self.0.store())
    }

    fn adopt_granted(&self, _: DomId, gref: GrantRef) -> Option<SimGranted> {
        self.0.adopt_granted(gref)
    }

    fn adopt_channel(&self, port: EvtchnPort) -> Option<SimChannel> {
        self.0.adopt_channel(port)
    }
}

/// Both ends of the pages and the agent, in one thread: it answers when it is asked.
struct Lockstep {
    host: HostEnd<Sim>,
    guest: GuestEnd<Sim>,
    agent: Agent<InSim>,
}

impl Lockstep {
    fn new(world: &World, domid: DomId) -> Self {
        let (sim, dom0) = (world.domain(domid), world.domain(DomId::DOM0));
        let guest = GuestEnd::start(&sim, &mut sim.store()).expect("the store works");
        let host = HostEnd::connect(&dom0, &mut dom0.store(), domid, None, Duration::ZERO);
        Self {
            host: host.expect("the agent is ready"),
            guest,
            agent: Agent::new(InSim(sim)),
        }
    }
}

impl Carrier for Lockstep {
    fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, PagesError> {
        self.host.send(request)?;
        let request = self.guest.poll()?.expect("a request is there");
        assert_eq!(self.guest.poll()?, None, "seen once");
        let request = postcard::from_bytes(&request).expect("it makes sense");
        let answer = ringfence_lab::answer(&mut self.agent, request);
        let answer = postcard::to_stdvec(&answer).expect("it can be encoded");
        self.guest.answer(&answer)?;
        Ok(self.host.receive()?.expect("an answer is there"))
    }

    fn send(&mut self, request: &[u8]) -> Result<(), PagesError> {
        self.host.send(request)
    }
}

struct SimFleet(World);

impl SimFleet {
    fn new(world: World) -> Self {
        for who in [Who::A, Who::B, Who::C] {
            world.create(domid(who));
        }
        Self(world)
    }
}

const fn domid(who: Who) -> DomId {
    DomId::new(match who {
        Who::A => 1,
        Who::B => 2,
        Who::C => 3,
    })
}

impl Fleet for SimFleet {
    fn line(&mut self, who: Who) -> Rc<Line> {
        Line::new(Box::new(Lockstep::new(&self.0, domid(who))))
    }

    fn dom0(&mut self) -> Rc<Line> {
        Line::new(Box::new(Lockstep::new(&self.0, DomId::DOM0)))
    }

    fn kill(&mut self, who: Who, _: &Line) {
        self.0.kill(domid(who));
    }

    fn destroy(&mut self, _: Who, domid: DomId) {
        self.0.destroy(domid);
    }

    fn settle(&self) {
        self.0.settle();
    }
}

fn world() -> RemoteWorld<SimFleet> {
    RemoteWorld::new(SimFleet::new(World::new()), "home")
}

ringfence_tests::platform_conformance!(world());

#[test]
fn attacks_on_tables_travel_as_well() {
    for (name, attack) in ringfence_lab::hostile::tables::attacks() {
        println!("{name}");
        attack(&mut world());
    }
}

#[test]
fn dropped_handles_are_dropped_at_the_agent() {
    use ringfence_core::platform::{Access, Granted as _};
    use ringfence_tests::conformance::World as _;
    let world = world();
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let [at_a, at_b, _] = world.lines();
    let page = a.alloc(b.domid(), Access::ReadWrite).unwrap();
    let refs = [page.grant_ref()];
    let mapping = b.map(a.domid(), &refs, Access::ReadOnly).unwrap();
    let channel = a.alloc_unbound(b.domid()).unwrap();
    let store = world.store(Who::B);
    assert_eq!((at_a.census().granted, at_a.census().channels), (1, 1));
    assert_eq!((at_b.census().mappings, at_b.census().stores), (1, 1));
    drop((page, mapping, channel, store));
    assert_eq!(at_a.census(), Census::default());
    assert_eq!(at_b.census(), Census::default());
}

#[test]
#[should_panic(expected = "mapped read-only")]
fn a_panic_of_the_platform_reaches_the_caller() {
    use ringfence_core::SharedMem as _;
    use ringfence_core::platform::{Access, Granted as _};
    use ringfence_tests::conformance::World as _;
    let world = world();
    let (a, b) = (world.domain(Who::A), world.domain(Who::B));
    let page = a.alloc(b.domid(), Access::ReadWrite).unwrap();
    let refs = [page.grant_ref()];
    let mapping = b.map(a.domid(), &refs, Access::ReadOnly).unwrap();
    mapping.store_u32(0, 1);
}
