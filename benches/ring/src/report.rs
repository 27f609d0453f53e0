//! What was measured, in a form that says how.

use serde::Serialize;

/// One comparison.
#[derive(Serialize)]
pub(crate) struct Row {
    bench: &'static str,
    entry_bytes: u32,
    batch: u32,
    waiting: &'static str,
    pinning: String,
    rounds: usize,
    ours_ns_per_request: f64,
    c_ns_per_request: f64,
    /// Of the medians. Above 1: ours is faster.
    ratio: f64,
    ours_best_ns: f64,
    c_best_ns: f64,
    ours: String,
    peer: String,
    command: String,
}

impl Row {
    /// From the nanoseconds per request of each round.
    pub(crate) fn new(spin: bool, batch: u32, ours: Vec<f64>, c: Vec<f64>) -> Self {
        let rounds = ours.len();
        let (ours_best_ns, c_best_ns) = (best(&ours), best(&c));
        let (ours, c) = (median(ours), median(c));
        let pinning = match crate::world::cores() {
            Some((front, back)) => format!("front on core {front}, back on core {back}"),
            None => "none: fewer than two cores".to_owned(),
        };
        Self {
            bench: "ring",
            entry_bytes: 112,
            batch,
            waiting: if spin { "both spin" } else { "eventfd" },
            pinning,
            rounds,
            ours_ns_per_request: ours,
            c_ns_per_request: c,
            ratio: c / ours,
            ours_best_ns,
            c_best_ns,
            ours: format!("{}, release, thin LTO", env!("RUST_COMPILER")),
            peer: format!("xen/io/ring.h, {}", env!("C_COMPILER")),
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// The table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<9} {:>5} {:>11} {:>11} {:>7} {:>11} {:>11}",
        "waiting", "batch", "ours ns/req", "C ns/req", "ratio", "ours best", "C best"
    );
    for row in rows {
        println!(
            "{:<9} {:>5} {:>11.1} {:>11.1} {:>6.2}x {:>11.1} {:>11.1}",
            row.waiting,
            row.batch,
            row.ours_ns_per_request,
            row.c_ns_per_request,
            row.ratio,
            row.ours_best_ns,
            row.c_best_ns
        );
    }
    if let Some(row) = rows.first() {
        println!(
            "entries of {} bytes, medians of {} rounds, taking turns",
            row.entry_bytes, row.rounds
        );
        println!("pinning: {}", row.pinning);
        println!("ours: {}", row.ours);
        println!("peer: {}", row.peer);
        println!("command: {}", row.command);
    }
}
