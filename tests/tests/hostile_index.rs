//! `docs/threats.md` and the tests agree: every row is tested, or `hostile/INDEX` says which part owes the test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The keys of the catalogue: the first cell of a row.
fn rows() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for line in read("../docs/threats.md").lines() {
        if let Some((key, _)) = line
            .strip_prefix("| `")
            .and_then(|row| row.split_once("` |"))
        {
            assert!(
                keys.insert(key.to_owned()),
                "docs/threats.md has {key} twice"
            );
        }
    }
    assert!(keys.len() > 80, "only {} rows were found", keys.len());
    keys
}

/// The rows that wait for a part of the project.
fn index() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for line in read("hostile/INDEX").lines() {
        if line.starts_with('#') {
            continue;
        }
        let (key, part) = line
            .split_once('\t')
            .unwrap_or_else(|| panic!("hostile/INDEX: `{line}` names no part"));
        assert!(
            !part.trim().is_empty(),
            "hostile/INDEX: {key} names no part"
        );
        assert!(keys.insert(key.to_owned()), "hostile/INDEX has {key} twice");
    }
    keys
}

/// The test functions of `hostile_*.rs`.
fn tests() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("tests")).expect("the folder of this file is there") {
        let path = entry.expect("readable").path();
        let file = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if !file.is_some_and(|file| file.starts_with("hostile_") && file.ends_with(".rs")) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line == "#[test]" {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
                names.extend(rest.split(['(', '<']).next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    names
}

fn is_test_of(test: &str, key: &str) -> bool {
    test.strip_prefix(key.replace('-', "_").as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

#[test]
fn every_row_is_tested_or_owed() {
    let (rows, index, tests) = (rows(), index(), tests());
    let unknown: Vec<_> = index.difference(&rows).collect();
    assert!(
        unknown.is_empty(),
        "hostile/INDEX has rows that docs/threats.md lacks: {unknown:?}"
    );
    let tested = |key: &String| tests.iter().any(|test| is_test_of(test, key));
    let neither: Vec<_> = rows
        .iter()
        .filter(|key| !index.contains(*key) && !tested(key))
        .collect();
    let both: Vec<_> = rows
        .iter()
        .filter(|key| index.contains(*key) && tested(key))
        .collect();
    assert!(
        neither.is_empty(),
        "neither tested nor in hostile/INDEX: {neither:?}"
    );
    assert!(
        both.is_empty(),
        "tested, and still in hostile/INDEX: {both:?}"
    );
}

#[test]
fn a_key_is_not_the_beginning_of_another() {
    assert!(is_test_of("xsa_38", "xsa-38"));
    assert!(is_test_of("xsa_38_full_ring", "xsa-38"));
    assert!(!is_test_of("xsa_384_race", "xsa-38"));
    assert!(!is_test_of("a_xsa_38", "xsa-38"));
}
