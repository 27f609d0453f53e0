//! `cargo xtask fuzz`: the fuzz targets under cargo-fuzz, which needs a nightly.

use crate::counts::target_dir;
use crate::process::{found, root, run as run_command};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Options of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One target; all of them by default
    target: Option<String>,
    /// For how long, each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Fuzzes each chosen target, starting from the corpus that `test` runs.
pub(crate) fn run(options: &Options) -> Result<()> {
    let nightly = found("rustup")
        && Command::new("rustup")
            .args(["run", "nightly", "rustc", "--version"])
            .output()
            .is_ok_and(|output| output.status.success());
    if !nightly || !found("cargo-fuzz") {
        bail!(
            "fuzzing needs a nightly and cargo-fuzz:\n  rustup toolchain install nightly --profile minimal\n  \
             cargo install cargo-fuzz\nwithout them, `cargo xtask test fuzz-corpus` runs the targets over their corpus"
        );
    }
    for target in targets()? {
        if options
            .target
            .as_ref()
            .is_some_and(|chosen| *chosen != target)
        {
            continue;
        }
        // What is found goes there; what is worth keeping is picked by hand.
        let found = target_dir()?.join("fuzz-corpus").join(&target);
        std::fs::create_dir_all(&found)?;
        let mut corpora = vec![found];
        corpora.extend(Some(root().join("tests/corpus").join(&target)).filter(|dir| dir.is_dir()));
        println!("fuzz {target}: {} s", options.seconds);
        run_command(
            Command::new("rustup")
                .current_dir(root())
                // The rigs of whole worlds leak their platform on purpose: a service borrows it for as long as the test runs.
                .env("ASAN_OPTIONS", "detect_leaks=0")
                .args([
                    "run",
                    "nightly",
                    "cargo",
                    "fuzz",
                    "run",
                    "--fuzz-dir",
                    "fuzz",
                    &target,
                ])
                .args(corpora)
                .arg("--")
                .args(["-rss_limit_mb=4096", "-timeout=60"])
                .arg(format!("-max_total_time={}", options.seconds)),
        )?;
    }
    Ok(())
}

/// The files of `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let dir = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in
        std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}
