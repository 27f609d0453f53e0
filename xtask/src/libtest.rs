//! What the test harness of Rust prints.

use std::collections::BTreeMap;

/// How one test ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Ignored,
}

/// A test that said it could not run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Skip {
    pub(crate) name: String,
    pub(crate) why: String,
}

/// The results of one test program.
#[derive(Default, Debug)]
pub(crate) struct Results {
    /// By the test's full name.
    pub(crate) tests: BTreeMap<String, Outcome>,
    pub(crate) skips: Vec<Skip>,
    /// The line with the sums was there: no test took the program down with it.
    pub(crate) finished: bool,
}

impl Results {
    /// Reads the output of a test program run with `--show-output`.
    pub(crate) fn parse(output: &str) -> Self {
        let mut results = Self::default();
        for line in output.lines() {
            if let Some((name, outcome)) = result(line) {
                results.tests.insert(name.to_owned(), outcome);
            } else if let Some((name, why)) = line
                .strip_prefix("SKIP ")
                .and_then(|skip| skip.split_once(": "))
            {
                let skip = Skip {
                    name: name.to_owned(),
                    why: why.to_owned(),
                };
                if !results.skips.contains(&skip) {
                    results.skips.push(skip);
                }
            } else if line.starts_with("test result: ") {
                results.finished = true;
            }
        }
        results
    }

    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.tests.values().filter(|o| **o == outcome).count()
    }
}

/// `test NAME ... ok`, also `test NAME - should panic ... ok` and `ignored, REASON`.
fn result(line: &str) -> Option<(&str, Outcome)> {
    let (name, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let outcome = match end.split([',', ' ']).next()? {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored,
        _ => return None,
    };
    Some((
        name.strip_suffix(" - should panic").unwrap_or(name),
        outcome,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_run() {
        let results = Results::parse(
            "\nrunning 5 tests\ntest a::one ... ok\ntest two ... FAILED\ntest three ... ignored, no nightly\n\
             test four - should panic ... ok\ntest core/src/x.rs - f (line 3) ... ok\n\nsuccesses:\n\n\
             ---- a::one stdout ----\nSKIP a::one: no qemu-io\nSKIP a::one: no qemu-io\n\n\
             test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(results.count(Outcome::Passed), 3);
        assert_eq!(results.tests.get("two"), Some(&Outcome::Failed));
        assert_eq!(results.tests.get("three"), Some(&Outcome::Ignored));
        assert_eq!(results.tests.get("four"), Some(&Outcome::Passed));
        assert_eq!(
            results.skips,
            [Skip {
                name: "a::one".into(),
                why: "no qemu-io".into()
            }]
        );
        assert!(results.finished);
    }

    #[test]
    fn a_program_that_died_has_not_finished() {
        let results = Results::parse("running 2 tests\ntest one ... ok\n");
        assert!(!results.finished);
        assert_eq!(results.tests.len(), 1);
    }
}
