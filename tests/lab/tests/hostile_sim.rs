//! The attacks of the lab in the simulator, whose tables keep Xen's rules.

use std::time::Duration;

use ringfence_core::DomId;
use ringfence_lab::hostile::block::{Scene, attacks as block_attacks};
use ringfence_lab::hostile::frontend::{Frontend, Host};
use ringfence_lab::hostile::tables::attacks as table_attacks;
use ringfence_sim::{Sim, SimStore, World};
use ringfence_tests::blkback_rig::{BACK, Rig, SECTORS};
use ringfence_tests::conformance::sim::SimWorld;

#[test]
fn attacks_on_tables() {
    for world in [World::new, || World::hostile(5)] {
        for (name, attack) in table_attacks::<SimWorld>() {
            println!("{name}");
            attack(&mut SimWorld::new(world()));
        }
    }
}

struct Dom0(Rig);

impl Host for Dom0 {
    type Store = SimStore;

    fn store(&mut self) -> &mut SimStore {
        &mut self.0.toolstack
    }

    fn serve(&mut self) {
        // A frontend that rings too often waits: here time passes only so.
        self.0.now += Duration::from_secs(2);
        self.0.settle();
    }

    fn wait(&mut self) {
        self.serve();
    }
}

#[test]
fn attacks_on_a_block_backend() {
    for (name, attack) in block_attacks::<Sim, Dom0>() {
        println!("{name}");
        let mut rig = Rig::new();
        let [attacker, bystander] = [7, 8].map(|front| {
            rig.attach(front, 51712, "w");
            let sim = rig.world.domain(DomId::new(front));
            let store = sim.store();
            Frontend::new(sim, store, BACK, 51712)
        });
        let mut scene = Scene {
            attacker,
            bystander,
            host: Dom0(rig),
            sectors: SECTORS,
        };
        scene.connect();
        attack(&mut scene);
        scene.recovers();
        scene.attacker.close(&mut scene.host);
        scene.bystander.close(&mut scene.host);
        let usage = scene.host.0.usage();
        assert_eq!((usage.mapped, usage.ports), (0, 0), "after {name}");
    }
}
