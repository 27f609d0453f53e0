//! The suite's world in the simulator.

use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_sim::{Sim, SimChannel, SimGranted, SimStore};

use super::{Lives, Who, World};

/// Domains 1, 2 and 3 of a simulated world.
#[derive(Debug)]
pub struct SimWorld(pub ringfence_sim::World);

impl SimWorld {
    /// The three domains in `world`.
    #[must_use]
    pub fn new(world: ringfence_sim::World) -> Self {
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

impl World for SimWorld {
    type Platform = Sim;

    fn domain(&self, who: Who) -> Sim {
        self.0.domain(domid(who))
    }

    fn store(&self, who: Who) -> SimStore {
        self.0.store(domid(who))
    }

    fn dom0_store(&self) -> SimStore {
        self.0.store(DomId::DOM0)
    }

    fn settle(&self) {
        self.0.settle();
    }
}

impl Lives for SimWorld {
    fn kill(&mut self, who: Who) {
        self.0.kill(domid(who));
    }

    fn destroy(&mut self, who: Who) {
        self.0.destroy(domid(who));
    }

    fn adopt_granted(&self, who: Who, _: DomId, gref: GrantRef) -> SimGranted {
        let adopted = self.domain(who).adopt_granted(gref);
        adopted.expect("a page of the process before")
    }

    fn adopt_channel(&self, who: Who, port: EvtchnPort) -> SimChannel {
        let adopted = self.domain(who).adopt_channel(port);
        adopted.expect("a port of the process before")
    }
}
