//! Runs checks one after the other, each with nothing held in the three domains, and prints a line for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ringfence_core::platform::Platform as _;
use ringfence_lab::world::RemoteWorld;
use ringfence_lab_agent::rpc::Census;
use ringfence_tests::conformance::{Check, Lives as _, Who, World as _};

use crate::Three;
use crate::fleet::Guests;

/// Three guests, as a check sees them.
pub(crate) type GuestWorld = RemoteWorld<Guests>;

/// What the last panic said, and where. Many checks expect some, so it is told only when the check fails.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn last_panic() -> MutexGuard<'static, String> {
    LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many went well, and how many did not.
#[derive(Debug)]
pub(crate) struct Tally {
    held: u32,
    failed: u32,
}

impl Tally {
    /// Keeps panics to itself from now on.
    pub(crate) fn start() -> Self {
        std::panic::set_hook(Box::new(|panic| *last_panic() = panic.to_string()));
        Self { held: 0, failed: 0 }
    }

    /// Runs one of them, prints its line, and says whether it went well.
    pub(crate) fn check(&mut self, kind: &str, name: &str, check: impl FnOnce()) -> bool {
        let start = Instant::now();
        let held = catch_unwind(AssertUnwindSafe(check)).is_ok();
        let seconds = start.elapsed().as_secs_f64();
        let word = if held { "holds" } else { "FAILED" };
        println!("{kind} {name}: {word} ({seconds:.1} s)");
        if !held {
            println!("{}", last_panic());
        }
        *if held {
            &mut self.held
        } else {
            &mut self.failed
        } += 1;
        held
    }

    /// Prints the sum.
    pub(crate) fn end(&self, kind: &str) -> ExitCode {
        let Self { held, failed } = self;
        println!("{kind}: {held} hold, {failed} failed");
        if *failed == 0 && *held > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Runs `checks`. After the one called `last` domain A is no more.
pub(crate) fn run(
    kind: &str,
    domains: Three,
    checks: &[Check<GuestWorld>],
    last: &str,
) -> ExitCode {
    let mut fleet = Guests::new(domains);
    let mut tally = Tally::start();
    for (number, (name, check)) in checks.iter().enumerate() {
        let mut world = RemoteWorld::new(fleet, &format!("check{number}"));
        if number == 0 {
            println!("{:?}", world.domain(Who::A).capabilities());
        }
        let held = tally.check(kind, name, || {
            check(&mut world);
            if *name != last {
                assert_nothing_held(&world);
            }
        });
        if !held && *name != last {
            // What it held must not meet the next one.
            for who in [Who::A, Who::B, Who::C] {
                world.kill(who);
            }
        }
        fleet = world.end();
        if *name == last {
            break;
        }
    }
    tally.end(kind)
}

fn assert_nothing_held(world: &GuestWorld) {
    for line in world.lines().iter().map(Rc::as_ref) {
        assert_eq!(line.census(), Census::default(), "{line:?}");
    }
}
