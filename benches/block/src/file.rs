//! Random requests of 4 KiB on a file of 1 GiB, past the page cache: ours against io_uring on the file itself.

use crate::load::{DISK, Waiting};
use crate::meter::Outcome;
use crate::ours::Disk;
use crate::report::{self, median};
use crate::{Options, ours, peer};
use anyhow::Result;
use serde::Serialize;
use std::io::Write as _;
use tempfile::NamedTempFile;

#[derive(Serialize)]
struct Row {
    operation: &'static str,
    depth: usize,
    ours: Outcome,
    peer: Outcome,
    /// Of the median rates. Above 1: ours is faster.
    ratio: f64,
    peer_command: &'static str,
}

/// A file with all its blocks.
pub(crate) fn written(options: &Options) -> Result<NamedTempFile> {
    let mut file = options.temporary()?;
    let block = vec![0x5A; 1 << 20];
    for _ in 0..DISK >> 20 {
        file.write_all(&block)?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

/// Measures and prints.
///
/// # Errors
/// A process or a request fails, or the file system has no room or no `O_DIRECT`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let file = written(options)?;
    let load = options.load(Waiting::Events, options.depth.unwrap_or(32));
    let mut rows = Vec::new();
    for (operation, write) in [("read", false), ("write", true)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            ours.push(ours::measure_file(file.path(), Disk::File, &load, write)?);
            theirs.push(peer::measure_file(file.path(), &load, write)?);
        }
        let (ours, peer) = (median(&ours), median(&theirs));
        let row = Row {
            operation,
            depth: load.depth,
            ours,
            peer,
            ratio: ours.rate / peer.rate,
            peer_command: "blkio io_uring, direct, do_io(min=1)",
        };
        println!("{operation}, {} in flight: {:.2} x", row.depth, row.ratio);
        report::sides([("ours", &row.ours), ("peer", &row.peer)]);
        rows.push(row);
    }
    options.write(&rows)
}
