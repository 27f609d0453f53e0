//! `struct shared_info` of `xen/xen.h`: pending events and the time.

use core::arch::x86_64::_rdtsc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use ringfence_core::platform::PlatformError;
use ringfence_core::{EvtchnPort, PAGE, SharedMem};
use ringfence_mem::RawPages;
use zerocopy::IntoBytes as _;

use crate::hypercall::{HypercallError, Number, operate};

/// Ports of the 2-level layout.
const PORTS: u32 = ringfence_core::wire::event_channel::TWO_LEVEL_NR_CHANNELS;
/// `vcpu_info[0].evtchn_upcall_mask`.
const UPCALL_MASK: usize = 1;
/// `vcpu_info[0].time`: version, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift.
const TIME: usize = 32;
/// `evtchn_pending`.
const PENDING: usize = 2048;
/// `evtchn_mask`.
const MASK: usize = 2560;
/// `arch.max_pfn`, then `pfn_to_mfn_frame_list_list`, `nmi_reason`, `p2m_cr3`, `p2m_vaddr`, `p2m_generation`.
const ARCH: usize = 3088;
/// `wc_version`, `wc_sec`, `wc_nsec`, `wc_sec_hi`.
const WALL_CLOCK: usize = 3072;

/// `SCHEDOP_poll`.
const POLL: u32 = 3;
/// The most ports that `SCHEDOP_poll` takes.
const POLL_MAX: usize = 128;

/// `struct sched_poll`.
#[repr(C)]
pub(crate) struct SchedPoll {
    pub(crate) ports: *const u32,
    pub(crate) nr_ports: u32,
    timeout: u64,
}

/// Where a PV guest's list of machine frames is, for who saves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameList {
    /// Entries.
    pub(crate) len: u64,
    /// The machine address of the page tables in which `address` is one.
    pub(crate) root: u64,
    pub(crate) address: u64,
}

/// The page.
#[derive(Debug)]
pub(crate) struct SharedInfo(RawPages);

impl SharedInfo {
    /// # Safety
    /// `shared_info` is mapped here for good.
    pub(crate) unsafe fn new(at: NonNull<u8>) -> Self {
        // SAFETY: as promised.
        let page = Self(unsafe { RawPages::new(at, PAGE) });
        page.mask_upcalls();
        page
    }

    /// Nobody calls us: we look. An upcall would write where code for the host's target keeps what it has in hand.
    pub(crate) fn mask_upcalls(&self) {
        self.0.write(UPCALL_MASK, &[1]);
    }

    /// Says where the list is. Whoever saves us looks before we are told of it. It is a linear list, which toolstacks know
    /// since Xen 4.6; ~0 is no tree.
    pub(crate) fn publish(&self, list: FrameList) {
        let words = [list.len, u64::MAX, 0, list.root, list.address, 0];
        self.0.write(ARCH, words.as_bytes());
    }

