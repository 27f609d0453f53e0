//! The control plane of a service: which devices there are, and what their states ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_core::ids::DomId;
use ringfence_core::platform::Platform;
use ringfence_core::store::{Store, StoreError, StorePath, Tx, WatchEvent, domain_path, join};

use super::device::{Device, Life};
use super::disks::Disks;
use super::doorbells::Doorbells;
use super::id::{BackendType, DeviceId};
use super::toolstack::{SCRIPT, is_lost};
use super::{DEVICES_MAX, Service};

/// Watch events in one round of [`Service::control`].
const EVENTS: u32 = 64;
/// Rounds in one call of it: a connection that is made or closed takes three.
const ROUNDS: u32 = 4;

/// What [`Service::refresh`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refreshed {
    /// There are frontends to tell of sizes.
    pub connected: bool,
    /// Some were told. Call [`Service::control`] before any sleep: meanwhile events came that the store does not ring for again.
    pub told: bool,
}

impl<'p, P: Platform, D: Disks, B: Doorbells<P::Channel>> Service<'p, P, D, B> {
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
            let rescan = core::mem::take(&mut self.rescan);
            if rescan {
                self.scan()?;
            }
            let unknown = core::mem::take(&mut self.unknown);
            // While we ask the store something, events come that it does not ring for again.
            let asked = rescan || !unknown.is_empty();
            for id in unknown {
                self.find(id)?;
            }
            // What changes on the way is another event.
            let dirty = core::mem::take(&mut self.dirty);
            if dirty.is_empty() && !pending && !asked {
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
            // One that is new, or gone already: nobody else is looked at for its sake.
            Some(id) if all.is_some() => {
                if self.part.has(id) {
                    self.unknown.insert(id);
                }
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
                    if !self.part.has(id) || self.devices.contains_key(&id) {
                        continue;
                    }
                    if !self.claim(id)? {
                        foreign.insert(id);
                    }
                }
            }
        }
        self.foreign = foreign;
        Ok(())
    }

    /// Looks at one device that may be there.
    fn find(&mut self, id: DeviceId) -> Result<(), StoreError> {
        let dir = id.backend_dir(self.platform.domid());
        let there = match self.store.directory(Tx::NONE, &dir, &mut vec![0; 1 << 16]) {
            Ok(_) => true,
            Err(error) if is_lost(error) => return Err(error),
            Err(_) => false,
        };
        if !there || self.devices.contains_key(&id) {
            self.foreign.remove(&id);
        } else if !self.claim(id)? {
            self.foreign.insert(id);
        }
        Ok(())
    }

    /// Takes a device that is there and new, if it is for us. `false` if it is somebody else's, which is said once.
    fn claim(&mut self, id: DeviceId) -> Result<bool, StoreError> {
        let dir = id.backend_dir(self.platform.domid());
        if !self.toolstack.owns(&mut self.store, &dir)? {
            if !self.foreign.contains(&id) {
                tracing::info!("{id}: not ours, its script is not {SCRIPT}");
            }
            return Ok(false);
        }
        self.foreign.remove(&id);
        if self.devices.len() < DEVICES_MAX {
            self.add(id);
        }
        Ok(true)
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
            self.waiting,
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
        match device.later {
            true => self.later.insert(id),
            false => {
                device.abandon(&mut self.disks);
                self.later.remove(&id)
            }
        };
        match life {
            Ok(Life::Goes) => {}
            Ok(Life::Over) => {
                self.devices.remove(&id);
                self.later.remove(&id);
                self.due.retain(|due| *due != id);
                self.statistics.remove(id);
                self.disks.forget(&id.backend_dir(self.platform.domid()));
            }
            Err(error) if is_lost(error) => return Err(error),
            // The toolstack took the nodes away under us, a quota is reached, or the frontend forbids us to read its nodes: the
            // next event tries again.
            Err(error) => device.warn(format_args!("{error}")),
        }
        self.list(id);
        Ok(())
    }

    /// Whether disks are to be asked for again, in a moment, by [`ask_again`](Self::ask_again): what an earlier process was doing
    /// to them is still under way.
    pub fn awaits_disks(&self) -> bool {
        !self.later.is_empty()
    }

    /// Has the next [`control`](Self::control) ask again for the disks that were not to be had yet.
    pub fn ask_again(&mut self) {
        self.dirty.append(&mut self.later);
    }

    /// Looks at the size of every connected disk, and tells the frontends of those that changed.
    ///
    /// # Errors
    /// Only when the connection to the store is of no further use.
    pub fn refresh(&mut self) -> Result<Refreshed, StoreError> {
        let mut refreshed = Refreshed::default();
        for device in self.devices.values_mut() {
            refreshed.connected |= device.is_connected();
            match device.resize(&mut self.store) {
                Ok(told) => refreshed.told |= told,
                Err(error) if is_lost(error) => return Err(error),
                // The next look tries again.
                Err(error) => {
                    refreshed.told = true;
                    device.warn(format_args!("{error}"));
                }
            }
        }
        Ok(refreshed)
    }
}

/// The directory of all devices of a type.
pub(super) fn root(domid: DomId, kind: BackendType) -> Result<StorePath, StoreError> {
    join(&join(&domain_path(domid), "backend")?, kind.name())
}
