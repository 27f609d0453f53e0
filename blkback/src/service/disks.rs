//! Where a service gets its disks from.

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ringfence_core::ids::SectorCount;
use ringfence_core::wire::blkif::Convention;
use rustix::event::epoll;
use rustix::io::Errno;

use super::waiting::Waiting;
use crate::journal::Record;
use crate::sink::{self, Below, DiskIo, File, Layers, Nbd, Null, Qcow2, Uring};
use crate::stats::Stats;

/// Why a disk could not be opened, in words for the `error` node.
pub type DiskError = Box<dyn Error + Send + Sync>;

/// The journal of one device.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What outlives the process.
    pub record: Record,
    /// What tells the device's image from others, such as device and inode.
    pub image: [u64; 2],
}

/// A disk that was opened, and what its configuration says of how it is served.
pub struct OpenDisk {
    /// The disk.
    pub io: Box<dyn DiskIo>,
    /// How its rings are waited for; `None`: as the service waits for all.
    pub waiting: Option<Waiting>,
    /// How its frontend counts sectors.
    pub sectors: Convention,
}

impl<D: DiskIo + 'static> From<Box<D>> for OpenDisk {
    fn from(io: Box<D>) -> Self {
        Self {
            io,
            waiting: None,
            sectors: Convention::default(),
        }
    }
}

/// What comes of asking for a disk, or for an image.
#[derive(Debug)]
pub enum Asked<T> {
    /// Here it is.
    Open(T),
    /// What an earlier process was doing to it is still under way, or it cannot be opened just now: it is asked for again in a
    /// moment.
    Later,
    /// Another domain of the same machine has it, which has been migrated and will end: the toolstack, which waits for the new one
    /// to have its disks, is told that this one does, and it is asked for again until then.
    Moving,
}

impl<T> Asked<T> {
    /// The same of what is made out of it.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn try_map<U, E>(self, make: impl FnOnce(T) -> Result<U, E>) -> Result<Asked<U>, E> {
        Ok(match self {
            Self::Open(it) => Asked::Open(make(it)?),
            Self::Later => Asked::Later,
            Self::Moving => Asked::Moving,
        })
    }
}

/// Opens the disks that a service serves.
pub trait Disks {
    /// Opens the disk of the device with this backend directory. `read_only` is what the `mode` node says; the disk may be
    /// read-only beyond that. Counts into `stats`.
    ///
    /// # Errors
    /// In words for the `error` node, naming what is wrong with what.
    fn open(
        &mut self,
        backend_dir: &str,
        read_only: bool,
        stats: &Arc<Stats>,
    ) -> Result<Asked<OpenDisk>, DiskError>;

    /// The journal of the device with this backend directory, whose disk is open: the same for every process of this domain.
    /// `None` if nobody keeps one; a connection with something in flight then ends when the process dies.
    ///
    /// # Errors
    /// In words for the `error` node.
    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        let _ = backend_dir;
        Ok(None)
    }

    /// There is no device with this backend directory any more, and its disk is closed: one that comes to this place is another.
    fn forget(&mut self, backend_dir: &str) {
        let _ = backend_dir;
    }

    /// What is readable when any of the disks has finished something; `None` if all of them finish at once.
    fn wake(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether since this was last asked a look at one disk found something, or made room, for another one that has not been
    /// looked at since: [`wake`](Self::wake) no longer tells of it.
    fn moved(&mut self) -> bool {
        false
    }
}

/// What an opened image is. Files are open file descriptions of their own, which carry the image's lock.
#[derive(Debug)]
pub enum Source {
    /// The disk's own bytes.
    Raw(OwnedFd),
    /// A qcow2 image, and those below it, from the one right below to the last.
    Qcow2(OwnedFd, Vec<Below>),
    /// A connection to a server of the NBD protocol, on which nothing was said yet, and the export's name.
    Nbd(OwnedFd, String),
    /// A drive without a medium.
    Empty,
}

