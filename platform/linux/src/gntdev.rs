//! `/dev/xen/gntdev`: mapping and copying what other domains granted. Numbers and layouts are those of Linux's `xen/gntdev.h`.

mod copy;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use ringfence_core::platform::{Access, GrantCopy, GrantError, GrantStatus, PlatformError};
use ringfence_core::weakened;
use ringfence_core::{DomId, EvtchnPort, GrantRef, PAGE, SharedMem};
use ringfence_mem::RawPages;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::IntoBytes;

use crate::ioctl::{call, failed, number};

/// Of `struct ioctl_gntdev_map_grant_ref`, with the one reference that C declares.
const MAP_GRANT_REF: u32 = number(b'G', 0, 24);
const UNMAP_GRANT_REF: u32 = number(b'G', 1, size_of::<UnmapGrantRef>());
const SET_UNMAP_NOTIFY: u32 = number(b'G', 7, size_of::<UnmapNotify>());

/// 32-bit words before the references in `struct ioctl_gntdev_map_grant_ref`: count, padding, index.
const MAP_HEADER: usize = 4;

/// `struct ioctl_gntdev_unmap_grant_ref`.
#[derive(IntoBytes)]
#[repr(C)]
struct UnmapGrantRef {
    index: u64,
    count: u32,
    pad: u32,
}

/// `struct ioctl_gntdev_unmap_notify`.
#[derive(IntoBytes)]
#[repr(C)]
struct UnmapNotify {
    index: u64,
    action: u32,
    event_channel_port: u32,
}

const UNMAP_NOTIFY_CLEAR_BYTE: u32 = 1;
const UNMAP_NOTIFY_SEND_EVENT: u32 = 2;

/// An open `/dev/xen/gntdev`. A handle: every [`Mapping`] keeps the device open.
#[derive(Clone, Debug)]
pub struct Gntdev(Arc<OwnedFd>);

impl Gntdev {
    /// Takes a descriptor of the device.
    pub fn new(device: OwnedFd) -> Self {
        Self(Arc::new(device))
    }

    /// Maps pages of one or more domains, all or none, consecutive in the given order.
    ///
    /// # Errors
    /// `EINVAL` if any of the grants is refused, or there are none: Linux does not say which. Others are the system's.
    pub fn map(&self, refs: &[(DomId, GrantRef)], access: Access) -> Result<Mapping, Errno> {
        let count = u32::try_from(refs.len()).map_err(|_| Errno::INVAL)?;
        let len = refs.len().checked_mul(PAGE).ok_or(Errno::INVAL)?;
        let header = [count, 0, 0, 0].into_iter();
        let pairs = refs
            .iter()
            .flat_map(|(domid, gref)| [u32::from(domid.get()), gref.get()]);
        let mut words: Vec<u32> = header.chain(pairs).collect();
        // SAFETY: `words` is the struct, with as many references behind it as its count says.
        unsafe { call(&self.0, MAP_GRANT_REF, words.as_mut_ptr().cast())? };
        let mut index = 0u64;
        index
            .as_mut_bytes()
            .copy_from_slice(words.get(2..MAP_HEADER).unwrap_or_default().as_bytes());
        // From here on whatever fails takes the entries out again (CVE-2022-50257).
        let grants = Grants {
            device: self.clone(),
            index,
            count,
        };
        let protection = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            let null = std::ptr::null_mut();
            rustix::mm::mmap(null, len, protection, MapFlags::SHARED, &*self.0, index)
        };
        if weakened!("cve_2022_50257_linux") && base.is_err() {
            std::mem::forget(grants);
            return Err(Errno::NOMEM);
        }
        let base = NonNull::new(base?.cast()).ok_or(Errno::FAULT)?;
        // SAFETY: just mapped, and unmapped by the drop of `Mapping` only.
        let pages = unsafe {
            match access {
                Access::ReadOnly => RawPages::read_only(base, len),
                Access::ReadWrite => RawPages::new(base, len),
            }
        };
        Ok(Mapping { pages, grants })
    }

    /// Maps pages of one domain as [`Platform::map`](ringfence_core::platform::Platform::map) does, and finds out which grant
    /// was refused, if one was.
    ///
    /// # Errors
    /// [`GrantError::Refused`] names the first reference that can be seen to be bad. Why is known where a copy is refused too;
    /// otherwise (a page granted for reading only) it is a `general_error`, which is what Xen answers then.
    pub fn map_of(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<Mapping, GrantError> {
        let pairs: Vec<_> = refs.iter().map(|gref| (peer, *gref)).collect();
        match self.map(&pairs, access) {
            Ok(mapping) => Ok(mapping),
            Err(Errno::INVAL) if !refs.is_empty() => {
                let (gref, status) = self.refused(peer, refs, access)?;
                Err(GrantError::Refused { peer, gref, status })
            }
            Err(errno) => Err(failed("mmap of gntdev", errno).into()),
        }
    }

    /// Which of the references it was: a copy of one byte of each page tells, except for pages that may only be read.
    fn refused(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<(GrantRef, GrantStatus), PlatformError> {
        let mut bytes = vec![0u8; refs.len()];
        let mut probes: Vec<_> = refs
            .iter()
            .zip(bytes.chunks_mut(1))
            .map(|(gref, byte)| GrantCopy::from_peer(*gref, 0, byte))
            .collect();
        self.copy(peer, &mut probes)?;
        if let Some(probe) = probes.iter().find(|probe| !probe.status.is_okay()) {
            return Ok((probe.gref, probe.status));
        }
        let alone = |gref: &&GrantRef| self.map(&[(peer, **gref)], access).is_err();
        // The peer may have granted it meanwhile: then nobody knows any more.
        let bad = refs.iter().find(alone).or(refs.first());
        let bad = bad.copied().unwrap_or(GrantRef::new(0));
        Ok((bad, GrantStatus::GENERAL_ERROR))
    }

    /// Copies between private buffers and pages of `peer`, as
    /// [`Platform::copy`](ringfence_core::platform::Platform::copy) does.
    ///
    /// # Errors
    /// The device failed, and nothing is known about any element.
    pub fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        copy::copy(&self.0, peer, ops)
    }
}

