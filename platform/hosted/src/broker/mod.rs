//! The broker: keeps what outlives processes, and starts them.
//!
//! One thread, one loop: [`Broker::run`]. It holds every domain's ports and arenas, the store, the sockets and the pidfds, and
//! maps no guest page (of an arena only the table).

mod admin;
mod arenas;
mod disks;
mod domains;
mod evtchns;
mod life;
mod records;
mod serve;
mod store;
mod upgrade;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_core::DomId;
use ringfence_process::images::Images;
pub use ringfence_xenstored::Limits as Quotas;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use crate::admin::Exit;
use crate::rundir::{RunDir, RunDirError};
use admin::{Admin, AdminId};
pub use ringfence_process::restart::RestartPolicy;

/// Why there is no broker.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No place for the sockets.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Another broker lives there.
    #[error("a broker runs in {} already", dir.display())]
    Running {
        /// The run directory.
        dir: PathBuf,
    },
    /// A socket could not be made.
    #[error("{}: {error}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Ends a broker from outside, also from a signal handler's thread.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<OwnedFd>);

impl StopHandle {
    /// Asks the broker to shut down: guests first, then driver domains.
    pub fn stop(&self) {
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// A broker and everything it keeps.
#[derive(Debug)]
pub struct Broker {
    dir: RunDir,
    /// Held for life: whoever has it may replace the sockets.
    _lock: File,
    program: PathBuf,
    control: OwnedFd,
    xenstored: OwnedFd,
    stop: Arc<OwnedFd>,
    stopping: bool,
    domains: BTreeMap<u16, domains::Domain>,
    /// How the last processes of domains ended that are no more.
    ended: BTreeMap<u16, Exit>,
    next_domid: u16,
    evtchns: evtchns::Evtchns,
    arenas: arenas::Arenas,
    store: store::StoreServer,
    images: Images,
    records: records::Records,
    /// By backend directory.
    disks: BTreeMap<String, disks::Disk>,
    pending_disks: Vec<disks::PendingDisk>,
    /// To be attached as soon as a process has let go of their images.
    waiting_disks: Vec<(AdminId, crate::admin::NewDisk)>,
    admins: BTreeMap<AdminId, Admin>,
    next_admin: AdminId,
}

/// What a descriptor in the poll set is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Stop,
    Control,
    Xenstored,
    Admin(AdminId),
    Client(store::ClientId),
    Domain(u16),
    Process(u16),
}

fn listen(path: &Path, kind: SocketType) -> Result<OwnedFd, BrokerError> {
    let make = || -> io::Result<OwnedFd> {
        // Ours since we hold the lock: a dead broker's.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        // Before `bind`, so that there is no moment at which others may connect.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 64)?;
        Ok(socket)
    };
    make().map_err(|error| BrokerError::Socket {
        path: path.to_owned(),
        error,
    })
}

impl Broker {
    /// Makes a broker in a run directory, with dom0 and nobody else. Processes run this program, `ringfence` itself.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn new(dir: RunDir) -> Result<Self, BrokerError> {
        Self::with_program(dir, PathBuf::from("/proc/self/exe"))
    }

    /// As [`new`](Self::new); processes run `program`.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn with_program(dir: RunDir, program: PathBuf) -> Result<Self, BrokerError> {
        dir.create()?;
        let lock = File::create(dir.path().join("lock"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                return Err(BrokerError::Running {
                    dir: dir.path().to_owned(),
                });
            }
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        // Four descriptors for every event channel: the soft limit of 1024 is soon reached.
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current = limit.maximum;
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
        Ok(Self {
            control: listen(&dir.control(), SocketType::SEQPACKET)?,
            xenstored: listen(&dir.xenstored(), SocketType::STREAM)?,
            stop: Arc::new(
                rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?,
            ),
            stopping: false,
            dir,
            _lock: lock,
            program,
            domains: BTreeMap::new(),
            ended: BTreeMap::new(),
            next_domid: 1,
            evtchns: evtchns::Evtchns::default(),
            arenas: arenas::Arenas::default(),
            store: store::StoreServer::new(),
            images: Images::of_process(),
            records: records::Records::default(),
            disks: BTreeMap::new(),
            pending_disks: Vec::new(),
            waiting_disks: Vec::new(),
            admins: BTreeMap::new(),
            next_admin: 0,
        })
    }

