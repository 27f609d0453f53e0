//! `--daemonize`: the same program again, without a terminal, and back here once it serves.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What the daemon says on its standard output once it serves.
const READY: &[u8] = b"ready\n";

/// Starts this program again with its own arguments and `--detached`, and returns when that serves.
///
/// # Errors
/// It cannot be started, or it ended before it served; why is on its standard error, which is ours.
pub(super) fn start() -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut daemon = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    let mut said = Vec::new();
    if let Some(mut out) = daemon.stdout.take() {
        let mut byte = [0];
        while said != READY && matches!(out.read(&mut byte), Ok(1)) {
            said.push(byte[0]);
        }
    }
    if said == READY {
        return Ok(());
    }
    bail!("the daemon ended: {}", daemon.wait()?)
}

/// In the daemon, before anything else: away from the terminal.
///
/// # Errors
/// The system refuses.
pub(super) fn begin() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// In the daemon, once it serves: whoever started it may go on, and is not held by our descriptors.
///
/// # Errors
/// There is no `/dev/null`.
pub(super) fn ready() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stderr(&null)?;
    let mut out = io::stdout();
    out.write_all(READY)?;
    out.flush()?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// A file with the number of this process, for as long as it serves.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it.
    ///
    /// # Errors
    /// As for any file.
    pub(super) fn write(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        fs::write(&path, format!("{}\n", std::process::id()))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
