//! What runs have shown: `lab/results.json` in the target folder, one entry per scenario, the newest.

use super::boot::Verdict;
use super::scenario::Scenario;
use crate::process::{output_of, root};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What of a commit has nothing to do with what the lab runs: changes there leave results as they are.
const APART: &[&str] = &[".ci", "benches", "docs", "fuzz"];

/// What the results are of: everything in a commit that the lab runs.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Source {
    /// The short name of the commit.
    commit: String,
    /// The same for all commits that differ only in what is [`APART`].
    tree: String,
}

impl Source {
    fn of_head() -> Result<Self> {
        let git = |args: &[&str]| output_of(Command::new("git").current_dir(root()).args(args));
        Ok(Self {
            commit: git(&["rev-parse", "--short", "HEAD"])?.trim().to_owned(),
            tree: tree(&git(&["ls-tree", "HEAD"])?),
        })
    }
}

/// The ids of what counts, of lines `MODE TYPE ID<TAB>NAME`.
fn tree(listing: &str) -> String {
    let counts = |name: &str| !APART.contains(&name) && !name.ends_with(".md");
    let ids = listing
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(_, name)| counts(name))
        .filter_map(|(entry, _)| entry.rsplit(' ').next()?.get(..12));
    ids.collect::<Vec<_>>().join(" ")
}

/// The newest entry of each scenario, of whatever commit it is.
pub(crate) struct Results {
    path: PathBuf,
    source: Source,
    scenarios: Map<String, Value>,
}

impl Results {
    /// Reads what is there.
    pub(crate) fn open(work: &Path) -> Result<Self> {
        let source = Source::of_head()?;
        let path = work.join("results.json");
        let old = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Ok(Self::of(path, source, &old))
    }

    fn of(path: PathBuf, source: Source, old: &Value) -> Self {
        let mut scenarios = old["scenarios"].as_object().cloned().unwrap_or_default();
        // An entry that does not say what ran says nothing.
        scenarios.retain(|_, entry| entry["tree"].is_string() && entry["commit"].is_string());
        Self {
            path,
            source,
            scenarios,
        }
    }

    /// How the page names a scenario: with the commit at which it last ran, if that had something else to run.
    pub(crate) fn name(&self, scenario: &str) -> String {
        let entry = &self.scenarios[scenario];
        match entry["commit"].as_str() {
            Some(commit) if entry["tree"] != *self.source.tree => {
                format!("`{scenario}` at {commit}")
            }
            _ => format!("`{scenario}`"),
        }
    }

    /// Notes how a scenario went, at once: an interrupted run keeps what it has.
    pub(crate) fn add(
        &mut self,
        scenario: &Scenario,
        verdict: &Verdict,
        took: Duration,
        peers: &[(&'static str, String)],
        figures: &[String],
    ) -> Result<()> {
        let (outcome, why) = match verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(why) => ("failed", Some(why)),
            Verdict::Skipped(why) => ("skipped", Some(why)),
        };
        let peers: Map<String, Value> = peers
            .iter()
            .map(|(k, v)| ((*k).to_owned(), json!(v)))
            .collect();
        let entry = json!({
            "commit": self.source.commit,
            "tree": self.source.tree,
            "outcome": outcome,
            "why": why,
            "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
            "shows": scenario.shows,
            "peers": peers,
            "figures": figures,
        });
        self.scenarios.insert(scenario.name.clone(), entry);
        let all = json!({ "scenarios": self.scenarios });
        let text = serde_json::to_string_pretty(&all)?;
        fs::write(&self.path, text).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Scenario, outcome, rows and versions.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.scenarios.iter().flat_map(|(name, entry)| {
            let outcome = entry["outcome"].as_str().unwrap_or_default();
            entry["shows"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(move |row| {
                    let (peer, feature) = row.as_str()?.split_once(": ")?;
                    Some(Row {
                        scenario: name,
                        outcome,
                        peer,
                        feature,
                    })
                })
        })
    }

    /// Scenario and outcome.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&str, &str)> {
        let scenarios = self.scenarios.iter();
        scenarios.filter_map(|(name, entry)| Some((name.as_str(), entry["outcome"].as_str()?)))
    }

    /// `WHAT: VALUE`, with the scenario that measured it and passed.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.scenarios
            .iter()
            .filter(|(_, entry)| entry["outcome"] == "passed")
            .flat_map(|(name, entry)| {
                let figures = entry["figures"].as_array().into_iter().flatten();
                figures.filter_map(move |figure| {
                    let (what, value) = figure.as_str()?.rsplit_once(": ")?;
                    Some((what, value, name.as_str()))
                })
            })
    }

    /// Versions of the peers, as the last run had them.
    pub(crate) fn peers(&self) -> Option<&Map<String, Value>> {
        self.scenarios.values().next_back()?["peers"].as_object()
    }
}

/// One thing that one scenario was to show.
pub(crate) struct Row<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) outcome: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) feature: &'a str,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A passed and a failed scenario, of what `tree` says.
    pub(crate) fn example(tree: &str) -> Results {
        let peers = json!({ "linux": "6.1", "xen": "4.17" });
        let old = json!({ "scenarios": {
            "disk": { "commit": "c1", "tree": "t1", "outcome": "passed", "shows": ["Linux: fsck", "Linux: trim"],
                "peers": peers, "figures": ["bytes: 12"] },
            "trim": { "commit": "c1", "tree": "t1", "outcome": "failed", "shows": ["Linux: trim"], "peers": peers },
            "nobody's": { "outcome": "passed", "shows": ["Linux: flush"], "peers": peers },
        }});
        let source = Source {
            commit: "c2".into(),
            tree: tree.into(),
        };
        Results::of(PathBuf::new(), source, &old)
    }

    #[test]
    fn what_says_of_what_it_is_counts() {
        let rows: Vec<(String, String)> = example("t1")
            .rows()
            .map(|row| (row.scenario.to_owned(), row.feature.to_owned()))
            .collect();
        let expected = [("disk", "fsck"), ("disk", "trim"), ("trim", "trim")];
        assert_eq!(rows, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(example("t1").name("disk"), "`disk`");
        assert_eq!(example("t2").name("disk"), "`disk` at c1");
    }

    #[test]
    fn pages_do_not_change_what_ran() {
        let line =
            |id: char, name| format!("100644 blob {}\t{name}\n", String::from(id).repeat(40));
        let listing = |readme, core| {
            [
                line('1', "Cargo.toml"),
                line(readme, "README.md"),
                line(core, "core"),
                line(readme, "docs"),
            ]
            .concat()
        };
        assert_eq!(tree(&listing('2', '3')), "111111111111 333333333333");
        assert_eq!(tree(&listing('2', '3')), tree(&listing('4', '3')));
        assert_ne!(tree(&listing('2', '3')), tree(&listing('2', '5')));
    }
}
