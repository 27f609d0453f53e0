//! 4 KiB random reads on a disk that touches no data on either side: ours against vhost-user-blk, with and without a journal.

use crate::load::{Load, Placement};
use crate::meter::Outcome;
use crate::report::{self, Row};
use crate::{Options, ours, peer};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// What the rounds of one load showed.
#[derive(Default)]
pub(crate) struct Rounds {
    pub(crate) ours: BTreeMap<Placement, Vec<Outcome>>,
    /// Without a journal.
    pub(crate) unjournaled: BTreeMap<Placement, Vec<Outcome>>,
    /// Also by `poll-max-ns`.
    pub(crate) theirs: BTreeMap<(Placement, u64), Vec<Outcome>>,
}

impl Rounds {
    fn ours(&mut self, load: &Load) -> Result<()> {
        let outcome = ours::measure(load, false)?;
        self.ours.entry(load.placement).or_default().push(outcome);
        Ok(())
    }

    fn theirs(&mut self, load: &Load) -> Result<()> {
        for poll in peer::settings(load.waiting) {
            let outcome = peer::measure(load, *poll)?;
            let of = self.theirs.entry((load.placement, *poll)).or_default();
            of.push(outcome);
        }
        Ok(())
    }
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
        // Who goes first changes, so that neither always follows the other.
        let first = round % 2 == 0;
        for (load, rounds) in loads.iter().zip(&mut all) {
            for placement in Placement::settings(load.waiting) {
                let load = Load {
                    placement: *placement,
                    ..*load
                };
                if first {
                    rounds.ours(&load)?;
                }
                if !options.alone {
                    rounds.theirs(&load)?;
                    let without = ours::measure(&load, true)?;
                    let of = rounds.unjournaled.entry(*placement).or_default();
                    of.push(without);
                }
                if !first {
                    rounds.ours(&load)?;
                }
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
