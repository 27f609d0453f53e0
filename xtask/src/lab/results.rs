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

/// The entries of runs of the same commit; those of others go when something is added.
pub(crate) struct Results {
    path: PathBuf,
    commit: String,
    scenarios: Map<String, Value>,
}

impl Results {
    /// Reads what is there.
    pub(crate) fn open(work: &Path) -> Result<Self> {
        let commit = output_of(
            Command::new("git")
                .current_dir(root())
                .args(["rev-parse", "HEAD"]),
        )?;
        let path = work.join("results.json");
        let old = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Ok(Self::of(path, commit.trim(), &old))
    }

    /// What of `old` is of this commit.
    fn of(path: PathBuf, commit: &str, old: &Value) -> Self {
        let scenarios = match old["scenarios"].as_object() {
            Some(scenarios) if old["commit"] == *commit => scenarios.clone(),
            _ => Map::new(),
        };
        Self {
            path,
            commit: commit.to_owned(),
            scenarios,
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
            "outcome": outcome,
            "why": why,
            "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
            "shows": scenario.shows,
            "peers": peers,
            "figures": figures,
        });
        self.scenarios.insert(scenario.name.clone(), entry);
        let all = json!({ "commit": self.commit, "scenarios": self.scenarios });
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

    /// A passed and a failed scenario.
    pub(crate) fn example(commit: &str) -> Results {
        let peers = json!({ "linux": "6.1", "xen": "4.17" });
        let old = json!({ "commit": "c1", "scenarios": {
            "disk": { "outcome": "passed", "shows": ["Linux: fsck", "Linux: trim"], "peers": peers,
                "figures": ["bytes: 12"] },
            "trim": { "outcome": "failed", "shows": ["Linux: trim"], "peers": peers },
        }});
        Results::of(PathBuf::new(), commit, &old)
    }

    #[test]
    fn only_the_same_commit_counts() {
        let rows: Vec<(String, String)> = example("c1")
            .rows()
            .map(|row| (row.scenario.to_owned(), row.feature.to_owned()))
            .collect();
        let expected = [("disk", "fsck"), ("disk", "trim"), ("trim", "trim")];
        assert_eq!(rows, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(example("c2").rows().count(), 0);
    }
}
