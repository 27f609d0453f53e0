//! Kills the driver domain's process in the middle of the copy.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::host::Process;
use crate::process::run;

/// How long a process is left at work before it is killed.
const LIFE: Duration = Duration::from_millis(150);
/// Longer than any stall that is not the end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the image is looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Kills the process that said `ready`, and those that follow it, each when it is at work on the image `copy`. Says how long each
/// time nothing was written.
pub(super) fn at_work(
    backend: &mut Process,
    ready: &Value,
    copy: &Path,
    kills: u16,
) -> Result<Vec<Duration>> {
    let mut pid = ready["pid"].as_u64().context("blk0 said no pid")?;
    let mut stalls = Vec::new();
    for _ in 0..kills {
        let born = Instant::now();
        next_write(copy)?;
        std::thread::sleep(LIFE.saturating_sub(born.elapsed()));
        let killed = Instant::now();
        run(Command::new("kill").arg("-KILL").arg(pid.to_string()))?;
        let said = backend.wait_for("ready")?;
        pid = said["pid"].as_u64().context("blk0 said no pid")?;
        next_write(copy)?;
        stalls.push(killed.elapsed());
    }
    Ok(stalls)
}

/// Waits until something is written.
fn next_write(image: &Path) -> Result<()> {
    let before = written(image)?;
    let since = Instant::now();
    while written(image)? == before {
        if since.elapsed() > PATIENCE {
            bail!("nothing is written to {} any more", image.display());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn written(image: &Path) -> Result<SystemTime> {
    Ok(image.metadata()?.modified()?)
}
