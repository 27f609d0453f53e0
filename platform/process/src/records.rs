//! Memory that a supervisor keeps for the processes that follow each other: it holds the descriptor and looks at nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use ringfence_core::{PAGE, SharedMem as _, Words};
use ringfence_mem::RawPages;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use zerocopy::IntoBytes as _;

/// Makes `bytes` bytes of zeros that live as long as a descriptor of them. Pages that are never touched take no memory.
///
/// # Errors
/// As `memfd_create(2)`.
pub fn create(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, bytes as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Opens the file of such bytes, made if it is missing: for supervisors that may be followed by another, in a directory whose
/// files end with the running system.
///
/// # Errors
/// As `open(2)` and `ftruncate(2)`.
pub fn open(path: &Path, bytes: usize) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&fd, bytes as u64)?;
    Ok(fd)
}

/// What a record begins with: which kind it is, and which version of it. Zeros where nobody has written yet. Nothing else in a
/// record is the business of those who keep it.
pub type Stamp = [u64; 2];

/// Reads a record's stamp.
///
/// # Errors
/// As `pread(2)`, or it is shorter than that.
pub fn stamp(fd: impl AsFd) -> io::Result<Stamp> {
    let mut room = [[0; 8]; 2];
    for (word, at) in room.iter_mut().zip([0, 8]) {
        if rustix::io::pread(&fd, &mut word[..], at)? != word.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(room.map(u64::from_ne_bytes))
}

/// Whether processes that know records of the stamp `known` can go on with one of the stamp `found`.
pub fn is_known(found: Stamp, known: Stamp) -> bool {
    found == known || found == Stamp::default()
}

/// Such memory, mapped.
#[derive(Debug)]
pub struct Record {
    // Declared first: gone before what it points to.
    pages: RawPages,
    _memory: MmapRaw,
}

impl Record {
    /// Maps all of it.
    ///
    /// # Errors
    /// As `mmap(2)`, or it is not made of whole pages.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if len == 0 || !len.is_multiple_of(PAGE) {
            return Err(io::Error::other(format!("record of {len} bytes")));
        }
        let memory = MmapOptions::new().len(len).map_raw(&file)?;
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: mapped as long as `memory` lives, which is as long as this does; the supervisor, which alone could, never makes
        // it shorter.
        let pages = unsafe { RawPages::new(base, len) };
        Ok(Self {
            pages,
            _memory: memory,
        })
    }

    fn offset(&self, at: usize) -> Option<usize> {
        let offset = at.checked_mul(8)?;
        (offset < self.pages.len()).then_some(offset)
    }
}

impl Words for Record {
    fn len(&self) -> usize {
        self.pages.len() / 8
    }

    #[inline]
    fn load(&self, at: usize) -> u64 {
        self.offset(at)
            .map_or(0, |offset| self.pages.load_u64(offset))
    }

    #[inline]
    fn store(&self, at: usize, value: u64) {
        if let Some(offset) = self.offset(at) {
            self.pages.store_u64(offset, value);
        }
    }

    // In one go: a request's slot is 14 words.
    fn fill(&self, at: usize, values: &[u64]) {
        let Some(offset) = self.offset(at) else {
            return;
        };
        let values = values
            .get(..self.len().saturating_sub(at))
            .unwrap_or(values);
        self.pages.write(offset, values.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_finds_what_this_one_left() {
        let kept = create("record", 2 * PAGE).expect("a memfd");
        let record = Record::map(kept.try_clone().expect("dup")).expect("mapped");
        assert_eq!(record.len(), 1024);
        record.fill(1022, &[3, 4, 5]);
        record.store(usize::MAX, 9);
        drop(record);
        let next = Record::map(kept).expect("mapped");
        assert_eq!((next.load(1022), next.load(1023)), (3, 4));
        assert_eq!((next.load(1024), next.load(usize::MAX)), (0, 0));
    }

    #[test]
    fn the_stamp_is_read_without_a_mapping() {
        let kept = create("record", PAGE).expect("a memfd");
        assert_eq!(stamp(&kept).expect("read"), [0, 0]);
        Record::map(kept.try_clone().expect("dup"))
            .expect("mapped")
            .fill(0, &[7, 2, 9]);
        assert_eq!(stamp(&kept).expect("read"), [7, 2]);
        assert!(is_known([7, 2], [7, 2]) && is_known([0, 0], [7, 2]));
        assert!(!is_known([7, 3], [7, 2]) && !is_known([8, 2], [7, 2]));
        let short = rustix::fs::memfd_create("short", MemfdFlags::CLOEXEC).expect("a memfd");
        let error = stamp(&short).expect_err("nothing to read");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_file_is_taken_over_as_it_is() {
        let path = std::env::temp_dir().join(format!("ringfence-record-{}", std::process::id()));
        let map = || Record::map(open(&path, PAGE).expect("a file")).expect("mapped");
        map().store(7, 8);
        let found = map().load(7);
        std::fs::remove_file(&path).expect("there");
        assert_eq!(found, 8);
        let odd = rustix::fs::memfd_create("odd", MemfdFlags::CLOEXEC).expect("a memfd");
        let error = Record::map(odd).expect_err("nothing to map");
        assert_eq!(error.to_string(), "record of 0 bytes");
    }
}
