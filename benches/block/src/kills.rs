//! How long a guest waits when the driver domain's process is killed, with 32 reads in flight on a file.

use crate::load::{Load, Waiting};
use crate::{Options, ours};
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Row {
    kills: u32,
    depth: usize,
    p50_milliseconds: f64,
    p99_milliseconds: f64,
    longest_milliseconds: f64,
}

/// A process that lived shorter is not followed at once for ever.
const LIFE: Duration = Duration::from_millis(250);

/// Measures and prints. The length of a measurement, at least 250 ms, is the time between an answer of one process and its death.
///
/// # Errors
/// A process fails, or the driver domain does not come back.
pub(crate) fn run(options: &Options) -> Result<()> {
    let load = options.load(Waiting::Events, options.depth.unwrap_or(32));
    let load = Load {
        time: load.time.max(LIFE),
        ..load
    };
    let mut stalls = ours::measure_kills(options.kills, &load)?;
    stalls.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (stalls.len() as f64 * share).ceil() as usize;
        stalls.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    let row = Row {
        kills: options.kills,
        depth: load.depth,
        p50_milliseconds: at(0.5),
        p99_milliseconds: at(0.99),
        longest_milliseconds: at(1.0),
    };
    println!(
        "{} kills with {} reads in flight: without an answer for {:.2} ms (p50), {:.2} ms (p99), {:.2} ms at most",
        row.kills, row.depth, row.p50_milliseconds, row.p99_milliseconds, row.longest_milliseconds
    );
    options.write(&row)
}
