//! A domain's process: the platform that its drivers run on.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ringfence_core::platform::{
    Access, Capabilities, EvtchnError, GrantCopy, GrantError, Platform, PlatformError,
};
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_process::child::NoSocket;
use ringfence_process::records::Record;
use thiserror::Error;

use crate::control::{DomainKind, Link, Refusal, Reply, Request};
use crate::evtchn::{self, Channel};
use crate::grants::{Arenas, Granted, Mapping};
use crate::store::{HostedStore, StoreSocket};
use ringfence_process::{ImageError, ImageSpec};

/// Why a process is no domain's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InheritError {
    /// The broker left no socket to this process.
    #[error(transparent)]
    NoSocket(#[from] NoSocket),
    /// The broker did not answer as it should.
    #[error("the broker did not say who we are: {0}")]
    Broker(#[from] PlatformError),
}

/// Why an image was not opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum OpenImageError {
    /// It cannot be served.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The broker did not answer as it should.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// An image as the broker opened it for this process.
#[derive(Debug)]
pub struct OpenedImage {
    /// A description of this process's own, which carries the image's lock: duplicate it nowhere.
    pub file: File,
    /// The images below it, opened for reading, in the order of the configuration.
    pub backing: Vec<File>,
    /// What the configuration says about it.
    pub spec: ImageSpec,
    /// Size of the file in bytes; 0 where the file is a connection.
    pub bytes: u64,
}

#[derive(Debug)]
struct Inner {
    domid: DomId,
    name: String,
    kind: DomainKind,
    broker: u32,
    link: Arc<Link>,
    arenas: Arenas,
}

/// The platform of a process that the broker started. A handle: clones are the same domain, and may be used in any thread.
#[derive(Clone, Debug)]
pub struct Hosted(Arc<Inner>);

/// Takes the socket that the broker left to this process, once: for a process that passes it on.
///
/// # Errors
/// [`InheritError`] if there is none.
pub fn inherited_socket() -> Result<OwnedFd, InheritError> {
    Ok(ringfence_process::child::inherited_socket()?)
}

impl Hosted {
    /// Takes the socket that the broker left to this process, once, and speaks on it.
    ///
    /// # Errors
    /// [`InheritError`] if there is none, or the broker does not answer.
    pub fn inherited() -> Result<(Self, HostedStore), InheritError> {
        Self::from_socket(inherited_socket()?)
    }

    /// Speaks for the domain whose process was given `socket`; that process may have passed it on.
    ///
    /// # Errors
    /// [`InheritError::Broker`].
    pub fn from_socket(socket: OwnedFd) -> Result<(Self, HostedStore), InheritError> {
        let link = Link::new(socket);
        let (reply, fds) = link.call(&Request::Hello)?;
        let (
            Reply::Welcome {
                domid,
                name,
                kind,
                broker,
            },
            Ok([store]),
        ) = (reply, <[_; 1]>::try_from(fds))
        else {
            return Err(crate::control::failed("hello", rustix::io::Errno::BADMSG).into());
        };
        let hosted = Self(Arc::new(Inner {
            domid: DomId::new(domid),
            name,
            kind,
            broker,
            link: Arc::new(link),
            arenas: Arenas::default(),
        }));
        Ok((hosted, HostedStore::new(StoreSocket::new(store))))
    }

    /// Another connection to the store, as for another thread; so many as a process may have threads.
    ///
    /// # Errors
    /// [`PlatformError`] if there are too many.
    pub fn another_store(&self) -> Result<HostedStore, PlatformError> {
        let (reply, fds) = self.0.link.call(&Request::Store)?;
        match (reply, <[_; 1]>::try_from(fds)) {
            (Reply::Store, Ok([store])) => Ok(HostedStore::new(StoreSocket::new(store))),
            (Reply::Refused(Refusal::Errno(errno)), _) => Err(PlatformError { op: "store", errno }),
            (Reply::Refused(_), _) => {
                Err(crate::control::failed("store", rustix::io::Errno::MFILE))
            }
            _ => Err(crate::control::failed("store", rustix::io::Errno::BADMSG)),
        }
    }

    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The domain's kind.
    pub fn kind(&self) -> DomainKind {
        self.0.kind
    }

    /// The broker's process, for messages and probes.
    pub fn broker_pid(&self) -> u32 {
        self.0.broker
    }

    /// Takes over a page that an earlier process of this domain granted to `peer` (contract D2).
    ///
    /// # Errors
    /// [`GrantError::Refused`] if there is no such page, or somebody has it already.
    pub fn adopt_grant(&self, peer: DomId, gref: GrantRef) -> Result<Granted, GrantError> {
        self.0.arenas.adopt(&self.0.link, peer, gref)
    }

    /// Takes over a port that an earlier process of this domain allocated (contract D2).
    ///
    /// # Errors
    /// [`EvtchnError::Refused`], naming ourselves, if there is no such port.
    pub fn adopt_port(&self, port: EvtchnPort) -> Result<Channel, EvtchnError> {
        let request = Request::Adopt { port: port.get() };
        evtchn::open(&self.0.link, &request, self.0.domid, port)
    }

    /// Asks for the image of one of our disks, named by its backend directory in the store. `None` while I/O of an earlier
    /// process of this domain is still under way: ask again.
    ///
    /// # Errors
    /// [`OpenImageError::Image`] says what is wrong with the image, in words for the `error` node.
    pub fn open_image(&self, backend_path: &str) -> Result<Option<OpenedImage>, OpenImageError> {
        let request = Request::OpenImage {
            backend_path: backend_path.to_owned(),
        };
        let (reply, fds) = self.0.link.call(&request)?;
        let mut files = fds.into_iter().map(File::from);
        match (reply, files.next()) {
            (Reply::Image { spec, bytes }, Some(file)) if files.len() == spec.backing.len() => {
                Ok(Some(OpenedImage {
                    file,
                    backing: files.collect(),
                    spec,
                    bytes,
                }))
            }
            (Reply::Later, None) => Ok(None),
            (Reply::Refused(Refusal::Image(error)), _) => Err(error.into()),
            _ => Err(crate::control::failed("open_image", rustix::io::Errno::BADMSG).into()),
        }
    }

    /// Asks for the memory in which this domain counts, so many bytes; whoever may look sees it. Mapped for good: ask once.
    ///
    /// # Errors
    /// [`PlatformError`] if there is no memory, or so much is never given.
    pub fn statistics(&self, bytes: u32) -> Result<&'static [AtomicU64], PlatformError> {
        let (reply, fds) = self.0.link.call(&Request::Statistics { bytes })?;
        match (reply, <[_; 1]>::try_from(fds)) {
            (Reply::Statistics, Ok([fd])) => ringfence_process::records::counters(fd)
                .map_err(|error| crate::control::system("statistics", &error)),
            (Reply::Refused(Refusal::Errno(errno)), _) => Err(PlatformError {
                op: "statistics",
                errno,
            }),
            _ => Err(crate::control::failed(
                "statistics",
                rustix::io::Errno::BADMSG,
            )),
        }
    }

    /// Asks for what earlier processes of this domain left about one of our disks, whose image is open: so many bytes that the
    /// broker keeps, and what tells the image from others.
    ///
    /// # Errors
    /// [`PlatformError`] if there is no such disk, or no memory.
    pub fn record(
        &self,
        backend_path: &str,
        bytes: u32,
    ) -> Result<(Record, [u64; 2]), PlatformError> {
        let request = Request::Record {
            backend_path: backend_path.to_owned(),
            bytes,
        };
        let (reply, fds) = self.0.link.call(&request)?;
        match (reply, <[_; 1]>::try_from(fds)) {
            (Reply::Record { image }, Ok([fd])) => {
                let record = Record::map(fd);
                let record = record.map_err(|error| crate::control::system("record", &error))?;
                Ok((record, image))
            }
            (Reply::Refused(Refusal::Errno(errno)), _) => Err(PlatformError {
                op: "record",
                errno,
            }),
            _ => Err(crate::control::failed("record", rustix::io::Errno::BADMSG)),
        }
    }
}