impl AsFd for Gntdev {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Entries of the device's own table. Dropping them takes them out; what is mapped must be unmapped before.
#[derive(Debug)]
struct Grants {
    device: Gntdev,
    index: u64,
    count: u32,
}

impl Drop for Grants {
    fn drop(&mut self) {
        let mut argument = UnmapGrantRef {
            index: self.index,
            count: self.count,
            pad: 0,
        };
        // Fails only if the entries are not there, and then there is nothing to take out.
        // SAFETY: the struct that the request reads. The entries are ours, and used by no mapping any more.
        let _ = unsafe {
            let argument = (&raw mut argument).cast();
            call(&self.device.0, UNMAP_GRANT_REF, argument)
        };
    }
}

/// Pages of another domain. Dropping it unmaps them; the owner sees that a moment later, for Linux waits for I/O on them.
#[derive(Debug)]
pub struct Mapping {
    pages: RawPages,
    /// Dropped after `drop` has unmapped the pages.
    grants: Grants,
}

impl Mapping {
    /// The pages, for handing them to the kernel.
    pub const fn pages(&self) -> &RawPages {
        &self.pages
    }

    /// What the kernel does for the peer when this mapping ends, also with the death of the process: it writes a 0 to the byte at
    /// `clear`, and rings `ring`, a port of this process. Another call replaces it; two `None` take it back.
    ///
    /// # Errors
    /// `EINVAL` if the byte is not within or cannot be written, or the port is none of ours.
    pub fn set_unmap_notify(
        &self,
        clear: Option<usize>,
        ring: Option<EvtchnPort>,
    ) -> Result<(), Errno> {
        let offset = clear.unwrap_or(0);
        if offset >= self.pages.len() {
            return Err(Errno::INVAL);
        }
        let offset = u64::try_from(offset).map_err(|_| Errno::INVAL)?;
        let action = [
            (clear.is_some(), UNMAP_NOTIFY_CLEAR_BYTE),
            (ring.is_some(), UNMAP_NOTIFY_SEND_EVENT),
        ];
        let mut argument = UnmapNotify {
            index: self.grants.index.saturating_add(offset),
            action: action
                .iter()
                .filter(|(wanted, _)| *wanted)
                .fold(0, |sum, (_, bit)| sum | bit),
            event_channel_port: ring.map_or(0, EvtchnPort::get),
        };
        // SAFETY: the struct that the request reads.
        unsafe {
            let argument = (&raw mut argument).cast();
            call(&self.grants.device.0, SET_UNMAP_NOTIFY, argument)
        }
        .map(|_| ())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` at this place and length; nobody uses it after us.
        let unmapped = unsafe { rustix::mm::munmap(self.pages.as_ptr().cast(), self.pages.len()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

ringfence_mem::shared_by_pages!(Mapping);

#[cfg(test)]
mod tests;
