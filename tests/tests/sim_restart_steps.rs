//! A process dies, or its frontend makes another ring, at each step of connecting.

use std::sync::{Arc, Mutex};

use ringfence_blkback::BlkifNative;
use ringfence_core::platform::{Access, Channel as _, Granted, Platform as _};
use ringfence_core::store::{Store as _, StoreExt as _};
use ringfence_core::wire::blkif::Status;
use ringfence_ring::Front;
use ringfence_sim::{Crash, SimChannel, SimGranted, World};
use ringfence_tests::blkback_rig::{BACK, Guest, Rig, write};

fn rig() -> Rig {
    let rig = Rig::new();
    rig.disks.keep_journals();
    rig
}

/// A guest's new ring and port, of which nobody knows.
fn another(guest: &Guest) -> (Front<SimGranted, BlkifNative>, SimChannel) {
    let page = guest.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    let port = guest.sim.alloc_unbound(BACK).expect("a port");
    (Front::init(page).expect("a ring"), port)
}

/// The next process takes up a guest that makes another ring, by `change`, at one step of that after the other: whether its disk
/// answers on that ring then. `change` may leave something for afterwards.
fn at_every_step<F: FnOnce(&mut Guest)>(
    change: impl Fn(&mut Guest, &World, u64) -> F,
) -> Vec<bool> {
    let mut answers = Vec::new();
    for step in 0.. {
        let mut rig = rig();
        let mut guest = rig.connected(7, "w");
        guest.round_trip(&mut rig, 1);
        let mut rig = rig.restarted();
        let before = rig.world.steps(BACK);
        let afterwards = change(&mut guest, &rig.world, step);
        rig.settle();
        if rig.world.steps(BACK) - before <= step {
            return answers;
        }
        let connected = rig.state(&guest) == "4";
        afterwards(&mut guest);
        guest.push(&write(5, 0, guest.page.grant_ref()));
        guest.kick();
        rig.settle();
        let found = guest.answers();
        assert!(found.iter().all(|answer| answer.id == 5), "step {step}");
        answers.push(connected && !found.is_empty());
    }
    answers
}

/// Until the backend has looked for the last time, and that is not before these many of its last steps.
fn is_noticed_until(answers: &[bool], last: usize) {
    let noticed = answers.iter().take_while(|answered| **answered).count();
    assert!(answers[noticed..].iter().all(|answered| !answered));
    assert!(
        answers.len() - noticed <= last,
        "{noticed} of {}",
        answers.len()
    );
}

#[test]
fn a_frontend_that_makes_another_ring_while_its_nodes_are_read_has_its_disk() {
    let answers = at_every_step(|guest, world, step| {
        let old = (guest.ring.take(), guest.channel.take());
        let (ring, port) = another(guest);
        let nodes = [
            ("ring-ref", ring.mem().grant_ref().to_string()),
            ("event-channel", port.port().to_string()),
        ];
        (guest.ring, guest.channel) = (Some(ring), Some(port));
        let (mut store, dir) = (guest.sim.store(), guest.dir.clone());
        world.meanwhile(BACK, step, move || {
            // What it had ends before it says so, and it says all at once.
            drop(old);
            let written = store.transaction(|store, tx| {
                nodes
                    .iter()
                    .try_for_each(|(node, value)| store.write_str(tx, &dir, node, value))
            });
            written.expect("its own nodes");
        });
        |_: &mut Guest| {}
    });
    is_noticed_until(&answers, 25);
}

#[test]
fn a_frontend_that_makes_another_ring_in_the_same_place_meanwhile_has_its_disk() {
    let answers = at_every_step(|guest, world, step| {
        let page = guest.ring.take().expect("a ring").into_mem();
        let made = Arc::new(Mutex::new(None));
        let ring = Arc::clone(&made);
        world.meanwhile(BACK, step, move || {
            *ring.lock().expect("whole") = Some(Front::init(page).expect("a ring"));
        });
        move |guest: &mut Guest| guest.ring = made.lock().expect("whole").take()
    });
    is_noticed_until(&answers, 45);
}

/// Lets the driver domain work; if its process dies in that, another takes its place.
fn settle(mut rig: Rig) -> (Rig, bool) {
    if Crash::catch(|| rig.settle()).is_some() {
        return (rig, false);
    }
    let mut next = rig.restarted();
    next.settle();
    (next, true)
}

#[test]
fn a_death_at_every_step_of_a_connection_is_not_noticed() {
    for step in 0..5000 {
        let mut rig = rig();
        let mut guest = rig.attach(7, 51712, "w");
        rig.world.die_after(BACK, step);
        let mut died = false;
        let mut turn = |rig| {
            let (rig, dead) = settle(rig);
            died |= dead;
            rig
        };
        rig = turn(rig);
        guest.publish();
        let gref = guest.page.grant_ref();
        // Posted before there is anybody to serve it, as some frontends do.
        guest.push(&write(0, 0, gref));
        guest.kick();
        guest.set("state", "3");
        rig = turn(rig);
        assert_eq!(rig.state(&guest), "4", "step {step}: {}", rig.error(&guest));
        guest.set("state", "4");
        guest.push(&write(1, 8, gref));
        guest.kick();
        rig = turn(rig);
        let answers = guest.answers();
        let of: Vec<_> = answers.iter().map(|it| (it.id, it.status)).collect();
        assert_eq!(of, [(0, Status::OKAY), (1, Status::OKAY)], "step {step}");
        assert_eq!(rig.error(&guest), "", "step {step}");
        if !died {
            assert!(step > 100, "{step} steps are no connection");
            return;
        }
    }
    panic!("no end");
}
