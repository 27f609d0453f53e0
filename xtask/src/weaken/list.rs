//! `tests/hostile/weaken.d/*.list`: `NAME<TAB>PACKAGE<TAB>TARGET<TAB>TEST[,TEST…]`, tests by the beginning of their names.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::Path;

/// A check that can be taken away, and the tests that must notice.
#[derive(Debug, PartialEq)]
pub(crate) struct Weakening {
    /// The word in `weakened!`.
    pub(crate) name: String,
    /// The package that holds the tests.
    pub(crate) package: String,
    /// A file under its `tests/`, without `.rs`, or `lib`.
    pub(crate) target: String,
    /// How the names of the tests begin.
    pub(crate) tests: Vec<String>,
}

/// Reads every list of a directory, in the order of the files' names.
pub(crate) fn read(dir: &Path) -> Result<Vec<Weakening>> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "list")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut all: Vec<Weakening> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{}:{}", file.display(), number + 1);
            let weakening = parse(line).with_context(place)?;
            let same = |w: &&Weakening| w.name == weakening.name && w.target == weakening.target;
            if all.iter().any(|other| same(&other)) {
                bail!(
                    "{}: `{}` is listed twice for {}",
                    place(),
                    weakening.name,
                    weakening.target
                );
            }
            all.push(weakening);
        }
    }
    Ok(all)
}

fn parse(line: &str) -> Result<Weakening> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, package, target, tests] = fields.as_slice() else {
        bail!(
            "{} fields instead of NAME, PACKAGE, TARGET, TESTS",
            fields.len()
        );
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        bail!("`{name}` is no name of a check");
    }
    let tests: Vec<String> = tests
        .split(',')
        .map(|test| test.trim().to_owned())
        .collect();
    if tests.iter().any(String::is_empty) {
        bail!("`{name}` names no test");
    }
    Ok(Weakening {
        name: (*name).to_owned(),
        package: (*package).to_owned(),
        target: (*target).to_owned(),
        tests,
    })
}

impl Weakening {
    fn expects(&self, test: &str) -> bool {
        self.tests
            .iter()
            .any(|prefix| test.starts_with(prefix.as_str()))
    }

    /// Each prefix must stand for a test that exists.
    pub(crate) fn check_names(&self, all: &BTreeSet<String>) -> Result<()> {
        for prefix in &self.tests {
            if !all.iter().any(|test| test.starts_with(prefix.as_str())) {
                bail!("no test of {} begins with `{prefix}`", self.target);
            }
        }
        Ok(())
    }

    /// Exactly the tests of the list may be red.
    pub(crate) fn judge(&self, all: &BTreeSet<String>, red: &BTreeSet<String>) -> Result<()> {
        let green: Vec<&str> = all
            .iter()
            .filter(|t| self.expects(t) && !red.contains(*t))
            .map(String::as_str)
            .collect();
        let others: Vec<&str> = red
            .iter()
            .filter(|test| !self.expects(test))
            .map(String::as_str)
            .collect();
        match (green.as_slice(), others.as_slice()) {
            ([], []) => Ok(()),
            (green, []) => bail!("stay green without the check: {}", green.join(", ")),
            ([], others) => bail!("turn red, but are not its tests: {}", others.join(", ")),
            (green, others) => bail!(
                "stay green without the check: {}; turn red, but are not its tests: {}",
                green.join(", "),
                others.join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn exactly_the_listed_tests_must_turn_red() {
        let w =
            parse("req-prod\tringfence-tests\thostile_ring\tcve_2010_4247,xsa_38").expect("parses");
        let all = set(&[
            "cve_2010_4247_storm",
            "cve_2010_4247_back",
            "xsa_38",
            "xsa_155",
        ]);
        let must = set(&["cve_2010_4247_storm", "cve_2010_4247_back", "xsa_38"]);
        assert!(w.check_names(&all).is_ok());
        assert!(w.judge(&all, &must).is_ok());
        assert!(w.judge(&all, &set(&["xsa_38"])).is_err());
        assert!(w.judge(&all, &all).is_err());
        assert!(w.judge(&all, &set(&[])).is_err());
        assert!(w.check_names(&set(&["xsa_155"])).is_err());
    }

    #[test]
    fn a_line_has_four_fields_and_a_plain_name() {
        assert!(parse("a\tb\tc").is_err());
        assert!(parse("a\"b\tp\tt\tx").is_err());
        assert!(parse("a\tp\tt\t").is_err());
        assert!(parse("a\tp\tt\tx,").is_err());
    }
}
