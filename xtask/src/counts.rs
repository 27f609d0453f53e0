//! The sums that the last line of a run is made of.

use crate::process::{cargo, output_of};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::AddAssign;
use std::path::PathBuf;

/// Checks that passed, failed and could not run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Counts {
    /// One check.
    pub(crate) fn one(passed: bool) -> Self {
        Self {
            passed: usize::from(passed),
            failed: usize::from(!passed),
            skipped: 0,
        }
    }

    /// Adds a line to the file that `.ci/run` sums up.
    pub(crate) fn record(self, name: &str) -> Result<()> {
        let path = target_dir()?.join("ci-counts");
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(
            file,
            "{name}\t{}\t{}\t{}",
            self.passed, self.failed, self.skipped
        )?;
        Ok(())
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Where cargo builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = output_of(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let json: Value = serde_json::from_str(&metadata)?;
    let dir = json["target_directory"].as_str();
    let dir = PathBuf::from(dir.context("cargo names no target directory")?);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
