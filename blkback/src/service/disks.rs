//! Where a service gets its disks from.

use std::error::Error;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::journal::Record;
use crate::sink::{DiskIo, File, Uring};
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
    ) -> Result<Box<dyn DiskIo>, DiskError>;

    /// The journal of the device with this backend directory, whose disk is open: the same for every process of this domain.
    /// `None` if nobody keeps one; what is in flight when the process dies is then lost with it.
    ///
    /// # Errors
    /// In words for the `error` node.
    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        let _ = backend_dir;
        Ok(None)
    }

    /// What is readable when any of the disks has finished something; `None` if all of them finish at once.
    fn wake(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// An opened raw image.
#[derive(Debug)]
pub struct Image {
    /// An open file description of its own, which carries the image's lock.
    pub fd: OwnedFd,
    /// Whether the configuration forbids writing.
    pub read_only: bool,
}

/// Opens images: when hosted, by asking the broker. A backend opens nothing by path.
pub trait Images {
    /// Opens the image of the device with this backend directory.
    ///
    /// # Errors
    /// In words for the `error` node.
    fn open(&mut self, backend_dir: &str) -> Result<Image, DiskError>;

    /// The journal of the device with this backend directory; see [`Disks::journal`].
    ///
    /// # Errors
    /// In words for the `error` node.
    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        let _ = backend_dir;
        Ok(None)
    }
}

/// Raw images as disks: by io_uring, or by plain system calls where there is none.
pub struct Files<I> {
    images: I,
    uring: Option<Uring>,
}

impl<I: Images> Files<I> {
    /// Disks on what `images` opens.
    pub const fn new(images: I, uring: Option<Uring>) -> Self {
        Self { images, uring }
    }
}

impl<I: Images> Disks for Files<I> {
    fn open(
        &mut self,
        backend_dir: &str,
        read_only: bool,
        stats: &Arc<Stats>,
    ) -> Result<Box<dyn DiskIo>, DiskError> {
        let image = self.images.open(backend_dir)?;
        let read_only = read_only || image.read_only;
        Ok(match &self.uring {
            Some(uring) => Box::new(uring.disk(image.fd, read_only, stats.clone())?),
            None => Box::new(File::new(image.fd, read_only, stats.clone())?),
        })
    }

    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        self.images.journal(backend_dir)
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.uring.as_ref().map(Uring::as_fd)
    }
}
