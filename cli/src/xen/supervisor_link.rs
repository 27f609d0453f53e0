//! What the process of a driver domain asks its supervisor for: one socket, one question at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use ringfence_blkback::journal::Record;
use ringfence_blkback::service::{Asked, DiskError, Image, Images, Kept};
use ringfence_core::DomId;
use ringfence_linux::DeviceFiles;
use ringfence_process::ImageSpec;
use ringfence_process::packet::{self, Received};
use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::image;
use crate::rarely::Rarely;

/// From the process to the supervisor. All but [`Gone`](Self::Gone) and [`Ready`](Self::Ready) are answered, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Who am I?
    Hello,
    /// A fresh descriptor of a device.
    Device(Device),
    /// The image of the device with this backend directory.
    OpenImage {
        /// As the store has it, absolute.
        backend_dir: String,
    },
    /// The journal of the device with this backend directory, whose image the process has open.
    Journal {
        /// As the store has it, absolute.
        backend_dir: String,
    },
    /// Where the process counts for others to see.
    Statistics,
    /// The process is confined and serves.
    Ready,
    /// There is no device with this backend directory any more, and its image is closed.
    Gone {
        /// As the store had it, absolute.
        backend_dir: String,
    },
}

/// What a backend needs of `/dev/xen`. It grants nothing, so gntalloc is not among it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Device {
    /// Event channels.
    Evtchn,
    /// Pages of others.
    Gntdev,
    /// The store.
    Xenbus,
}

/// Who a driver domain is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Its number.
    pub(super) domid: u16,
    /// Its name, as the toolstack has it; empty if it has none.
    pub(super) name: String,
    /// The supervisor's process.
    pub(super) supervisor: u32,
}

/// From the supervisor to the process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// To [`Ask::Hello`]. With it comes the lock of [`take_lock`](super::driver_domain_checks::take_lock), if the supervisor
    /// has it: should it die, nobody else starts to serve before this process has ended.
    Welcome(Identity),
    /// The device; its descriptor comes with this.
    Device,
    /// The image; its descriptor comes with this, and those of the images below it.
    Image {
        /// What the configuration says of it.
        spec: ImageSpec,
    },
    /// The image is not to be had yet: ask again.
    Later,
    /// The image is in use by another domain of the same machine: ask again.
    Moving,
    /// The journal; its descriptor comes with this, unless nobody keeps any.
    Journal {
        /// What tells the device's image from others.
        image: [u64; 2],
    },
    /// The memory; its descriptor comes with this.
    Statistics,
    /// No.
    Refused {
        /// Why, in words for the `error` node.
        words: String,
        /// The error number, if the system gave one, or 0.
        errno: i32,
    },
}

static REFUSALS: Rarely = Rarely::new();

/// What the supervisor did not give.
#[derive(Debug, Error)]
#[error("{0}")]
struct Refused(String);

/// The process's end.
#[derive(Debug)]
pub(super) struct Link(Mutex<OwnedFd>);

impl Link {
    /// Speaks on the socket that the supervisor left to this process.
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }

    fn call(&self, ask: &Ask) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let socket = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        packet::send(socket.as_fd(), ask, &[], SendFlags::empty())?;
        match packet::recv(socket.as_fd(), RecvFlags::empty())? {
            Received::Message(Answer::Refused { words, errno }, _) if errno != 0 => {
                // A frontend that comes and goes asks as often as it likes.
                if let Some(dropped) = REFUSALS.may() {
                    tracing::warn!(%words, dropped, "refused by the supervisor");
                }
                Err(io::Error::from_raw_os_error(errno))
            }
            Received::Message(Answer::Refused { words, .. }, _) => {
                Err(io::Error::other(Refused(words)))
            }
            Received::Message(answer, fds) => Ok((answer, fds)),
            Received::Closed => Err(io::ErrorKind::ConnectionReset.into()),
            Received::Nothing | Received::Garbage => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Who we are, and the lock that says so, to be kept for as long as we serve.
    pub(super) fn hello(&self) -> io::Result<(Identity, Option<OwnedFd>)> {
        match self.call(&Ask::Hello)? {
            (Answer::Welcome(identity), mut lock) => Ok((identity, lock.pop())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Where to count, for others to see. Mapped for good: ask once.
    pub(super) fn statistics(&self) -> io::Result<&'static [AtomicU64]> {
        match self.call(&Ask::Statistics)? {
            (Answer::Statistics, mut fds) => {
                let fd = fds
                    .pop()
                    .ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
                ringfence_process::records::counters(fd)
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Says what is not answered.
    fn say(&self, ask: &Ask) -> io::Result<()> {
        let socket = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        packet::send(socket.as_fd(), ask, &[], SendFlags::empty())
    }

    /// Tells the supervisor that we serve.
    pub(super) fn ready(&self) -> io::Result<()> {
        self.say(&Ask::Ready)
    }

    fn device(&self, device: Device) -> io::Result<OwnedFd> {
        match self.call(&Ask::Device(device))? {
            (Answer::Device, mut fds) => fds.pop().ok_or(io::ErrorKind::InvalidData.into()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn image(&self, backend_dir: &str) -> Result<Asked<Image>, DiskError> {
        let ask = Ask::OpenImage {
            backend_dir: backend_dir.to_owned(),
        };
        match self.call(&ask)? {
            (Answer::Image { spec }, mut fds) if fds.len() == spec.backing.len() + 1 => {
                let backing = fds.split_off(1);
                let file = fds
                    .pop()
                    .ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
                image::opened(&spec, file, backing).map(Asked::Open)
            }
            (Answer::Later, _) => Ok(Asked::Later),
            (Answer::Moving, _) => Ok(Asked::Moving),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }
}

impl Link {
    fn journal(&self, backend_dir: &str) -> io::Result<Option<Kept>> {
        let ask = Ask::Journal {
            backend_dir: backend_dir.to_owned(),
        };
        let (Answer::Journal { image }, mut fds) = self.call(&ask)? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let Some(fd) = fds.pop() else {
            return Ok(None);
        };
        let record = Record::new(ringfence_process::records::Record::map(fd)?);
        Ok(Some(Kept { record, image }))
    }
}

impl DeviceFiles for Link {
    fn evtchn(&self) -> io::Result<OwnedFd> {
        self.device(Device::Evtchn)
    }

    fn gntdev(&self) -> io::Result<OwnedFd> {
        self.device(Device::Gntdev)
    }

    fn gntalloc(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn xenbus(&self) -> io::Result<OwnedFd> {
        self.device(Device::Xenbus)
    }
}

/// Images as the supervisor opens them.
#[derive(Clone, Debug)]
pub(super) struct FromSupervisor(pub(super) std::sync::Arc<Link>);

impl Images for FromSupervisor {
    fn open(&mut self, backend_dir: &str) -> Result<Asked<Image>, DiskError> {
        self.0.image(backend_dir)
    }

    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        Ok(self.0.journal(backend_dir)?)
    }

    fn forget(&mut self, backend_dir: &str) {
        let backend_dir = backend_dir.to_owned();
        // Should the supervisor be gone, so are we.
        let _ = self.0.say(&Ask::Gone { backend_dir });
    }
}

/// The domain that an [`Identity`] names.
impl Identity {
    /// Its number.
    pub(super) const fn domid(&self) -> DomId {
        DomId::new(self.domid)
    }
}

#[cfg(test)]
mod tests;
