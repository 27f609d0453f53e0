//! What the `ringfence` command says to the broker, and its half of the conversation.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use ringfence_core::DomId;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::broker::RestartPolicy;
pub use crate::control::DomainKind;
use crate::rundir::RunDir;
pub use ringfence_process::child::Exit;
use ringfence_process::packet::{self, Received};
use ringfence_process::records::{Record, Stamp};
use ringfence_process::{ImageError, ImageSpec};

/// A domain to make. Its process runs the broker's own program with these arguments and the caller's standard streams.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewDomain {
    /// Unique among living domains; not empty, and no number.
    pub name: String,
    /// Its kind.
    pub kind: DomainKind,
    /// Arguments after the program's name.
    pub argv: Vec<OsString>,
    /// Added to the broker's environment.
    pub env: Vec<(OsString, OsString)>,
    /// What to do when the process ends.
    pub restart: RestartPolicy,
    /// Whether the domain is destroyed when its process ended and is not started again.
    pub destroy_on_exit: bool,
}

/// A disk to attach.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewDisk {
    /// The guest, by name or number.
    pub guest: String,
    /// The driver domain, by name or number.
    pub backend: String,
    /// What it is made of.
    pub image: ImageSpec,
    /// The number of the virtual disk (`virtual-device`).
    pub vdev: u32,
    /// Its name in the guest, e.g. `xvda` (`dev`).
    pub dev: String,
    /// Whether it is a CD-ROM (`device-type`), which is only read.
    pub cdrom: bool,
    /// Whether the guest may discard what it does not need (`discard-enable`).
    pub discard: bool,
}

/// A living domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its number.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: DomainKind,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// How often the broker started it again.
    pub restarts: u32,
}

/// An attached disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The guest.
    pub guest: u16,
    /// The driver domain.
    pub backend: u16,
    /// The number of the virtual disk.
    pub vdev: u32,
    /// Its name in the guest.
    pub dev: String,
    /// What it is made of.
    pub image: ImageSpec,
    /// The backend's xenbus state; 0 when it has none.
    pub backend_state: u32,
    /// The frontend's xenbus state; 0 when it has none.
    pub frontend_state: u32,
    /// The backend's directory in the store.
    pub backend_path: String,
}

/// From the command to the broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum AdminRequest {
    Create(NewDomain),
    Start { domain: String },
    WaitExit { domain: String },
    Destroy { domain: String },
    Kill { domain: String, signal: i32 },
    Upgrade { domain: String, knows: Stamp },
    Attach(NewDisk),
    Detach { guest: String, vdev: u32 },
    Disks,
    Domains,
    Statistics { domain: String },
    Shutdown,
}

/// From the broker to the command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum AdminReply {
    Created { domid: u16 },
    Exited(Exit),
    Done,
    Disks(Vec<DiskInfo>),
    Domains(Vec<DomainInfo>),
    Refused(AdminError),
}

