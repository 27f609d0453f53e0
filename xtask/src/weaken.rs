//! `cargo xtask weaken`: takes one check away at a time and demands that exactly its tests notice.

mod list;
mod sites;

use crate::counts::{Counts, target_dir};
use crate::libtest::{Outcome, Results};
use crate::process;
use crate::programs::{self, Program};
use anyhow::{Context, Result, bail};
use list::Weakening;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A whole program that takes longer has a test that hangs.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);
/// One test on its own that takes longer hangs.
const TEST_LIMIT: Duration = Duration::from_secs(40);

/// Options of `weaken`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only these checks; all of them by default
    names: Vec<String>,
}

/// Tries the chosen weakenings.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut all = list::read(&lists())?;
    for name in &options.names {
        if !all.iter().any(|weakening| weakening.name == *name) {
            bail!("no check is called `{name}` in tests/hostile/weaken.d");
        }
    }
    let checks = sites::find()?;
    let unlisted = unlisted(&checks, &all);
    if !unlisted.is_empty() {
        let names = unlisted.join(", ");
        bail!("no line of tests/hostile/weaken.d tries these checks: {names}");
    }
    all.retain(|weakening| options.names.is_empty() || options.names.contains(&weakening.name));
    let start = Instant::now();
    let programs = build(&all)?;
    println!("built in {:.0} s", start.elapsed().as_secs_f32());
    let next = AtomicUsize::new(0);
    let work = || try_all(&all, &checks, &programs, &next);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts = std::thread::scope(|scope| {
        let started: Vec<_> = (0..workers.min(all.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut counts = Counts::default();
        for one in started {
            counts += one.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        counts
    });
    if all.is_empty() {
        println!("FAILED: tests/hostile/weaken.d names no check");
        counts.failed += 1;
    }
    counts.record("weaken")?;
    println!("weaken: {counts}, {:.0} s", start.elapsed().as_secs_f32());
    if counts.failed > 0 {
        bail!(
            "{} weakenings went unnoticed or hit other tests",
            counts.failed
        );
    }
    Ok(())
}

fn lists() -> PathBuf {
    process::root().join("tests/hostile/weaken.d")
}

/// The checks that are in the sources and that no line tries.
fn unlisted<'c>(checks: &'c BTreeSet<String>, all: &[Weakening]) -> Vec<&'c str> {
    let listed = |check: &&String| all.iter().any(|weakening| weakening.name == **check);
    let unlisted = checks.iter().filter(|check| !listed(check));
    unlisted.map(String::as_str).collect()
}

/// Which check a program of this build does without.
const CHOICE: &str = "RINGFENCE_WEAKEN";

/// Builds all programs that the lines name, each once, with checks that can be taken away.
fn build(all: &[Weakening]) -> Result<BTreeMap<(String, String), Program>> {
    let environment = [
        ("RUSTFLAGS".into(), "--cfg ringfence_weaken".into()),
        (
            "CARGO_TARGET_DIR".into(),
            target_dir()?.join("weaken").into(),
        ),
        // Nobody debugs these programs.
        ("CARGO_PROFILE_DEV_DEBUG".into(), "0".into()),
    ];
    let mut targets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for weakening in all {
        let of_package = targets.entry(&weakening.package).or_default();
        of_package.insert(&weakening.target);
    }
    let mut built = BTreeMap::new();
    for (package, targets) in targets {
        let mut arguments = vec![format!("--package={package}")];
        arguments.extend(targets.into_iter().map(|target| match target {
            "lib" => "--lib".to_owned(),
            target => format!("--test={target}"),
        }));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        for program in programs::build(&arguments, &environment)? {
            built.insert((package.to_owned(), program.target.clone()), program);
        }
    }
    Ok(built)
}

/// Tries what nobody else has begun, until nothing is left.
fn try_all(
    all: &[Weakening],
    checks: &BTreeSet<String>,
    programs: &BTreeMap<(String, String), Program>,
    next: &AtomicUsize,
) -> Counts {
    let mut counts = Counts::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(weakening) = all.get(number) else {
            return counts;
        };
        let start = Instant::now();
        let verdict = try_one(weakening, checks, programs);
        let took = start.elapsed().as_secs_f32();
        let (name, target) = (&weakening.name, &weakening.target);
        let place = format!("[{}/{}] {name} in {target}", number + 1, all.len());
        match &verdict {
            Ok(note) => println!("{place}: {note} ({took:.1} s)"),
            Err(error) => println!("{place}: FAILED ({took:.1} s)\n    {error:#}"),
        }
        counts += Counts::one(verdict.is_ok());
    }
}

/// Takes one check away from one program.
fn try_one(
    weakening: &Weakening,
    checks: &BTreeSet<String>,
    programs: &BTreeMap<(String, String), Program>,
) -> Result<String> {
    if !checks.contains(&weakening.name) {
        bail!("no source file has this check");
    }
    let key = (weakening.package.clone(), weakening.target.clone());
    let program = programs.get(&key);
    let program = program.with_context(|| format!("`{}` builds no test program", key.1))?;
    let (red, hung) = red_tests(program, weakening)?;
    weakening.judge(&red.all, &red.red)?;
    let mut note = format!("{} of {} tests turn red", red.red.len(), red.all.len());
    if !hung.is_empty() {
        note += &format!("; red by hanging or dying: {}", hung.join(", "));
    }
    Ok(note)
}

struct Red {
    all: BTreeSet<String>,
    red: BTreeSet<String>,
}

/// Every test of the program, those that fail, and which of them did so by hanging or by taking the program down.
fn red_tests(program: &Program, weakening: &Weakening) -> Result<(Red, Vec<String>)> {
    let command = || {
        let mut command = program.command();
        command.env(CHOICE, &weakening.name);
        command
    };
    let listed = process::output_of(command().args(["--list", "--format=terse"]))?;
    let all: BTreeSet<String> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    weakening.check_names(&all)?;
    let ended = process::watch(&mut command(), PROGRAM_LIMIT)?;
    let results = Results::parse(&ended.output);
    let mut red = BTreeSet::new();
    let mut hung = Vec::new();
    for test in &all {
        match results.tests.get(test) {
            Some(Outcome::Passed | Outcome::Ignored) => {}
            Some(Outcome::Failed) => {
                red.insert(test.clone());
            }
            // It hung or died, or another one did before its turn came.
            None => {
                let alone = process::watch(command().args(["--exact", test]), TEST_LIMIT)?;
                if !alone.status.is_some_and(|status| status.success()) {
                    hung.push(test.clone());
                    red.insert(test.clone());
                }
            }
        }
    }
    Ok((Red { all, red }, hung))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_of_the_sources_is_tried() {
        let all = list::read(&lists()).expect("lists");
        let mut checks = sites::find().expect("sources");
        assert_eq!(unlisted(&checks, &all), [""; 0]);
        checks.insert("of_nobody".to_owned());
        assert_eq!(unlisted(&checks, &all), ["of_nobody"]);
    }
}
