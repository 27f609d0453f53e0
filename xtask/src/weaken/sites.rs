//! Where the checks stand that can be taken away.

use crate::process::{cargo, output_of};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MARK: &str = "ringfence_weaken = \"";

/// The packages that have each check, by the check's name.
pub(super) fn find() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let metadata = output_of(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut sites: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().context("a package has no name")?;
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
                    for check in checks(&text) {
                        let packages = sites.entry(check.to_owned()).or_default();
                        packages.insert(name.to_owned());
                    }
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
        let text =
            "if cfg!(ringfence_weaken = \"a_1\") || b {}\n#[cfg(ringfence_weaken = \"c\")]\n";
        assert_eq!(checks(text).collect::<Vec<_>>(), ["a_1", "c"]);
        assert_eq!(checks("cfg!(ringfence_weaken)").count(), 0);
    }
}
