//! 4 KiB random reads on a disk that touches no data on either side, front and back in two processes: ours against
//! vhost-user-blk.
//!
//! The measurements take turns, and a row tells the medians.

mod load;
mod ours;
mod peer;
mod report;

use anyhow::{Result, bail};
use clap::Parser;
use load::{Load, Waiting};
use report::Row;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    half: Option<ours::Half>,
    /// Write the rows to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds of each measurement, at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(half) = &options.half {
        return ours::half(half);
    }
    let Some(version) = peer::version() else {
        bail!("qemu-storage-daemon is not installed: apt-get install qemu-utils");
    };
    let time = Duration::from_millis(options.millis);
    let loads: Vec<Load> = [Waiting::Events, Waiting::Spin]
        .into_iter()
        .flat_map(|waiting| {
            [1, 32].map(|depth| Load {
                depth,
                waiting,
                time,
            })
        })
        .collect();
    let mut rates = vec![[const { Vec::new() }; 2]; loads.len()];
    for round in 0..options.rounds {
        for (load, [ours, theirs]) in loads.iter().zip(&mut rates) {
            // Who goes first changes, so that neither always follows the other.
            if round % 2 == 0 {
                ours.push(ours::measure(load)?);
            }
            theirs.push(peer::measure(load)?);
            if round % 2 == 1 {
                ours.push(ours::measure(load)?);
            }
        }
    }
    let rows: Vec<Row> = loads
        .iter()
        .zip(rates)
        .map(|(load, [ours, theirs])| Row::new(load, &version, ours, theirs))
        .collect();
    report::print(&rows);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}
