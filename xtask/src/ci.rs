//! `cargo xtask ci`: everything that must hold before a change is kept.

use crate::counts::Counts;
use crate::process::{cargo, run as run_command};
use crate::{abi, licences, test, weaken};
use anyhow::{Result, bail};
use std::time::Instant;

type Part = (&'static str, fn() -> Result<()>);

/// Those without counts of their own count as one check each.
const CHECKS: &[Part] = &[
    ("fmt", || {
        run_command(cargo().args(["fmt", "--all", "--check"]))
    }),
    ("clippy", || {
        run_command(cargo().args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    }),
    // A workspace of their own, built as they are run.
    ("benches", || {
        let manifest = "benches/Cargo.toml";
        run_command(cargo().args(["fmt", "--manifest-path", manifest, "--all", "--check"]))?;
        run_command(cargo().args([
            "clippy",
            "--quiet",
            "--manifest-path",
            manifest,
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    }),
    ("docs", || {
        run_command(
            cargo()
                .args(["doc", "--quiet", "--no-deps", "--workspace"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    }),
    ("licences", licences::run),
    ("abi", abi::run),
];

/// These record their own counts.
const SUITES: &[Part] = &[
    ("test", || test::run(&test::Options::default())),
    ("weaken", || weaken::run(&weaken::Options::default())),
];

/// Goes on after a failure, so that one run shows all of them.
pub(crate) fn run() -> Result<()> {
    let mut failed = Vec::new();
    let mut counts = Counts::default();
    for (name, part) in CHECKS {
        let passed = announce(name, *part);
        counts += Counts::one(passed);
        if !passed {
            failed.push(*name);
        }
    }
    counts.record("checks")?;
    for (name, part) in SUITES {
        if !announce(name, *part) {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("ci: all passed");
    Ok(())
}

fn announce(name: &str, part: fn() -> Result<()>) -> bool {
    println!("== {name}");
    let start = Instant::now();
    let result = part();
    let took = start.elapsed().as_secs_f32();
    match &result {
        Ok(()) => println!("== {name}: passed ({took:.1} s)\n"),
        Err(error) => println!("== {name}: FAILED ({took:.1} s): {error:#}\n"),
    }
    result.is_ok()
}
