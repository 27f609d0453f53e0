//! `cargo xtask bench lab`: instructions per request of a guest's disk on real Xen, for our backend and for its peers.
//!
//! Under `-icount` QEMU's clock counts instructions, so a figure is as good on a busy machine as on an idle one. The scenarios
//! `cost_*` of tests/lab do each load twice with different counts; what is reported is the difference, per request.

mod page;
mod table;

use crate::counts::target_dir;
use crate::lab;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use table::Table;

/// The scenarios, of which the first is what the others are compared with.
const SCENARIOS: &[&str] = &[
    "cost_blkback",
    "cost_blkback_mapped",
    "cost_blkback_plain",
    "cost_qdisk",
    "cost_ringfence",
];

/// The word after `# boot:` in all of them.
const BOOT: &str = "cost";

/// Options that only this bench has. The name is also that of a group of arguments, of which there may be one only.
#[derive(clap::Args)]
pub(crate) struct LabOptions {
    /// lab: measure so often, each time in a boot of its own
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// lab: write the table to docs/benches.md
    #[arg(long)]
    docs: bool,
    /// lab: take our programs, statically linked, from this folder
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// lab: multiply every limit, on a slow or busy machine
    #[arg(long, value_name = "TIMES", default_value_t = 2)]
    patience: u32,
}

/// Runs the scenarios, prints the table, and writes it where it was asked for.
pub(crate) fn run(options: &LabOptions, json: Option<&PathBuf>) -> Result<()> {
    let mut runs = Vec::new();
    for _ in 0..options.runs.max(1) {
        let logs = target_dir()?.join("lab/logs");
        for log in logs_of_boot(&logs) {
            fs::remove_file(log)?;
        }
        let ran = lab::run_named(SCENARIOS, options.bin.clone(), options.patience);
        let mut text = String::new();
        for log in logs_of_boot(&logs) {
            text += &fs::read_to_string(&log)?;
        }
        runs.push(Table::read(&text).with_context(|| format!("in {}", logs.display()))?);
        // Of a run that failed, what was measured before is worth seeing.
        if let Err(error) = ran {
            for table in &runs {
                print!("{table}");
            }
            return Err(error);
        }
    }
    let Some(first) = runs.first() else {
        bail!("nothing was measured");
    };
    print!("{first}");
    for (index, other) in runs.iter().enumerate().skip(1) {
        let spread = first.spread(other)?;
        println!(
            "run {} differs by at most {:.2} %",
            index + 1,
            spread * 100.0
        );
    }
    if let Some(file) = json {
        let all: Vec<Value> = runs.iter().map(Table::json).collect();
        fs::write(file, serde_json::to_string_pretty(&json!({ "runs": all }))?)?;
    }
    if options.docs {
        page::write(&runs)?;
    }
    Ok(())
}

/// More than one if the machine broke down and was started again.
fn logs_of_boot(dir: &Path) -> Vec<PathBuf> {
    let names = (1..).map(|attempt| dir.join(format!("{BOOT}-{attempt}.log")));
    names.take_while(|path| path.is_file()).collect()
}
