//! The three processes of the demo.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::kill;

use serde_json::Value;

/// What the processes said of themselves.
pub(crate) struct Outcome {
    /// Process id of the broker.
    pub(crate) broker: u32,
    /// The last words of the driver domain.
    pub(crate) backend: Value,
    /// The last words of the guest.
    pub(crate) guest: Value,
    /// What every kill of the driver domain's process cost: from the signal to the next byte that was written.
    pub(crate) stalls: Vec<Duration>,
}

/// A process that is ended when the demo fails half-way.
pub(super) struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run ringfence")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// The first line that is a JSON object with this key; what is not JSON is shown.
    pub(super) fn wait_for(&mut self, key: &str) -> Result<Value> {
        for line in self.lines.by_ref() {
            let line = line?;
            match serde_json::from_str::<Value>(&line) {
                Ok(mut value) if value.get(key).is_some() => return Ok(value[key].take()),
                Ok(_) => {}
                Err(_) => println!("  {line}"),
            }
        }
        let status = self.child.wait()?;
        bail!("ended before it said '{key}': {status}")
    }

    fn finish(mut self) -> Result<()> {
        for line in self.lines.by_ref() {
            println!("  {}", line?);
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Ends the broker and its domains in order, also when the demo fails half-way.
struct Shutdown(Option<Command>);

impl Shutdown {
    fn now(&mut self) -> Result<()> {
        let Some(mut command) = self.0.take() else {
            return Ok(());
        };
        let status = command.status().context("cannot run ringfence shutdown")?;
        if !status.success() {
            bail!("ringfence shutdown failed: {status}");
        }
        Ok(())
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        // A failure brought us here; one more is no news.
        let _ = self.now();
    }
}

/// Starts all, copies so many bytes, ends all.
pub(crate) fn copy(
    dir: &Path,
    ringfence: &Path,
    source: &Path,
    copy: &Path,
    bytes: u64,
    depth: u16,
    kills: u16,
) -> Result<Outcome> {
    let run_dir = dir.join("run");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(ringfence);
        command.arg("--run-dir").arg(&run_dir).args(arguments);
        command
    };
    println!("starting the broker, the driver domain blk0 and the guest");
    let mut host = Process::spawn(&mut command(&["host"]))?;
    let ready = host.wait_for("ready").context("broker")?;
    let mut shutdown = Shutdown(Some(command(&["shutdown"])));
    let mut backend = Process::spawn(&mut command(&[
        "driver-domain",
        "blk0",
        "--restart=on-failure",
    ]))?;
    let first = backend.wait_for("ready").context("driver domain blk0")?;
    let disk = |vdev: &str, access: &str, path: &Path| {
        format!(
            "format=raw,vdev={vdev},access={access},backend=blk0,target={}",
            path.display()
        )
    };
    let mut guest = Process::spawn(&mut command(&[
        "guest",
        "demo",
        "--disk",
        &disk("xvda", "ro", source),
        "--disk",
        &disk("xvdb", "rw", copy),
        "--copy",
        "xvda=xvdb",
        "--depth",
        &depth.to_string(),
    ]))?;
    let stalls = kill::at_work(&mut backend, &first, copy, bytes, kills)?;
    let guest_said = guest.wait_for("copied").context("guest demo")?;
    guest.finish().context("guest demo")?;
    shutdown.now()?;
    let backend_said = backend.wait_for("served").context("driver domain blk0")?;
    backend.finish().context("driver domain blk0")?;
    host.finish().context("broker")?;
    Ok(Outcome {
        broker: ready["pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .context("the broker said no pid")?,
        backend: backend_said,
        guest: guest_said,
        stalls,
    })
}
