//! `/dev/xen/privcmd`: hypercalls from user space, for the control domain. Numbers and layouts are those of Linux's
//! `xen/privcmd.h`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;

use ringfence_core::{PAGE, SharedMem};
use ringfence_mem::RawPages;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::ioctl::{call, number};

const HYPERCALL: u32 = number(b'P', 0, size_of::<Argument>());

/// `__HYPERVISOR_sysctl` of `xen/xen.h`.
pub(crate) const SYSCTL: u64 = 35;

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Argument {
    op: u64,
    arg: [u64; 5],
}

/// An open `/dev/xen/privcmd` with one page that Xen can reach.
#[derive(Debug)]
pub struct Privcmd {
    device: OwnedFd,
    page: RawPages,
}

impl Privcmd {
    /// Opens the devices.
    ///
    /// # Errors
    /// They are not there, or not for us.
    pub fn open() -> io::Result<Self> {
        let device = crate::files::open(Path::new("/dev/xen/privcmd"))?;
        // Before Linux 4.18 there is none.
        let pages = crate::files::open(Path::new("/dev/xen/hypercall")).ok();
        Self::new(device, pages)
    }

    /// Takes descriptors of `/dev/xen/privcmd` and, if there is one, of `/dev/xen/hypercall`, whose pages stay where they are.
    /// Without it the page is locked into memory, which is nearly as good.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub fn new(device: OwnedFd, pages: Option<OwnedFd>) -> io::Result<Self> {
        let (null, both) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            match &pages {
                Some(pages) => rustix::mm::mmap(null, PAGE, both, MapFlags::SHARED, pages, 0)?,
                None => {
                    let flags = MapFlags::PRIVATE | MapFlags::LOCKED | MapFlags::POPULATE;
                    rustix::mm::mmap_anonymous(null, PAGE, both, flags)?
                }
            }
        };
        let base = NonNull::new(base.cast()).ok_or(Errno::FAULT)?;
        Ok(Self {
            device,
            // SAFETY: just mapped, and unmapped by our drop only.
            page: unsafe { RawPages::new(base, PAGE) },
        })
    }

    /// The page for what a hypercall reads and writes.
    pub(crate) const fn page(&self) -> &RawPages {
        &self.page
    }

    /// The address of a place in the page, as Xen takes it.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        assert!(offset < PAGE, "offset {offset} of a page");
        self.page
            .as_ptr()
            .expose_provenance()
            .saturating_add(offset) as u64
    }

    /// Makes a hypercall with one argument.
    ///
    /// # Safety
    /// What `op` makes of `argument` stays within the page.
    pub(crate) unsafe fn hypercall(&self, op: u64, argument: u64) -> Result<u32, Errno> {
        let mut argument = Argument {
            op,
            arg: [argument, 0, 0, 0, 0],
        };
        // SAFETY: the struct that the request reads; the rest as promised to us.
        unsafe { call(&self.device, HYPERCALL, (&raw mut argument).cast()) }
    }
}

impl Drop for Privcmd {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` at this place; nobody uses it after us.
        let unmapped = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), self.page.len()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_of_the_header() {
        // As a C compiler has it from Linux's `xen/privcmd.h`.
        assert_eq!(HYPERCALL, 0x0030_5000);
    }

    #[test]
    fn a_page_is_there_also_without_the_device_for_it() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let privcmd = Privcmd::new(null.into(), None).unwrap();
        privcmd.page().store_u32(8, 7);
        assert_eq!(privcmd.page().load_u32(8), 7);
        assert_eq!(privcmd.address(8), privcmd.address(0) + 8);
        // SAFETY: no device of Xen's: nothing is done.
        let refused = unsafe { privcmd.hypercall(SYSCTL, privcmd.address(0)) };
        assert_eq!(refused, Err(Errno::NOTTY));
    }
}
