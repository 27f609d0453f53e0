//! What a domain's process can reach, tried from inside it.

use std::io;
use std::path::PathBuf;

use ringfence_core::platform::{Access, Platform as _};
use ringfence_core::{DomId, GrantRef};
use ringfence_process::probe;
pub use ringfence_process::probe::{Attempt, Outcome};

use crate::domain::Hosted;
use ringfence_process::RestrictedRing;

/// What to try to reach; all of it exists, and none of it is the process's business.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Targets {
    /// The broker's process.
    pub broker_pid: u32,
    /// The process of another domain.
    pub peer_pid: u32,
    /// A file that the user may read.
    pub file: PathBuf,
    /// A listening Unix socket.
    pub socket: PathBuf,
    /// The name of a listening abstract Unix socket.
    pub abstract_socket: Vec<u8>,
    /// A domain that granted pages, but not to us.
    pub owner: DomId,
    /// A page that it granted to somebody else.
    pub gref: GrantRef,
}

fn arena(hosted: &Hosted, targets: &Targets) -> Outcome {
    match hosted.map(targets.owner, &[targets.gref], Access::ReadOnly) {
        Ok(_) => Outcome::Reached,
        Err(_) => Outcome::Denied(0),
    }
}

/// Opens an arena among the descriptors of another process.
fn arena_of(pid: u32) -> io::Result<()> {
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // Closed meanwhile: not what we look for, which stays open.
        let Ok(link) = std::fs::read_link(&path) else {
            continue;
        };
        if link.to_string_lossy().starts_with("/memfd:ringfence-") {
            match std::fs::File::open(&path) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// Tries everything. `ring` is the one that the process serves with, if it has one.
pub fn probe_sandbox(
    hosted: &Hosted,
    targets: &Targets,
    ring: Option<&mut RestrictedRing>,
) -> Vec<Attempt> {
    let general = probe::Targets {
        parent_pid: targets.broker_pid,
        peer_pid: targets.peer_pid,
        file: targets.file.clone(),
        socket: targets.socket.clone(),
        abstract_socket: targets.abstract_socket.clone(),
    };
    let mut attempts = probe::probe_sandbox(&general, ring);
    attempts.push((
        "take another pair's arena from the broker",
        probe::outcome(arena_of(targets.broker_pid)),
    ));
    attempts.push(("map another pair's page", arena(hosted, targets)));
    attempts
}
