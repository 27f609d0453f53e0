//! What was measured, in a form that says how.

use crate::load::{BACK_CPU, FRONT_CPU, Load, READ};
use crate::meter::Outcome;
use crate::null::Rounds;
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
    ours: Outcome,
    peer: Outcome,
    /// Of the median rates. Above 1: ours is faster.
    ratio: f64,
    /// What the journal adds to a read, in ns, by the median rates with and without one.
    journal_nanoseconds: f64,
    /// The same as a part of the rate without.
    journal_share: f64,
    ours_best: f64,
    peer_best: f64,
    ours_command: String,
    peer_version: String,
    peer_command: String,
    peer_note: &'static str,
    command: String,
}

impl Row {
    /// From what each round showed.
    pub(crate) fn new(load: &Load, version: &str, rounds: &Rounds) -> Self {
        let ours = median(&rounds.ours);
        let without = median(&rounds.unjournaled);
        let settings = peer::settings(load.waiting).iter().zip(&rounds.theirs);
        let tried = settings.map(|(poll, theirs)| (*poll, theirs, median(theirs)));
        let best = tried.max_by(|a, b| a.2.rate.total_cmp(&b.2.rate));
        let (poll, theirs, theirs_median) = best.unwrap_or((0, &rounds.ours, ours));
        Self {
            bench: "block",
            read_bytes: READ,
            depth: load.depth,
            waiting: load.waiting.name(),
            pinning: format!("front on core {FRONT_CPU}, back on core {BACK_CPU}"),
            rounds: rounds.ours.len(),
            milliseconds: load.time.as_millis(),
            ours,
            peer: theirs_median,
            ratio: ours.rate / theirs_median.rate,
            journal_nanoseconds: 1e9 / ours.rate - 1e9 / without.rate,
            journal_share: 1.0 - ours.rate / without.rate,
            ours_best: fastest(&rounds.ours),
            peer_best: fastest(theirs),
            ours_command: ours::command_line(load.waiting),
            peer_version: version.to_owned(),
            peer_command: peer::command_line(load.waiting, poll),
            peer_note: peer::NOTE,
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

fn fastest(rounds: &[Outcome]) -> f64 {
    rounds.iter().map(|round| round.rate).fold(0.0, f64::max)
}

/// The round with the median rate.
pub(crate) fn median(rounds: &[Outcome]) -> Outcome {
    let mut rounds = rounds.to_vec();
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

/// The table.
pub(crate) fn print(rows: &[Row]) {
    for row in rows {
        println!(
            "{}, {} in flight: {:.2} x (best rounds {:.2} x); the journal takes {:.1} %, {:.0} ns",
            row.waiting,
            row.depth,
            row.ratio,
            row.ours_best / row.peer_best,
            row.journal_share * 100.0,
            row.journal_nanoseconds,
        );
        println!(
            "  {:<5} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "",
            "reads/s",
            "p50 us",
            "p99 us",
            "front ns",
            "back ns",
            "f sleeps",
            "b sleeps",
            "f bells",
            "b bells",
            "f calls",
            "b calls"
        );
        for (who, outcome) in [("ours", &row.ours), ("peer", &row.peer)] {
            println!(
                "  {who:<5} {:>10.0} {:>9.2} {:>9.2} {:>9.0} {:>9.0} {:>8.3} {:>8.3} {:>8} {:>8} {:>8} {:>8}",
                outcome.rate,
                outcome.p50,
                outcome.p99,
                outcome.front_cpu,
                outcome.back_cpu,
                outcome.front_sleeps,
                outcome.back_sleeps,
                known(outcome.front_notifications),
                known(outcome.back_notifications),
                known(outcome.front_calls),
                known(outcome.back_calls),
            );
        }
    }
    for row in rows.iter().filter(|row| row.depth == 1) {
        println!(
            "{}, {}, {} rounds of {} ms:",
            row.waiting, row.pinning, row.rounds, row.milliseconds
        );
        println!("  ours: {}", row.ours_command);
        println!("  peer: {}\n        {}", row.peer_version, row.peer_command);
    }
    println!(
        "ns, sleeps, bells and calls are per read, of each side; {}",
        peer::NOTE
    );
}

fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| format!("{value:.3}"))
}
