//! Disks served over NBD for as long as they are there: each export begins when its disk is connected, ends when it is detached,
//! and begins again when it is attached again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::Result;

use super::Guest;
use super::device::GuestDisk;
use super::disks::{Life, Shared};
use super::world::World;
use crate::nbd::{Hall, Listener, Server, serve_hall};

/// One `--nbd-export`.
#[derive(Debug)]
pub(crate) struct ExportSpec {
    /// The disk's name, which is the export's as well.
    pub(crate) name: String,
    /// The disk's number.
    pub(crate) vdev: u32,
    /// Where to listen.
    pub(crate) socket: PathBuf,
}

/// Serves `exports` until it is time to end.
///
/// # Errors
/// A disk of the command line cannot be connected, a socket is taken, or the store failed.
pub(crate) fn run<P: World>(guest: &Guest<'_, P>, exports: Vec<ExportSpec>) -> Result<()> {
    let disks = guest.disks.clone();
    // Those that were named with the guest are waited for; others come when they come.
    let mut early = Vec::new();
    for spec in &exports {
        if guest.named.iter().any(|(_, vdev)| *vdev == spec.vdev) {
            let stop = guest.stop.as_fd();
            match GuestDisk::connect(&disks, spec.vdev, &spec.name, stop)? {
                Some(disk) => early.push(serve(disk, spec)?),
                None => return Ok(()),
            }
        }
    }
    let first = exports.first();
    crate::say(&serde_json::json!({
        "ready": guest.identity,
        "nbd": first.map(|spec| &spec.socket),
        "export": first.map(|spec| &spec.name),
        "exports": early.iter().map(|server| server.blocks().name()).collect::<Vec<_>>(),
    }));
    let store_fd = disks.borrow().fd()?;
    let mut hall = Exports {
        store_fd,
        seen: 0,
        disks,
        specs: exports,
        servers: early,
    };
    let served = serve_hall(&mut hall, guest.stop.as_fd());
    for server in hall.servers {
        server.into_blocks().give_back();
    }
    Ok(served?)
}

fn serve<P: World>(disk: GuestDisk<P>, spec: &ExportSpec) -> Result<Server<GuestDisk<P>>> {
    Ok(Server::new(Listener::bind(&spec.socket)?, &spec.name, disk))
}

/// The servers of the disks that are there.
struct Exports<P: World> {
    disks: Shared<P>,
    store_fd: OwnedFd,
    /// The last news of the store's that was looked at.
    seen: u64,
    specs: Vec<ExportSpec>,
    servers: Vec<Server<GuestDisk<P>>>,
}

impl<P: World> Exports<P> {
    /// Takes away the servers of disks that are over.
    fn end(&mut self) -> bool {
        let before = self.servers.len();
        let (over, on) = std::mem::take(&mut self.servers)
            .into_iter()
            .partition(|server| server.blocks().is_over());
        self.servers = on;
        for server in over {
            let name = server.blocks().name().to_owned();
            // Its socket goes with it, and what its clients still ask for has no answer.
            server.into_blocks().give_back();
            crate::say(&serde_json::json!({ "unexported": name }));
        }
        self.servers.len() != before
    }

    /// Serves the disks that have come.
    fn begin(&mut self) -> Result<bool> {
        let mut any = false;
        for spec in &self.specs {
            let there = |server: &Server<GuestDisk<P>>| server.blocks().vdev() == spec.vdev;
            if self.servers.iter().any(there) {
                continue;
            }
            let connected = matches!(
                self.disks.borrow().life(spec.vdev),
                Some(Life::Connected(_))
            );
            if connected && let Some(disk) = GuestDisk::take(&self.disks, spec.vdev, &spec.name)? {
                self.servers.push(serve(disk, spec)?);
                crate::say(&serde_json::json!({ "exported": spec.name, "nbd": spec.socket }));
                any = true;
            }
        }
        Ok(any)
    }
}

impl<P: World> Hall<GuestDisk<P>> for Exports<P> {
    fn servers(&self) -> &[Server<GuestDisk<P>>] {
        &self.servers
    }

    fn servers_mut(&mut self) -> &mut [Server<GuestDisk<P>>] {
        &mut self.servers
    }

    fn look(&mut self) -> io::Result<bool> {
        let mut changed = self.end();
        self.disks.borrow_mut().attend().map_err(io::Error::other)?;
        let news = self.disks.borrow().news();
        if changed || news != std::mem::replace(&mut self.seen, news) {
            changed |= self.begin().map_err(io::Error::other)?;
        }
        Ok(changed)
    }

    fn wake(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.store_fd.as_fd()]
    }
}
