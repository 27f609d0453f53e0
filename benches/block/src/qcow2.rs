//! Random writes of 4 KiB to a qcow2 image of 1 GiB, past the page cache: ours against `qemu-storage-daemon` on an image like it, and
//! against ours on a file without a format. Ours answers a write when what finds its data again is written too; QEMU keeps that in
//! memory until a flush.

use crate::file::Written;
use crate::load::{DISK, Waiting};
use crate::meter::Outcome;
use crate::ours::Disk;
use crate::report::{self, median};
use crate::{Options, ours, peer};
use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// An image; removed when dropped.
struct Image(PathBuf);

impl Image {
    /// With this `preallocation`.
    fn new(dir: &Path, preallocation: &str) -> Result<Self> {
        let name = format!("ringfence-block-bench-{}.qcow2", std::process::id());
        let image = Self(dir.join(name));
        let status = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-o"])
            .arg(format!("preallocation={preallocation}"))
            .arg(&image.0)
            .arg(DISK.to_string())
            .stdout(Stdio::null())
            .status()
            .context("cannot run qemu-img: apt-get install qemu-utils")?;
        if !status.success() {
            bail!("qemu-img create: {status}");
        }
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Measures and prints.
///
/// # Errors
/// A process or a request fails, or the file system has no room or no `O_DIRECT`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let depths = options
        .depth
        .map_or_else(|| vec![1, 32], |depth| vec![depth]);
    let raw = Written::new(options)?;
    let mut rows = Vec::new();
    for (what, preallocation) in [("an empty image", "off"), ("a full image", "full")] {
        for depth in &depths {
            let load = options.load(Waiting::Events, *depth);
            let (mut own, mut theirs, mut plain) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                let image = Image::new(&dir, preallocation)?;
                own.push(ours::measure_file(&image.0, Disk::Qcow2, &load, true)?);
                drop(image);
                let image = Image::new(&dir, preallocation)?;
                theirs.push(peer::measure_qcow2(&image.0, &load)?);
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
