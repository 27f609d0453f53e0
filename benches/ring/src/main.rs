//! The ring between two processes: ours against the C macros of `xen/io/ring.h`.
//!
//! One page, 112-byte entries; the front sends a batch and waits for its answers. Both ends of a measurement run the same
//! code, the measurements take turns, and a row tells the medians.

mod ours;
mod report;
mod theirs;
mod world;

use anyhow::Result;
use clap::Parser;
use report::Row;
use std::path::PathBuf;
use world::Code;

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    peer: Option<Second>,
    /// Write the rows to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds of each measurement, at least 5
    #[arg(long, default_value_t = 51, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Divides the number of requests
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10))]
    shorten: u64,
}

#[derive(clap::Subcommand)]
enum Second {
    /// The second process of a measurement
    #[command(hide = true)]
    Peer(world::Peer),
}

/// Waiting mode, batch, requests per round. Rounds are short and many: on a busy machine a long one is never undisturbed.
const MEASUREMENTS: [(bool, u32, u64); 4] = [
    (true, 1, 10_000),
    (true, 32, 40_000),
    (false, 1, 1_000),
    (false, 32, 10_000),
];

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(Second::Peer(peer)) = &options.peer {
        return world::peer(peer);
    }
    let mut times = vec![[const { Vec::new() }; 2]; MEASUREMENTS.len()];
    for round in 0..options.rounds {
        for ((spin, batch, count), times) in MEASUREMENTS.iter().zip(&mut times) {
            let count = count / options.shorten / 32 * 32;
            let mut codes = [Code::Ours, Code::C];
            // Who goes first changes, so that neither always follows the other.
            if round % 2 == 1 {
                codes.reverse();
            }
            for code in codes {
                let elapsed = world::measure(code, count, *batch, *spin)?;
                times[usize::from(code == Code::C)].push(elapsed.as_nanos() as f64 / count as f64);
            }
        }
    }
    let rows: Vec<Row> = MEASUREMENTS
        .iter()
        .zip(times)
        .map(|((spin, batch, _), [ours, c])| Row::new(*spin, *batch, ours, c))
        .collect();
    report::print(&rows);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}
