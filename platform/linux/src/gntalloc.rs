//! `/dev/xen/gntalloc`: pages that another domain may reach. Numbers and layouts are those of Linux's `xen/gntalloc.h`.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ringfence_core::platform::{self, Access, GrantError, GrantStatus};
use ringfence_core::{DomId, GrantRef, PAGE};
use ringfence_mem::RawPages;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::ioctl::{call, failed, number};

const ALLOC_GREF: u32 = number(b'G', 5, size_of::<AllocGref>());
const DEALLOC_GREF: u32 = number(b'G', 6, size_of::<DeallocGref>());

/// `GNTALLOC_FLAG_WRITABLE`.
const WRITABLE: u16 = 1;

/// `struct ioctl_gntalloc_alloc_gref` for one page.
#[repr(C)]
struct AllocGref {
    domid: u16,
    flags: u16,
    count: u32,
    index: u64,
    gref: u32,
    pad: u32,
}

/// `struct ioctl_gntalloc_dealloc_gref`.
#[repr(C)]
struct DeallocGref {
    index: u64,
    count: u32,
    pad: u32,
}

#[derive(Debug)]
struct Inner {
    device: OwnedFd,
    live: AtomicU32,
}

/// An open `/dev/xen/gntalloc`. A handle: every [`Granted`] keeps the device open.
#[derive(Clone, Debug)]
pub struct Gntalloc(Arc<Inner>);

impl Gntalloc {
    /// Takes a descriptor of the device.
    pub fn new(device: OwnedFd) -> Self {
        Self(Arc::new(Inner {
            device,
            live: AtomicU32::new(0),
        }))
    }

    /// Allocates a page of zeros and grants it to `peer`, who need not exist yet.
    ///
    /// # Errors
    /// [`GrantError::Exhausted`] at the limit of the device (parameter `limit` of the module, for all processes together) or of
    /// the grant table.
    pub fn alloc(&self, peer: DomId, access: Access) -> Result<Granted, GrantError> {
        let flags = match access {
            Access::ReadOnly => 0,
            Access::ReadWrite => WRITABLE,
        };
        let mut argument = AllocGref {
            domid: peer.get(),
            flags,
            count: 1,
            index: 0,
            gref: 0,
            pad: 0,
        };
        let limit = self.0.live.load(Ordering::Relaxed);
        // SAFETY: the struct that the request reads and writes, with room for one reference.
        unsafe { call(&self.0.device, ALLOC_GREF, (&raw mut argument).cast()) }.map_err(
            |errno| match errno {
                Errno::NOSPC => GrantError::Exhausted { peer, limit },
                errno => failed("IOCTL_GNTALLOC_ALLOC_GREF", errno).into(),
            },
        )?;
        self.0.live.fetch_add(1, Ordering::Relaxed);
        let reference = Reference {
            device: self.clone(),
            index: argument.index,
        };
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            let (null, both) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
            let (device, index) = (&self.0.device, argument.index);
            rustix::mm::mmap(null, PAGE, both, MapFlags::SHARED, device, index)
        };
        let base = base
            .and_then(|base| NonNull::new(base.cast()).ok_or(Errno::FAULT))
            .map_err(|errno| failed("mmap of gntalloc", errno))?;
        Ok(Granted {
            // SAFETY: just mapped, and unmapped by the drop of `Granted` only.
            pages: unsafe { RawPages::new(base, PAGE) },
            gref: GrantRef::new(argument.gref),
            _reference: reference,
        })
    }
}

/// A page of the device's. Dropping it gives the page back; the kernel keeps it while we, or the peer, have it mapped.
#[derive(Debug)]
struct Reference {
    device: Gntalloc,
    index: u64,
}

impl Drop for Reference {
    fn drop(&mut self) {
        let mut argument = DeallocGref {
            index: self.index,
            count: 1,
            pad: 0,
        };
        let device = &self.device.0;
        // Fails only if there is no such page, and then there is nothing to give back.
        // SAFETY: the struct that the request reads. The page is ours, and mapped by us no more.
        let _ = unsafe { call(&device.device, DEALLOC_GREF, (&raw mut argument).cast()) };
        device.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A page of ours that a peer may map. After the drop the kernel ends the access as soon as the peer has the page mapped no more.
#[derive(Debug)]
pub struct Granted {
    pages: RawPages,
    gref: GrantRef,
    /// Dropped after `drop` has unmapped the page.
    _reference: Reference,
}

impl platform::Granted for Granted {
    fn grant_ref(&self) -> GrantRef {
        self.gref
    }

    /// Always refused: the device does not tell whether the peer has the page mapped, and ends no access while we have it.
    fn try_revoke(&mut self) -> Result<(), GrantStatus> {
        Err(GrantStatus::GENERAL_ERROR)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        // SAFETY: mapped by `alloc` at this place; nobody uses it after us.
        let unmapped = unsafe { rustix::mm::munmap(self.pages.as_ptr().cast(), PAGE) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

ringfence_mem::shared_by_pages!(Granted);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ioctl::model;
    use std::cell::RefCell;
    use std::mem::offset_of;
    use std::rc::Rc;

    use rustix::fs::MemfdFlags;

    #[test]
    fn cve_2026_98900_a_page_is_asked_for_at_a_time_and_what_is_not_mapped_is_given_back() {
        let file = rustix::fs::memfd_create("gntalloc", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, PAGE as u64).unwrap();
        // Of the pages given out and not given back, their indices; and the next one.
        let kernel = Rc::new(RefCell::new((Vec::new(), 0u64)));
        let answers = Rc::clone(&kernel);
        model::install(Box::new(move |_, request, argument| {
            let (given, next) = &mut *answers.borrow_mut();
            // SAFETY: the structs of the two requests.
            unsafe {
                match request {
                    ALLOC_GREF => {
                        let argument = &mut *argument.cast::<AllocGref>();
                        assert_eq!(argument.count, 1);
                        argument.index = *next;
                        given.push(*next);
                    }
                    DEALLOC_GREF => {
                        let argument = &*argument.cast::<DeallocGref>();
                        assert_eq!(argument.count, 1);
                        given.retain(|index| *index != argument.index);
                    }
                    _ => return Err(Errno::NOTTY),
                }
            }
            Ok(0)
        }));
        let gntalloc = Gntalloc::new(file);
        let page = gntalloc.alloc(DomId::new(1), Access::ReadWrite).unwrap();
        // Where nothing can be mapped.
        kernel.borrow_mut().1 = 4097;
        let error = gntalloc.alloc(DomId::new(1), Access::ReadWrite);
        assert!(matches!(error, Err(GrantError::Platform(_))), "{error:?}");
        assert_eq!(kernel.borrow().0, [0], "only what is mapped");
        assert_eq!(gntalloc.0.live.load(Ordering::Relaxed), 1);
        drop(page);
        assert!(kernel.borrow().0.is_empty());
        assert_eq!(gntalloc.0.live.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn numbers_and_layouts_are_those_of_the_header() {
        // As a C compiler has them from Linux's `xen/gntalloc.h`.
        assert_eq!(ALLOC_GREF, 0x0018_4705);
        assert_eq!(DEALLOC_GREF, 0x0010_4706);
        assert_eq!(offset_of!(AllocGref, index), 8);
        assert_eq!(offset_of!(AllocGref, gref), 16);
        assert_eq!(offset_of!(DeallocGref, count), 8);
    }
}
