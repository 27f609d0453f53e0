//! Many disks in one process: each has its turn, and costs nothing while nobody uses it.

use ringfence_core::platform::Granted;
use ringfence_core::wire::blkif::Status;
use ringfence_sim::World;
use ringfence_tests::blkback_rig::{BUDGET, Guest, Rig, read};
use ringfence_xenstored::Limits;

/// Entries of a ring of one page.
const RING: u64 = 32;

/// One turn of the service's loop, which looks at every ring twice at most.
fn turn(rig: &mut Rig, budget: u32) {
    rig.service.poll(budget, rig.now);
    rig.service.serve(budget, rig.now);
}

fn completed(rig: &Rig, front: u16) -> u64 {
    let all = rig.service.statistics().snapshot();
    let of = |(id, counters): &(ringfence_blkback::service::DeviceId, _)| {
        (id.front.get() == front).then_some(*counters)
    };
    let counters: ringfence_blkback::Snapshot = all.iter().find_map(of).expect("a device");
    counters.reads
}

#[test]
fn a_guest_that_never_stops_asking_keeps_nobody_waiting() {
    for budget in [1, 4, BUDGET] {
        let mut rig = Rig::new();
        let mut flood = rig.connected(7, "w");
        let mut quiet = rig.connected(8, "w");
        let (of_flood, of_quiet) = (flood.page.grant_ref(), quiet.page.grant_ref());
        let mut open = 0;
        for round in 0..100 {
            open -= flood.answers().len() as u64;
            while open < RING {
                flood.push(&read(open, 0, of_flood));
                open += 1;
            }
            flood.kick();
            let before = completed(&rig, 7);
            quiet.push(&read(round, 8, of_quiet));
            quiet.kick();
            turn(&mut rig, budget);
            let answers = quiet.answers();
            assert_eq!(answers.len(), 1, "round {round} with {budget}");
            assert_eq!(answers[0].status, Status::OKAY);
            let taken = completed(&rig, 7) - before;
            assert!(
                (1..=2 * u64::from(budget)).contains(&taken),
                "{taken} with {budget}"
            );
        }
    }
}

#[test]
fn a_thousand_disks_in_one_process() {
    const DISKS: u16 = 1000;
    // What an administrator raises for a driver domain of so many: by Xen's quotas there is room for fifty.
    let mut quotas = Limits::DEFAULT;
    quotas.watches = 2000;
    quotas.nodes = 100_000;
    quotas.memory_hard = 64 << 20;
    quotas.memory_soft = quotas.memory_hard;
    let mut rig = Rig::on(World::with_quotas(quotas));
    let fronts = 2..2 + DISKS;
    let mut guests: Vec<Guest> = fronts.map(|front| rig.attach(front, 51712, "w")).collect();
    rig.settle();
    for guest in &mut guests {
        guest.publish();
        guest.set("state", "3");
    }
    rig.settle();
    assert_eq!(rig.service.devices(), usize::from(DISKS));
    for guest in &mut guests {
        assert_eq!(rig.state(guest), "4", "{}", guest.dir);
        guest.set("state", "4");
    }
    rig.settle();
    let held = rig.usage();
    assert_eq!((held.mapped, held.ports), (1000, 1000));

    // All at once: each is answered in the same turn.
    for guest in &mut guests {
        guest.push(&read(7, 0, guest.page.grant_ref()));
        guest.kick();
    }
    turn(&mut rig, BUDGET);
    for guest in &mut guests {
        assert_eq!(guest.answers().len(), 1, "{}", guest.dir);
    }
    // One, and nobody else is worked for.
    let before = rig.service.statistics().total();
    let last = guests.last_mut().expect("a thousand");
    last.push(&read(8, 0, last.page.grant_ref()));
    last.kick();
    turn(&mut rig, BUDGET);
    assert_eq!(last.answers().len(), 1);
    let after = rig.service.statistics().total();
    assert_eq!(after.requests - before.requests, 1);
}
