//! As `sim_restart`, with what else the two ends may use of the protocol: what is in flight when the process dies has its pages named in
//! another page, orders what came before it, lies in pages that were mapped for good, or is on one of several rings.

use ringfence_tests::crash_rig::{Rig, Shape};

/// Requests of the guest in one run.
const REQUESTS: usize = 12;

/// Dies at one step of so many, and if there is a second number at that many steps of what follows; the first step is the seed's.
fn deaths(shape: Shape, seed: u64, stride: usize, again: impl Fn(u64) -> Option<u64>) {
    let mut deaths = 0;
    for step in (seed % stride as u64..).step_by(stride) {
        let ends: Vec<u64> = [Some(step), again(step)].into_iter().flatten().collect();
        let run = || {
            let mut rig = Rig::of(shape, seed, REQUESTS);
            rig.run(&ends);
            rig.check();
            rig.deaths
        };
        match std::panic::catch_unwind(run) {
            Ok(0) => break,
            Ok(_) => deaths += 1,
            Err(_) => panic!("seed {seed}: deaths at {ends:?}, {shape:?}"),
        }
    }
    let least = 20 * REQUESTS / stride;
    assert!(deaths > least, "seed {seed}: {deaths} deaths are too few");
}

/// One death at every `stride`th step, and two deaths at fewer.
fn one_and_two_deaths(shape: Shape, stride: usize) {
    deaths(shape, 1, stride, |_| None);
    for seed in 2..4 {
        deaths(shape, seed, 3 * stride + 2, |step| {
            Some((step * 7 + seed) % 60)
        });
    }
}

#[test]
fn requests_that_name_their_pages_in_another_page() {
    let shape = Shape {
        segments: 3,
        indirect: true,
        ..Shape::PLAIN
    };
    one_and_two_deaths(shape, 1);
}

#[test]
fn requests_that_order_all_others() {
    let shape = Shape {
        barriers: true,
        ..Shape::PLAIN
    };
    one_and_two_deaths(shape, 1);
}

/// Data moves in words then, each of which is a step.
#[test]
fn requests_in_pages_that_stay_mapped() {
    let shape = Shape {
        persistent: true,
        ..Shape::PLAIN
    };
    one_and_two_deaths(shape, 23);
}

#[test]
fn requests_on_two_rings() {
    let shape = Shape {
        queues: 2,
        ..Shape::PLAIN
    };
    one_and_two_deaths(shape, 1);
}

#[test]
fn requests_that_order_those_of_the_other_ring() {
    let shape = Shape {
        queues: 2,
        barriers: true,
        ..Shape::PLAIN
    };
    one_and_two_deaths(shape, 1);
}

#[test]
fn requests_on_a_ring_of_four_pages() {
    let shape = Shape {
        ring_pages: 4,
        ..Shape::PLAIN
    };
    one_and_two_deaths(shape, 1);
}

#[test]
fn requests_of_all_kinds() {
    let shape = Shape {
        queues: 2,
        ring_pages: 2,
        segments: 2,
        indirect: true,
        barriers: true,
        persistent: true,
    };
    one_and_two_deaths(shape, 83);
}
