//! Finding the test programs of the workspace.

use crate::process::{cargo, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program built from tests.
pub(crate) struct Program {
    /// The package, without our prefix.
    pub(crate) package: String,
    /// The target, or `lib` or `bin`.
    pub(crate) target: String,
    pub(crate) path: PathBuf,
    /// Where cargo would run it.
    pub(crate) dir: PathBuf,
}

impl Program {
    /// Ready to run, as cargo would run it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(&self.dir)
            .env("CARGO_MANIFEST_DIR", &self.dir);
        command
    }
}

/// Builds the tests that `arguments` select and lists the programs.
pub(crate) fn build(
    arguments: &[&str],
    environment: &[(String, OsString)],
) -> Result<Vec<Program>> {
    let mut command = cargo();
    command
        .args([
            "test",
            "--no-run",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .args(arguments)
        .stderr(Stdio::inherit());
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests of `{}` do not build", arguments.join(" "));
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        programs.extend(program(&serde_json::from_str(line)?));
    }
    programs.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    Ok(programs)
}

fn program(message: &Value) -> Option<Program> {
    let is_test = message["profile"]["test"] == true;
    let path = message["executable"].as_str().filter(|_| is_test)?;
    let manifest = message["manifest_path"].as_str()?;
    let dir = Path::new(manifest)
        .parent()
        .map_or_else(root, Path::to_path_buf);
    let target = &message["target"];
    let kind = target["kind"][0].as_str()?;
    let name = target["name"].as_str()?;
    let target = match kind {
        "test" | "example" | "bench" => name,
        "bin" => "bin",
        _ => "lib",
    };
    let package = dir.strip_prefix(root()).unwrap_or(&dir).to_string_lossy();
    Some(Program {
        package: package.into_owned(),
        target: target.to_owned(),
        path: PathBuf::from(path),
        dir,
    })
}
