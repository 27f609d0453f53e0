//! `cargo xtask test`: every test there is, group by group.

pub(crate) mod expected;
mod group;

use crate::counts::Counts;
use crate::libtest::{Outcome, Results, Skip};
use crate::process::{self, cargo, found};
use crate::programs::{self, Program};
use anyhow::{Context, Result, bail};
use expected::Expected;
use group::Group;
use std::collections::BTreeMap;
use std::time::Duration;

/// A program that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// What tests use beside the toolchain, and the Debian package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("gcc", "gcc libc6-dev"),
    ("nm", "binutils"),
    ("xenstore-ls", "xenstore-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("nbdcopy", "libnbd-bin"),
    ("fio", "fio"),
    ("mke2fs", "e2fsprogs"),
    ("strace", "strace"),
];

/// Options of `test`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only these groups: unit, doc, property, loom, conformance, hostile, hosted, no_std, fuzz-corpus
    groups: Vec<String>,
}

#[derive(Default)]
struct Tally {
    counts: Counts,
    ignored: usize,
    failures: Vec<String>,
    skips: Vec<Skip>,
}

impl Tally {
    fn fail(&mut self, what: String) {
        println!("    FAILED {what}");
        self.counts.failed += 1;
        self.failures.push(what);
    }
}

/// Runs the groups and says how they went.
pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen = Group::select(&options.groups)?;
    let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    missing_tools();
    let mut tallies: BTreeMap<Group, Tally> = chosen
        .iter()
        .map(|group| (*group, Tally::default()))
        .collect();
    if chosen.iter().any(|group| group.is_built_by_cargo()) {
        for program in programs::build(&["--workspace"], &[])? {
            if let Some(tally) = tallies.get_mut(&Group::of(&program.target)) {
                run_program(&program, tally)?;
            }
        }
    }
    if let Some(tally) = tallies.get_mut(&Group::Doc) {
        run_doc(tally)?;
    }
    if let Some(tally) = tallies.get_mut(&Group::NoStd) {
        let checks = crate::no_std::run();
        match checks {
            Ok(checks) => tally.counts.passed += checks,
            Err(error) => tally.fail(format!("no_std: {error:#}")),
        }
    }
    summarise(tallies, in_ci)
}

fn missing_tools() {
    let mut packages: Vec<&str> = Vec::new();
    for (tool, package) in TOOLS {
        if !found(tool) {
            println!("missing: {tool}");
            packages.extend(package.split(' '));
        }
    }
    if !packages.is_empty() {
        packages.sort_unstable();
        packages.dedup();
        println!("  apt-get install {}", packages.join(" "));
    }
}

fn run_program(program: &Program, tally: &mut Tally) -> Result<()> {
    let ended = process::watch(program.command().arg("--show-output"), LIMIT)?;
    let name = format!("{}::{}", program.package, program.target);
    let results = Results::parse(&ended.output);
    take(&name, &results, &ended, tally);
    Ok(())
}

fn run_doc(tally: &mut Tally) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--quiet",
        "--workspace",
        "--doc",
        "--",
        "--show-output",
        "--format=pretty",
    ]);
    let ended = process::watch(&mut command, LIMIT)?;
    let results = Results::parse(&ended.output);
    take("doc", &results, &ended, tally);
    Ok(())
}

fn take(name: &str, results: &Results, ended: &process::Ended, tally: &mut Tally) {
    let skipped = results
        .skips
        .iter()
        .filter(|skip| results.tests.get(&skip.name) == Some(&Outcome::Passed))
        .count();
    let counts = Counts {
        passed: results.count(Outcome::Passed).saturating_sub(skipped),
        failed: results.count(Outcome::Failed),
        skipped: results.skips.len(),
    };
    let ignored = results.count(Outcome::Ignored);
    if results.tests.is_empty() && results.finished {
        return;
    }
    println!("  {name}: {counts}, {:.1} s", ended.took.as_secs_f32());
    tally.counts += counts;
    tally.ignored += ignored;
    tally.skips.extend(results.skips.iter().cloned());
    for (test, _) in results.tests.iter().filter(|(_, o)| **o == Outcome::Failed) {
        tally.failures.push(format!("{name} {test}"));
    }
    let success = ended.status.is_some_and(|status| status.success());
    if !success {
        println!("{}", ended.output);
    }
    match ended.status {
        None => tally.fail(format!("{name}: hangs, killed after {} s", LIMIT.as_secs())),
        Some(status) if !results.finished => tally.fail(format!("{name}: died, {status}")),
        Some(status) if !success && counts.failed == 0 => tally.fail(format!("{name}: {status}")),
        Some(_) => {}
    }
}

fn summarise(tallies: BTreeMap<Group, Tally>, in_ci: bool) -> Result<()> {
    let path = process::root().join("tests/expected-skips");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let expected = Expected::parse(&text)?;
    let mut sum = Counts::default();
    let mut complaints = Vec::new();
    println!();
    for (group, tally) in &tallies {
        println!("{:<12} {}", group.name(), tally.counts);
        sum += tally.counts;
        for skip in &tally.skips {
            let known = expected.has(skip);
            let mark = if known { "expected" } else { "NOT EXPECTED" };
            println!("             SKIP {}: {} ({mark})", skip.name, skip.why);
            if !known {
                complaints.push(format!(
                    "{} skipped, which tests/expected-skips does not list",
                    skip.name
                ));
            }
        }
        if tally.ignored > 0 {
            complaints.push(format!(
                "{} tests of {} are ignored",
                tally.ignored,
                group.name()
            ));
        }
        if tally.counts == Counts::default() {
            complaints.push(format!("the group {} has no tests", group.name()));
        }
    }
    for failure in tallies.values().flat_map(|tally| &tally.failures) {
        println!("FAILED {failure}");
    }
    for complaint in &complaints {
        println!("{}: {complaint}", if in_ci { "FAILED" } else { "note" });
    }
    if in_ci {
        sum.failed += complaints.len();
    }
    sum.record("test")?;
    println!("test: {sum}");
    if sum.failed > 0 {
        bail!("{} tests failed", sum.failed);
    }
    Ok(())
}
