//! Opening one image: what it is, how the page cache is used, whether somebody is in the way.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::image::{Cache, ImageError, ImageFormat};
use crate::locks::{self, Conflict, Use};

/// The most images below one.
pub const BACKING_MAX: usize = 8;

/// Device and inode; of a server's disk [`Address::identity`](crate::nbd::Address::identity).
pub(crate) type Identity = (u64, u64);

/// Somebody is in the way of opening the image with this identity.
pub(crate) type Busy = (Conflict, Identity);

/// An open image with its locks.
#[derive(Debug)]
pub(crate) struct One {
    /// A description that nobody else has.
    pub(crate) file: File,
    /// Size.
    pub(crate) bytes: u64,
    pub(crate) identity: Identity,
}

/// What to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) target: &'a Path,
    pub(crate) format: ImageFormat,
    pub(crate) what: Use,
    pub(crate) cache: Cache,
}

pub(crate) fn open(wish: &Wish<'_>) -> Result<Result<One, Busy>, ImageError> {
    let target = || wish.target.to_owned();
    let system = |op: &str, error: &io::Error| ImageError::System {
        target: target(),
        op: op.to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
    };
    if !wish.target.is_absolute() {
        return Err(ImageError::Relative { target: target() });
    }
    let mut flags = match wish.what {
        Use::Read => OFlags::RDONLY,
        Use::Write | Use::ShareWrites(_) => OFlags::RDWR,
    };
    if wish.cache == Cache::Through {
        flags |= OFlags::DSYNC;
    }
    // Nonblocking, so that a FIFO does not hold the supervisor up; taken back below.
    flags |= OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = match rustix::fs::open(wish.target, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Err(ImageError::Missing { target: target() }),
        Err(rustix::io::Errno::ISDIR) => return Err(ImageError::Directory { target: target() }),
        Err(errno) => return Err(system("open", &errno.into())),
    };
    let meta = file.metadata().map_err(|error| system("fstat", &error))?;
    let kind = meta.file_type();
    if kind.is_dir() {
        return Err(ImageError::Directory { target: target() });
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::WrongKind { target: target() });
    }
    rustix::fs::fcntl_setfl(&file, OFlags::empty())
        .map_err(|errno| system("fcntl", &errno.into()))?;
    // Of a block device `fstat` says no size.
    let bytes = (&file)
        .seek(SeekFrom::End(0))
        .map_err(|error| system("lseek", &error))?;
    if bytes % 512 != 0 && wish.format == ImageFormat::Raw {
        return Err(ImageError::Misaligned {
            target: target(),
            bytes,
        });
    }
    let identity = match kind.is_block_device() {
        true => (meta.rdev(), 0),
        false => (meta.dev(), meta.ino()),
    };
    if let Some(conflict) =
        locks::acquire(&file, wish.what).map_err(|error| system("fcntl", &error))?
    {
        return Ok(Err((conflict, identity)));
    }
    if wish.cache == Cache::Direct {
        bypass_cache(&file, wish.target, kind.is_block_device());
    }
    Ok(Ok(One {
        file,
        bytes,
        identity,
    }))
}

/// A sector, where direct I/O wants it in memory.
#[repr(align(4096))]
struct Aligned([u8; 512]);

/// Takes the page cache out of the way, of files where their file system takes single sectors.
fn bypass_cache(file: &File, target: &Path, device: bool) {
    let (direct, cached) = (OFlags::DIRECT, OFlags::empty());
    let mut sector = Aligned([0; 512]);
    let works = rustix::fs::fcntl_setfl(file, direct).is_ok()
        && (device || rustix::io::pread(file, &mut sector.0, 512).is_ok());
    if !works {
        let _ = rustix::fs::fcntl_setfl(file, cached);
        tracing::info!(
            "{}: its file system takes no direct I/O of single sectors: through the page cache",
            target.display()
        );
    }
}
