//! One busy disk among many that are connected and idle, all in one driver domain.

use crate::load::Waiting;
use crate::meter::Outcome;
use crate::report::median;
use crate::{Options, ours};
use anyhow::Result;
use serde::Serialize;

/// How many disks there are, all but the busy one of other guests.
const DISKS: [u16; 4] = [1, 10, 100, 1000];

#[derive(Serialize)]
struct Row {
    disks: u16,
    outcome: Outcome,
    /// Of the rate with one disk.
    ratio: f64,
    /// What one more disk takes, in bytes, by what the process has with one.
    bytes_per_idle_disk: f64,
}

/// Measures and prints.
///
/// # Errors
/// A process fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let waiting = options.waiting.unwrap_or(Waiting::Events);
    let load = options.load(waiting, options.depth.unwrap_or(32));
    let mut all = vec![Vec::new(); DISKS.len()];
    for _ in 0..options.rounds {
        for (disks, outcomes) in DISKS.iter().zip(&mut all) {
            outcomes.push(ours::measure_among(*disks, &load)?);
        }
    }
    let one = all
        .first()
        .map(|outcomes| median(outcomes))
        .unwrap_or_default();
    let rows: Vec<Row> = DISKS
        .iter()
        .zip(&all)
        .map(|(disks, outcomes)| {
            let outcome = median(outcomes);
            let more = outcome.back_pss.saturating_sub(one.back_pss);
            Row {
                disks: *disks,
                outcome,
                ratio: outcome.rate / one.rate,
                bytes_per_idle_disk: more as f64 / f64::from((*disks - 1).max(1)),
            }
        })
        .collect();
    println!(
        "{}, {} in flight on one disk, the others idle, {} rounds of {} ms",
        waiting.name(),
        load.depth,
        options.rounds,
        options.millis
    );
    println!(
        "{:>6} {:>10} {:>7} {:>9} {:>9} {:>9} {:>14}",
        "disks", "reads/s", "ratio", "p50 us", "p99 us", "back ns", "KiB/idle disk"
    );
    for row in &rows {
        println!(
            "{:>6} {:>10.0} {:>6.2}x {:>9.2} {:>9.2} {:>9.0} {:>14.1}",
            row.disks,
            row.outcome.rate,
            row.ratio,
            row.outcome.p50,
            row.outcome.p99,
            row.outcome.back_cpu,
            row.bytes_per_idle_disk / 1024.0
        );
    }
    options.write(&rows)
}
