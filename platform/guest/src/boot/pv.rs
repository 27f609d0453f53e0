//! What a PV guest finds: `start_info`, and the page tables that the builder made.

use core::ptr::NonNull;

use ringfence_core::{EvtchnPort, PAGE};

use super::{Boot, COMMAND_LINE, Given, Ring, Source, StartError};
use crate::hypercall::{DOMID_SELF, HypercallError, Number, call};
use crate::memory::{OURS, Translation, WINDOW, page, pfn_of, remap};
use crate::shared::FrameList;

/// Entries of a page table.
const ENTRIES: u32 = 512;
/// Of an entry of a page table: the machine address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Entries of a page table for page tables: as our own memory, and for users, whom Xen counts a 64-bit PV kernel among.
const TABLE: u64 = 0x67;
/// Our own memory, for reading only, as page tables must be mapped.
const READ_ONLY: u64 = 0x61;
/// `MACH2PHYS_VIRT_START`: where Xen maps its list of our numbers by machine frame.
const MACHINE_TO_PFN: usize = 0xffff_8000_0000_0000;

/// `struct start_info` of `xen/xen.h`, as far as it is used here.
#[repr(C)]
pub(crate) struct StartInfo {
    magic: [u8; 32],
    nr_pages: u64,
    shared_info: u64,
    flags: u32,
    store_mfn: u64,
    store_evtchn: u32,
    console_mfn: u64,
    console_evtchn: u32,
    pt_base: u64,
    nr_pt_frames: u64,
    mfn_list: u64,
    mod_start: u64,
    mod_len: u64,
    cmd_line: [u8; COMMAND_LINE],
}

const _: () = {
    assert!(core::mem::offset_of!(StartInfo, nr_pages) == 32);
    assert!(core::mem::offset_of!(StartInfo, store_mfn) == 56);
    assert!(core::mem::offset_of!(StartInfo, console_mfn) == 72);
    assert!(core::mem::offset_of!(StartInfo, console_evtchn) == 80);
    assert!(core::mem::offset_of!(StartInfo, mfn_list) == 104);
    assert!(core::mem::offset_of!(StartInfo, cmd_line) == 128);
};

/// `struct mmu_update`.
#[repr(C)]
struct MmuUpdate {
    ptr: u64,
    val: u64,
}

/// Our number of a machine frame of ours.
///
/// # Safety
/// It is a frame of ours.
unsafe fn pfn_of_machine(frame: u64) -> Result<u32, StartError> {
    let at = MACHINE_TO_PFN + frame as usize * size_of::<u64>();
    // SAFETY: Xen maps the list for all memory there is, to be read.
    let pfn = unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_volatile() };
    u32::try_from(pfn).map_err(|_| StartError::Memory { pages: pfn })
}

/// Reads one entry of a page table of ours.
///
/// # Safety
/// `table` is the page of a page table, `index` below [`ENTRIES`].
unsafe fn entry(table: NonNull<u8>, index: usize) -> u64 {
    // SAFETY: as promised; Xen changes the accessed bits at any time.
    unsafe { table.cast::<u64>().add(index).read_volatile() }
}

/// The page of the table that this entry of another names.
///
/// # Safety
/// As [`entry`]; the entry is one of the builder's.
unsafe fn below(table: NonNull<u8>, index: usize) -> Result<NonNull<u8>, StartError> {
    // SAFETY: as promised.
    let frame = unsafe { entry(table, index) } & ADDRESS;
    // SAFETY: the builder's tables are in our memory.
    Ok(page(unsafe { pfn_of_machine(frame >> 12)? }))
}

/// Adds page tables until all memory and the window are in the map, and tells what there is.
///
/// # Safety
/// Called once, with what Xen gave in rsi and rsp: no other memory is in use but the image's.
pub(crate) unsafe fn take_over(
    start_info: NonNull<StartInfo>,
    built_end: usize,
) -> Result<Boot, StartError> {
    // SAFETY: the builder's struct, which nobody changes before we are saved.
    let info = unsafe { start_info.as_ref() };
    let pages = info.nr_pages;
    let nr_pages = u32::try_from(pages).map_err(|_| StartError::Memory { pages })?;
    let list = core::ptr::with_exposed_provenance_mut(info.mfn_list as usize);
    let list = NonNull::new(list).ok_or(StartError::Memory { pages })?;
    let translation = Translation::Pv(list, nr_pages);
    let usable = nr_pages.min(WINDOW.start);
    let first = pfn_of(built_end + PAGE - 1).ok_or(StartError::Memory { pages })?;
    let root = NonNull::new(core::ptr::with_exposed_provenance_mut(
        info.pt_base as usize,
    ));
    // SAFETY: the builder's tables; the map is the last but one GiB.
    let middle = unsafe { below(below(root.ok_or(StartError::NoTables)?, 511)?, 510)? };
    let mut tables = Tables {
        translation,
        middle,
        usable,
        next: first,
    };
    for table in (0..usable.div_ceil(ENTRIES)).chain(WINDOW.start / ENTRIES..WINDOW.end / ENTRIES) {
        tables.ensure(table)?;
    }
    Ok(Boot {
        translation,
        source: Source::Pv(start_info),
        given: given(start_info)?,
        command_line: info.cmd_line,
        frames: tables.next..usable,
    })
}

