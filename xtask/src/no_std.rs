//! The `no_std` crates in a program with nothing below it: no standard library, no libc, no allocator.

use crate::counts::target_dir;
use crate::image;
use crate::process::{cargo, output_of, root, run as run_command};
use anyhow::{Result, bail};
use std::process::Command;

/// Links it, looks for symbols it does not define, runs it; builds the guest kernel, and the one of
/// docs/your-kernel.md. Gives back how many checks that were.
pub(crate) fn run() -> Result<usize> {
    let target = target_dir()?.join("no_std");
    run_command(
        cargo()
            .args(["build", "--quiet", "--release", "--manifest-path"])
            .arg(root().join("tests/no_std/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target),
    )?;
    let program = target.join("release/ringfence-no-std");
    let undefined = output_of(Command::new("nm").arg("--undefined-only").arg(&program))?;
    if !undefined.trim().is_empty() {
        bail!("the program does not stand alone, it lacks:\n{undefined}");
    }
    run_command(&mut Command::new(&program))?;
    println!("  no_std: links, lacks no symbol, runs");
    for name in ["guest", "conformance"] {
        let image = image::build(name)?;
        println!("  no_std: {} is a kernel", image.display());
    }
    image::follow_page()?;
    println!("  no_std: docs/your-kernel.md makes a kernel");
    Ok(6)
}
