//! What was measured, in a form that says how.

use crate::load::{BACK_CPU, FRONT_CPU, Load, READ};
use crate::{ours, peer};
use serde::Serialize;

/// One comparison.
#[derive(Serialize)]
pub(crate) struct Row {
    bench: &'static str,
    read_bytes: usize,
    depth: usize,
    waiting: &'static str,
    pinning: String,
    rounds: usize,
    milliseconds: u128,
    ours_reads_per_second: f64,
    peer_reads_per_second: f64,
    /// Of the medians. Above 1: ours is faster.
    ratio: f64,
    ours_best: f64,
    peer_best: f64,
    ours: String,
    peer: String,
    peer_command: String,
    peer_note: &'static str,
    command: String,
}

impl Row {
    /// From the reads per second of each round.
    pub(crate) fn new(load: &Load, version: &str, ours: Vec<f64>, theirs: Vec<f64>) -> Self {
        let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        let (ours_best, peer_best, rounds) = (best(&ours), best(&theirs), ours.len());
        let (ours, theirs) = (median(ours), median(theirs));
        Self {
            bench: "block",
            read_bytes: READ,
            depth: load.depth,
            waiting: load.waiting.name(),
            pinning: format!("front on core {FRONT_CPU}, back on core {BACK_CPU}"),
            rounds,
            milliseconds: load.time.as_millis(),
            ours_reads_per_second: ours,
            peer_reads_per_second: theirs,
            ratio: ours / theirs,
            ours_best,
            peer_best,
            ours: ours::command_line(load.waiting),
            peer: version.to_owned(),
            peer_command: peer::command_line(load.waiting),
            peer_note: peer::NOTE,
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<21} {:>5} {:>13} {:>13} {:>7} {:>13} {:>13}",
        "waiting", "depth", "ours reads/s", "peer reads/s", "ratio", "ours best", "peer best"
    );
    for row in rows {
        println!(
            "{:<21} {:>5} {:>13.0} {:>13.0} {:>6.2}x {:>13.0} {:>13.0}",
            row.waiting,
            row.depth,
            row.ours_reads_per_second,
            row.peer_reads_per_second,
            row.ratio,
            row.ours_best,
            row.peer_best
        );
    }
    for row in rows.iter().filter(|row| row.depth == 1) {
        println!(
            "{}, {}, {} rounds of {} ms:",
            row.waiting, row.pinning, row.rounds, row.milliseconds
        );
        println!("  ours: {}", row.ours);
        println!("  peer: {}\n        {}", row.peer, row.peer_command);
    }
    println!("{}", peer::NOTE);
}
