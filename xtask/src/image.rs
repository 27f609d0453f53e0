//! `cargo xtask image`: kernels that Xen boots, on a stock toolchain.

use crate::counts::target_dir;
use crate::lab;
use crate::process::{cargo, root, run as run_command};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Options of `image`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which: a folder of images/
    name: String,
    /// Boot it in a machine without Xen, where all it can do is say so and switch off
    #[arg(long)]
    boot: bool,
}

/// What an image says where there is no Xen.
const NO_XEN: &str = "ringfence: no Xen here";

/// Builds it and says where it is.
pub(crate) fn run(options: &Options) -> Result<()> {
    let image = build(&options.name)?;
    let size = fs::metadata(&image)?.len();
    println!("{} ({size} bytes)", image.display());
    if options.boot {
        let said = lab::boot_without_xen(&image)?;
        print!("{said}");
        if !said.contains(NO_XEN) {
            bail!("it does not say: {NO_XEN}");
        }
    }
    Ok(())
}

/// Builds the image of this name; returns its path.
pub(crate) fn build(name: &str) -> Result<PathBuf> {
    let folder = root().join("images").join(name);
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        bail!("there is no {}", manifest.display());
    }
    let target = target_dir()?.join("images");
    run_command(
        cargo()
            .args(["build", "--quiet", "--release", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target)
            // Those of the caller are for programs of the host.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    )?;
    let built = target.join(format!("release/ringfence-image-{name}"));
    check(&built).with_context(|| format!("{} is no kernel for Xen", built.display()))?;
    Ok(built)
}

/// A kernel that Xen's builder takes has a note of Xen's, and nothing that a loader would have to do.
fn check(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let elf = goblin::elf::Elf::parse(&bytes)?;
    if elf.interpreter.is_some() || elf.dynamic.is_some() {
        bail!("it wants to be linked at run time");
    }
    let notes = elf.iter_note_headers(&bytes).into_iter().flatten();
    let xen = notes.flatten().filter(|note| note.name == "Xen").count();
    if xen == 0 {
        bail!("it has no note of Xen's");
    }
    Ok(())
}
