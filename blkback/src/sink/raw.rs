//! What a raw image or block device is like, and how far one call of the system got.

use std::os::fd::{AsFd, BorrowedFd};

use ringfence_core::ids::{Sector, SectorCount};
use rustix::fs::{self, FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use thiserror::Error;

use super::{Geometry, IoOp, discard};
use crate::error::IoError;

/// Why a descriptor is no disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Neither a regular file nor a block device.
    #[error("image is a {kind}, not a file or a block device")]
    Kind {
        /// What it is.
        kind: &'static str,
    },
    /// A size that is no multiple of a sector, or nothing at all.
    #[error("image has {bytes} bytes, which is not a positive multiple of {unit}")]
    Size {
        /// Its size.
        bytes: u64,
        /// Bytes in its sectors.
        unit: u32,
    },
    /// A writable disk on a descriptor that was opened for reading.
    #[error("image is open for reading only, but the disk is writable")]
    Access,
    /// The system failed.
    #[error("{op} failed: errno {errno}")]
    System {
        /// The system call.
        op: &'static str,
        /// The positive error number.
        errno: i32,
    },
}

/// Attempts at a call that the system asks to repeat.
const TRIES: u8 = 100;

/// Looks at a descriptor. `read_only` is what the configuration wants.
pub(super) fn geometry(fd: impl AsFd, read_only: bool) -> Result<Geometry, OpenError> {
    let fd = fd.as_fd();
    let system = |op| {
        move |errno: Errno| OpenError::System {
            op,
            errno: errno.raw_os_error(),
        }
    };
    let stat = fs::fstat(fd).map_err(system("fstat"))?;
    let (logical, physical) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => (512, 512),
        FileType::BlockDevice => block_sizes(fd)?,
        FileType::Directory => return Err(OpenError::Kind { kind: "directory" }),
        FileType::CharacterDevice => {
            return Err(OpenError::Kind {
                kind: "character device",
            });
        }
        FileType::Fifo => return Err(OpenError::Kind { kind: "pipe" }),
        FileType::Socket => return Err(OpenError::Kind { kind: "socket" }),
        _ => {
            return Err(OpenError::Kind {
                kind: "special file",
            });
        }
    };
    let flags = fs::fcntl_getfl(fd).map_err(system("fcntl F_GETFL"))?;
    if !read_only && (flags & OFlags::RWMODE) != OFlags::RDWR {
        return Err(OpenError::Access);
    }
    // The end of a block device is found by seeking only.
    let bytes = fs::seek(fd, SeekFrom::End(0)).map_err(system("lseek"))?;
    if bytes == 0 || !bytes.is_multiple_of(u64::from(logical)) {
        return Err(OpenError::Size {
            bytes,
            unit: logical,
        });
    }
    let discard = if read_only {
        None
    } else {
        discard::offered(fd, bytes, physical)
    };
    let sectors = SectorCount::new(bytes.checked_div(Sector::BYTES).unwrap_or(0));
    Ok(Geometry {
        sectors,
        logical,
        physical,
        read_only,
        flush: true,
        discard,
    })
}

/// Looks again for the end. What cannot be seen, or is less than a sector, changes nothing; a part of a sector at the end is not
/// part of the disk.
pub(super) fn refresh(fd: impl AsFd, geometry: &mut Geometry) {
    let Ok(bytes) = fs::seek(fd, SeekFrom::End(0)) else {
        return;
    };
    let logical = u64::from(geometry.logical.max(512));
    let whole = bytes.saturating_sub(bytes.checked_rem(logical).unwrap_or(0));
    if whole > 0 {
        geometry.sectors = SectorCount::new(whole.checked_div(Sector::BYTES).unwrap_or(0));
    }
}

fn block_sizes(fd: BorrowedFd<'_>) -> Result<(u32, u32), OpenError> {
    let system = |op| {
        move |errno: Errno| OpenError::System {
            op,
            errno: errno.raw_os_error(),
        }
    };
    let logical = fs::ioctl_blksszget(fd).map_err(system("ioctl BLKSSZGET"))?;
    let physical = fs::ioctl_blkpbszget(fd).map_err(system("ioctl BLKPBSZGET"))?;
    Ok((logical.max(512), physical.max(logical)))
}

