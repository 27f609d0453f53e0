//! `lab-peer conformance`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use ringfence_core::platform::{CONTRACTS, Platform as _};
use ringfence_lab::rpc::Census;
use ringfence_lab::world::RemoteWorld;
use ringfence_tests::conformance::{
    Check, Lives as _, Who, World as _, handle_checks, life_checks,
};

use crate::Three;
use crate::fleet::Guests;

type Guest3 = RemoteWorld<Guests>;

/// The contract after which domain A is no more.
const LAST: &str = "D4";

/// Runs the contracts, each with new processes in the three domains, and prints a line for each.
pub(crate) fn run(domains: Three, only: &[String], keep: bool) -> ExitCode {
    let checks: Vec<Check<Guest3>> = handle_checks().into_iter().chain(life_checks()).collect();
    let numbers: Vec<_> = checks.iter().map(|(id, _)| *id).collect();
    let contracts: Vec<_> = CONTRACTS.iter().map(|contract| contract.id).collect();
    assert_eq!(numbers, contracts, "every contract has a check");
    let wanted =
        |id: &str| (only.is_empty() || only.iter().any(|only| only == id)) && !(keep && id == LAST);

    let mut fleet = Some(Guests::new(domains));
    let (mut held, mut failed) = (0, 0);
    for (id, check) in checks.iter().filter(|(id, _)| wanted(id)) {
        let start = Instant::now();
        let mut world = RemoteWorld::new(fleet.take().expect("given back"), id);
        if held + failed == 0 {
            println!("{:?}", world.domain(Who::A).capabilities());
        }
        let result = catch_unwind(AssertUnwindSafe(|| {
            check(&mut world);
            if *id != LAST {
                assert_nothing_held(&world);
            }
        }));
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                held += 1;
                println!("CONTRACT {id} holds ({seconds:.1} s)");
            }
            Err(_) => {
                failed += 1;
                println!("CONTRACT {id} FAILED ({seconds:.1} s)");
            }
        }
        if *id == LAST {
            break;
        }
        // What a failed check held must not meet the next one.
        for who in [Who::A, Who::B, Who::C] {
            world.kill(who);
        }
        fleet = Some(world.into_fleet());
    }
    println!("{held} contracts hold, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn assert_nothing_held(world: &Guest3) {
    for line in world.lines().iter().map(Rc::as_ref) {
        assert_eq!(line.census(), Census::default(), "{line:?}");
    }
}
