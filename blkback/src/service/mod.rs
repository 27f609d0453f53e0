//! Finds the disks of a driver domain in XenStore, connects them, and runs their engines.
//!
//! [`run`] is the whole program of a block driver domain on a platform with descriptors. What it is made of can be driven by
//! hand: a [`Service`] that looks at XenStore in [`control`](Service::control) and at rings in [`serve`](Service::serve).
//!
//! A service that is stopped ([`Service::stop`]) does not close its devices: it finishes what it took, flushes and lets go,
//! with all states as they are, so that the next process of the domain goes on.

mod alone;
mod board;
mod device;
mod disks;
mod doorbells;
mod id;
mod report;
mod run;
mod statistics;
mod storm;
mod toolstack;

pub use board::STATISTICS_BYTES;
pub use disks::{DiskError, Disks, Files, Image, Images, Kept, Source};
pub use doorbells::{Doorbells, Polled};
pub use id::{BackendType, DeviceId, RingId};
pub use report::{DeviceReport, Report, ReportError, RingReport};
pub use run::{Options, RunError, Waiting, run};
pub use statistics::Statistics;
pub use toolstack::{Hotplug, ImageError, SCRIPT, Toolstack};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::grants::persistent::Budget;
use crate::negotiate::Offer;
use device::{Device, Life, Served};
use ringfence_core::ids::DomId;
use ringfence_core::platform::Platform;
use ringfence_core::store::{Store, StoreError, StorePath, Tx, WatchEvent, domain_path, join};
use toolstack::is_lost;

/// The most devices of one service. The toolstack makes them, so this is a guard against its mistakes only.
const DEVICES_MAX: usize = 4096;

/// Pages of guests that stay mapped by all devices: what 64 busy ones take, 256 MiB of address space.
const MAPPED_PAGES: usize = 64 * crate::grants::persistent::PAGES_PER_DEVICE;

/// Watch events in one round of [`Service::control`].
const EVENTS: u32 = 64;
/// Rounds in one call of it: a connection that is made or closed takes three.
const ROUNDS: u32 = 4;

/// What a look at the rings left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    /// Requests were taken.
    pub worked: bool,
    /// Call [`Service::serve`] again at once.
    pub again: bool,
    /// Call [`Service::control`]: a device drained or failed.
    pub control: bool,
    /// Call [`Service::serve`] at this time at the latest: a delayed doorbell is due.
    pub until: Option<Duration>,
}

impl Turn {
    const fn add(&mut self, served: Served) {
        self.again |= served.again;
        self.control |= served.control;
        self.worked |= served.worked;
    }