/// What to do after a call returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Finished, well or not.
    Ended(Result<(), IoError>),
    /// Call again for what is left.
    Again,
}

/// How far a transfer has got, in whole sectors: a short transfer goes on from a sector's start, as direct I/O wants it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    /// Bytes done.
    pub(super) done: usize,
    tries: u8,
}

impl Position {
    /// Takes the result of one call: the number of bytes, or a positive error number.
    pub(super) fn advance(&mut self, op: IoOp, len: usize, result: Result<usize, i32>) -> Next {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(errno) => return self.failed(op, errno),
        };
        if matches!(op, IoOp::Flush | IoOp::Discard { .. }) {
            return Next::Ended(Ok(()));
        }
        let reached = self.done.saturating_add(bytes);
        if reached >= len {
            return Next::Ended(Ok(()));
        }
        let whole = reached & !511;
        if whole == self.done {
            return Next::Ended(Err(IoError::EndOfFile { done: reached, len }));
        }
        self.done = whole;
        Next::Again
    }

    fn failed(&mut self, op: IoOp, errno: i32) -> Next {
        let repeat = [Errno::INTR, Errno::AGAIN]
            .map(Errno::raw_os_error)
            .contains(&errno);
        if repeat && self.tries < TRIES {
            self.tries = self.tries.saturating_add(1);
            return Next::Again;
        }
        let unsupported = [Errno::OPNOTSUPP, Errno::NOSYS]
            .map(Errno::raw_os_error)
            .contains(&errno);
        if unsupported && matches!(op, IoOp::Discard { .. }) {
            return Next::Ended(Err(IoError::Unsupported));
        }
        let op = match op {
            IoOp::Read(_) => "read",
            IoOp::Write(_) => "write",
            IoOp::Flush => "fdatasync",
            IoOp::Discard { .. } => "fallocate",
        };
        Next::Ended(Err(IoError::System { op, errno }))
    }
}

/// Remembers a flush that failed: the kernel reports a lost write once, and then forgets it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlushLatch {
    lost: bool,
}

impl FlushLatch {
    /// Passes the result of a flush on; once one has failed, all later ones fail.
    pub(super) fn pass(&mut self, result: Result<(), IoError>) -> Result<(), IoError> {
        match result {
            Ok(()) if self.lost => Err(IoError::FlushLost),
            Ok(()) => Ok(()),
            Err(error) => {
                self.lost = true;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_transfer_goes_on_from_a_sector() {
        let read = IoOp::Read(Sector::new(0));
        let mut position = Position::default();
        assert_eq!(position.advance(read, 4096, Ok(700)), Next::Again);
        assert_eq!(position.done, 512);
        assert_eq!(
            position.advance(read, 4096, Ok(188)),
            Next::Ended(Err(IoError::EndOfFile {
                done: 700,
                len: 4096
            }))
        );
        assert_eq!(position.advance(read, 4096, Ok(3584)), Next::Ended(Ok(())));
    }

    #[test]
    fn a_call_is_repeated_but_not_for_ever() {
        let again = Errno::AGAIN.raw_os_error();
        let mut position = Position::default();
        let ended = (0..1000).find_map(|n| match position.advance(IoOp::Flush, 0, Err(again)) {
            Next::Again => None,
            Next::Ended(result) => Some((n, result)),
        });
        let error = IoError::System {
            op: "fdatasync",
            errno: again,
        };
        assert_eq!(ended, Some((u32::from(TRIES), Err(error))));
    }

    #[test]
    fn a_failed_flush_is_not_forgotten() {
        let mut latch = FlushLatch::default();
        let failed = Err(IoError::System {
            op: "fdatasync",
            errno: 5,
        });
        assert_eq!(latch.pass(Ok(())), Ok(()));
        assert_eq!(latch.pass(failed), failed);
        assert_eq!(latch.pass(Ok(())), Err(IoError::FlushLost));
    }
}