    fn bit(&self, array: usize, port: EvtchnPort) -> (&AtomicU64, u64) {
        let port = port.get() % PORTS;
        let at = array + port as usize / 64 * 8;
        // SAFETY: within the page, which is mapped for the life of `self`; atomics may be changed by others.
        let word = unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(at).cast()) };
        (word, 1 << (port % 64))
    }

    /// Takes what is pending, and keeps the port out of [`wait`](Self::wait) until [`unmask`](Self::unmask).
    pub(crate) fn take(&self, port: EvtchnPort) -> bool {
        let pending = self.clear(port);
        if pending {
            let (mask, bit) = self.bit(MASK, port);
            mask.fetch_or(bit, Ordering::AcqRel);
        }
        pending
    }

    /// Takes what is pending.
    pub(crate) fn clear(&self, port: EvtchnPort) -> bool {
        let (pending, bit) = self.bit(PENDING, port);
        pending.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Lets [`wait`](Self::wait) look at the port.
    pub(crate) fn unmask(&self, port: EvtchnPort) {
        let (mask, bit) = self.bit(MASK, port);
        mask.fetch_and(!bit, Ordering::AcqRel);
    }

    fn is_masked(&self, port: EvtchnPort) -> bool {
        let (mask, bit) = self.bit(MASK, port);
        mask.load(Ordering::Acquire) & bit != 0
    }

    /// Sleeps until one of the ports that are not masked is pending, or the time has passed. Takes nothing.
    pub(crate) fn wait(
        &self,
        ports: impl IntoIterator<Item = EvtchnPort>,
        timeout: Option<Duration>,
    ) -> Result<(), PlatformError> {
        let mut wanted = [0; POLL_MAX];
        let open = ports.into_iter().filter(|port| !self.is_masked(*port));
        let mut count = 0;
        for (to, port) in wanted.iter_mut().zip(open) {
            *to = port.get();
            count += 1;
        }
        if count == 0 && timeout.is_none() {
            let (op, errno) = ("wait for no port, for ever", 22);
            return Err(PlatformError { op, errno });
        }
        // 0 is for ever.
        let deadline = timeout.map_or(0, |timeout| {
            let until = self.now().saturating_add(timeout);
            u64::try_from(until.as_nanos()).unwrap_or(u64::MAX).max(1)
        });
        let mut argument = SchedPoll {
            ports: wanted.as_ptr(),
            nr_ports: count,
            timeout: deadline,
        };
        // SAFETY: the struct of this operation, and as many ports as it says.
        let polled: Result<u64, HypercallError> =
            unsafe { operate(Number::SchedOp, POLL, &mut argument) };
        polled?;
        Ok(())
    }

    /// Time since Xen started.
    pub(crate) fn now(&self) -> Duration {
        loop {
            let version = self.0.load_u32(TIME);
            let stamp = self.0.load_u64(TIME + 8);
            let system = self.0.load_u64(TIME + 16);
            let scale = self.0.load_u32(TIME + 24);
            let mut shift = [0];
            self.0.read(TIME + 28, &mut shift);
            // SAFETY: reads a counter.
            let counter = unsafe { _rdtsc() };
            if version & 1 == 0 && version == self.0.load_u32(TIME) {
                let since = counter.saturating_sub(stamp);
                let passed = scaled(since, scale, i8::from_ne_bytes(shift));
                return Duration::from_nanos(system.saturating_add(passed));
            }
        }
    }

    /// Time of day: since the start of 1970, UTC.
    pub(crate) fn wall_clock(&self) -> Duration {
        loop {
            let version = self.0.load_u32(WALL_CLOCK);
            let low = self.0.load_u32(WALL_CLOCK + 4);
            let nanoseconds = self.0.load_u32(WALL_CLOCK + 8);
            let high = self.0.load_u32(WALL_CLOCK + 12);
            if version & 1 == 0 && version == self.0.load_u32(WALL_CLOCK) {
                let seconds = u64::from(high) << 32 | u64::from(low);
                // What it was when Xen started.
                return Duration::new(seconds, nanoseconds % 1_000_000_000)
                    .saturating_add(self.now());
            }
        }
    }
}

/// Counts of the processor in nanoseconds.
fn scaled(count: u64, scale: u32, shift: i8) -> u64 {
    let distance = shift.unsigned_abs().into();
    let shifted = if shift < 0 {
        count.checked_shr(distance)
    } else {
        count.checked_shl(distance)
    };
    let product = (u128::from(shifted.unwrap_or(0)) * u128::from(scale)) >> 32;
    u64::try_from(product).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE]);

    #[test]
    fn an_event_is_taken_once_and_masks_its_port() {
        let mut page = Page([0; PAGE]);
        page.0[PENDING + 12] = 4; // port 98
        // SAFETY: not used otherwise while the value lives.
        let shared = unsafe { SharedInfo::new(NonNull::from(&mut page.0).cast()) };
        let port = EvtchnPort::new(98);
        assert!(!shared.is_masked(port));
        assert!(shared.take(port));
        assert!(shared.is_masked(port));
        assert!(!shared.take(port));
        shared.unmask(port);
        assert!(!shared.is_masked(port));
        assert!(!shared.take(EvtchnPort::new(99)));
        let mut upcalls = [0];
        shared.0.read(UPCALL_MASK, &mut upcalls);
        assert_eq!(upcalls, [1]);
    }

    #[test]
    fn counts_become_nanoseconds() {
        // 2 GHz: a count is half a nanosecond.
        assert_eq!(scaled(2_000_000_000, 1 << 31, 0), 1_000_000_000);
        assert_eq!(scaled(1000, u32::MAX, -1), 499);
        assert_eq!(scaled(1000, 1 << 31, 2), 2000);
    }
}