/// What `start_info` says now.
pub(super) fn given(info: NonNull<StartInfo>) -> Result<Given, StartError> {
    // SAFETY: the builder's struct, which the toolstack writes while we do not run.
    let info = unsafe { info.read_volatile() };
    let ring = |frame, port| {
        // SAFETY: pages that the builder took from our memory.
        let pfn = unsafe { pfn_of_machine(frame)? };
        let port = EvtchnPort::new(port);
        Ok::<_, StartError>(Ring {
            page: page(pfn),
            port,
        })
    };
    Ok(Given {
        shared_info: info.shared_info,
        store: ring(info.store_mfn, info.store_evtchn)?,
        console: ring(info.console_mfn, info.console_evtchn)?,
    })
}

/// Replaces the frames of both rings in `start_info`: there our own numbers stand while we are saved, since only those are the
/// same afterwards. Both or none.
pub(crate) fn set_rings(
    info: NonNull<StartInfo>,
    mut frame: impl FnMut(u64) -> Result<u64, StartError>,
) -> Result<(), StartError> {
    let at = info.as_ptr();
    // SAFETY: fields of the builder's struct, which is ours while we run.
    let (store, console) = unsafe { (&raw mut (*at).store_mfn, &raw mut (*at).console_mfn) };
    // SAFETY: as above.
    let frames = unsafe { [store.read_volatile(), console.read_volatile()] };
    let frames = [frame(frames[0])?, frame(frames[1])?];
    // SAFETY: as above.
    unsafe {
        store.write_volatile(frames[0]);
        console.write_volatile(frames[1]);
    }
    Ok(())
}

/// Our own number of a machine frame of ours.
pub(crate) fn own_number(frame: u64) -> Result<u64, StartError> {
    // SAFETY: callers ask for what `start_info` has.
    Ok(unsafe { pfn_of_machine(frame)? }.into())
}

/// Where the list of machine frames is, for who saves us.
pub(crate) fn frame_list(
    info: NonNull<StartInfo>,
    translation: Translation,
) -> Result<FrameList, StartError> {
    // SAFETY: the builder's struct.
    let info = unsafe { info.read_volatile() };
    let root = pfn_of(info.pt_base as usize).and_then(|pfn| translation.frame(pfn));
    Ok(FrameList {
        len: info.nr_pages,
        root: root.ok_or(StartError::NoTables)? << 12,
        address: info.mfn_list,
    })
}

struct Tables {
    translation: Translation,
    /// The table of tables for this GiB.
    middle: NonNull<u8>,
    /// Numbers below this one are memory to be mapped.
    usable: u32,
    /// The first page that is free, and mapped by the builder: there is half a MiB of them.
    next: u32,
}

impl Tables {
    /// Maps 2 MiB, unless the builder has done so.
    fn ensure(&mut self, table: u32) -> Result<(), StartError> {
        // SAFETY: the builder's table.
        if unsafe { entry(self.middle, table as usize) } & 1 != 0 {
            return Ok(());
        }
        let pages = u64::from(self.usable);
        let frame = |pfn| {
            self.translation
                .frame(pfn)
                .ok_or(StartError::Memory { pages })
        };
        let own = self.next;
        let new = page(own).cast::<u64>();
        for index in 0..ENTRIES {
            let pfn = table * ENTRIES + index;
            let value = if pfn < self.usable {
                frame(pfn)? << 12 | OURS
            } else {
                0
            };
            // SAFETY: a page that is free, mapped and ours.
            unsafe { new.add(index as usize).write(value) };
        }
        let machine = frame(own)? << 12;
        remap(own, machine | READ_ONLY)?;
        let middle = pfn_of(self.middle.as_ptr() as usize).ok_or(StartError::NoTables)?;
        let slot = (frame(middle)? << 12) + u64::from(table) * 8;
        let mut update = MmuUpdate {
            ptr: slot,
            val: machine | TABLE,
        };
        mmu_update(&mut update)?;
        self.next += 1;
        Ok(())
    }
}

fn mmu_update(update: &mut MmuUpdate) -> Result<(), HypercallError> {
    let at = (&raw mut *update) as u64;
    // SAFETY: one update, in the struct of this hypercall. Xen checks that a new table maps nothing that is not ours, and no
    // table for writing; the place was not mapped before.
    unsafe { call(Number::MmuUpdate, [at, 1, 0, DOMID_SELF.into()])? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::BASE;

    #[test]
    fn both_rings_are_replaced_or_none() {
        // SAFETY: integers.
        let mut info: StartInfo = unsafe { core::mem::zeroed() };
        (info.store_mfn, info.console_mfn) = (7, 9);
        let none = |frame| match frame {
            7 => Ok(1),
            _ => Err(StartError::NoTables),
        };
        let set = set_rings(NonNull::from(&mut info), none);
        assert!(set.is_err());
        assert_eq!((info.store_mfn, info.console_mfn), (7, 9));
        set_rings(NonNull::from(&mut info), |frame| Ok(frame + 1)).unwrap();
        assert_eq!((info.store_mfn, info.console_mfn), (8, 10));
    }

    #[test]
    fn the_map_is_the_last_but_one_gigabyte() {
        assert_eq!(
            (BASE >> 39 & 511, BASE >> 30 & 511, BASE >> 21 & 511),
            (511, 510, 0)
        );
    }
}
