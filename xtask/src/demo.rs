//! `cargo xtask demo`: the main job on real input.
//!
//! A broker, a block driver domain and a guest, each a process of its own. The guest copies a disk through the driver domain;
//! afterwards programs that are not ours say whether the copy is right.

mod host;
mod kill;
mod source;
mod table;

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use crate::process::{cargo, found, root, run};
use tempfile::TempDir;

/// What to copy.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A disk image to copy instead of one made for the occasion; it is opened read-only and never written
    #[arg(long, value_name = "PATH")]
    disk: Option<PathBuf>,
    /// Requests in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=32))]
    depth: u16,
    /// How often the driver domain's process is killed while it copies; after 32 short lives in a row the broker pauses
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=32))]
    kills: u16,
}

const PROGRAMS: [(&str, &str); 3] = [
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("cmp", "diffutils"),
];

pub(crate) fn run_demo(options: &Options) -> Result<()> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !found(program))
        .collect();
    if let Some((program, package)) = missing.first() {
        bail!("{program} is missing: apt-get install {package}");
    }
    println!("building ringfence");
    run(cargo().args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "ringfence-cli",
    ]))?;
    // Short, because the paths of Unix sockets are.
    let dir = TempDir::with_prefix("ringfence-demo-").context("cannot make a directory")?;
    let source = match &options.disk {
        Some(path) => source::given(path)?,
        None => source::make(dir.path())?,
    };
    let copy = dir.path().join("copy.img");
    let bytes = source::length(&source)?;
    File::create(&copy)
        .and_then(|file| file.set_len(bytes))
        .context("cannot make the blank disk")?;

    let outcome = host::copy(
        dir.path(),
        &ringfence()?,
        &source,
        &copy,
        bytes,
        options.depth,
        options.kills,
    )?;

    println!("comparing with cmp");
    run(Command::new("cmp").arg(&source).arg(&copy)).context("the copy differs from the source")?;
    let ext4 = source::is_ext4(&copy)?;
    if ext4 {
        println!("checking the copy with e2fsck -fn");
        let status = Command::new("e2fsck")
            .args(["-fn"])
            .arg(&copy)
            .status()
            .context("cannot run e2fsck")?;
        if !status.success() {
            bail!("e2fsck -fn says that the copy is damaged: {status}");
        }
    }
    table::print(&outcome, bytes, ext4);
    Ok(())
}

fn ringfence() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir));
    let path = target.join("release/ringfence");
    path.is_file()
        .then_some(path.clone())
        .with_context(|| format!("{} was not built", path.display()))
}
