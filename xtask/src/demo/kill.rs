//! Kills the driver domain's process in the middle of the copy.

use anyhow::{Context, Result, bail};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::host::Process;
use crate::process::run;

/// Bytes in what `stat` counts as a block.
const BLOCK: u64 = 512;
/// Longer than any stall that is not the end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the image is looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Kills the process that said `ready`, and those that follow it, each when it is at work on the image `copy`, which begins without
/// a block and becomes `bytes` long: the kills divide what there is to copy into equal parts, however fast that goes. Says how long
/// each time nothing was written.
pub(super) fn at_work(
    backend: &mut Process,
    ready: &Value,
    copy: &Path,
    bytes: u64,
    kills: u16,
) -> Result<Vec<Duration>> {
    let mut pid = ready["pid"].as_u64().context("blk0 said no pid")?;
    let mut stalls = Vec::new();
    let part = bytes / (u64::from(kills) + 1);
    for done in 1..=u64::from(kills) {
        next_write(copy)?;
        while copied(copy)? < done * part {
            next_write(copy)?;
        }
        let killed = Instant::now();
        run(Command::new("kill").arg("-KILL").arg(pid.to_string()))?;
        let said = backend.wait_for("ready")?;
        pid = said["pid"].as_u64().context("blk0 said no pid")?;
        next_write(copy)?;
        stalls.push(killed.elapsed());
    }
    Ok(stalls)
}

fn copied(image: &Path) -> Result<u64> {
    Ok(image.metadata()?.blocks() * BLOCK)
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
