//! The program in the package: where it comes from and what it needs.

use crate::process::{cargo, output_of, run};
use anyhow::{Context, Result, bail};
use goblin::elf::{Elf, header};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program, as its file describes it.
pub(super) struct Binary {
    pub(super) bytes: Vec<u8>,
    /// Debian's name for what it runs on.
    pub(super) architecture: &'static str,
    /// Whether it asks for the system's libraries.
    pub(super) dynamic: bool,
}

impl Binary {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let elf = Elf::parse(&bytes).with_context(|| format!("{} is no ELF", path.display()))?;
        let architecture = match elf.header.e_machine {
            header::EM_X86_64 => "amd64",
            header::EM_AARCH64 => "arm64",
            other => bail!("{}: machine {other} is not packaged", path.display()),
        };
        let dynamic = elf.interpreter.is_some();
        Ok(Self {
            architecture,
            dynamic,
            bytes,
        })
    }
}

/// Builds it below `work`, linked statically: it runs in the dom0 of any distribution.
pub(super) fn build(work: &Path) -> Result<PathBuf> {
    let rustc = output_of(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    let target = work.join("build");
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--release", "--package=ringfence-cli"])
        // Not for the programs that run while building.
        .args(["--target", host])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    run(&mut command)?;
    Ok(target.join(host).join("release/ringfence"))
}
