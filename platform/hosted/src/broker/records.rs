//! What processes leave those that follow them, disk by disk, and what they count.

use ringfence_core::weakened;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use ringfence_process::child::Exit;
use ringfence_process::records::{self, Stamp};
use rustix::io::Errno;

use super::Broker;
use crate::admin::AdminError;
use crate::control::{Refusal, Reply};

/// The most bytes of one record.
const BYTES_MAX: u32 = 4 << 20;
/// The most bytes of what a domain counts; those that it never touches take no memory.
const STATISTICS_MAX: u32 = 64 << 20;

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
        // Compared first, made afterwards (CVE-2026-98900).
        let fits = (1..=BYTES_MAX).contains(&bytes);
        if !fits && !weakened!("cve_2026_98900_record") {
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

    /// Notes how the process ended that was at work on these disks.
    pub(super) fn note_end<'a>(&self, disks: impl Iterator<Item = &'a str>, exit: Exit) {
        for (_, fd) in disks.filter_map(|backend| self.0.get(backend)) {
            if let Err(error) = records::note_end(fd, exit) {
                tracing::warn!(%error, "cannot note how the process ended");
            }
        }
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

    /// Where a domain's processes count.
    pub(super) fn statistics(
        &mut self,
        domid: u16,
        bytes: u32,
    ) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let refused = |errno: Errno| Refusal::Errno(errno.raw_os_error());
        let system =
            |error: std::io::Error| refused(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let domain = self.domains.get_mut(&domid).ok_or(Refusal::NoDomain)?;
        let fits = (1..=STATISTICS_MAX).contains(&bytes);
        match &domain.statistics {
            Some((had, fd)) if *had == bytes => {
                return Ok((Reply::Statistics, vec![fd.try_clone().map_err(system)?]));
            }
            _ if !fits && !weakened!("cve_2026_98900_statistics") => {
                return Err(refused(Errno::INVAL));
            }
            // A process of another version has another layout: whoever looks at the old one is left with that.
            _ => {}
        }
        let fd = ringfence_process::records::create("ringfence-statistics", bytes as usize);
        let fd = fd.map_err(system)?;
        let given = fd.try_clone().map_err(system)?;
        domain.statistics = Some((bytes, fd));
        Ok((Reply::Statistics, vec![given]))
    }

    /// The same for whoever may look, who cannot write there.
    pub(super) fn look_at_statistics(&self, name: &str) -> Result<OwnedFd, AdminError> {
        let domid = self.find(name)?;
        let none = || AdminError::NoStatistics(name.to_owned());
        let domain = self.domains.get(&domid.get()).ok_or_else(none)?;
        let (_, fd) = domain.statistics.as_ref().ok_or_else(none)?;
        ringfence_process::records::read_only(fd).map_err(|_| none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2026_98900_a_record_is_of_so_many_bytes_and_no_more() {
        let mut records = Records::default();
        for bytes in [0, BYTES_MAX + 1, u32::MAX - 4095, u32::MAX] {
            let made = records.get("disk", bytes);
            assert_eq!(made.err(), Some(Errno::INVAL), "{bytes} bytes");
            assert!(records.0.is_empty());
        }
        records.get("disk", BYTES_MAX).expect("so many there are");
        records.get("disk", BYTES_MAX).expect("the same again");
        let other = records.get("disk", BYTES_MAX - 4096);
        assert_eq!(other.err(), Some(Errno::PROTO));
    }
}
