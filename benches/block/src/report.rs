//! What was measured, in a form that says how.

use crate::load::{Load, Placement, READ};
use crate::meter::Outcome;
use crate::null::Rounds;
use crate::{ours, peer};
use serde::Serialize;
use std::collections::BTreeMap;

/// One comparison.
#[derive(Serialize)]
pub(crate) struct Row {
    bench: &'static str,
    read_bytes: usize,
    depth: usize,
    waiting: &'static str,
    pinning: &'static str,
    peer_pinning: &'static str,
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
        let (placement, ours_all) = best(&rounds.ours).unwrap_or((Placement::Apart, &[]));
        let ours = median(ours_all);
        let without = rounds.unjournaled.get(&placement);
        let without = without.map_or(ours, |without| median(without));
        let ((peer_placement, poll), theirs) =
            best(&rounds.theirs).unwrap_or(((placement, 0), ours_all));
        let theirs_median = median(theirs);
        Self {
            bench: "block",
            read_bytes: READ,
            depth: load.depth,
            waiting: load.waiting.name(),
            pinning: placement.name(),
            peer_pinning: peer_placement.name(),
            rounds: ours_all.len(),
            milliseconds: load.time.as_millis(),
            ours,
            peer: theirs_median,
            ratio: ours.rate / theirs_median.rate,
            journal_nanoseconds: 1e9 / ours.rate - 1e9 / without.rate,
            journal_share: 1.0 - ours.rate / without.rate,
            ours_best: fastest(ours_all),
            peer_best: fastest(theirs),
            ours_command: ours::command_line(load.waiting),
            peer_version: version.to_owned(),
            peer_command: peer::command_line(load.waiting, poll),
            peer_note: peer::NOTE,
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

/// The setting with the best median rate.
fn best<K: Copy>(tried: &BTreeMap<K, Vec<Outcome>>) -> Option<(K, &[Outcome])> {
    let rate = |rounds: &[Outcome]| median(rounds).rate;
    let tried = tried
        .iter()
        .map(|(setting, rounds)| (*setting, rounds.as_slice()));
    tried.max_by(|a, b| rate(a.1).total_cmp(&rate(b.1)))
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
        sides([("ours", &row.ours), ("peer", &row.peer)]);
    }
    for row in rows {
        println!(
            "{}, {} in flight, {} rounds of {} ms, the best of what was tried:",
            row.waiting, row.depth, row.rounds, row.milliseconds
        );
        println!("  ours: {}, {}", row.pinning, row.ours_command);
        println!("  peer: {}, {}", row.peer_pinning, row.peer_version);
        println!("        {}", row.peer_command);
    }
    println!(
        "ns, sleeps, bells and calls are per read, of each side; {}",
        peer::NOTE
    );
}

/// What each side did and spent for a request, a line for each.
pub(crate) fn sides<'a>(sides: impl IntoIterator<Item = (&'a str, &'a Outcome)>) {
    println!(
        "  {:<5} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "",
        "per s",
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
    for (who, outcome) in sides {
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

fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| format!("{value:.3}"))
}
