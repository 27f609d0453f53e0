//! The licences of everything we depend on.

use crate::process::{cargo, output_of};
use anyhow::{Context, Result, bail};
use serde_json::Value;

const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "MPL-2.0",
];

/// Looks at every package that Linux builds resolve to.
pub(crate) fn run() -> Result<()> {
    let metadata = output_of(cargo().args([
        "metadata",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    // `packages` also lists what other platforms need; the resolved graph is what counts.
    let nodes = metadata["resolve"]["nodes"].as_array();
    let resolved: Vec<&Value> = nodes
        .context("cargo resolves nothing")?
        .iter()
        .map(|node| &node["id"])
        .collect();
    let mut seen = 0;
    let mut refused = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !resolved.contains(&&package["id"]) {
            continue;
        }
        let name = package["name"].as_str().unwrap_or("?");
        seen += 1;
        match package["license"].as_str() {
            Some(licence) if allowed(licence) => {}
            Some(licence) => refused.push(format!("{name}: {licence}")),
            None => refused.push(format!("{name}: names no licence")),
        }
    }
    if seen == 0 {
        bail!("cargo lists no package");
    }
    if !refused.is_empty() {
        bail!("licences that are not allowed:\n  {}", refused.join("\n  "));
    }
    println!("licences: {seen} packages, all allowed");
    Ok(())
}

/// Whether an SPDX expression can be satisfied with what is allowed.
fn allowed(expression: &str) -> bool {
    // Before there were expressions, `/` meant OR.
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Expression { words: &words };
    parser.any() == Some(true) && parser.words.is_empty()
}

struct Expression<'a> {
    words: &'a [&'a str],
}

impl Expression<'_> {
    fn eat(&mut self, word: &str) -> bool {
        match self.words.split_first() {
            Some((first, rest)) if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn any(&mut self) -> Option<bool> {
        let mut value = self.all()?;
        while self.eat("OR") {
            value |= self.all()?;
        }
        Some(value)
    }

    fn all(&mut self) -> Option<bool> {
        let mut value = self.one()?;
        while self.eat("AND") {
            value &= self.one()?;
        }
        Some(value)
    }

    fn one(&mut self) -> Option<bool> {
        if self.eat("(") {
            let value = self.any()?;
            return self.eat(")").then_some(value);
        }
        let (name, rest) = self.words.split_first()?;
        self.words = rest;
        if self.eat("WITH") {
            // An exception only gives more permissions.
            self.words = self.words.split_first()?.1;
        }
        Some(ALLOWED.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_spdx_says() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "GPL-2.0 AND MIT OR ISC",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-2.0-only",
            "MIT AND GPL-2.0",
            "(MIT OR Apache-2.0) AND LGPL-3.0",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT ISC",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
