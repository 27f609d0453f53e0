//! Opening what the configuration names, for the one process that will use it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::image::{ImageError, ImageSpec};
use crate::locks::{self, Conflict};

/// An open image with its locks.
#[derive(Debug)]
pub struct Opened {
    /// A description that nobody else has.
    pub file: File,
    /// Size.
    pub bytes: u64,
    /// Device and inode.
    identity: (u64, u64),
}

/// A disk as configured.
#[derive(Clone, Debug)]
struct Disk {
    spec: ImageSpec,
    /// As messages name it.
    name: String,
    identity: (u64, u64),
    /// Some process had it open: I/O of a dead one may still be under way.
    served: bool,
}

/// The images of all disks, by backend directory.
#[derive(Debug, Default)]
pub struct Images {
    disks: BTreeMap<String, Disk>,
}

/// Somebody is in the way of opening the image with this identity.
type Busy = (Conflict, (u64, u64));

fn open(spec: &ImageSpec) -> Result<Result<Opened, Busy>, ImageError> {
    let target = || spec.target.clone();
    let system = |op: &str, error: &io::Error| ImageError::System {
        target: spec.target.clone(),
        op: op.to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
    };
    if !spec.target.is_absolute() {
        return Err(ImageError::Relative { target: target() });
    }
    let access = if spec.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    // Nonblocking, so that a FIFO does not hold the supervisor up; taken back below.
    let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = match rustix::fs::open(&spec.target, flags, Mode::empty()) {
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
    if bytes % 512 != 0 {
        return Err(ImageError::Misaligned {
            target: target(),
            bytes,
        });
    }
    let identity = match kind.is_block_device() {
        true => (meta.rdev(), 0),
        false => (meta.dev(), meta.ino()),
    };
    match locks::acquire(&file, spec.read_only).map_err(|error| system("fcntl", &error))? {
        Some(conflict) => Ok(Err((conflict, identity))),
        None => Ok(Ok(Opened {
            file,
            bytes,
            identity,
        })),
    }
}

impl Images {
    fn in_use(
        &self,
        target: &Path,
        conflict: Conflict,
        identity: (u64, u64),
        except: &str,
    ) -> ImageError {
        let ours = self
            .disks
            .iter()
            .find(|(path, disk)| *path != except && disk.identity == identity && disk.served);
        let by = match (ours, conflict) {
            (Some((_, disk)), _) => disk.name.clone(),
            (None, Conflict::Used) => "another process, which writes to it".to_owned(),
            (None, Conflict::NotShared) => {
                "another process, which shares it with nobody".to_owned()
            }
        };
        ImageError::InUse {
            target: target.to_owned(),
            by,
        }
    }

    /// Checks an image and remembers what it is for. `name` is the disk as messages name it.
    ///
    /// # Errors
    /// [`ImageError`], in words for the `error` node.
    pub fn configure(
        &mut self,
        backend: &str,
        spec: ImageSpec,
        name: String,
    ) -> Result<(), ImageError> {
        match open(&spec)? {
            Err((conflict, identity)) => {
                Err(self.in_use(&spec.target, conflict, identity, backend))
            }
            Ok(Opened { identity, .. }) => {
                let disk = Disk {
                    spec,
                    name,
                    identity,
                    served: false,
                };
                self.disks.insert(backend.to_owned(), disk);
                Ok(())
            }
        }
    }

    /// Remembers what a disk is for without looking at it; what is known already stays known.
    pub fn set(&mut self, backend: &str, spec: ImageSpec, name: String) {
        if self
            .disks
            .get(backend)
            .is_some_and(|disk| disk.spec == spec)
        {
            return;
        }
        let disk = Disk {
            spec,
            name,
            identity: (0, 0),
            served: false,
        };
        self.disks.insert(backend.to_owned(), disk);
    }

    /// There is no such disk any more.
    pub fn forget(&mut self, backend: &str) {
        self.disks.remove(backend);
    }

    /// Opens the image of a disk. `Ok(None)`: the last process's I/O is still under way, ask again.
    ///
    /// # Errors
    /// [`ImageError`], in words for the `error` node.
    pub fn open(&mut self, backend: &str) -> Result<Option<(ImageSpec, Opened)>, ImageError> {
        let Some(disk) = self.disks.get(backend).cloned() else {
            return Err(ImageError::NoDisk {
                backend_path: backend.to_owned(),
            });
        };
        match open(&disk.spec)? {
            Ok(opened) => {
                if let Some(disk) = self.disks.get_mut(backend) {
                    disk.served = true;
                    disk.identity = opened.identity;
                }
                Ok(Some((disk.spec, opened)))
            }
            Err(_) if disk.served => Ok(None),
            Err((conflict, identity)) => {
                Err(self.in_use(&disk.spec.target, conflict, identity, backend))
            }
        }
    }

    /// Why a disk's image could not be opened in time.
    pub fn still_in_use(&self, backend: &str) -> ImageError {
        match self.disks.get(backend) {
            Some(disk) => self.in_use(&disk.spec.target, Conflict::Used, disk.identity, backend),
            None => ImageError::NoDisk {
                backend_path: backend.to_owned(),
            },
        }
    }
}
