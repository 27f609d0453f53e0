//! `cargo xtask deb`: a Debian package of the command, its services and the hotplug script.

mod binary;
mod stage;
#[cfg(test)]
mod tests;

use crate::counts::target_dir;
use crate::process::{found, output_of, root, run as run_command};
use anyhow::{Result, bail};
use binary::Binary;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `deb`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to put the package; target/deb if it is not said
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take this `ringfence` instead of building one, statically linked
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Builds the package and prints where it is.
pub(crate) fn run(options: &Options) -> Result<()> {
    let work = target_dir()?.join("deb");
    let program = match &options.binary {
        Some(path) => path.clone(),
        None => binary::build(&work)?,
    };
    let out = options.out.as_ref().unwrap_or(&work);
    let package = package(&program, &work.join("tree"), out, epoch()?)?;
    println!("{}", package.display());
    Ok(())
}

/// Packs `program` and what belongs to it, staged in `tree`, into `out`. All times are `epoch`, so that the same input gives the
/// same bytes.
fn package(program: &Path, tree: &Path, out: &Path, epoch: u64) -> Result<PathBuf> {
    for tool in ["dpkg-deb", "gzip"] {
        if !found(tool) {
            bail!("no {tool} here: a Debian package is made with Debian's tools");
        }
    }
    let binary = Binary::read(program)?;
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    stage::write(tree, &binary)?;
    fs::create_dir_all(out)?;
    let version = env!("CARGO_PKG_VERSION");
    let package = out.join(format!("ringfence_{version}_{}.deb", binary.architecture));
    let mut command = Command::new("dpkg-deb");
    // How xz splits its work depends on the number of threads.
    command
        .args(["--root-owner-group", "--threads-max=1", "-Zxz", "--build"])
        .args([tree, &package])
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .stdout(std::process::Stdio::null());
    run_command(&mut command)?;
    Ok(package)
}

/// What installing a package with `program` puts where: paths from the root, and the files, unpacked below `work`.
pub(crate) fn unpacked(program: &Path, work: &Path) -> Result<Vec<(String, PathBuf)>> {
    let package = package(program, &work.join("tree"), work, epoch()?)?;
    let root = work.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    run_command(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &root]),
    )?;
    let mut files = Vec::new();
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let to = path.strip_prefix(&root)?.to_string_lossy().into_owned();
                files.push((to, path));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// `SOURCE_DATE_EPOCH`, else the time of the last commit.
fn epoch() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output_of(
            Command::new("git")
                .args(["log", "-1", "--format=%ct"])
                .current_dir(root()),
        )?,
    };
    text.trim()
        .parse()
        .map_err(|_| anyhow::anyhow!("SOURCE_DATE_EPOCH {text:?} is no number of seconds"))
}
