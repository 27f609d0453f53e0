//! What the process counts, shown to whoever may look: the supervisor keeps the memory and hands it out on a socket of the run
//! directory, also while the process hangs or is dead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ringfence_blkback::service::STATISTICS_BYTES;
use ringfence_process::packet::{self, Received};
use ringfence_process::records::{self, Record};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// How the driver domain is, beside what it counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Its number.
    pub(crate) domid: u16,
    /// Its name, empty if it has none.
    pub(crate) name: String,
    /// Its process, while there is one.
    pub(crate) pid: Option<u32>,
    /// How often a process was started again.
    pub(crate) restarts: u32,
}

/// The memory, and the socket on which it is asked for.
#[derive(Debug)]
pub(super) struct Published {
    memory: OwnedFd,
    listener: OwnedFd,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("statistics.sock")
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        flags,
        None,
    )?)
}

impl Published {
    /// Listens in this run directory, in which nobody else does: the caller has its lock.
    pub(super) fn new(run_dir: &Path) -> io::Result<Self> {
        let path = path(run_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = socket(SocketFlags::NONBLOCK)?;
        // Before `bind`, so that there is no moment at which others may connect.
        rustix::fs::fchmod(&listener, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
        rustix::net::listen(&listener, 16)?;
        Ok(Self {
            memory: records::create("ringfence-statistics", STATISTICS_BYTES)?,
            listener,
        })
    }

    /// For the process, which writes.
    pub(super) fn memory(&self) -> io::Result<OwnedFd> {
        self.memory.try_clone()
    }

    /// Answers one who connected, and lets go of it.
    pub(super) fn answer(&self, status: &Status) {
        let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let ours = rustix::net::sockopt::socket_peercred(&socket)
            .is_ok_and(|peer| peer.uid == rustix::process::geteuid() || peer.uid.is_root());
        if !ours {
            tracing::warn!("connection of another user refused");
            return;
        }
        // One packet fits any socket; who does not wait for it loses it.
        if let Ok(memory) = records::read_only(&self.memory) {
            let _ = packet::send(
                socket.as_fd(),
                status,
                &[memory.as_fd()],
                SendFlags::DONTWAIT,
            );
        }
    }
}

/// Readable when somebody asks.
impl AsFd for Published {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Asks the supervisor of a run directory. The memory is the same for all processes of that supervisor.
///
/// # Errors
/// Nobody listens there, or what it says makes no sense.
pub(crate) fn look(run_dir: &Path) -> io::Result<(Status, Record)> {
    let socket = socket(SocketFlags::empty())?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path(run_dir))?)?;
    match packet::recv(socket.as_fd(), RecvFlags::empty())? {
        Received::Message(status, fds) => {
            let [memory] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| io::ErrorKind::InvalidData)?;
            Ok((status, Record::map_read_only(memory)?))
        }
        Received::Closed => Err(io::ErrorKind::ConnectionReset.into()),
        Received::Nothing | Received::Garbage => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::supervisor_files::tests::Dir;
    use ringfence_core::Words as _;
    use std::sync::atomic::Ordering;

    #[test]
    fn who_asks_sees_what_the_process_counts_from_then_on() {
        let dir = Dir::new("statistics");
        let run_dir = dir.path("run");
        std::fs::create_dir(&run_dir).unwrap();
        assert!(look(&run_dir).is_err(), "nobody listens");
        // One that was killed leaves its socket behind.
        drop(Published::new(&run_dir).unwrap());
        let published = Published::new(&run_dir).unwrap();
        let counters = records::counters(published.memory().unwrap()).unwrap();
        let status = Status {
            domid: 3,
            name: "blk0".into(),
            pid: Some(7),
            restarts: 2,
        };
        let (seen, memory) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| look(&run_dir).unwrap());
            let mut fds = [rustix::event::PollFd::new(
                &published,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            published.answer(&status);
            asking.join().unwrap()
        });
        assert_eq!(seen, status);
        assert_eq!(memory.len() * 8, STATISTICS_BYTES);
        counters[1000].fetch_add(5, Ordering::Relaxed);
        assert_eq!(memory.load(1000), 5);
    }
}
