//! What a PVH guest finds: `hvm_start_info`, parameters, and a processor that says who runs it.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::fmt::{self, Write};
use core::ops::Range;
use core::ptr::NonNull;

use ringfence_core::{EvtchnPort, PAGE};

use super::{Boot, COMMAND_LINE, Given, Ring, Source, StartError};
use crate::hypercall::{DOMID_SELF, Number, Way, enter_by, operate};
use crate::memory::{Translation, WINDOW};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const RAM: u32 = 1;
/// `HVMOP_set_param`.
const SET_PARAM: u32 = 0;
/// `HVMOP_get_param`.
const GET_PARAM: u32 = 1;
/// `HVM_PARAM_CALLBACK_IRQ`, and a value of it: `HVM_PARAM_CALLBACK_TYPE_VECTOR`, any vector that is no exception's.
const CALLBACK: (u32, u64) = (0, 2 << 56 | 0xf0);
/// `HVM_PARAM_STORE_PFN`, `HVM_PARAM_STORE_EVTCHN`.
const STORE: [u32; 2] = [1, 2];
/// `HVM_PARAM_CONSOLE_PFN`, `HVM_PARAM_CONSOLE_EVTCHN`.
const CONSOLE: [u32; 2] = [17, 18];

/// `struct hvm_start_info`, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}

/// `struct hvm_memmap_table_entry`.
#[derive(Clone, Copy)]
#[repr(C)]
struct MemoryEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// `struct xen_hvm_param`.
#[repr(C)]
struct Param {
    domid: u16,
    pad: u16,
    index: u32,
    value: u64,
}

/// Where physical memory is mapped as it is.
fn identity(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// Looks at what Xen says about the memory, and asks it for the rest.
///
/// # Safety
/// Called once, with what Xen gave in ebx: no other memory is in use but the image's, which ends at `image_end`.
pub(crate) unsafe fn take_over(info: u32, image_end: u32) -> Result<Boot, StartError> {
    let way = way().ok_or(StartError::NoXen)?;
    enter_by(way);
    listen_for_events()?;
    // SAFETY: Xen's struct, in memory that nobody uses yet.
    let info = unsafe { identity(info.into()).cast::<StartInfo>().read() };
    if info.magic != MAGIC || info.version < 1 {
        return Err(StartError::StartInfo { magic: info.magic });
    }
    let list = identity(info.memmap_paddr).cast::<MemoryEntry>();
    // SAFETY: as many entries as Xen says.
    let entries = (0..info.memmap_entries as usize).map(|nth| unsafe { list.add(nth).read() });
    let frames = frames(entries, image_end.into())?;
    let mut command_line = [0; COMMAND_LINE];
    if info.cmdline_paddr != 0 {
        let text = identity(info.cmdline_paddr);
        for (at, byte) in command_line.iter_mut().enumerate() {
            // SAFETY: up to its NUL the text is there.
            *byte = unsafe { text.add(at).read() };
            if *byte == 0 {
                break;
            }
        }
    }
    Ok(Boot {
        translation: Translation::Pvh,
        source: Source::Pvh,
        given: given()?,
        command_line,
        frames,
    })
}

/// What the parameters of this domain say now.
pub(super) fn given() -> Result<Given, StartError> {
    let ring = |[page, port]: [u32; 2]| {
        let (frame, value) = (param(page)?, param(port)?);
        let none = |index, value| StartError::Param { index, value };
        let at = NonNull::new(identity(frame << 12)).ok_or(none(page, frame))?;
        let number = u32::try_from(value).map_err(|_| none(port, value))?;
        let port = EvtchnPort::new(number);
        Ok::<_, StartError>(Ring { page: at, port })
    };
    Ok(Given {
        shared_info: 0,
        store: ring(STORE)?,
        console: ring(CONSOLE)?,
    })
}

/// The pages behind the image, up to the end of the memory it lies in.
fn frames(
    entries: impl Iterator<Item = MemoryEntry>,
    image_end: u64,
) -> Result<Range<u32>, StartError> {
    let mut ram = entries.filter(|entry| entry.kind == RAM);
    let within = |entry: &MemoryEntry| {
        let end = entry.addr.saturating_add(entry.size);
        (entry.addr..end).contains(&image_end).then_some(end)
    };
    let end = ram.find_map(|entry| within(&entry));
    let end = end.ok_or(StartError::Memory { pages: 0 })? / PAGE as u64;
    let end = u32::try_from(end).unwrap_or(u32::MAX).min(WINDOW.start);
    let start = image_end.div_ceil(PAGE as u64);
    let pages = end.into();
    let start = u32::try_from(start).map_err(|_| StartError::Memory { pages })?;
    Ok(start..end)
}

/// Names an interrupt for events. It never comes, as interrupts are off; but only who has one is told when he was not saved after
/// all.
fn listen_for_events() -> Result<(), StartError> {
    let (index, value) = CALLBACK;
    let mut argument = Param {
        domid: DOMID_SELF,
        pad: 0,
        index,
        value,
    };
    // SAFETY: the struct of this operation.
    unsafe { operate(Number::HvmOp, SET_PARAM, &mut argument)? };
    Ok(())
}

fn param(index: u32) -> Result<u64, StartError> {
    let mut argument = Param {
        domid: DOMID_SELF,
        pad: 0,
        index,
        value: 0,
    };
    // SAFETY: the struct of this operation.
    unsafe { operate(Number::HvmOp, GET_PARAM, &mut argument)? };
    Ok(argument.value)
}

/// How to enter Xen; `None` if there is none.
fn way() -> Option<Way> {
    let signature = |leaf| {
        let found = __cpuid(leaf);
        [found.ebx, found.ecx, found.edx].map(u32::to_le_bytes)
    };
    let is_xen = |leaf| signature(leaf).as_flattened() == b"XenVMMXenVMM";
    (0x4000_0000..0x4001_0000)
        .step_by(0x100)
        .find(|leaf| is_xen(*leaf))?;
    // ebx, edx, ecx here.
    let [first, _, _] = signature(0);
    Some(match &first {
        b"Auth" | b"Hygo" => Way::Vmmcall,
        _ => Way::Vmcall,
    })
}

/// The first serial port and the port of debuggers, for what must be said where there is no console of Xen's.
pub(crate) struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            for port in [0x3f8u16, 0xe9] {
                // SAFETY: a byte for a port that writes it somewhere, or that is not there.
                unsafe {
                    asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack))
                };
            }
        }
        Ok(())
    }
}

/// Switches off the machine that QEMU emulates; elsewhere the processor stops.
pub(crate) fn machine_off() -> ! {
    // SAFETY: the ports are those of ACPI's PM1a control and of nothing else in QEMU's machines; the value asks for S5.
    unsafe { asm!("out dx, ax", in("dx") 0x604u16, in("ax") 0x2000u16, options(nomem, nostack)) };
    loop {
        // SAFETY: stops until an interrupt, and interrupts are off.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_behind_the_image_are_free() {
        let entry = |addr, size, kind| MemoryEntry {
            addr,
            size,
            kind,
            reserved: 0,
        };
        let map = [
            entry(0, 0xa0000, RAM),
            entry(0xf0000, 0x10000, 2),
            entry(0x10_0000, 0x3f0_0000, RAM),
        ];
        let found = |end| frames(map.into_iter(), end);
        assert_eq!(found(0x18_1234), Ok(0x182..0x4000));
        assert_eq!(found(0x400_0000), Err(StartError::Memory { pages: 0 }));
        assert_eq!(found(0xf_1000), Err(StartError::Memory { pages: 0 }));
    }
}
