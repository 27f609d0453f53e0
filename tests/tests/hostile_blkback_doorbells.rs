//! THREATS F, as far as a block backend is concerned: its table of whom it waits for, while ports close and open. The rig's table
//! (`Bells`) fails as soon as a port that is closed is still in it.

use std::collections::BTreeSet;

use ringfence_tests::blkback_rig::{Guest, Rig};

/// Whether the table says what the driver domain has.
fn agree(rig: &Rig) {
    let open = &rig.service.doorbells().open;
    let ports: BTreeSet<u32> = open.values().map(|port| port.get()).collect();
    assert_eq!(ports.len(), open.len());
    assert_eq!(rig.usage().ports, open.len());
}

/// The ports that the two have at the driver domain's end, in the order of the guests.
fn ports(rig: &Rig) -> Vec<u32> {
    let open = &rig.service.doorbells().open;
    open.values().map(|port| port.get()).collect()
}

#[test]
fn cve_2024_26687_first_the_table_then_the_port() {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let mut pair: Vec<Guest> = [6, 7].map(|front| rig.connected(front, "w")).into();
    let first = ports(&rig);
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        // They close in one order and come back in the other, so that each gets the number that was the other's.
        for guest in &mut pair {
            guest.reset(&mut rig);
            agree(&rig);
        }
        if round % 2 == 0 {
            pair.reverse();
        }
        for guest in &mut pair {
            guest.connect(&mut rig);
            agree(&rig);
        }
        for guest in &mut pair {
            guest.round_trip(&mut rig, round);
        }
        seen.insert(ports(&rig));
    }
    assert!(seen.len() > 1, "the numbers never changed owners");
    let again = |ports: &Vec<u32>| ports.iter().all(|port| first.contains(port));
    assert!(seen.iter().all(again), "{first:?}, {seen:?}");
    let mut other = pair.remove(0);
    other.close(&mut rig);
    rig.recovers(pair.remove(0), bystander);
    agree(&rig);
    assert_eq!(rig.service.doorbells().added, 3 + 40 + 1);
}

#[test]
fn cve_2024_26687_a_port_that_goes_under_the_backend_is_taken_out_all_the_same() {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    for round in 0..10 {
        let mut attacker = rig.connected(7, "w");
        // The guest closes its end before it says so, or its directory goes, or all of it.
        drop(attacker.channel.take());
        match round % 3 {
            0 => attacker.set("state", "6"),
            1 => rig.detach(&attacker),
            _ => {}
        }
        rig.settle();
        rig.remove(&attacker);
        rig.settle();
        agree(&rig);
        assert_eq!(rig.service.devices(), 1, "the bystander's");
    }
    let attacker = rig.connected(7, "w");
    rig.recovers(attacker, bystander);
}
