//! Our own programs for dom0 and guests: linked statically, so that they need nothing there.

use crate::process::{cargo, run};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Packages whose programs are taken.
const PACKAGES: &[&str] = &["ringfence-cli", "ringfence-lab"];

/// Builds them below `work`, or takes those in `bin`.
pub(crate) fn build(work: &Path, bin: Option<&Path>) -> Result<Vec<PathBuf>> {
    let dir = match bin {
        Some(dir) => dir.to_owned(),
        None => {
            let target = work.join("build");
            let mut command = cargo();
            command.args(["build", "--quiet", "--release", "--target", TARGET]);
            for package in PACKAGES {
                command.args(["--package", package]);
            }
            command
                .arg("--target-dir")
                .arg(&target)
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
            run(&mut command)?;
            target.join(TARGET).join("release")
        }
    };
    let programs: Vec<PathBuf> = ["ringfence", "lab-peer", "lab-store", "lab-cost"]
        .iter()
        .map(|name| dir.join(name))
        .filter(|path| path.is_file())
        .collect();
    if !programs.iter().any(|path| path.ends_with("ringfence")) {
        bail!("{} has no `ringfence`", dir.display());
    }
    Ok(programs)
}
