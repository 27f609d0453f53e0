//! Finding the test programs of the workspace.

use crate::json::Json;
use crate::process::{cargo, root};
use anyhow::{Context, Result, bail};
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
pub(crate) fn build(arguments: &[&str], environment: &[(&str, &Path)]) -> Result<Vec<Program>> {
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
        programs.extend(program(&Json::parse(line)?));
    }
    programs.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    Ok(programs)
}

fn program(message: &Json) -> Option<Program> {
    let is_test = *message.get("profile").get("test") == Json::Bool(true);
    let path = message.get("executable").text().filter(|_| is_test)?;
    let manifest = message.get("manifest_path").text()?;
    let dir = Path::new(manifest)
        .parent()
        .map_or_else(root, Path::to_path_buf);
    let target = message.get("target");
    let kind = target.get("kind").list().first().and_then(Json::text)?;
    let name = target.get("name").text()?;
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