/// Why the broker did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AdminError {
    /// No living domain has this name or number.
    #[error("no domain {0}")]
    NoDomain(String),
    /// A living domain has this name.
    #[error("there is a domain {0} already")]
    NameTaken(String),
    /// A name that could be mistaken for a number, or is empty.
    #[error("{0:?} is no name for a domain")]
    BadName(String),
    /// No number is left.
    #[error("out of domain numbers")]
    OutOfDomains,
    /// The domain has a process already.
    #[error("domain {0} is running")]
    Running(String),
    /// The domain has no process.
    #[error("domain {0} is not running")]
    NotRunning(String),
    /// Somebody told the process to end, and nothing follows.
    #[error("domain {0} was told to end")]
    Ending(String),
    /// No process of the domain counts anything yet.
    #[error("domain {0} has no statistics")]
    NoStatistics(String),
    /// The domain is not of the kind that serves disks.
    #[error("domain {0} is no driver domain")]
    NotADriverDomain(String),
    /// The process could not be started.
    #[error("cannot start the process of {name}: {}", io::Error::from_raw_os_error(*errno))]
    Spawn {
        /// The domain.
        name: String,
        /// The system's error number.
        errno: i32,
    },
    /// The guest has such a disk already.
    #[error("domain {guest} has a disk {dev} already")]
    DiskExists {
        /// The guest.
        guest: String,
        /// The disk.
        dev: String,
    },
    /// The guest has no such disk.
    #[error("domain {guest} has no disk {vdev}")]
    NoDisk {
        /// The guest.
        guest: String,
        /// The disk's number.
        vdev: u32,
    },
    /// The image cannot be served.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The backend said what is wrong.
    #[error("{backend} cannot serve {dev}: {text}")]
    Backend {
        /// The driver domain.
        backend: String,
        /// The disk.
        dev: String,
        /// Its `error` node.
        text: String,
    },
    /// Nothing happened in time.
    #[error(
        "{who} did not answer for {dev} within {seconds} s: state {backend_state} of the backend, {frontend_state} of the frontend"
    )]
    Timeout {
        /// Which end.
        who: String,
        /// The disk.
        dev: String,
        /// How long it was waited for.
        seconds: u64,
        /// As in the store.
        backend_state: u32,
        /// As in the store.
        frontend_state: u32,
    },
    /// The domain has disks about which its processes leave each other what the new program would not understand.
    #[error(
        "{backend_path} has a record of version {version}, which the new program does not know: {name} goes on with the old one"
    )]
    UnknownRecord {
        /// The domain.
        name: String,
        /// The disk.
        backend_path: String,
        /// The version that its record has.
        version: u64,
    },
    /// Another upgrade of the domain has not come to its end.
    #[error("domain {0} is being upgraded")]
    Upgrading(String),
    /// The request came without the three descriptors that it needs.
    #[error("request without its standard streams")]
    NoStreams,
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
}