    /// What each domain may use of the store, instead of Xen's defaults.
    pub const fn set_quotas(&mut self, quotas: Quotas) {
        self.store.set_limits(quotas);
    }

    /// Where the sockets are.
    pub const fn run_dir(&self) -> &RunDir {
        &self.dir
    }

    /// For ending [`run`](Self::run) from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stop))
    }

    /// Serves until somebody asks for a shutdown, then ends all processes and takes the sockets away.
    ///
    /// # Errors
    /// Only if the system refuses to poll.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.stopping {
            self.turn(None)?;
        }
        self.shut_down();
        Ok(())
    }

    /// Waits once, for `at_most`, and does what came.
    fn turn(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.store.flush();
        for (source, flags) in self.poll(at_most)? {
            match source {
                Source::Stop => self.stopping = true,
                Source::Control => self.admin_accept(),
                Source::Xenstored => self.store_accept(),
                Source::Admin(id) => self.admin_readable(id),
                Source::Client(id) => {
                    if flags.contains(PollFlags::OUT) {
                        self.store.writable(id);
                    }
                    if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                        self.store.readable(id);
                    }
                }
                Source::Domain(domid) => self.domain_readable(domid),
                Source::Process(domid) => self.process_ended(DomId::new(domid)),
            }
        }
        self.store.flush();
        self.check_disks();
        self.restart_due();
        Ok(())
    }

    fn poll(&self, at_most: Option<Duration>) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut add = |source, fd: BorrowedFd<'_>, events| {
            sources.push(source);
            // SAFETY: `self` stays borrowed, so every descriptor in it stays open until the end of this function.
            let fd = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&fd)) };
            fds.push(PollFd::from_borrowed_fd(fd, events));
        };
        add(Source::Stop, self.stop.as_fd(), PollFlags::IN);
        add(Source::Control, self.control.as_fd(), PollFlags::IN);
        add(Source::Xenstored, self.xenstored.as_fd(), PollFlags::IN);
        for (id, admin) in &self.admins {
            add(Source::Admin(*id), admin.socket.as_fd(), PollFlags::IN);
        }
        for (id, fd, reads, writes) in self.store.sockets() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, reads);
            events.set(PollFlags::OUT, writes);
            add(Source::Client(id), fd, events);
        }
        for (domid, domain) in &self.domains {
            if let Some(process) = &domain.process {
                add(
                    Source::Process(*domid),
                    process.child.as_fd(),
                    PollFlags::IN,
                );
                if !process.deaf {
                    add(
                        Source::Domain(*domid),
                        process.control.as_fd(),
                        PollFlags::IN,
                    );
                }
            }
        }
        let timeout = self.timeout().into_iter().chain(at_most).min();
        let timeout = timeout.map(Timespec::try_from).and_then(Result::ok);
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let restarts = self
            .domains
            .values()
            .filter_map(|domain| domain.restarts.due());
        let instants = restarts.chain(self.disk_deadline()).min();
        let until = instants.map(|at| at.saturating_duration_since(now));
        until.into_iter().chain(self.store.deadline()).min()
    }

    fn store_accept(&mut self) {
        match rustix::net::accept_with(&self.xenstored, SocketFlags::CLOEXEC) {
            Ok(socket) if self.is_ours(&socket) => {
                self.store.accept(DomId::DOM0, socket);
            }
            Ok(_) => tracing::warn!("connection of another user to the store refused"),
            Err(_) => {}
        }
    }
}
