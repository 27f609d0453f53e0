//! Where memory is: one linear map, in which page frame number `n` lies at [`BASE`]` + n * 4096`, with a window at its end for
//! pages that are not ours.

use core::ops::Range;
use core::ptr::NonNull;

use ringfence_core::PAGE;

use crate::hypercall::{DOMID_SELF, HypercallError, Number, call, operate};

/// Where the kernel is linked and frame 0 is mapped.
pub(crate) const BASE: usize = 0xffff_ffff_8000_0000;

/// The pages at the end of the map that are kept for what Xen and other domains share with us.
pub(crate) const WINDOW: Range<u32> = 508 * 512..510 * 512;

/// `XENMEM_add_to_physmap`.
const ADD_TO_PHYSMAP: u32 = 7;
/// Entries of a page table for our own memory: present, writable, accessed, dirty.
pub(crate) const OURS: u64 = 0x63;
/// `UVMF_INVLPG`.
const FLUSH_ONE: u64 = 2;

/// `struct xen_add_to_physmap`.
#[repr(C)]
struct AddToPhysmap {
    domid: u16,
    size: u16,
    space: u32,
    idx: u64,
    gpfn: u64,
}

/// A page that Xen shares with its guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum XenPage {
    /// `XENMAPSPACE_shared_info`; for PV at this machine address.
    SharedInfo(u64),
    /// `XENMAPSPACE_grant_table`, the page of this number; for PV in this machine frame.
    GrantTable(u32, u64),
}

/// How our page frame numbers relate to those that others know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Translation {
    /// They know machine frames: the list of them, by our numbers, and its length.
    Pv(NonNull<u64>, u32),
    /// They know our numbers.
    Pvh,
}

/// Where the page of this number is mapped.
pub(crate) fn page(pfn: u32) -> NonNull<u8> {
    let address = BASE + pfn as usize * PAGE;
    // Not 0, whatever the number: beyond the end of the map there is nothing but a fault.
    NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

/// The number of the page that holds this byte of ours; `None` if it is not in the map.
pub(crate) fn pfn_of(address: usize) -> Option<u32> {
    let pfn = u32::try_from(address.checked_sub(BASE)? / PAGE).ok()?;
    (pfn < WINDOW.start).then_some(pfn)
}

impl Translation {
    /// The frame that others know as the page of this number.
    pub(crate) fn frame(self, pfn: u32) -> Option<u64> {
        match self {
            // SAFETY: within the list, as just checked.
            Self::Pv(list, len) if pfn < len => Some(unsafe { list.add(pfn as usize).read() }),
            Self::Pv(..) => None,
            Self::Pvh => Some(pfn.into()),
        }
    }

    /// Maps a page of Xen's at this place of the window.
    pub(crate) fn map_xen_page(self, at: u32, what: XenPage) -> Result<(), HypercallError> {
        let (space, idx, machine) = match what {
            XenPage::SharedInfo(address) => (0, 0, address),
            XenPage::GrantTable(nth, frame) => (1, nth, frame << 12),
        };
        match self {
            Self::Pv(..) => remap(at, machine | OURS),
            Self::Pvh => {
                let mut argument = AddToPhysmap {
                    domid: DOMID_SELF,
                    size: 0,
                    space,
                    idx: idx.into(),
                    gpfn: at.into(),
                };
                // SAFETY: the struct of this operation. Nothing of ours is at this place of the window.
                unsafe { operate(Number::MemoryOp, ADD_TO_PHYSMAP, &mut argument)? };
                Ok(())
            }
        }
    }

    /// Where to tell Xen to map another domain's page.
    pub(crate) fn host_address(self, at: u32) -> u64 {
        match self {
            Self::Pv(..) => page(at).as_ptr() as u64,
            Self::Pvh => u64::from(at) << 12,
        }
    }
}

/// Replaces the entry of the page tables for this page (PV).
pub(crate) fn remap(at: u32, entry: u64) -> Result<(), HypercallError> {
    let address = page(at).as_ptr() as u64;
    // SAFETY: Xen checks the entry; callers change only what nobody uses, or take away only the right to write what nobody
    // writes.
    unsafe { call(Number::UpdateVaMapping, [address, entry, FLUSH_ONE, 0])? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_by_any_of_its_bytes() {
        let address = page(300).as_ptr() as usize;
        assert_eq!(address, 0xffff_ffff_8012_c000);
        assert_eq!(pfn_of(address), Some(300));
        assert_eq!(pfn_of(address + 4095), Some(300));
        assert_eq!(pfn_of(address + 4096), Some(301));
        assert_eq!(pfn_of(BASE - 1), None);
        assert_eq!(pfn_of(page(WINDOW.start).as_ptr() as usize), None);
    }

    #[test]
    fn a_machine_frame_is_looked_up_in_the_list() {
        let list = [7u64, 9, 11];
        let pv = Translation::Pv(NonNull::from(&list).cast(), 3);
        assert_eq!((pv.frame(2), pv.frame(3)), (Some(11), None));
        assert_eq!(Translation::Pvh.frame(3), Some(3));
    }
}