    /// Takes account of one device, and notes whether it is to be looked at again.
    fn serve<P: Platform>(
        &mut self,
        id: DeviceId,
        device: &mut Device<'_, P>,
        served: Served,
        dirty: &mut BTreeSet<DeviceId>,
    ) {
        self.add(served);
        if served.control {
            dirty.insert(id);
        }
        device.listed = device.is_due();
        self.until = match (self.until, device.masked_until()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Which rings to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Look {
    /// Those that have something to do.
    #[default]
    Due,
    /// All, without asking to be rung: the next look comes soon.
    Poll,
    /// All, asking to be rung: before sleeping after [`Poll`](Self::Poll).
    Arm,
}

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
    /// Devices that have something to do without being rung, each once: a turn costs what these cost, however many there are.
    due: Vec<DeviceId>,
    /// Devices that are somebody else's, each of which was named once.
    foreign: BTreeSet<DeviceId>,
    rescan: bool,
    stopping: bool,
    /// Some ring may have requests that have to be alone.
    suspects: bool,
    /// What every frontend is offered.
    offer: Offer,
    /// How many pages of guests may stay mapped.
    budget: Arc<Budget>,
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
            due: Vec::new(),
            foreign: BTreeSet::new(),
            rescan: true,
            stopping: false,
            suspects: false,
            offer: Offer {
                persistent: platform.capabilities().keeps_mappings,
                ..Offer::default()
            },
            budget: Arc::new(Budget::new(MAPPED_PAGES)),
        })
    }

    /// At most so many pages of guests stay mapped by all devices found from now on; data in others is copied.
    pub fn limit_mappings(&mut self, pages: usize) {
        self.budget = Arc::new(Budget::new(pages));
    }

    /// Counts there from now on. Call it before the first look at XenStore.
    pub fn count_in(&mut self, statistics: Statistics) {
        self.statistics = Arc::new(statistics);
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

    /// Looks at the watch events that are pending and does what the states ask for. `true` when there may be more: call it
    /// again, after a look at the rings, which whoever floods us with events must not keep waiting (XSA-349).
    ///
    /// # Errors
    /// Only when the connection to the store is of no further use.
    pub fn control(&mut self) -> Result<bool, StoreError> {
        if self.stopping {
            return Ok(false);
        }
        for _ in 0..ROUNDS {
            let mut pending = false;
            for _ in 0..EVENTS {
                let event = self.store.next_watch()?;
                pending = event.is_some();
                match event {
                    Some(event) => self.note(event),
                    None => break,
                }
            }
            if core::mem::take(&mut self.rescan) {
                self.scan()?;
            }
            // What changes on the way is another event.
            let dirty = core::mem::take(&mut self.dirty);
            if dirty.is_empty() && !pending {
                return Ok(false);
            }
            for id in dirty {
                self.control_one(id)?;
            }
        }
        Ok(true)
    }

    fn note(&mut self, event: WatchEvent) {
        let WatchEvent::Changed(changed) = event else {
            self.rescan = true;
            return;
        };
        // A watch on all devices of a type has the type's name, one on a frontend's state also the device's.
        let all = BackendType::from_name(&changed.token);
        let id = match all {
            Some(kind) => self.below(kind, &changed.path),
            None => changed.token.split_once('-').and_then(|(kind, names)| {
                let (front, vdev) = names.split_once('-')?;
                DeviceId::from_names(BackendType::from_name(kind)?, front, vdev)
            }),
        };
        match id {
            Some(id) if self.devices.contains_key(&id) => {
                self.dirty.insert(id);
            }
            // A device that is gone, by its watch on the frontend's state: nothing to find.
            _ => self.rescan |= all.is_some(),
        }
    }

    /// The device in whose directory `path` is.
    fn below(&self, kind: BackendType, path: &str) -> Option<DeviceId> {
        let root = root(self.platform.domid(), kind).ok()?;
        let mut names = path
            .strip_prefix(root.as_str())?
            .strip_prefix('/')?
            .split('/');
        DeviceId::from_names(kind, names.next()?, names.next()?)
    }

    /// Looks which devices there are. Those that are gone find that out by themselves.
    fn scan(&mut self) -> Result<(), StoreError> {
        self.dirty.extend(self.devices.keys());
        let mut foreign = BTreeSet::new();
        for kind in self.toolstack.types {
            let root = root(self.platform.domid(), *kind)?;
            for front in self.names(&root)? {
                let Ok(dir) = join(&root, &front) else {
                    continue;
                };
                for vdev in self.names(&dir)? {
                    let Some(id) = DeviceId::from_names(*kind, &front, &vdev) else {
                        continue;
                    };
                    if self.devices.contains_key(&id) {
                        continue;
                    }
                    let dir = id.backend_dir(self.platform.domid());
                    if !self.toolstack.owns(&mut self.store, &dir)? {
                        if !self.foreign.contains(&id) {
                            tracing::info!("{id}: not ours, its script is not {SCRIPT}");
                        }
                        foreign.insert(id);
                    } else if self.devices.len() < DEVICES_MAX {
                        self.add(id);
                    }
                }
            }
        }
        self.foreign = foreign;
        Ok(())
    }

    fn add(&mut self, id: DeviceId) {
        let stats = self.statistics.insert(id);
        let device = Device::new(
            self.platform.domid(),
            id,
            self.toolstack,
            stats,
            self.offer,
            Arc::clone(&self.budget),
        );
        self.devices.insert(id, device);
        self.dirty.insert(id);
    }

    fn names(&mut self, dir: &str) -> Result<Vec<String>, StoreError> {
        let mut buf = vec![0; 1 << 16];
        match self.store.directory(Tx::NONE, dir, &mut buf) {
            Ok(names) => Ok(names.map(str::to_owned).collect()),
            Err(error) if is_lost(error) => Err(error),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn control_one(&mut self, id: DeviceId) -> Result<(), StoreError> {
        let Some(device) = self.devices.get_mut(&id) else {
            return Ok(());
        };
        let life = device.control(
            self.platform,
            &mut self.store,
            &mut self.disks,
            &mut self.doorbells,
        );
        // It may just have been connected.
        self.suspects = true;
        match life {
            Ok(Life::Goes) => {}
            Ok(Life::Over) => {
                self.devices.remove(&id);
                self.due.retain(|due| *due != id);
                self.statistics.remove(id);
            }
            Err(error) if is_lost(error) => return Err(error),
            // The toolstack took the nodes away under us, or a quota is reached: the next event tries again.
            Err(error) => tracing::warn!("{id}: {error}"),
        }
        self.list(id);
        Ok(())
    }

    /// Looks at the size of every connected disk, and tells the frontends of those that changed. `false` if none is connected.
    ///
    /// # Errors
    /// Only when the connection to the store is of no further use.
    pub fn refresh(&mut self) -> Result<bool, StoreError> {
        let mut connected = false;
        for (id, device) in &mut self.devices {
            connected |= device.is_connected();
            match device.resize(&mut self.store) {
                Err(error) if is_lost(error) => return Err(error),
                // The next look tries again.
                Err(error) => tracing::warn!("{id}: {error}"),
                Ok(()) => {}
            }
        }
        Ok(connected)
    }

    /// Serves a ring whose doorbell was rung.
    pub fn rung(&mut self, ring: RingId, budget: u32, now: Duration) -> Turn {
        let mut turn = Turn::default();
        if self.alone().is_some_and(|alone| alone != ring) {
            // Rung it stays.
            return turn;
        }
        if let Some(device) = self.devices.get_mut(&ring.device) {
            let served = device.rung(ring.queue, budget, now, &mut self.doorbells);
            turn.add(served);
            if served.control {
                self.dirty.insert(ring.device);
            }
            self.list(ring.device);
        }
        turn
    }

    /// Asks every channel and serves those that were rung: for worlds without descriptors.
    pub fn poll(&mut self, budget: u32, now: Duration) -> Turn {
        let mut turn = Turn::default();
        if self.alone().is_some() {
            return turn;
        }
        for (id, device) in &mut self.devices {
            let served = device.poll(budget, now, &mut self.doorbells);
            turn.add(served);
            if served.control {
                self.dirty.insert(*id);
            }
        }
        self.list_all();
        turn
    }

    /// Serves the rings that have something to do without being rung: unfinished budgets, disks that finished something,
    /// doorbells whose delay is over; or all of them. Each at most once, within the budget, so that no guest starves another.
    pub fn serve(&mut self, look: Look, budget: u32, now: Duration) -> Turn {
        if let Some(ring) = self.alone() {
            return self.serve_alone(ring, look, budget, now);
        }
        let mut turn = Turn::default();
        if look == Look::Due {
            let mut due = core::mem::take(&mut self.due);
            due.retain(|id| self.serve_one(*id, look, budget, now, &mut turn));
            self.due = due;
            return turn;
        }
        self.due.clear();
        for (id, device) in &mut self.devices {
            let served = device.serve(look, budget, now, None, &mut self.doorbells);
            turn.serve(*id, device, served, &mut self.dirty);
            if device.listed {
                self.due.push(*id);
            }
        }
        turn
    }

    /// Whether the device has more to do.
    fn serve_one(
        &mut self,
        id: DeviceId,
        look: Look,
        budget: u32,
        now: Duration,
        turn: &mut Turn,
    ) -> bool {
        let Some(device) = self.devices.get_mut(&id) else {
            return false;
        };
        let served = device.serve(look, budget, now, None, &mut self.doorbells);
        turn.serve(id, device, served, &mut self.dirty);
        device.listed
    }

    /// Looks whether a device has something to do without being rung.
    fn list(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id)
            && !device.listed
            && device.is_due()
        {
            device.listed = true;
            self.due.push(id);
        }
    }

    fn list_all(&mut self) {
        for (id, device) in &mut self.devices {
            if !device.listed && device.is_due() {
                device.listed = true;
                self.due.push(*id);
            }
        }
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
    }
}

/// The directory of all devices of a type.
fn root(domid: DomId, kind: BackendType) -> Result<StorePath, StoreError> {
    join(&join(&domain_path(domid), "backend")?, kind.name())
}
