//! Finds the disks of a driver domain in XenStore, connects them, and runs their engines.
//!
//! [`run`] is the whole program of a block driver domain on a platform with descriptors. What it is made of can be driven by
//! hand: a [`Service`] that looks at XenStore in [`control`](Service::control) and at rings in [`serve`](Service::serve).
//!
//! A process may have several threads ([`Crew`]): each has a service of its own, with its share of the devices.
//!
//! A service that is stopped ([`Service::stop`]) does not close its devices: it finishes what it took, flushes and lets go,
//! with all states as they are, so that the next process of the domain goes on.

mod alone;
mod board;
mod clock;
mod control;
mod crew;
mod device;
mod disks;
mod doorbells;
mod id;
mod report;
mod run;
mod statistics;
mod storm;
mod toolstack;
mod turn;
mod waiting;

pub use board::STATISTICS_BYTES;
pub use control::Refreshed;
pub use crew::{Crew, THREADS_MAX, Worker};
pub use disks::{Asked, DiskError, Disks, Files, Image, Images, Kept, OpenDisk, Source};
pub use doorbells::{Doorbells, Polled};
pub use id::{BackendType, DeviceId, RingId};
pub use report::{DeviceReport, Report, ReportError, RingReport};
pub use run::{Options, RunError, run};
pub use statistics::Statistics;
pub use toolstack::{Hotplug, ImageError, SCRIPT, Toolstack};
pub use turn::Turn;
pub use waiting::{Waiting, WaitingError};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::grants::persistent::Budget;
use crate::negotiate::Offer;
use control::root;
use crew::Part;
use device::Device;
use ringfence_core::platform::Platform;
use ringfence_core::store::{Store, StoreError};

/// The most devices of one service. The toolstack makes them, so this is a guard against its mistakes only.
const DEVICES_MAX: usize = 4096;

/// Pages of guests that stay mapped by all devices: what 64 busy ones take, 256 MiB of address space.
const MAPPED_PAGES: usize = 64 * crate::grants::persistent::PAGES_PER_DEVICE;

/// All disks of one driver domain.
pub struct Service<'p, P: Platform, D, B = Polled> {
    platform: &'p P,
    store: P::Store,
    disks: D,
    doorbells: B,
    toolstack: Toolstack,
    devices: BTreeMap<DeviceId, Device<'p, P>>,
    statistics: Arc<Statistics>,
    dirty: BTreeSet<DeviceId>,
    /// Devices whose disks are to be asked for again.
    later: BTreeSet<DeviceId>,
    /// Devices that have something to do without being rung, each once: a turn costs what these cost, however many there are.
    due: Vec<DeviceId>,
    /// Devices that are somebody else's, each of which was named once.
    foreign: BTreeSet<DeviceId>,
    /// Devices that events named and that are not known.
    unknown: BTreeSet<DeviceId>,
    /// Which look at the devices this is.
    round: u64,
    rescan: bool,
    stopping: bool,
    /// Some ring may have requests that have to be alone.
    suspects: bool,
    /// The one whose turn it is.
    alone: Option<RingId>,
    /// What every frontend is offered.
    offer: Offer,
    /// How many pages of guests may stay mapped.
    budget: Arc<Budget>,
    waiting: Waiting,
    /// Which of the process's threads this is.
    part: Part,
}

impl<'p, P: Platform, D: Disks, B: Doorbells<P::Channel>> Service<'p, P, D, B> {
    /// A service for the disks that have, or will have, their directories in the domain's `backend/vbd`, hosted.
    ///
    /// # Errors
    /// If the watch cannot be set.
    pub fn new(
        platform: &'p P,
        store: P::Store,
        disks: D,
        doorbells: B,
    ) -> Result<Self, StoreError> {
        Self::with_toolstack(platform, store, disks, doorbells, Toolstack::HOSTED)
    }

    /// A service for the devices that this toolstack makes.
    ///
    /// # Errors
    /// If a watch cannot be set.
    pub fn with_toolstack(
        platform: &'p P,
        mut store: P::Store,
        disks: D,
        doorbells: B,
        toolstack: Toolstack,
    ) -> Result<Self, StoreError> {
        for kind in toolstack.types {
            store.watch(&root(platform.domid(), *kind)?, kind.name())?;
        }
        Ok(Self {
            platform,
            store,
            disks,
            doorbells,
            toolstack,
            devices: BTreeMap::new(),
            statistics: Arc::default(),
            dirty: BTreeSet::new(),
            later: BTreeSet::new(),
            due: Vec::new(),
            foreign: BTreeSet::new(),
            unknown: BTreeSet::new(),
            round: 0,
            rescan: true,
            stopping: false,
            suspects: false,
            alone: None,
            offer: Offer {
                persistent: platform.capabilities().keeps_mappings,
                ..Offer::default()
            },
            budget: Arc::new(Budget::new(MAPPED_PAGES)),
            waiting: Waiting::Block,
            part: Part::default(),
        })
    }

    /// At most so many pages of guests stay mapped by all devices found from now on; data in others is copied.
    pub fn limit_mappings(&mut self, pages: usize) {
        self.budget = Arc::new(Budget::new(pages));
    }

    /// So are the rings of all devices found from now on waited for, unless their configuration says otherwise.
    pub const fn wait_by(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Counts there from now on. Call it before the first look at XenStore.
    pub fn count_in(&mut self, statistics: Arc<Statistics>) {
        self.statistics = statistics;
    }

    /// Is one of several services of this process from now on, each with a thread and a share of the devices of its own. Call it
    /// before the first look at XenStore.
    pub fn join(&mut self, crew: &Arc<Crew>, index: u16) {
        self.budget = Arc::clone(&crew.budget);
        self.part = Part::new(Arc::clone(crew), index);
    }

    /// The counters of all devices, to be read in any thread.
    pub const fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// The store.
    pub const fn store(&self) -> &P::Store {
        &self.store
    }

    /// Who waits for the channels.
    pub const fn doorbells(&self) -> &B {
        &self.doorbells
    }

    /// Where the disks come from.
    pub const fn disks(&self) -> &D {
        &self.disks
    }

    /// How many devices there are, connected or not.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Takes no more requests, for ever. What was taken is finished by [`serve`](Self::serve).
    pub fn stop(&mut self) {
        self.stopping = true;
        self.devices.values_mut().for_each(Device::stop);
        self.list_all();
    }

    /// Starts a flush of every connected disk.
    pub fn flush(&mut self) {
        self.devices.values_mut().for_each(Device::flush);
        self.list_all();
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.devices.values().all(Device::is_idle)
    }

    /// Unmaps and unbinds everything, and writes nothing: the next process of this domain goes on.
    pub fn leave(mut self) {
        for device in self.devices.values_mut() {
            device.release(&mut self.doorbells);
        }
        self.part.leave();
    }
}
