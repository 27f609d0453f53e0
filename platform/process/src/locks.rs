//! The locks on an image, at the byte offsets of QEMU's `block/file-posix.c`, so that QEMU's tools and we refuse each other.
//!
//! For each permission that is used, byte `100 + n` is locked, for each that is not shared byte `200 + n`, always with a shared
//! lock of the open file description. Whoever finds the opposite byte locked by somebody else gives way.
//!
//! Those who write to an image together do not keep each other out so. Each of them has a byte of its own besides, a [`Seat`].

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use crate::fnv::fnv;

/// A set of QEMU's `BLK_PERM_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Perms(u8);

impl Perms {
    const CONSISTENT_READ: u8 = 1 << 0;
    const WRITE: u8 = 1 << 1;
    const WRITE_UNCHANGED: u8 = 1 << 2;
    const RESIZE: u8 = 1 << 3;
    const BITS: u8 = 4;
    const WRITER: Self = Self(Self::CONSISTENT_READ | Self::WRITE | Self::RESIZE);
    const READER: Self = Self(Self::CONSISTENT_READ);
    /// One of several, none of which changes the size.
    const SHARER: Self = Self(Self::CONSISTENT_READ | Self::WRITE);
    /// What readers and writers leave to others.
    const SHARED: Self = Self(Self::CONSISTENT_READ | Self::WRITE_UNCHANGED);
    /// What one of several writers leaves to the others.
    const WRITES_SHARED: Self = Self(Self::CONSISTENT_READ | Self::WRITE_UNCHANGED | Self::WRITE);

    fn bits(self) -> impl Iterator<Item = i64> {
        (0..Self::BITS)
            .filter(move |bit| self.0 & (1 << bit) != 0)
            .map(i64::from)
    }

    const fn others(self) -> Self {
        Self(!self.0)
    }
}

/// `RAW_LOCK_PERM_BASE`
const USED: i64 = 100;
/// `RAW_LOCK_SHARED_BASE`
const NOT_SHARED: i64 = 200;

fn lock(fd: &impl AsFd, cmd: libc::c_int, kind: libc::c_int, at: i64) -> io::Result<libc::flock> {
    // SAFETY: a plain C struct of integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = at;
    lock.l_len = 1;
    // SAFETY: the descriptor is open, and `lock` lives as long as the call.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), cmd, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}

/// A byte that stands for one device. It is locked for its user alone, for as long as anything of an opening is left: what a
/// dead process still writes for a device keeps the next one out, and nobody else.
///
/// There are 2^62 of them, far above all that QEMU locks, so that no two devices meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat(i64);

impl Seat {
    const BASE: i64 = 1 << 62;

    /// Of the device that these words name; the same one in every version of this program.
    pub fn of(words: &[&str]) -> Self {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let hash = (fnv(&words) >> 64) as u64;
        Self(Self::BASE | (hash >> 2).cast_signed())
    }
}

/// What another holder keeps us from, in the words of QEMU's own message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// Somebody writes or resizes.
    Used,
    /// Somebody does not want others to do what we want to.
    NotShared,
    /// Somebody has our seat.
    Seated,
}

/// What an image is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Read, while nobody writes.
    Read,
    /// Read and written, while nobody else writes.
    Write,
    /// Read and written, as others do who say the same, from this seat.
    ShareWrites(Seat),
}

/// Locks the image behind `fd` for this use. `Some` says that somebody else is in the way; the caller
/// then closes `fd`, which drops the locks taken.
///
/// # Errors
/// As `fcntl(2)`: a file system without locks.
pub fn acquire(fd: &impl AsFd, what: Use) -> io::Result<Option<Conflict>> {
    let (used, shared) = match what {
        Use::Read => (Perms::READER, Perms::SHARED),
        Use::Write => (Perms::WRITER, Perms::SHARED),
        Use::ShareWrites(Seat(at)) => {
            match lock(fd, libc::F_OFD_SETLK, libc::F_WRLCK, at) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Some(Conflict::Seated));
                }
                taken => taken?,
            };
            (Perms::SHARER, Perms::WRITES_SHARED)
        }
    };
    let refused = shared.others();
    for at in used
        .bits()
        .map(|bit| USED + bit)
        .chain(refused.bits().map(|bit| NOT_SHARED + bit))
    {
        lock(fd, libc::F_OFD_SETLK, libc::F_RDLCK, at)?;
    }
    let taken = |at| -> io::Result<bool> {
        let found = lock(fd, libc::F_OFD_GETLK, libc::F_WRLCK, at)?;
        Ok(found.l_type != libc::F_UNLCK as libc::c_short)
    };
    for bit in refused.bits() {
        if taken(USED + bit)? {
            return Ok(Some(Conflict::Used));
        }
    }
    for bit in used.bits() {
        if taken(NOT_SHARED + bit)? {
            return Ok(Some(Conflict::NotShared));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_keeps_its_seat_and_no_other_has_it() {
        let seat = |words: &[&str]| Seat::of(words).0;
        // A later version finds what this one left.
        assert_eq!(
            seat(&["place", "/local/domain/0/backend/vbd/7/51712"]),
            0x7626_A152_6836_E821
        );
        let others = [
            seat(&[]),
            seat(&["a"]),
            seat(&["b"]),
            seat(&["ab"]),
            seat(&["a", "b"]),
            seat(&["", "ab"]),
        ];
        for (number, one) in others.iter().enumerate() {
            assert!(*one >= Seat::BASE);
            assert!(!others[..number].contains(one));
        }
    }
}
