//! The table of docs/STATUS.md that says how each part of the block protocol is tried, out of tests/blkif.list.

use super::results::Results;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// How one side tries one part.
enum Cell {
    /// It has no such part.
    None,
    /// It is to have it.
    NotYet,
    /// Files of tests/tests, and scenarios.
    Tried(Vec<String>, Vec<String>),
}

/// The table. Every test that is named must be there.
pub(super) fn table(results: &Results, root: &Path) -> Result<String> {
    let list = read(root)?;
    let rows = rows(&list, root)?;
    let outcomes = results
        .outcomes()
        .map(|(name, outcome)| (name, (outcome, results.name(name))))
        .collect();
    let mut page = String::from(
        "\n## The block protocol (xen/io/blkif.h)\n\n\
         Files are those of tests/tests, tried by `cargo xtask test`; what follows *Xen:* are scenarios of the lab.\n\n\
         | part | backend | frontend |\n|---|---|---|\n",
    );
    for (part, [back, front]) in &rows {
        let (back, front) = (text(back, &outcomes), text(front, &outcomes));
        let _ = writeln!(page, "| {part} | {back} | {front} |");
    }
    Ok(page)
}

fn read(root: &Path) -> Result<String> {
    let path = root.join("tests/blkif.list");
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn rows<'a>(list: &'a str, root: &Path) -> Result<Vec<(&'a str, [Cell; 2])>> {
    let tests = |file: &str| fs::read_to_string(root.join(format!("tests/tests/{file}.rs"))).ok();
    let scenarios = root.join("tests/lab/scenarios");
    let scenario = |name: &str| scenarios.join(format!("{name}.sh")).is_file();
    parse(list, &tests, &scenario)
}

fn parse<'a>(
    list: &'a str,
    tests: &dyn Fn(&str) -> Option<String>,
    scenario: &dyn Fn(&str) -> bool,
) -> Result<Vec<(&'a str, [Cell; 2])>> {
    let mut rows: Vec<(&str, [Cell; 2])> = Vec::new();
    for line in list
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let (head, names) = line
            .split_once(':')
            .with_context(|| format!("tests/blkif.list: `{line}` is not `SIDE PART: TEST...`"))?;
        let (side, part) = match head.split_once(' ') {
            Some(("back", part)) => (0, part),
            Some(("front", part)) => (1, part),
            _ => bail!("tests/blkif.list: `{head}` begins with neither `back` nor `front`"),
        };
        let cell = cell(names, tests, scenario)
            .with_context(|| format!("tests/blkif.list: {side} {part}"))?;
        match rows.iter_mut().find(|(known, _)| *known == part) {
            Some((_, cells)) => cells[side] = cell,
            None => {
                let mut cells = [Cell::NotYet, Cell::NotYet];
                cells[side] = cell;
                rows.push((part, cells));
            }
        }
    }
    Ok(rows)
}

fn cell(
    names: &str,
    tests: &dyn Fn(&str) -> Option<String>,
    scenario: &dyn Fn(&str) -> bool,
) -> Result<Cell> {
    match names.trim() {
        "" => return Ok(Cell::NotYet),
        "-" => return Ok(Cell::None),
        _ => {}
    }
    let (mut files, mut scenarios) = (Vec::new(), Vec::new());
    for name in names.split_whitespace() {
        if let Some(name) = name.strip_prefix("lab/") {
            ensure!(scenario(name), "no scenario {name}");
            scenarios.push(name.to_owned());
            continue;
        }
        let (file, function) = name
            .split_once("::")
            .with_context(|| format!("`{name}` is neither FILE::FUNCTION nor lab/SCENARIO"))?;
        let text = tests(file).with_context(|| format!("no file tests/tests/{file}.rs"))?;
        ensure!(
            text.contains(&format!("fn {function}(")),
            "no {function} in tests/tests/{file}.rs"
        );
        if !files.iter().any(|known| known == file) {
            files.push(file.to_owned());
        }
    }
    Ok(Cell::Tried(files, scenarios))
}

/// By scenario: the outcome, and how the page names it.
type Outcomes<'a> = BTreeMap<&'a str, (&'a str, String)>;

fn text(cell: &Cell, outcomes: &Outcomes<'_>) -> String {
    let (files, scenarios) = match cell {
        Cell::None => return "–".to_owned(),
        Cell::NotYet => return "not yet".to_owned(),
        Cell::Tried(files, scenarios) => (files, scenarios),
    };
    let mut text: Vec<String> = files.iter().map(|file| format!("`{file}`")).collect();
    for (n, name) in scenarios.iter().enumerate() {
        let shown = match outcomes.get(name.as_str()) {
            Some(("passed", shown)) => shown.clone(),
            Some(("failed", shown)) => format!("{shown} **failed**"),
            _ => format!("`{name}` (not run)"),
        };
        let xen = if n == 0 { "Xen: " } else { "" };
        text.push(format!("{xen}{shown}"));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{parse, text};
    use crate::process::root;
    use std::collections::BTreeMap;

    #[test]
    fn the_list_names_what_there_is() {
        let list = super::read(&root()).expect("readable");
        let rows = super::rows(&list, &root()).expect("a list");
        assert!(rows.len() > 15, "{} rows", rows.len());
    }

    const LIST: &str = "# Words.\nback flush: a::f lab/x lab/y lab/z\nfront flush: -\nback trim:\n";

    #[test]
    fn what_is_named_must_be_there() {
        let tests = |file: &str| (file == "a").then(|| "fn f() {}".to_owned());
        let rows = parse(LIST, &tests, &|_| true).expect("all there");
        let outcomes = BTreeMap::from([
            ("x", ("passed", "`x`".to_owned())),
            ("y", ("failed", "`y` at c1".to_owned())),
        ]);
        let shown: Vec<_> = rows
            .iter()
            .map(|(part, cells)| (*part, cells.each_ref().map(|cell| text(cell, &outcomes))))
            .collect();
        let flush = "`a`, Xen: `x`, `y` at c1 **failed**, `z` (not run)".to_owned();
        let [no, not_yet] = ["–", "not yet"].map(str::to_owned);
        assert_eq!(
            shown,
            [("flush", [flush, no]), ("trim", [not_yet.clone(), not_yet])]
        );
        for bad in [
            "back flush: a::g",
            "back flush: b::f",
            "side flush: a::f",
            "back flush: f",
        ] {
            assert!(parse(bad, &tests, &|_| true).is_err(), "{bad}");
        }
        assert!(parse(LIST, &tests, &|_| false).is_err());
    }
}
