//! The attacks of the lab in the simulator, whose tables keep Xen's rules.

use std::time::Duration;

use ringfence_blkfront::{Event, Frontend as Front, Op};
use ringfence_core::platform::{Access, Platform as _};
use ringfence_core::{DomId, Sector};
use ringfence_lab::hostile::backend::Liar;
use ringfence_lab::hostile::block::{Scene, attacks as block_attacks};
use ringfence_lab::hostile::frontend::{Frontend, Host};
use ringfence_lab::hostile::lies::Lie;
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

/// What our frontend says about a disk whose backend lies.
fn said_about(lie: Lie) -> String {
    let world = World::new();
    let guest = world.create(DomId::new(1));
    let (dom0, mut store) = (world.domain(DomId::DOM0), world.store(DomId::DOM0));
    let mut liar = Liar::new(dom0, &mut store, DomId::new(1), lie);
    let dir = format!("device/vbd/{}", lie.vdev());
    let mut own = guest.store();
    let mut front: Front<Sim> = Front::new(guest, &dir).expect("a short path");
    let mut asked = 0;
    let mut said = None;
    for _ in 0..100 {
        assert!(liar.step(&mut store), "the guest is there");
        while let Some(event) = front.step(&mut own).expect("the store works") {
            if let Event::Failed(fault) = event {
                said = Some(fault.to_string());
            }
        }
        while front.info().is_some() && asked < 16 && said.is_none() {
            let buffer = front.buffer(1).expect("a page");
            let at = Sector::new(8 * asked);
            front.submit(Op::Read, at, buffer).expect("room");
            asked += 1;
        }
        front.kick().expect("the platform works");
        loop {
            match front.reap() {
                Ok(None) => break,
                Ok(Some(over)) => match over.result {
                    Ok(()) if lie == Lie::Data => {
                        said = Some("other bytes than were written".to_owned());
                    }
                    Ok(()) => {}
                    Err(error) => said = said.or(Some(error.to_string())),
                },
                Err(fault) => {
                    said = said.or(Some(fault.to_string()));
                    break;
                }
            }
        }
    }
    front.close();
    for _ in 0..10 {
        liar.step(&mut store);
        while front.step(&mut own).expect("the store works").is_some() {}
    }
    // What it has mapped is out of use while it has it, and comes back after that.
    drop(front);
    drop(liar);
    let guest = world.domain(DomId::new(1));
    drop(guest.alloc(DomId::DOM0, Access::ReadWrite));
    said.unwrap_or_else(|| "the backend did not answer".to_owned())
}

#[test]
fn a_backend_that_lies_is_found_out() {
    for (lie, name, told) in Lie::ALL {
        let said = said_about(lie);
        assert!(said.contains(told), "{name}: {said}");
    }
}
