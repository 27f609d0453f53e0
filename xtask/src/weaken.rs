//! `cargo xtask weaken`: takes one check away at a time and demands that exactly its tests notice.

mod list;
mod sites;
mod wrapper;

use crate::counts::{Counts, target_dir};
use crate::libtest::{Outcome, Results};
use crate::process;
use crate::programs::{self, Program};
use anyhow::{Context, Result, bail};
use list::Weakening;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::panic::resume_unwind;
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
    let mut all = list::read(&process::root().join("tests/hostile/weaken.d"))?;
    for name in &options.names {
        if !all.iter().any(|weakening| weakening.name == *name) {
            bail!("no check is called `{name}` in tests/hostile/weaken.d");
        }
    }
    all.retain(|weakening| options.names.is_empty() || options.names.contains(&weakening.name));
    let start = Instant::now();
    let groups: Vec<_> = all
        .chunk_by(|a, b| a.name == b.name && a.package == b.package)
        .collect();
    let sites = sites::find()?;
    let workshops = (0..workshops(groups.len())).map(|number| Workshop::new(number, &sites));
    let workshops = workshops.collect::<Result<Vec<_>>>()?;
    let next = AtomicUsize::new(0);
    let mut counts = std::thread::scope(|scope| {
        let work = |workshop: Workshop<'_>| workshop.try_all(&groups, &next);
        let started: Vec<_> = (workshops.into_iter())
            .map(|workshop| scope.spawn(move || work(workshop)))
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

/// Most of the work is one crate after another, each on one processor; but every workshop has a target directory of its own.
const WORKSHOPS_MAX: usize = 2;

/// How many workshops are worth while for so many weakenings.
fn workshops(weakenings: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.min(weakenings).clamp(1, WORKSHOPS_MAX)
}

/// Where weakened programs are built, one at a time.
struct Workshop<'a> {
    environment: Vec<(String, OsString)>,
    sites: &'a BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Workshop<'a> {
    fn new(number: usize, sites: &'a BTreeMap<String, BTreeSet<String>>) -> Result<Self> {
        let dir = target_dir()?.join(format!("weaken-{number}"));
        let wrapper = wrapper::write(&dir)?;
        let environment = vec![
            ("RUSTC_WORKSPACE_WRAPPER".into(), wrapper.into()),
            ("CARGO_TARGET_DIR".into(), dir.into()),
            // Nobody debugs these programs, and linking them is most of the work.
            ("CARGO_PROFILE_DEV_DEBUG".into(), "0".into()),
        ];
        Ok(Self { environment, sites })
    }

    /// Tries what no other workshop has begun, until nothing is left.
    fn try_all(&self, groups: &[&[Weakening]], next: &AtomicUsize) -> Counts {
        let mut counts = Counts::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(number) else {
                return counts;
            };
            let start = Instant::now();
            let verdict = self.try_one(group);
            let took = start.elapsed().as_secs_f32();
            let name = &group[0].name;
            let place = format!("[{}/{}] {name}", number + 1, groups.len());
            match &verdict {
                Ok(note) => println!("{place}: {note} ({took:.1} s)"),
                Err(error) => println!("{place}: FAILED ({took:.1} s)\n    {error:#}"),
            }
            counts += Counts::one(verdict.is_ok());
        }
    }

    /// Takes one check away and runs every target of its lines, which share name and package.
    fn try_one(&self, group: &[Weakening]) -> Result<String> {
        let [first, ..] = group else {
            bail!("an empty group");
        };
        let packages = self.sites.get(&first.name);
        let packages = packages.context("no source file has this check")?;
        let mut environment = self.environment.clone();
        environment.extend(
            packages
                .iter()
                .map(|package| wrapper::variable(package, &first.name)),
        );
        let mut arguments = vec![format!("--package={}", first.package)];
        for weakening in group {
            arguments.push(match weakening.target.as_str() {
                "lib" => "--lib".to_owned(),
                target => format!("--test={target}"),
            });
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let programs = programs::build(&arguments, &environment)?;
        let mut notes = Vec::new();
        for weakening in group {
            let target = &weakening.target;
            let program = programs.iter().find(|program| program.target == *target);
            let program = program.with_context(|| format!("`{target}` builds no test program"))?;
            let (red, hung) = red_tests(program, weakening)?;
            weakening.judge(&red.all, &red.red)?;
            notes.push(format!(
                "{} of {} tests turn red",
                red.red.len(),
                red.all.len()
            ));
            if !hung.is_empty() {
                notes.push(format!("red by hanging or dying: {}", hung.join(", ")));
            }
        }
        Ok(notes.join("; "))
    }
}

struct Red {
    all: BTreeSet<String>,
    red: BTreeSet<String>,
}

/// Every test of the program, those that fail, and which of them did so by hanging or by taking the program down.
fn red_tests(program: &Program, weakening: &Weakening) -> Result<(Red, Vec<String>)> {
    let listed = process::output_of(program.command().args(["--list", "--format=terse"]))?;
    let all: BTreeSet<String> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    weakening.check_names(&all)?;
    let ended = process::watch(&mut program.command(), PROGRAM_LIMIT)?;
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
                let alone = process::watch(program.command().args(["--exact", test]), TEST_LIMIT)?;
                if !alone.status.is_some_and(|status| status.success()) {
                    hung.push(test.clone());
                    red.insert(test.clone());
                }
            }
        }
    }
    Ok((Red { all, red }, hung))
}
