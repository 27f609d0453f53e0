//! Where the checks stand that can be taken away.

use crate::process::{cargo, output_of};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const MARK: &str = "weakened!(\"";

/// Their names.
pub(super) fn find() -> Result<BTreeSet<String>> {
    let metadata = output_of(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut sites = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = package["manifest_path"].as_str();
        let manifest = Path::new(manifest.context("a package has no manifest")?);
        let mut dirs: Vec<PathBuf> = manifest
            .parent()
            .map(|dir| dir.join("src"))
            .into_iter()
            .collect();
        while let Some(dir) = dirs.pop() {
            for entry in
                std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?
            {
                let path = entry?.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path)?;
                    sites.extend(checks(&text).map(str::to_owned));
                }
            }
        }
    }
    Ok(sites)
}

fn checks(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK)
        .skip(1)
        .filter_map(|rest| rest.split_once("\")").map(|(check, _)| check))
}

#[cfg(test)]
mod tests {
    use super::checks;

    #[test]
    fn finds_the_names() {
        let text = "if weakened!(\"a_1\") || b {}\n!weakened!(\"c\")\n";
        assert_eq!(checks(text).collect::<Vec<_>>(), ["a_1", "c"]);
        assert_eq!(checks("weakened!(name)").count(), 0);
    }
}
