//! 4 KiB random reads on a disk that touches no data on either side: ours against vhost-user-blk, with and without a journal.

use crate::meter::Outcome;
use crate::report::{self, Row};
use crate::{Options, ours, peer};
use anyhow::{Result, bail};

/// What the rounds of one load showed.
#[derive(Default)]
pub(crate) struct Rounds {
    pub(crate) ours: Vec<Outcome>,
    /// Without a journal.
    pub(crate) unjournaled: Vec<Outcome>,
    /// By `poll-max-ns`.
    pub(crate) theirs: Vec<Vec<Outcome>>,
}

/// Measures and prints.
///
/// # Errors
/// A process fails, or the peer is not installed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let version = match peer::version() {
        Some(version) => version,
        None if options.alone => String::new(),
        None => bail!("qemu-storage-daemon is not installed: apt-get install qemu-utils"),
    };
    let loads = options.loads();
    let mut all: Vec<Rounds> = Vec::new();
    all.resize_with(loads.len(), Rounds::default);
    for round in 0..options.rounds {
        for (load, rounds) in loads.iter().zip(&mut all) {
            // Who goes first changes, so that neither always follows the other.
            let first = round % 2 == 0;
            if first {
                rounds.ours.push(ours::measure(load, false)?);
            }
            let settings = peer::settings(load.waiting);
            rounds.theirs.resize_with(settings.len(), Vec::new);
            for (poll, theirs) in settings.iter().zip(&mut rounds.theirs) {
                if !options.alone {
                    theirs.push(peer::measure(load, *poll)?);
                }
            }
            if !first {
                rounds.ours.push(ours::measure(load, false)?);
            }
            if !options.alone {
                rounds.unjournaled.push(ours::measure(load, true)?);
            }
        }
    }
    let rows: Vec<Row> = loads
        .iter()
        .zip(&all)
        .map(|(load, rounds)| Row::new(load, &version, rounds))
        .collect();
    report::print(&rows);
    options.write(&rows)
}
