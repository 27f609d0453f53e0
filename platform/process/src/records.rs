//! Memory that a supervisor keeps for the processes that follow each other: it holds the descriptor and looks at nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use ringfence_core::{PAGE, SharedMem as _, Words};
use ringfence_mem::RawPages;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use zerocopy::IntoBytes as _;

use crate::child::Exit;

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

/// Which word of a record its keeper writes whenever a process ended: 1 if that was killed, see [`note_end`].
pub const KILLED: usize = 31;

/// Notes in a record how the last process ended: a SIGKILL comes from outside, and nothing that the process was doing is to
/// blame for it.
///
/// # Errors
/// As `pwrite(2)`.
pub fn note_end(fd: impl AsFd, exit: Exit) -> io::Result<()> {
    let killed = u64::from(exit == Exit::Signal(libc::SIGKILL));
    let at = KILLED as u64 * size_of::<u64>() as u64;
    match rustix::io::pwrite(fd, &killed.to_ne_bytes(), at)? {
        8 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Whether processes that know records of the stamp `known` can go on with one of the stamp `found`.
pub fn is_known(found: Stamp, known: Stamp) -> bool {
    found == known || found == Stamp::default()
}

/// Another description of such memory, that cannot be mapped for writing.
///
/// # Errors
/// As `open(2)`.
pub fn read_only(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Maps all of it for the rest of this process's life, as words that any thread may add to. Whoever has it mapped too only reads.
///
/// # Errors
/// As [`Record::map`].
pub fn counters(fd: OwnedFd) -> io::Result<&'static [AtomicU64]> {
    let record = Box::leak(Box::new(Record::map(fd)?));
    let (base, len) = (record.pages.as_ptr(), Words::len(record));
    // SAFETY: mapped, and never unmapped since `record` is leaked; of whole pages, so aligned; atomics may be changed by others.
    Ok(unsafe { core::slice::from_raw_parts(base.cast::<AtomicU64>(), len) })
}

fn whole(fd: OwnedFd) -> io::Result<(File, usize)> {
    let file = File::from(fd);
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 || !len.is_multiple_of(PAGE) {
        return Err(io::Error::other(format!("record of {len} bytes")));
    }
    Ok((file, len))
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
        let (file, len) = whole(fd)?;
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

    /// Maps all of it for reading only: [`store`](Words::store) is the caller's mistake and changes nothing.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn map_read_only(fd: OwnedFd) -> io::Result<Self> {
        let (file, len) = whole(fd)?;
        let memory = MmapOptions::new().len(len).map_raw_read_only(&file)?;
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: as in `map`; nothing is written through it.
        let pages = unsafe { RawPages::read_only(base, len) };
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
        if let Some(offset) = self.offset(at).filter(|_| self.pages.is_writable()) {
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
    fn how_a_process_ended_is_noted_for_the_next() {
        let kept = create("record", PAGE).expect("a memfd");
        let record = Record::map(kept.try_clone().expect("dup")).expect("mapped");
        for (exit, noted) in [
            (Exit::Signal(libc::SIGKILL), 1),
            (Exit::Signal(libc::SIGABRT), 0),
            (Exit::Signal(libc::SIGKILL), 1),
            (Exit::Code(1), 0),
        ] {
            note_end(&kept, exit).expect("written");
            assert_eq!(record.load(KILLED), noted, "{exit:?}");
        }
    }

    #[test]
    fn who_may_only_look_sees_what_is_counted() {
        let kept = create("counters", PAGE).expect("a memfd");
        let seen = read_only(&kept).expect("opened again");
        assert!(
            Record::map(seen.try_clone().expect("dup")).is_err(),
            "mapped for writing"
        );
        let seen = Record::map_read_only(seen).expect("mapped");
        let counters = counters(kept).expect("mapped");
        assert_eq!(counters.len(), 512);
        counters[511].fetch_add(5, std::sync::atomic::Ordering::Relaxed);
        seen.store(511, 6);
        assert_eq!(seen.load(511), 5);
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
