//! `cargo xtask lab`: the real Xen with a real Linux in dom0 and in guests, under QEMU, and scenarios that run there.

mod bare;
mod blkif;
mod boot;
mod cpio;
mod elf;
mod fio;
mod kernel;
mod layout;
mod packages;
mod programs;
mod qdisk;
mod qemu;
mod results;
mod scenario;
mod shell;
mod status;
mod tree;

use crate::counts::{Counts, target_dir};
use crate::libtest::Skip;
use crate::process::root;
use crate::test::expected::Expected;
use anyhow::{Context, Result, bail};
pub(crate) use bare::boot as boot_without_xen;
use boot::{Boot, Verdict};
use layout::Layout;
use packages::Cache;
use results::Results;
use scenario::{Need, Scenario, When};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Options of `lab`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only these scenarios (`disk_*`: all that begin so), or `shell`: dom0 on this terminal
    scenarios: Vec<String>,
    /// Those too that are not part of every run
    #[arg(long)]
    all: bool,
    /// Say which there are, and stop
    #[arg(long)]
    list: bool,
    /// Download and unpack what is missing, and stop
    #[arg(long)]
    fetch: bool,
    /// Keep the logs of boots that went well
    #[arg(long)]
    keep_logs: bool,
    /// Multiply every limit, on a slow or busy machine
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    patience: u32,
    /// Write docs/STATUS.md from the results of this and earlier runs
    #[arg(long)]
    status: bool,
    /// Take `ringfence` and `lab-peer`, statically linked, from this folder
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

/// Runs these scenarios and keeps their logs, for who reads figures in them; an error if any failed.
pub(crate) fn run_named(names: &[&str], bin: Option<PathBuf>, patience: u32) -> Result<()> {
    run(&Options {
        scenarios: names.iter().map(|&name| name.to_owned()).collect(),
        keep_logs: true,
        patience,
        bin,
        ..Options::default()
    })
}

/// Runs what was chosen; an error if anything failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let work = target_dir()?.join("lab");
    fs::create_dir_all(work.join("logs"))?;
    let mut all = scenario::read_all(&root().join("tests/lab/scenarios"))?;
    if options.list {
        return list(&all);
    }
    let cache = Cache::open()?;
    if options.fetch {
        let layout = Layout::open(&cache, &work)?;
        for (name, version) in layout.peers()? {
            println!("{name} {version}");
        }
        return Ok(());
    }
    if options.scenarios == ["shell"] {
        let layout = Layout::open(&cache, &work)?;
        let mut programs = scenario::select(all, &[], true)?;
        programs.retain(|scenario| scenario.needs == [Need::Ringfence]);
        programs.truncate(1);
        let initrd = write_initrd(&layout, &programs, options, &work)?;
        return shell::run_shell(&layout, &initrd);
    }
    let only_status = options.status && options.scenarios.is_empty() && !options.all;
    if only_status {
        return status::write(&Results::open(&work)?, &root());
    }
    all = scenario::select(all, &options.scenarios, options.all)?;
    for scenario in &mut all {
        scenario.limit *= options.patience;
    }
    let layout = Layout::open(&cache, &work)?;
    let counts = run_all(&cache, &layout, all, options, &work)?;
    counts.record("lab")?;
    if options.status {
        status::write(&Results::open(&work)?, &root())?;
    }
    println!("lab: {counts}");
    if counts.failed > 0 {
        bail!(
            "{} scenarios failed; logs are in {}",
            counts.failed,
            work.join("logs").display()
        );
    }
    Ok(())
}

fn list(all: &[Scenario]) -> Result<()> {
    for scenario in all {
        let set = match scenario.when {
            When::Ci => "ci ",
            When::All => "all",
        };
        println!(
            "{:<28} {set} {:>4} s  boot {}",
            scenario.name,
            scenario.limit.as_secs(),
            scenario.machine.name
        );
        for row in &scenario.shows {
            println!("    {row}");
        }
    }
    Ok(())
}

fn run_all(
    cache: &Cache,
    layout: &Layout,
    scenarios: Vec<Scenario>,
    options: &Options,
    work: &Path,
) -> Result<Counts> {
    let peers = layout.peers()?;
    let mut results = Results::open(work)?;
    let skips = root().join("tests/expected-skips");
    let skips =
        fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
    let expected = Expected::parse(&skips)?;
    let mut counts = Counts::default();
    for (machine, mut waiting) in scenario::boots(scenarios) {
        if machine.name == bare::BOOT {
            for scenario in &waiting {
                let start = Instant::now();
                let verdict = bare::try_all(scenario)?;
                let took = start.elapsed();
                report(&scenario.name, &verdict, took);
                counts += count(&scenario.name, &verdict, &expected);
                results.add(scenario, &verdict, took, &peers, &[])?;
            }
            continue;
        }
        // A machine that broke down is started again for those that have not run.
        for attempt in 1.. {
            if waiting.is_empty() {
                break;
            }
            let initrd = write_initrd(layout, &waiting, options, work)?;
            let log = work.join(format!("logs/{}-{attempt}.log", machine.name));
            let before = counts.failed;
            let mut noted = Ok(());
            let mut ended = Vec::new();
            {
                let _lock = cache.lock("machine.lock")?;
                println!(
                    "boot {}: {} scenarios, log {}",
                    machine.name,
                    waiting.len(),
                    log.display()
                );
                Boot::start(layout, &machine, &initrd, &log, options.patience)?.follow(
                    &waiting,
                    |name, verdict, took, figures| {
                        report(name, &verdict, took);
                        counts += count(name, &verdict, &expected);
                        if let Some(scenario) = waiting.iter().find(|s| s.name == name)
                            && noted.is_ok()
                        {
                            noted = results.add(scenario, &verdict, took, &peers, figures);
                        }
                        ended.push(name.to_owned());
                    },
                )?;
            }
            noted?;
            if ended.is_empty() {
                bail!(
                    "the boot {} ended before anything ran, see {}",
                    machine.name,
                    log.display()
                );
            }
            waiting.retain(|scenario| !ended.contains(&scenario.name));
            fs::remove_file(&initrd)?;
            if counts.failed == before && !options.keep_logs {
                fs::remove_file(&log)?;
            }
        }
    }
    Ok(counts)
}

fn write_initrd(
    layout: &Layout,
    scenarios: &[Scenario],
    options: &Options,
    work: &Path,
) -> Result<PathBuf> {
    let path = work.join(format!("initrd-{}", std::process::id()));
    let archive = layout.dom0(scenarios, options.bin.as_deref(), options.patience)?;
    fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn report(name: &str, verdict: &Verdict, took: Duration) {
    let words = match verdict {
        Verdict::Passed => "passed".to_owned(),
        Verdict::Failed(why) => format!("FAILED: {why}"),
        Verdict::Skipped(why) => format!("SKIP {why}"),
    };
    println!("  {name:<28} {words} ({:.1} s)", took.as_secs_f32());
}

/// In CI a scenario that says it cannot run has failed, unless that is expected.
fn count(name: &str, verdict: &Verdict, expected: &Expected) -> Counts {
    match verdict {
        Verdict::Passed => Counts::one(true),
        Verdict::Failed(_) => Counts::one(false),
        Verdict::Skipped(why) => {
            let (name, why) = (name.to_owned(), why.to_owned());
            let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            let failed = in_ci && !expected.has(&Skip { name, why });
            Counts {
                passed: 0,
                failed: usize::from(failed),
                skipped: 1,
            }
        }
    }
}
