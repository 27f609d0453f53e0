//! Going on with another version of the program while guests stay connected.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_blkback::journal::{STAMP, VERSION};
use ringfence_hosted::admin::Client;
use ringfence_process::child::{Child, Exit};
use rustix::event::{PollFd, PollFlags, Timespec};
use thiserror::Error;

/// How long another program may take to say what it knows.
const ANSWER: Duration = Duration::from_secs(10);

/// Has the broker's driver domain `name` go on with the program that is running this.
///
/// # Errors
/// What the broker said, before it changed anything.
pub fn hosted(client: &Client, name: &str) -> Result<()> {
    let program = File::open("/proc/self/exe").context("/proc/self/exe")?;
    client.upgrade_domain(name, program.as_fd(), STAMP)?;
    Ok(())
}

/// The status to exit with for `domain-main knows-journal VERSION`.
pub const fn knows(version: u64) -> u8 {
    if version == VERSION { 0 } else { 1 }
}

/// Why another program cannot follow this one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It cannot be run.
    #[error("cannot be run: {0}")]
    Run(#[from] io::Error),
    /// It says that it does not know our journals, or it is no version of this program.
    #[error("does not know journals of version {VERSION} ({0:?})")]
    Journal(Exit),
    /// It says nothing.
    #[error("did not say within {ANSWER:?} whether it knows journals of version {VERSION}")]
    Silent,
}

/// Asks `program` whether it can go on with what processes of this one leave.
///
/// # Errors
/// [`Unfit`], if not.
pub fn check(program: &Path) -> Result<(), Unfit> {
    let mut command = Command::new(program);
    command
        .args(["domain-main", "knows-journal", &VERSION.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (mut child, _socket) = Child::spawn(command)?;
    let timeout = Timespec::try_from(ANSWER).ok();
    let mut fds = [PollFd::new(&child, PollFlags::IN)];
    let ended = rustix::event::poll(&mut fds, timeout.as_ref());
    match child.exit() {
        Some(Exit::Code(0)) => Ok(()),
        Some(exit) => Err(Unfit::Journal(exit)),
        None => {
            child.end();
            ended.map_err(io::Error::from)?;
            Err(Unfit::Silent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_that_knows_the_journals_may_follow() {
        assert_eq!((knows(VERSION), knows(VERSION + 1)), (0, 1));
        assert!(check(Path::new("/bin/true")).is_ok());
        let unknown = format!("does not know journals of version {VERSION} (Code(1))");
        let missing = "cannot be run: No such file or directory (os error 2)".to_owned();
        for (program, says) in [("/bin/false", unknown), ("/nowhere", missing)] {
            let error = check(Path::new(program)).expect_err(program);
            assert_eq!(error.to_string(), says);
        }
    }
}
