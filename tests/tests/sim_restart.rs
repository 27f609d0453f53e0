//! A backend that dies at every single step, and a guest that does not notice: every acknowledged write is read back, every
//! request is answered exactly once, nothing old is written after a number, a grant or a page was used again.

use ringfence_core::platform::Channel;
use ringfence_tests::crash_rig::{LANES, Rig};

/// Requests of the guest in one run.
const REQUESTS: usize = 16;

/// Runs until it ends before the step at which the first life is to end; says how many steps that were.
fn every_step(seed: u64, mut run: impl FnMut(&mut Rig, u64)) -> u64 {
    for step in 0..5000 {
        let mut rig = Rig::new(seed, REQUESTS);
        run(&mut rig, step);
        rig.check();
        if rig.deaths == 0 {
            return step;
        }
    }
    panic!("no end");
}

#[test]
fn one_death_at_every_step() {
    for seed in 0..3 {
        let steps = every_step(seed, |rig, step| rig.run(&[step]));
        let least = 20 * REQUESTS as u64;
        assert!(steps > least, "{steps} steps are too few to be all of them");
    }
}

#[test]
fn a_second_death_at_any_step_of_the_recovery() {
    for seed in 100..102 {
        every_step(seed, |rig, step| rig.run(&[step, (step * 7 + seed) % 40]));
    }
}

#[test]
fn a_recovery_that_dies_at_every_step() {
    for first in [150, 311] {
        let mut second = 0;
        loop {
            let mut rig = Rig::new(first, REQUESTS);
            rig.run(&[first, second]);
            rig.check();
            if rig.deaths < 2 {
                break;
            }
            second += 1;
        }
        assert!(second > 20, "{second} steps are no recovery");
    }
}

/// What the fence is for: without it, what a dead process had submitted lands on what the guest wrote since.
#[test]
fn without_the_fence_an_old_write_lands_late() {
    let goes_well = |fence| {
        let run = |seed, step| {
            let mut rig = Rig::new(seed, 3 * REQUESTS);
            rig.fence = fence;
            rig.run(&[step]);
            rig.check();
        };
        let runs = || (0..12).for_each(|seed| (200..900).step_by(41).for_each(|k| run(seed, k)));
        std::panic::catch_unwind(runs).is_ok()
    };
    assert!(goes_well(true));
    assert!(
        !goes_well(false),
        "the storage is too kind to mean anything"
    );
}

#[test]
fn a_request_that_kills_is_done_alone_and_then_no_more() {
    let mut rig = Rig::new(1, 0);
    rig.storage.borrow_mut().poison = Some(0xBD);
    for lane in 0..LANES {
        rig.guest.write(lane, if lane == 3 { 0xBD } else { 7 });
    }
    let mut most = Vec::new();
    let done = (0..8).any(|_| {
        let Some(Ok(mut backend)) = rig.start() else {
            panic!("it dies later");
        };
        let done = rig.live(&mut backend);
        most.push(rig.storage.borrow().most);
        done
    });
    assert!(done, "it ends");
    assert_eq!(rig.deaths, 3);
    assert_eq!(rig.guest.errors, [3], "only the one that kills fails");
    assert_eq!(most[2], 1, "after two deaths one at a time");
    let written = rig.guest.acknowledged;
    let sevens = u64::from_le_bytes([7; 8]);
    assert_eq!(
        written[..LANES],
        [sevens, sevens, sevens, 0, sevens, sevens]
    );
}

/// What is in flight when somebody kills the process again and again is not what killed it.
#[test]
fn a_request_that_is_there_whenever_the_process_is_killed_is_done_in_the_end() {
    let mut rig = Rig::new(1, 0);
    rig.killed(true);
    rig.storage.borrow_mut().poison = Some(0xBD);
    rig.guest.write(3, 0xBD);
    let live = |rig: &mut Rig| match rig.start() {
        Some(Ok(mut backend)) => rig.live(&mut backend),
        _ => panic!("it dies later"),
    };
    assert!(!(0..8).any(|_| live(&mut rig)), "it is killed every time");
    rig.storage.borrow_mut().poison = None;
    assert!(live(&mut rig), "nothing kills it any more");
    assert!(rig.guest.errors.is_empty());
}

#[test]
fn an_idle_ring_is_taken_over_without_a_word() {
    let mut rig = Rig::new(5, REQUESTS);
    rig.run(&[]);
    let Some(Ok(backend)) = rig.start() else {
        panic!("nothing is left");
    };
    assert!(backend.is_idle());
    // Whoever died may have done so before ringing.
    rig.world.settle();
    assert_eq!(rig.guest.rings[0].channel.take_pending(), Ok(true));
}
