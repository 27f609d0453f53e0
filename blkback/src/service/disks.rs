//! Where a service gets its disks from.

use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ringfence_core::ids::SectorCount;
use ringfence_core::wire::blkif::Convention;
use rustix::event::epoll;
use rustix::io::Errno;

use super::waiting::Waiting;
use crate::journal::Record;
use crate::sink::{self, Below, DiskIo, File, Layers, NbdLook, NbdOpening, Null, Qcow2, Uring};
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
    /// What an earlier process was doing to it is still under way, a server has not answered yet, or it cannot be opened just now: it
    /// is asked for again in a moment.
    Later,
    /// Another domain of the same machine has it, which has been migrated and will end: the toolstack, which waits for the new one
    /// to have its disks, is told that this one does, and it is asked for again until then.
    Moving,
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

    /// Another disk is named for this device than the one that was to be asked for again.
    fn abandon(&mut self, backend_dir: &str) {
        let _ = backend_dir;
    }

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
    /// Servers' disks that are being asked for, by backend directory.
    coming: BTreeMap<String, Coming>,
    /// The ring, and every disk that has a descriptor of its own.
    wakes: Result<OwnedFd, Errno>,
}

/// A server's disk, and what belongs to it.
struct Coming {
    opening: NbdOpening,
    layers: Layers,
    read_only: bool,
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
            coming: BTreeMap::new(),
            wakes,
        }
    }

    /// The disk once its server has answered.
    fn look(&mut self, backend_dir: &str, coming: Coming) -> Result<Asked<OpenDisk>, DiskError> {
        match coming.opening.look()? {
            NbdLook::Disk(disk) => {
                let disk = Box::new(disk);
                let disk = self.finish(disk, &coming.layers, coming.read_only, backend_dir)?;
                Ok(Asked::Open(disk))
            }
            NbdLook::Later(opening) => {
                let coming = Coming { opening, ..coming };
                self.coming.insert(backend_dir.to_owned(), coming);
                Ok(Asked::Later)
            }
        }
    }

    /// Puts what stands between a guest and its disk there, and waits for it from now on.
    fn finish(
        &self,
        disk: Box<dyn DiskIo>,
        layers: &Layers,
        read_only: bool,
        backend_dir: &str,
    ) -> Result<OpenDisk, DiskError> {
        let disk = layers.wrap(disk, read_only, backend_dir)?;
        let ring = self.uring.as_ref().map(Uring::fd);
        if let Some(fd) = disk.wake().filter(|fd| Some(*fd) != ring) {
            let set = self.wakes.as_ref().map_err(|errno| *errno)?;
            // It leaves the set when the disk closes it.
            watch(set, sink::wake_fd(&*disk, fd))?;
        }
        Ok(OpenDisk {
            io: disk,
            waiting: layers.waiting(),
            sectors: layers.sectors(),
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
        if let Some(coming) = self.coming.remove(backend_dir) {
            return self.look(backend_dir, coming);
        }
        let image = match self.images.open(backend_dir)? {
            Asked::Open(image) => image,
            Asked::Later => return Ok(Asked::Later),
            Asked::Moving => return Ok(Asked::Moving),
        };
        let (layers, read_only) = (image.layers, read_only || image.read_only);
        let disk: Box<dyn DiskIo> = match (image.source, &self.uring) {
            (Source::Raw(fd), Some(uring)) => Box::new(uring.disk(fd, read_only, stats.clone())?),
            (Source::Raw(fd), None) => Box::new(File::new(fd, read_only, stats.clone())?),
            (Source::Qcow2(image, below), _) => Box::new(Qcow2::new(image, below, read_only)?),
            (Source::Empty, _) => Box::new(Null::new(SectorCount::new(0))),
            (Source::Nbd(socket, export), _) => {
                let opening = NbdOpening::new(socket, &export, read_only)?;
                let coming = Coming {
                    opening,
                    layers,
                    read_only,
                };
                return self.look(backend_dir, coming);
            }
        };
        let disk = self.finish(disk, &layers, read_only, backend_dir)?;
        Ok(Asked::Open(disk))
    }

    fn abandon(&mut self, backend_dir: &str) {
        self.coming.remove(backend_dir);
    }

    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        self.images.journal(backend_dir)
    }

    fn forget(&mut self, backend_dir: &str) {
        self.abandon(backend_dir);
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::string::ToString;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// Gives each image once.
    struct Once(BTreeMap<&'static str, Source>);

    impl Images for Once {
        fn open(&mut self, backend_dir: &str) -> Result<Asked<Image>, DiskError> {
            let source = self.0.remove(backend_dir).ok_or("asked twice")?;
            Ok(Asked::Open(Image {
                source,
                read_only: false,
                layers: Layers::default(),
            }))
        }
    }

    fn raw() -> Source {
        let image = memfd_create("image", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&image, 4096).unwrap();
        Source::Raw(image)
    }

    #[test]
    fn a_server_that_says_nothing_holds_up_nobody_but_its_own_disk() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let silent = Source::Nbd(ours.into(), String::new());
        let images = [("silent", silent), ("raw", raw())];
        let mut disks = Files::new(Once(images.into()), None);
        let stats = Arc::default();
        let mut open = |dir| disks.open(dir, false, &stats);
        assert!(matches!(open("silent"), Ok(Asked::Later)));
        assert!(matches!(open("raw"), Ok(Asked::Open(_))));
        // On the same connection.
        assert!(matches!(open("silent"), Ok(Asked::Later)));
        drop(theirs);
        let error = open("silent").err().unwrap().to_string();
        assert!(error.contains("closed the connection"), "{error}");
    }
}
