//! `lab-peer conformance`.

use std::process::ExitCode;

use ringfence_core::DomId;
use ringfence_core::platform::CONTRACTS;
use ringfence_tests::conformance::{Check, handle_checks, life_checks};

use crate::Three;
use crate::checks::{GuestWorld, run as run_checks};

/// The contract after which domain A is no more.
const LAST: &str = "D4";
/// The contract about what a domain may not do in the store, where dom0 may everything.
const NOT_FOR_DOM0: &str = "X4";

/// Runs the contracts: all of them, but for those that `only` leaves out, and the last one with `keep`.
pub(crate) fn run(domains: Three, only: &[String], keep: bool) -> ExitCode {
    let mut checks: Vec<Check<GuestWorld>> =
        handle_checks().into_iter().chain(life_checks()).collect();
    let numbers: Vec<_> = checks.iter().map(|(id, _)| *id).collect();
    let contracts: Vec<_> = CONTRACTS.iter().map(|contract| contract.id).collect();
    assert_eq!(numbers, contracts, "every contract has a check");
    if [domains.a, domains.b].contains(&DomId::DOM0) {
        println!("CONTRACT {NOT_FOR_DOM0}: says nothing about dom0, which may write every node");
        checks.retain(|(id, _)| *id != NOT_FOR_DOM0);
    }
    checks.retain(|(id, _)| only.is_empty() || only.iter().any(|only| only == id));
    checks.retain(|(id, _)| !(keep && *id == LAST));
    run_checks("CONTRACT", domains, &checks, LAST)
}
