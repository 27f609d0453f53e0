//! The platform.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::time::Duration;

use ringfence_core::platform::{
    Access, Capabilities, EvtchnError, GrantCopy, GrantError, Platform, PlatformError,
};
use ringfence_core::{DomId, EvtchnPort, GrantRef};

use crate::boot::{COMMAND_LINE, Source};
use crate::evtchn::{self, Channel};
use crate::grants::{self, Granted};
use crate::hypercall::{HypercallError, Number, call};
use crate::mapping::{self, Mapping};
use crate::memory::Translation;
use crate::pool::Pool;
use crate::quarantine::Quarantine;
use crate::shared::SharedInfo;
use crate::store::GuestStore;
use crate::table::GrantTable;

/// `VCPUOP_get_runstate_info`.
const GET_RUNSTATE_INFO: u64 = 4;

/// How long a page may stay granted after its peer has unmapped it.
const LOOK: Duration = Duration::from_secs(1);

/// `struct vcpu_runstate_info` of `xen/vcpu.h`.
#[derive(Default)]
#[repr(C)]
struct RunState {
    state: i32,
    state_entry_time: u64,
    running: u64,
    others: [u64; 3],
}

/// All there is of a guest. One processor, no interrupts: cells suffice.
pub(crate) struct Machine {
    /// Another one after having been saved.
    pub(crate) domid: Cell<DomId>,
    /// Counts the domains that this guest was: what was granted and allocated in an earlier one is no more.
    pub(crate) life: Cell<u32>,
    /// Pages of others that are mapped.
    pub(crate) mapped: Cell<usize>,
    pub(crate) translation: Translation,
    pub(crate) source: Source,
    pub(crate) shared: &'static SharedInfo,
    /// Where that is in the window.
    pub(crate) shared_at: u32,
    pub(crate) frames: RefCell<Pool>,
    pub(crate) window: RefCell<Pool>,
    pub(crate) table: RefCell<GrantTable>,
    pub(crate) quarantine: RefCell<Quarantine>,
    pub(crate) command_line: [u8; COMMAND_LINE],
}

/// The platform of a guest without an operating system. A handle: copies are the same.
#[derive(Clone, Copy)]
pub struct Guest(pub(crate) &'static Machine);

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guest(domain {})", self.0.domid.get())
    }
}

impl Guest {
    pub(crate) const fn machine(self) -> &'static Machine {
        self.0
    }

    pub(crate) const fn shared(self) -> &'static SharedInfo {
        self.0.shared
    }

    /// Sleeps until one of the ports is pending, or the time has passed; `None` is for ever. Takes nothing. A port whose event
    /// was taken does not count until it is unmasked. At most 128 ports. While peers have pages mapped that were dropped, it
    /// returns after a second at the latest, having looked at 64 of them: a page is granted until it is seen to be unmapped, and
    /// nobody says when that is.
    ///
    /// # Errors
    /// There is neither a port to wait for nor a time, or a port is none of ours.
    pub fn wait(
        self,
        ports: &[EvtchnPort],
        timeout: Option<Duration>,
    ) -> Result<(), PlatformError> {
        self.sleep(ports.iter().copied(), timeout)
    }

    /// As [`wait`](Self::wait), and until the store has something. For an event that came while the store was asked something
    /// else nobody rings again: while there is one, this returns at once. At most 127 ports.
    ///
    /// # Errors
    /// A port is none of ours.
    pub fn wait_with_store(
        self,
        store: &GuestStore,
        ports: &[EvtchnPort],
        timeout: Option<Duration>,
    ) -> Result<(), PlatformError> {
        if store.has_watch() {
            return Ok(());
        }
        let all = core::iter::once(store.transport().port()).chain(ports.iter().copied());
        self.sleep(all, timeout)
    }

    fn sleep(
        self,
        ports: impl Iterator<Item = EvtchnPort>,
        timeout: Option<Duration>,
    ) -> Result<(), PlatformError> {
        let look = grants::release_quarantine(self).then_some(LOOK);
        let timeout = match (timeout, look) {
            (Some(timeout), Some(look)) => Some(timeout.min(look)),
            (timeout, look) => timeout.or(look),
        };
        self.0.shared.wait(ports, timeout)
    }

    /// Time since Xen started. It is another one's after the guest was saved and restored.
    pub fn now(self) -> Duration {
        self.0.shared.now()
    }

    /// How long the processor has run this guest since it began, with what Xen did for it.
    ///
    /// # Errors
    /// Xen refused.
    pub fn run_time(self) -> Result<Duration, HypercallError> {
        let mut found = RunState::default();
        let at = (&raw mut found) as u64;
        // SAFETY: the struct of this operation, for our one processor.
        unsafe { call(Number::VcpuOp, [GET_RUNSTATE_INFO, 0, at, 0])? };
        Ok(Duration::from_nanos(found.running))
    }

    /// Time of day: since the start of 1970, UTC.
    pub fn wall_clock(self) -> Duration {
        self.0.shared.wall_clock()
    }

    /// What the toolstack gave this guest to read (`extra` and `root` of xl's configuration), as far as it is UTF-8.
    pub fn command_line(self) -> &'static str {
        let text = self.0.command_line.split(|byte| *byte == 0).next();
        let text = text.unwrap_or_default();
        match core::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
        }
    }

    /// Which of its lives this guest is in.
    pub(crate) fn life(self) -> u32 {
        self.0.life.get()
    }

    /// Pages that are free.
    pub fn free_pages(self) -> u32 {
        self.0.frames.borrow().free()
    }
}

impl Platform for Guest {
    type Granted = Granted;
    type Mapping = Mapping;
    type Channel = Channel;
    type Store = GuestStore;

    fn domid(&self) -> DomId {
        self.0.domid.get()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            grant_in_place: false,
            revocable: true,
            observes_mappings: true,
            // There is no process: what ends is the domain.
            outlives_process: true,
            // They live in the window, which rings need too.
            keeps_mappings: false,
        }
    }

    fn alloc(&self, peer: DomId, access: Access) -> Result<Granted, GrantError> {
        grants::alloc(*self, peer, access)
    }

    fn map(&self, peer: DomId, refs: &[GrantRef], access: Access) -> Result<Mapping, GrantError> {
        mapping::map(*self, peer, refs, access)
    }

    fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        mapping::copy(*self, peer, ops)
    }

    fn alloc_unbound(&self, peer: DomId) -> Result<Channel, EvtchnError> {
        evtchn::alloc_unbound(*self, peer)
    }

    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<Channel, EvtchnError> {
        evtchn::bind(*self, peer, port)
    }
}
