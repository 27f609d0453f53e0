//! What processes leave those that follow them, disk by disk.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use ringfence_process::records::{self, Stamp};
use rustix::io::Errno;

use super::Broker;
use crate::control::{Refusal, Reply};

/// The most bytes of one record.
const BYTES_MAX: u32 = 4 << 20;

/// The descriptors, by backend directory. Nothing is ever mapped here.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<String, (u32, OwnedFd)>);

impl Records {
    /// The record of a disk, made if it is missing.
    pub(super) fn get(&mut self, backend: &str, bytes: u32) -> Result<OwnedFd, Errno> {
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        match self.0.get(backend) {
            // A process of another version, maybe, for whom the old one means nothing.
            Some((had, _)) if *had != bytes => return Err(Errno::PROTO),
            Some((_, fd)) => return fd.try_clone().map_err(errno),
            None => {}
        }
        if bytes == 0 || bytes > BYTES_MAX {
            return Err(Errno::INVAL);
        }
        let fd = records::create("ringfence-journal", bytes as usize);
        let fd = fd.map_err(errno)?;
        let given = fd.try_clone().map_err(errno)?;
        self.0.insert(backend.to_owned(), (bytes, fd));
        Ok(given)
    }

    /// What the record of a disk begins with, if there is one.
    pub(super) fn stamp(&self, backend: &str) -> Option<Stamp> {
        let (_, fd) = self.0.get(backend)?;
        // What cannot be read is of no version that anybody knows.
        Some(records::stamp(fd).unwrap_or([u64::MAX; 2]))
    }

    /// There is no such disk any more.
    pub(super) fn forget(&mut self, backend: &str) {
        self.0.remove(backend);
    }
}

impl Broker {
    /// The record of one of the domain's own disks.
    pub(super) fn record(
        &mut self,
        domid: u16,
        backend: &str,
        bytes: u32,
    ) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let own = self
            .disks
            .get(backend)
            .is_some_and(|disk| disk.backend.get() == domid);
        let image = self.images.identity(backend).filter(|_| own);
        let image = image.ok_or(Refusal::Errno(Errno::NOENT.raw_os_error()))?;
        match self.records.get(backend, bytes) {
            Ok(fd) => Ok((Reply::Record { image }, vec![fd])),
            Err(errno) => Err(Refusal::Errno(errno.raw_os_error())),
        }
    }
}