/// Why a conversation with the broker failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no broker at {}: {error} (start one with `ringfence host`)", path.display())]
    NoBroker {
        /// Where it was looked for.
        path: PathBuf,
        /// What `connect` said.
        error: io::Error,
    },
    /// The socket failed.
    #[error("the broker's socket failed: {0}")]
    Io(#[from] io::Error),
    /// The broker is gone, or says what makes no sense.
    #[error("the broker closed the connection")]
    Closed,
    /// The broker refused.
    #[error(transparent)]
    Refused(#[from] AdminError),
}

/// The command's end: one request at a time, each waits for its answer.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    /// Connects to the broker of a run directory.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`].
    pub fn connect(dir: &RunDir) -> Result<Self, ClientError> {
        let path = dir.control();
        let connect = || -> io::Result<OwnedFd> {
            let address = SocketAddrUnix::new(&path)?;
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::connect(&socket, &address)?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok(Self(socket)),
            Err(error) => Err(ClientError::NoBroker { path, error }),
        }
    }

    fn call(
        &self,
        request: &AdminRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<AdminReply, ClientError> {
        self.exchange(request, fds).map(|(reply, _)| reply)
    }

    fn exchange(
        &self,
        request: &AdminRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(AdminReply, Vec<OwnedFd>), ClientError> {
        packet::send(self.0.as_fd(), request, fds, SendFlags::empty())?;
        match packet::recv(self.0.as_fd(), RecvFlags::empty())? {
            Received::Message(AdminReply::Refused(error), _) => Err(error.into()),
            Received::Message(reply, fds) => Ok((reply, fds)),
            _ => Err(ClientError::Closed),
        }
    }

    fn done(&self, request: &AdminRequest) -> Result<(), ClientError> {
        match self.call(request, &[])? {
            AdminReply::Done => Ok(()),
            _ => Err(ClientError::Closed),
        }
    }

    /// Makes a domain and starts its process with these standard streams (input, output, error).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn create_domain(
        &self,
        domain: NewDomain,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<DomId, ClientError> {
        match self.call(&AdminRequest::Create(domain), &streams)? {
            AdminReply::Created { domid } => Ok(DomId::new(domid)),
            _ => Err(ClientError::Closed),
        }
    }

    /// Starts the next process of a domain that has none, as the first was started.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn start_domain(&self, domain: &str) -> Result<(), ClientError> {
        self.done(&AdminRequest::Start {
            domain: domain.into(),
        })
    }

    /// Waits until a domain has no process and will get none by itself. A domain that was destroyed on exit is named by number.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn wait_exit(&self, domain: &str) -> Result<Exit, ClientError> {
        match self.call(
            &AdminRequest::WaitExit {
                domain: domain.into(),
            },
            &[],
        )? {
            AdminReply::Exited(exit) => Ok(exit),
            _ => Err(ClientError::Closed),
        }
    }

    /// Ends a domain's process, if there is one, with SIGKILL, and the domain with it: nothing of it can be mapped or bound any
    /// more.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn destroy_domain(&self, domain: &str) -> Result<(), ClientError> {
        self.done(&AdminRequest::Destroy {
            domain: domain.into(),
        })
    }

    /// Sends a signal to a domain's process.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn signal(&self, domain: &str, signal: i32) -> Result<(), ClientError> {
        self.done(&AdminRequest::Kill {
            domain: domain.into(),
            signal,
        })
    }

    /// Has a driver domain go on with another program, which is run with the same arguments and knows records that begin with
    /// `knows`: the present process finishes what it has taken and ends, guests stay connected. Waits until the next process was
    /// started.
    ///
    /// # Errors
    /// [`AdminError::UnknownRecord`] before anything has changed.
    pub fn upgrade_domain(
        &self,
        domain: &str,
        program: BorrowedFd<'_>,
        knows: Stamp,
    ) -> Result<(), ClientError> {
        let domain = domain.into();
        match self.call(&AdminRequest::Upgrade { domain, knows }, &[program])? {
            AdminReply::Done => Ok(()),
            _ => Err(ClientError::Closed),
        }
    }

    /// Attaches a disk and waits until the backend serves it, or, when the guest does not look for it yet, offers it.
    ///
    /// # Errors
    /// [`AdminError::Image`] when the image cannot be served, [`AdminError::Backend`] with the text of the `error` node.
    pub fn attach_disk(&self, disk: NewDisk) -> Result<(), ClientError> {
        self.done(&AdminRequest::Attach(disk))
    }

    /// Detaches a disk and waits until its backend closed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn detach_disk(&self, guest: &str, vdev: u32) -> Result<(), ClientError> {
        self.done(&AdminRequest::Detach {
            guest: guest.into(),
            vdev,
        })
    }

    /// All disks.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn disks(&self) -> Result<Vec<DiskInfo>, ClientError> {
        match self.call(&AdminRequest::Disks, &[])? {
            AdminReply::Disks(disks) => Ok(disks),
            _ => Err(ClientError::Closed),
        }
    }

    /// All domains but the broker's own.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn domains(&self) -> Result<Vec<DomainInfo>, ClientError> {
        match self.call(&AdminRequest::Domains, &[])? {
            AdminReply::Domains(domains) => Ok(domains),
            _ => Err(ClientError::Closed),
        }
    }

    /// What a driver domain counts, mapped: it may be read again and again, and needs no answer from anybody. A domain keeps
    /// the same for all its processes.
    ///
    /// # Errors
    /// [`AdminError::NoStatistics`] where nobody counts, or the memory cannot be mapped.
    pub fn statistics(&self, domain: &str) -> Result<Record, ClientError> {
        let request = AdminRequest::Statistics {
            domain: domain.into(),
        };
        match self.exchange(&request, &[])? {
            (AdminReply::Done, mut fds) => {
                let fd = fds.pop().ok_or(ClientError::Closed)?;
                Ok(Record::map_read_only(fd)?)
            }
            _ => Err(ClientError::Closed),
        }
    }

    /// Ends the broker: guests first, then driver domains.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn shutdown(&self) -> Result<(), ClientError> {
        self.done(&AdminRequest::Shutdown)
    }
}
