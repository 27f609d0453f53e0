//! From the first instruction to the image's own function.

use alloc::boxed::Box;
use core::arch::global_asm;
use core::cell::{Cell, RefCell};
use core::fmt::Write as _;
use core::ptr::NonNull;

use ringfence_core::{DomId, PAGE};

use crate::boot::pv::{self, StartInfo};
use crate::boot::pvh::{self, Serial, machine_off};
use crate::boot::{Boot, Source, StartError};
use crate::memory::{BASE, WINDOW, XenPage, page, pfn_of, remap};
use crate::platform::{Guest, Machine};
use crate::pool::Pool;
use crate::power::{Reason, shutdown};
use crate::shared::SharedInfo;
use crate::store::{self, GuestStore, StoreRing};
use crate::table::GrantTable;
use crate::{console, heap};

global_asm!(include_str!("entry/pv.S"), start_pv = sym start_pv);
global_asm!(include_str!("entry/pvh.S"), start_pvh = sym start_pvh, options(att_syntax));
global_asm!(include_str!("entry/memory.S"));

unsafe extern "C" {
    /// Where `image.ld` says that the image ends.
    static ringfence_image_end: u8;
    /// The page below the stack.
    static ringfence_stack_guard: u8;
}

unsafe extern "Rust" {
    /// What [`entry!`](crate::entry) makes of the image's function.
    fn ringfence_guest_main(guest: Guest, store: GuestStore);
}

/// Called by `entry/pv.S`.
///
/// # Safety
/// Once, with what Xen gave.
unsafe extern "C" fn start_pv(info: NonNull<StartInfo>, built_end: usize) -> ! {
    // SAFETY: as promised.
    let boot = unsafe { pv::take_over(info, built_end) };
    // A stack that is too small ends in a fault, not in somebody's data. Nothing is lost where that cannot be had.
    let guard = pfn_of((&raw const ringfence_stack_guard) as usize);
    let _ = guard.map(|pfn| remap(pfn, 0));
    run(boot)
}

/// Called by `entry/pvh.S`.
///
/// # Safety
/// Once, with what Xen gave.
unsafe extern "C" fn start_pvh(info: u32) -> ! {
    let end = (&raw const ringfence_image_end) as usize - BASE;
    // SAFETY: as promised.
    let boot = unsafe { pvh::take_over(info, end as u32) };
    if let Err(error @ StartError::NoXen) = boot {
        // Nobody to tell if that fails as well.
        let _ = writeln!(Serial, "ringfence: {error}");
        machine_off()
    }
    run(boot)
}

fn run(boot: Result<Boot, StartError>) -> ! {
    match boot.and_then(open) {
        Ok((guest, store)) => {
            // SAFETY: made by `entry!` from a function of this type; otherwise the image does not link.
            unsafe { ringfence_guest_main(guest, *store) };
            shutdown(Reason::Poweroff)
        }
        Err(error) => {
            console::write_text(format_args!("cannot start: {error}\n"));
            shutdown(Reason::Crash)
        }
    }
}

/// A quarter of the free memory is the heap, the rest are pages.
fn open(boot: Boot) -> Result<(Guest, Box<GuestStore>), StartError> {
    let free = boot.frames.end.saturating_sub(boot.frames.start);
    let heap = free / 4;
    // SAFETY: free, mapped, and given to nobody else.
    let is_enough = unsafe { heap::extend(page(boot.frames.start).as_ptr(), heap as usize * PAGE) };
    if !is_enough {
        let pages = free.into();
        return Err(StartError::Memory { pages });
    }
    let mut window = Pool::new(WINDOW);
    let none = StartError::Memory { pages: 0 };
    let at = window.take().ok_or(none)?;
    let translation = boot.translation;
    translation.map_xen_page(at, XenPage::SharedInfo(boot.given.shared_info))?;
    // SAFETY: just mapped; while it is not, nobody uses it.
    let shared: &'static SharedInfo = Box::leak(Box::new(unsafe { SharedInfo::new(page(at)) }));
    // SAFETY: the console's page, which only the console uses.
    unsafe { console::open(boot.given.console, shared)? };
    // SAFETY: the store's page, which only this connection uses.
    let ring = unsafe { StoreRing::new(boot.given.store, shared)? };
    // Large, with the events that it keeps: too large to be handed about on the stack.
    let mut store = Box::new(GuestStore::new(ring));
    let table = GrantTable::open(translation, &mut window)?;
    let domid: DomId = store::own_domid(&mut store)?;
    if let Source::Pv(info) = boot.source {
        shared.publish(pv::frame_list(info, translation)?);
    }
    let machine = Box::leak(Box::new(Machine {
        domid: Cell::new(domid),
        life: Cell::new(0),
        mapped: Cell::new(0),
        translation,
        source: boot.source,
        shared,
        shared_at: at,
        frames: RefCell::new(Pool::new(boot.frames.start + heap..boot.frames.end)),
        window: RefCell::new(window),
        table: RefCell::new(table),
        quarantine: RefCell::default(),
        command_line: boot.command_line,
    }));
    Ok((Guest(machine), store))
}
