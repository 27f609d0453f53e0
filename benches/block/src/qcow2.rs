//! Random writes of 4 KiB to a qcow2 image of 1 GiB, past the page cache: ours against `qemu-storage-daemon` on an image like it, and
//! against ours on a file without a format. Ours answers a write when what finds its data again is written too; QEMU keeps that in
//! memory until a flush.

use crate::file::written;
use crate::load::{DISK, Waiting};
use crate::meter::Outcome;
use crate::ours::Disk;
use crate::report::{self, median};
use crate::{Options, ours, peer};
use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use std::process::{Command, Stdio};
use tempfile::NamedTempFile;

#[derive(Serialize)]
struct Row {
    image: &'static str,
    depth: usize,
    ours: Outcome,
    peer: Outcome,
    raw: Outcome,
    /// Of the median rates. Above 1: ours is faster.
    ratio: f64,
    /// What the format costs: ours on it, of the rate of ours without.
    of_raw: f64,
}

/// An image with this `preallocation`.
fn image(options: &Options, preallocation: &str) -> Result<NamedTempFile> {
    let image = options.temporary()?;
    let status = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o"])
        .arg(format!("preallocation={preallocation}"))
        .arg(image.path())
        .arg(DISK.to_string())
        .stdout(Stdio::null())
        .status()
        .context("cannot run qemu-img: apt-get install qemu-utils")?;
    if !status.success() {
        bail!("qemu-img create: {status}");
    }
    Ok(image)
}

/// Measures and prints.
///
/// # Errors
/// A process or a request fails, or the file system has no room or no `O_DIRECT`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let raw = written(options)?;
    let mut rows = Vec::new();
    for (what, preallocation) in [("an empty image", "off"), ("a full image", "full")] {
        for depth in &options.depths() {
            let load = options.load(Waiting::Events, *depth);
            let (mut own, mut theirs, mut plain) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                let own_image = image(options, preallocation)?;
                own.push(ours::measure_file(
                    own_image.path(),
                    Disk::Qcow2,
                    &load,
                    true,
                )?);
                drop(own_image);
                let their_image = image(options, preallocation)?;
                theirs.push(peer::measure_qcow2(their_image.path(), &load)?);
                plain.push(ours::measure_file(raw.path(), Disk::File, &load, true)?);
            }
            let (ours, peer, raw) = (median(&own), median(&theirs), median(&plain));
            let row = Row {
                image: what,
                depth: load.depth,
                ours,
                peer,
                raw,
                ratio: ours.rate / peer.rate,
                of_raw: ours.rate / raw.rate,
            };
            println!(
                "{what}, {} in flight: {:.2} x QEMU, {:.2} x raw",
                row.depth, row.ratio, row.of_raw
            );
            report::sides([("ours", &row.ours), ("peer", &row.peer), ("raw", &row.raw)]);
            rows.push(row);
        }
    }
    options.write(&rows)
}
