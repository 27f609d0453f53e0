//! `cargo xtask bench`: we and the peers in the same run. The benches are a workspace of their own, for what peers need.

mod lab;

use crate::process::{cargo, root, run as run_command};
use anyhow::{Result, bail};
use std::path::PathBuf;

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to measure
    what: What,
    /// Write the rows to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    lab: lab::LabOptions,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The ring between two processes, against the C macros
    Ring,
    /// Reads of 4 KiB through front and back, against vhost-user-blk
    Block,
    /// Reads and writes of 4 KiB on a file past the page cache, against io_uring on the file itself
    File,
    /// Writes of 4 KiB to a qcow2 image past the page cache, against QEMU on one like it
    Qcow2,
    /// One busy disk among up to 1,000 in one driver domain, and what an idle one takes
    Disks,
    /// How long a guest waits when the driver domain's process is killed
    Kills,
    /// Instructions per request on real Xen, against Linux's blkback and QEMU's qdisk
    Lab,
}

/// Builds and runs one bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (package, what) = match options.what {
        What::Ring => ("ring-bench", None),
        What::Block => ("block-bench", Some("null")),
        What::File => ("block-bench", Some("file")),
        What::Qcow2 => ("block-bench", Some("qcow2")),
        What::Disks => ("block-bench", Some("disks")),
        What::Kills => ("block-bench", Some("kills")),
        What::Lab => return lab::run(&options.lab, options.json.as_ref()),
    };
    let manifest = root().join("benches/Cargo.toml");
    if !manifest.is_file() {
        bail!("{} is not there", manifest.display());
    }
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        package,
        "--manifest-path",
    ]);
    command.arg(manifest).arg("--");
    command.args(what.map(|what| format!("--what={what}")));
    if let Some(file) = &options.json {
        command.arg("--json").arg(std::path::absolute(file)?);
    }
    run_command(&mut command)
}