/// An opened image.
#[derive(Debug)]
pub struct Image {
    /// Where the data is.
    pub source: Source,
    /// Whether the configuration forbids writing.
    pub read_only: bool,
    /// What stands between the guest and the image.
    pub layers: Layers,
}

/// Opens images: when hosted, by asking the broker. A backend opens nothing by path.
pub trait Images {
    /// Opens the image of the device with this backend directory.
    ///
    /// # Errors
    /// In words for the `error` node.
    fn open(&mut self, backend_dir: &str) -> Result<Asked<Image>, DiskError>;

    /// The journal of the device with this backend directory; see [`Disks::journal`].
    ///
    /// # Errors
    /// In words for the `error` node.
    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        let _ = backend_dir;
        Ok(None)
    }

    /// There is no such device any more; see [`Disks::forget`].
    fn forget(&mut self, backend_dir: &str) {
        let _ = backend_dir;
    }
}

/// Images as disks: raw ones by io_uring, or by plain system calls where there is none.
pub struct Files<I> {
    images: I,
    uring: Option<Uring>,
    /// The ring, and every disk that has a descriptor of its own.
    wakes: Result<OwnedFd, Errno>,
}

impl<I: Images> Files<I> {
    /// Disks on what `images` opens.
    pub fn new(images: I, uring: Option<Uring>) -> Self {
        let wakes = epoll::create(epoll::CreateFlags::CLOEXEC).and_then(|set| {
            if let Some(uring) = &uring {
                watch(&set, uring.as_fd())?;
            }
            Ok(set)
        });
        Self {
            images,
            uring,
            wakes,
        }
    }

    fn storage(
        &self,
        source: Source,
        read_only: bool,
        stats: &Arc<Stats>,
    ) -> Result<Box<dyn DiskIo>, DiskError> {
        Ok(match (source, &self.uring) {
            (Source::Raw(fd), Some(uring)) => Box::new(uring.disk(fd, read_only, stats.clone())?),
            (Source::Raw(fd), None) => Box::new(File::new(fd, read_only, stats.clone())?),
            (Source::Qcow2(image, below), _) => Box::new(Qcow2::new(image, below, read_only)?),
            (Source::Nbd(socket, export), _) => Box::new(Nbd::new(socket, &export, read_only)?),
            (Source::Empty, _) => Box::new(Null::new(SectorCount::new(0))),
        })
    }

    /// The disk on an image.
    fn disk(
        &self,
        image: Image,
        backend_dir: &str,
        read_only: bool,
        stats: &Arc<Stats>,
    ) -> Result<OpenDisk, DiskError> {
        let read_only = read_only || image.read_only;
        let disk = self.storage(image.source, read_only, stats)?;
        let disk = image.layers.wrap(disk, read_only, backend_dir)?;
        let ring = self.uring.as_ref().map(Uring::fd);
        if let Some(fd) = disk.wake().filter(|fd| Some(*fd) != ring) {
            let set = self.wakes.as_ref().map_err(|errno| *errno)?;
            // It leaves the set when the disk closes it.
            watch(set, sink::wake_fd(&*disk, fd))?;
        }
        Ok(OpenDisk {
            io: disk,
            waiting: image.layers.waiting(),
            sectors: image.layers.sectors(),
        })
    }
}

fn watch(set: &OwnedFd, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    epoll::add(set, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
}

impl<I: Images> Disks for Files<I> {
    fn open(
        &mut self,
        backend_dir: &str,
        read_only: bool,
        stats: &Arc<Stats>,
    ) -> Result<Asked<OpenDisk>, DiskError> {
        let asked = self.images.open(backend_dir)?;
        asked.try_map(|image| self.disk(image, backend_dir, read_only, stats))
    }

    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        self.images.journal(backend_dir)
    }

    fn forget(&mut self, backend_dir: &str) {
        self.images.forget(backend_dir);
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        match &self.wakes {
            Ok(set) => Some(set.as_fd()),
            Err(_) => self.uring.as_ref().map(Uring::as_fd),
        }
    }

    fn moved(&mut self) -> bool {
        self.uring.as_ref().is_some_and(Uring::moved)
    }
}
