//! docs/benches.md.

use super::table::{Backend, Table, title};
use crate::process::root;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;

const HEAD: &str = "\
# What a request costs on real Xen

Written by `cargo xtask bench lab --docs`. Instructions per request of a Linux 6.1 PV guest to a disk that Linux in
dom0 serves from a ram disk (brd), with direct I/O, under Xen 4.17 on QEMU with `-icount`: its clock counts the instructions
of one processor, so the figures are those of the code and do not depend on the machine that emulates it. They say nothing
about caches, interrupts or traps of real hardware. Each figure is the difference of two runs with different counts of
requests, after a load that has the guest use all the pages that it will use. *Guest* and *backend's domain* are what Xen gives as their time, what it does for them itself included, and
*machine* is their sum; *its process* is the part of the process or kernel thread that serves the disk. A repeated string
instruction counts once per repetition, so copies weigh more here than on hardware.

*xen-blkback* is Linux's backend as it comes; *-mapped* without persistent grants, so that it maps the pages of every
request; *-plain* without indirect segments too, as *qdisk*. What each frontend used is below. qdisk works on
dom0's page cache, since Debian builds it without the interfaces that it needs for direct I/O; the others go past it.
";

/// Writes the page; the figures are the first run's.
pub(super) fn write(runs: &[Table]) -> Result<()> {
    let Some(table) = runs.first() else {
        return Ok(());
    };
    let mut page = String::from(HEAD);
    for (load, base) in table.loads() {
        writeln!(page, "\n## A {}\n", title(load))?;
        writeln!(
            page,
            "| backend | machine | ratio | guest | backend's domain | its process |\n|---|---:|---:|---:|---:|---:|"
        )?;
        for backend in &table.backends {
            let Some(cost) = backend.costs.get(load) else {
                continue;
            };
            writeln!(
                page,
                "| {} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} |",
                backend.name,
                cost.machine(),
                cost.machine() / base.machine(),
                cost.guest,
                cost.dom0,
                cost.process
            )?;
        }
    }
    writeln!(page, "\n## What the guest's kernel used\n")?;
    for backend in &table.backends {
        writeln!(page, "- {}: {}", backend.name, backend.frontend)?;
    }
    for backend in &table.backends {
        served(&mut page, backend)?;
    }
    for (index, other) in runs.iter().enumerate().skip(1) {
        writeln!(
            page,
            "\nRun {} differs from the first by at most {:.2} %.",
            index + 1,
            table.spread(other)? * 100.0
        )?;
    }
    let path = root().join("docs/benches.md");
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("bench: wrote {}", path.display());
    Ok(())
}

/// System calls and event channels of our own process, per request, over all loads.
fn served(page: &mut String, backend: &Backend) -> Result<()> {
    let Some(counters) = backend.served.as_ref().and_then(|value| value.as_object()) else {
        return Ok(());
    };
    let of = |name: &str| counters.get(name).and_then(serde_json::Value::as_f64);
    let Some(requests) = of("requests").filter(|&requests| requests > 0.0) else {
        return Ok(());
    };
    writeln!(
        page,
        "\n## System calls of {}'s process\n\nPer request, over all loads together ({requests:.0} requests, of which a write of 64 KiB is two when the frontend \
         has no indirect segments). A grant copy is a system call too.\n",
        backend.name
    )?;
    for name in counters.keys() {
        if !name.starts_with("sys_") && !matches!(name.as_str(), "notifications" | "grant_copies") {
            continue;
        }
        if let Some(count) = of(name).filter(|&count| count > 0.0) {
            writeln!(page, "- `{name}` {:.3}", count / requests)?;
        }
    }
    Ok(())
}