/// Readable or hung up only when the broker is gone.
impl AsFd for Hosted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.link.as_fd()
    }
}

impl Platform for Hosted {
    type Granted = Granted;
    type Mapping = Mapping;
    type Channel = Channel;
    type Store = HostedStore;

    fn domid(&self) -> DomId {
        self.0.domid
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            grant_in_place: false,
            revocable: false,
            observes_mappings: true,
            outlives_process: true,
            keeps_mappings: true,
        }
    }

    fn alloc(&self, peer: DomId, access: Access) -> Result<Granted, GrantError> {
        self.0.arenas.alloc(&self.0.link, peer, access)
    }

    fn map(&self, peer: DomId, refs: &[GrantRef], access: Access) -> Result<Mapping, GrantError> {
        self.0.arenas.map(&self.0.link, peer, refs, access)
    }

    fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        self.0.arenas.copy(&self.0.link, peer, ops)
    }

    fn alloc_unbound(&self, peer: DomId) -> Result<Channel, EvtchnError> {
        let request = Request::AllocUnbound { peer: peer.get() };
        evtchn::open(&self.0.link, &request, peer, EvtchnPort::new(0))
    }

    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<Channel, EvtchnError> {
        let request = Request::Bind {
            peer: peer.get(),
            port: port.get(),
        };
        evtchn::open(&self.0.link, &request, peer, port)
    }
}
