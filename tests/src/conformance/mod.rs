//! The platform contracts as tests: one function per number of [`CONTRACTS`], run on every platform.
//!
//! A platform implements [`World`] and calls [`platform_conformance!`](crate::platform_conformance) in a file
//! `tests/conformance_NAME.rs`. Where a process is a real one, whose handles no test can hold, it calls the macro with
//! `handles` and writes the contracts `D` itself, against its own processes.

mod evtchn;
mod grants;
mod lives;
pub mod sim;
mod store;
mod world;

pub use world::{Lives, Who, World};

use ringfence_core::platform::CONTRACTS;

/// A contract's number and its test.
pub type Check<W> = (&'static str, fn(&mut W));

/// The contracts that need nothing but handles.
#[must_use]
pub fn handle_checks<W: World>() -> Vec<Check<W>> {
    vec![
        ("G1", grants::g1),
        ("G2", grants::g2),
        ("G3", grants::g3),
        ("G4", grants::g4),
        ("G5", grants::g5),
        ("G6", grants::g6),
        ("G7", grants::g7),
        ("G8", grants::g8),
        ("G9", grants::g9),
        ("G10", grants::g10),
        ("E1", evtchn::e1),
        ("E2", evtchn::e2),
        ("E3", evtchn::e3),
        ("E4", evtchn::e4),
        ("E5", evtchn::e5),
        ("E6", evtchn::e6),
        ("X1", store::x1),
        ("X2", store::x2),
        ("X3", store::x3),
        ("X4", store::x4),
    ]
}

/// The contracts on the death of processes and domains.
#[must_use]
pub fn life_checks<W: Lives>() -> Vec<Check<W>> {
    vec![
        ("D1", lives::d1),
        ("D2", lives::d2),
        ("D3", lives::d3),
        ("D4", lives::d4),
    ]
}

/// Runs one contract in a fresh world.
///
/// # Panics
/// If it does not hold, or has no number.
pub fn run<W>(checks: &[Check<W>], id: &str, world: &mut W) {
    let contract = CONTRACTS.iter().find(|contract| contract.id == id);
    let contract = contract.unwrap_or_else(|| panic!("{id} is no contract"));
    let check = checks.iter().find(|(name, _)| *name == id);
    let (_, check) = check.unwrap_or_else(|| panic!("{id} has no test"));
    println!("{id}: {}", contract.rule);
    check(world);
}

/// The numbers of [`CONTRACTS`] and those of the tests must be the same, in the same order.
///
/// # Panics
/// If they are not.
pub fn assert_complete<W: World>(handles: &[Check<W>], lives: &[&str]) {
    let tests = handles
        .iter()
        .map(|(id, _)| *id)
        .chain(lives.iter().copied());
    let contracts = CONTRACTS.iter().map(|contract| contract.id);
    assert_eq!(tests.collect::<Vec<_>>(), contracts.collect::<Vec<_>>());
}

/// Makes one `#[test]` per contract, each in a world of its own that `$new` makes, and one that compares the numbers with
/// those of `CONTRACTS`. With `handles` before it, the contracts `D` are left out: tests named `d1` to `d4` must stand
/// beside the call, or the file does not compile.
#[macro_export]
macro_rules! platform_conformance {
    ($new:expr) => {
        $crate::platform_conformance!(handles $new);
        $crate::platform_conformance!(@ life_checks, $new;
            d1 "D1", d2 "D2", d3 "D3", d4 "D4");
    };
    (handles $new:expr) => {
        $crate::platform_conformance!(@ handle_checks, $new;
            g1 "G1", g2 "G2", g3 "G3", g4 "G4", g5 "G5", g6 "G6", g7 "G7", g8 "G8", g9 "G9", g10 "G10",
            e1 "E1", e2 "E2", e3 "E3", e4 "E4", e5 "E5", e6 "E6",
            x1 "X1", x2 "X2", x3 "X3", x4 "X4");

        #[test]
        fn every_contract_has_a_test_and_every_test_a_contract() {
            // Naming them is what fails the build when one of them is not there.
            let _: [fn(); 4] = [d1, d2, d3, d4];
            fn checks<W: $crate::conformance::World>(_: impl FnOnce() -> W) {
                $crate::conformance::assert_complete::<W>(
                    &$crate::conformance::handle_checks(),
                    &["D1", "D2", "D3", "D4"],
                );
            }
            checks(|| $new);
        }
    };
    (@ $checks:ident, $new:expr; $($test:ident $id:literal),+) => {
        $(
            #[test]
            fn $test() {
                $crate::conformance::run(&$crate::conformance::$checks(), $id, &mut $new);
            }
        )+
    };
}
