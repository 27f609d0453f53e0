//! What a disk costs, front and back in two processes: ours against others in the same run.
//!
//! The measurements take turns, and a row tells the medians.

mod disks;
mod file;
mod kills;
mod load;
mod meter;
mod null;
mod ours;
mod peer;
mod qcow2;
mod report;

use anyhow::{Context as _, Result};
use clap::Parser;
use load::{Load, Placement, Waiting};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::{Builder, NamedTempFile, TempDir};

/// A directory for sockets; removed when dropped.
fn directory() -> Result<TempDir> {
    Ok(Builder::new().prefix(PREFIX).tempdir()?)
}

/// What is made for a measurement is called.
const PREFIX: &str = "ringfence-block-bench-";

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    half: Option<ours::Half>,
    /// What to measure
    #[arg(long, value_enum, default_value = "null")]
    what: What,
    /// Write the rows to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds of each measurement, at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Only this way of waiting
    #[arg(long)]
    waiting: Option<Waiting>,
    /// Only this number of reads in flight
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=32))]
    depth: Option<u16>,
    /// Without the peer: for a profile
    #[arg(long)]
    alone: bool,
    /// How often the driver domain is killed
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Where the file of a bench on files is made
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Random reads on a disk that touches no data, against vhost-user-blk
    Null,
    /// Random reads and writes on a file past the page cache, against io_uring on the file itself
    File,
    /// Random writes to a qcow2 image past the page cache, against QEMU on one like it and a file without a format
    Qcow2,
    /// One busy disk among many in one driver domain, and what an idle one takes
    Disks,
    /// How long a guest waits when the driver domain's process is killed
    Kills,
}

impl Options {
    fn loads(&self) -> Vec<Load> {
        let ways: &[Waiting] = match &self.waiting {
            Some(way) => std::slice::from_ref(way),
            None => &[Waiting::Events, Waiting::Spin],
        };
        let depths = self.depths();
        let loads = ways
            .iter()
            .flat_map(|waiting| depths.iter().map(|depth| self.load(*waiting, *depth)));
        loads.collect()
    }

    fn depths(&self) -> Vec<u16> {
        self.depth.map_or_else(|| vec![1, 32], |depth| vec![depth])
    }

    /// A file to be measured on; removed when dropped.
    fn temporary(&self) -> Result<NamedTempFile> {
        let dir = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let file = Builder::new().prefix(PREFIX).tempfile_in(&dir);
        file.with_context(|| dir.display().to_string())
    }

    fn load(&self, waiting: Waiting, depth: u16) -> Load {
        Load {
            depth: usize::from(depth),
            waiting,
            placement: Placement::Apart,
            time: Duration::from_millis(self.millis),
        }
    }

    fn write(&self, rows: &impl Serialize) -> Result<()> {
        if let Some(file) = &self.json {
            std::fs::write(file, serde_json::to_string_pretty(rows)?)?;
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(half) = &options.half {
        return ours::half(half);
    }
    match options.what {
        What::Null => null::run(&options),
        What::File => file::run(&options),
        What::Qcow2 => qcow2::run(&options),
        What::Disks => disks::run(&options),
        What::Kills => kills::run(&options),
    }
}
