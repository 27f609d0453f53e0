//! Giving storage back: holes in files, discards of block devices.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use ringfence_core::ids::{Sector, SectorCount};
use rustix::fs::{self, FallocateFlags, FileType};
use rustix::io::Errno;
use rustix::ioctl::{self, Setter, opcode};

use super::Discard;
use crate::error::IoError;

/// `BLKDISCARD` and `BLKSECDISCARD` of `linux/fs.h`, which name no direction and no size.
const BLKDISCARD: ioctl::Opcode = opcode::none(0x12, 119);
const BLKSECDISCARD: ioctl::Opcode = opcode::none(0x12, 125);

/// Makes a hole and leaves the size alone.
pub(super) const HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// What the disk of `bytes` bytes behind `fd` can discard. Changes nothing on it.
pub(super) fn offered(fd: BorrowedFd<'_>, bytes: u64, physical: u32) -> Option<Discard> {
    let stat = fs::fstat(fd).ok()?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice {
        // Of no bytes: a device that can says that this makes no sense, or nothing; one that cannot says so first.
        let can = |secure| device(fd, 0, 0, secure) != Err(Errno::OPNOTSUPP);
        return can(false).then(|| Discard {
            secure: can(true),
            ..Discard::new(physical)
        });
    }
    // Behind the end, where no data can be lost.
    let block = u32::try_from(stat.st_blksize).ok()?.max(512);
    fs::fallocate(fd, HOLE, bytes, block.into()).ok()?;
    let unit = if block.is_power_of_two() { block } else { 512 };
    Some(Discard::new(unit))
}

/// Where a discard begins and how long it is, in bytes.
pub(super) fn range(sector: Sector, count: SectorCount) -> Option<(u64, u64)> {
    let (start, len) = (sector.byte_offset()?, count.bytes()?);
    start.checked_add(len).map(|_| (start, len))
}

/// [`now`], as the end of a request.
pub(super) fn run(
    fd: impl AsFd,
    sector: Sector,
    count: SectorCount,
    secure: bool,
) -> Result<(), IoError> {
    now(fd, sector, count, secure).map_err(|errno| match errno {
        Errno::OPNOTSUPP => IoError::Unsupported,
        errno => IoError::System {
            op: "discard",
            errno: errno.raw_os_error(),
        },
    })
}

/// Discards at once, which blocks as long as the storage takes.
pub(super) fn now(
    fd: impl AsFd,
    sector: Sector,
    count: SectorCount,
    secure: bool,
) -> Result<(), Errno> {
    let fd = fd.as_fd();
    let (start, len) = range(sector, count).ok_or(Errno::INVAL)?;
    if secure {
        return device(fd, start, len, true);
    }
    // A block device that cannot zero what it gives back says so, and may still know the plain discard.
    match fs::fallocate(fd, HOLE, start, len) {
        Err(Errno::OPNOTSUPP) => match device(fd, start, len, false) {
            Err(Errno::NOTTY) => Err(Errno::OPNOTSUPP),
            other => other,
        },
        other => other,
    }
}

fn device(fd: BorrowedFd<'_>, start: u64, len: u64, secure: bool) -> Result<(), Errno> {
    let range = [start, len];
    // SAFETY: both requests read two u64 and write nothing to memory; of anything but a block device they mean nothing.
    unsafe {
        if secure {
            ioctl::ioctl(fd, Setter::<BLKSECDISCARD, _>::new(range))
        } else {
            ioctl::ioctl(fd, Setter::<BLKDISCARD, _>::new(range))
        }
    }
}
