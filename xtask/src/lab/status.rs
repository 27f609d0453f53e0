//! docs/STATUS.md: what was tried against which peer, out of the results and of tests/lab/features.list.

use super::blkif;
use super::results::Results;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

#[derive(Default)]
struct Cell<'a> {
    passed: BTreeSet<&'a str>,
    failed: BTreeSet<&'a str>,
}

/// Writes the page.
pub(crate) fn write(results: &Results, root: &Path) -> Result<()> {
    let list = root.join("tests/lab/features.list");
    let list =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let mut page = page(results, &list)?;
    page.push_str(&blkif::table(results, root)?);
    let path = root.join("docs/STATUS.md");
    fs::write(&path, page)?;
    println!("lab: wrote {}", path.display());
    Ok(())
}

fn page(results: &Results, list: &str) -> Result<String> {
    let mut table: BTreeMap<&str, BTreeMap<&str, Cell<'_>>> = BTreeMap::new();
    for line in list
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let Some((peer, feature)) = line.split_once(": ") else {
            bail!("tests/lab/features.list: `{line}` is not `PEER: FEATURE`");
        };
        table.entry(peer).or_default().entry(feature).or_default();
    }
    for row in results.rows() {
        let cell = table
            .entry(row.peer)
            .or_default()
            .entry(row.feature)
            .or_default();
        match row.outcome {
            "passed" => cell.passed.insert(row.scenario),
            "failed" => cell.failed.insert(row.scenario),
            _ => false,
        };
    }
    let mut page = String::from(
        "# What was tried against which peer\n\n\
         Written by `cargo xtask lab --status` from what the lab ran on real Xen under QEMU: see tests/lab/README.md.\n\
         A row is tried when every scenario that is to show it has passed. A scenario with a commit behind it last ran at that one,\n\
         the others at what this page was written from.\n",
    );
    if let Some(peers) = results.peers() {
        let versions: Vec<String> = peers
            .iter()
            .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or_default()))
            .collect();
        let _ = writeln!(page, "\nVersions: {}.", versions.join(", "));
    }
    for (peer, features) in &table {
        let _ = writeln!(
            page,
            "\n## {peer}\n\n| feature | | scenario |\n|---|---|---|"
        );
        for (feature, cell) in features {
            let (mark, names) = if !cell.failed.is_empty() {
                ("**failed**", &cell.failed)
            } else if !cell.passed.is_empty() {
                ("tried", &cell.passed)
            } else {
                ("not yet", &cell.passed)
            };
            let names: Vec<String> = names.iter().map(|name| results.name(name)).collect();
            let _ = writeln!(page, "| {feature} | {mark} | {} |", names.join(", "));
        }
    }
    let figures: Vec<_> = results.figures().collect();
    if !figures.is_empty() {
        page += "\n## Figures\n\n| what | | scenario |\n|---|---|---|\n";
        for (what, value, name) in figures {
            let _ = writeln!(page, "| {what} | {value} | {} |", results.name(name));
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::page;

    #[test]
    fn a_row_is_tried_when_nothing_that_shows_it_failed() {
        let list = "# Words.\nLinux: fsck\nLinux: resize\nQEMU: verify\n";
        let page = page(&example("t1"), list).expect("parses");
        for line in [
            "Versions: linux 6.1, xen 4.17.",
            "| fsck | tried | `disk` |",
            "| trim | **failed** | `trim` |",
            "| resize | not yet |  |",
            "| verify | not yet |  |",
            "| bytes | 12 | `disk` |",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(super::page(&example("t1"), "no colon\n").is_err());
    }
}
