//! `cargo xtask weaken`: takes one check away at a time and demands that exactly its tests notice.

mod list;

use crate::counts::{Counts, target_dir};
use crate::libtest::{Outcome, Results};
use crate::process;
use crate::programs::{self, Program};
use anyhow::{Context, Result, bail};
use list::Weakening;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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
    let dir = target_dir()?.join("weaken");
    let mut counts = Counts::default();
    for (number, weakening) in all.iter().enumerate() {
        let start = Instant::now();
        let verdict = try_one(weakening, &dir);
        let took = start.elapsed().as_secs_f32();
        let place = format!("[{}/{}] {}", number + 1, all.len(), weakening.name);
        match &verdict {
            Ok(note) => println!("{place}: {note} ({took:.1} s)"),
            Err(error) => println!("{place}: FAILED ({took:.1} s)\n    {error:#}"),
        }
        counts += Counts::one(verdict.is_ok());
    }
    if all.is_empty() {
        println!("FAILED: tests/hostile/weaken.d names no check");
        counts.failed += 1;
    }
    counts.record("weaken")?;
    println!("weaken: {counts}");
    if counts.failed > 0 {
        bail!(
            "{} weakenings went unnoticed or hit other tests",
            counts.failed
        );
    }
    Ok(())
}

fn try_one(weakening: &Weakening, dir: &Path) -> Result<String> {
    let wrapper = wrapper(&weakening.name, dir)?;
    let package = format!("--package={}", weakening.package);
    let test = format!("--test={}", weakening.target);
    let target = if weakening.target == "lib" {
        "--lib"
    } else {
        &test
    };
    let environment = [
        ("RUSTC_WORKSPACE_WRAPPER", wrapper.as_path()),
        ("CARGO_TARGET_DIR", dir),
    ];
    let programs = programs::build(&[&package, target], &environment)?;
    let [program] = programs.as_slice() else {
        bail!(
            "{package} {target} builds {} test programs, not one",
            programs.len()
        );
    };
    let (red, hung) = red_tests(program, weakening)?;
    weakening.judge(&red.all, &red.red)?;
    let mut note = format!("{} of {} tests turn red", red.red.len(), red.all.len());
    if !hung.is_empty() {
        note.push_str(&format!("; red by hanging or dying: {}", hung.join(", ")));
    }
    Ok(note)
}

/// A program that stands before the compiler of our own crates and takes the check away.
///
/// Cargo hashes the wrapper's path into the identity of the workspace's crates and of nothing else, so with a path of its
/// own each weakening has artifacts of its own, next to dependencies that are built once.
fn wrapper(name: &str, dir: &Path) -> Result<PathBuf> {
    let wrappers = dir.join("wrappers");
    std::fs::create_dir_all(&wrappers)?;
    let path = wrappers.join(name);
    let script = format!("#!/bin/sh\nexec \"$@\" --cfg 'ringfence_weaken=\"{name}\"'\n");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == script) {
        return Ok(path);
    }
    std::fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
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
