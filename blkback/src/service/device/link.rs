//! Makes and ends a device's connection: rings, ports, and the disk between them.

use std::sync::Arc;

use ringfence_core::platform::Platform;
use ringfence_core::store::{Store, StoreError, StoreExt, Tx};
use ringfence_core::weakened;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::xenbus::{BackWish, paths};

use super::super::clock;
use super::super::disks::Disks;
use super::super::doorbells::Doorbells;
use super::super::id::RingId;
use super::Device;
use super::keep::{Begin, Earlier};
use super::queue::{Journaled, Queue};
use crate::engine::{Engine, Terms};
use crate::epoch::Epoch;
use crate::error::AttachError;
use crate::grants::persistent::PAGES_PER_DEVICE;
use crate::journal;
use crate::negotiate::{self, Frontend};
use crate::sink::{Disk, Split};

/// How often the nodes of a frontend that is connected are read until they are the same twice.
const READINGS: usize = 4;

/// What came of an attempt to connect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Connected,
    /// The device is retired, or its disk is to be asked for later.
    Failed,
    /// Its rings are others than just before.
    Stale,
}

/// Why a ring was not connected.
struct Unconnected {
    attempt: Attempt,
    peers_fault: bool,
    reason: String,
}

impl Unconnected {
    /// By what the frontend did, for good.
    const fn failed(reason: String) -> Self {
        Self {
            attempt: Attempt::Failed,
            peers_fault: true,
            reason,
        }
    }
}

impl<'p, P: Platform> Device<'p, P> {
    /// Maps, binds, attaches; `resume`: where an earlier process was connected. `false` if that failed: the device is retired,
    /// and holds nothing, or its disk is to be asked for later.
    pub(super) fn connect<S: Store, D: Disks>(
        &mut self,
        platform: &'p P,
        store: &mut S,
        disks: &mut D,
        doorbells: &mut impl Doorbells<P::Channel>,
        resume: bool,
    ) -> Result<bool, StoreError> {
        if !self.open(store, disks)? {
            return Ok(false);
        }
        let mut earlier = match resume {
            true => Earlier::These,
            false => Earlier::Nobody,
        };
        let mut frontend = negotiate::read_frontend(store, &self.front_dir, &self.offer);
        for _ in 0..READINGS {
            let attempt = match &frontend {
                Ok(frontend) => {
                    self.connect_to(platform, store, disks, doorbells, frontend, earlier)?
                }
                Err(error) => {
                    if let Some(error) = error.store() {
                        return Err(error);
                    }
                    self.retire(true, format!("{}: {error}", self.front_dir));
                    Attempt::Failed
                }
            };
            let connected = attempt == Attempt::Connected;
            if !resume {
                return Ok(connected);
            }
            // Who is connected without us may make other rings at any moment, and nothing says when its nodes are whole.
            let again = negotiate::read_frontend(store, &self.front_dir, &self.offer);
            match attempt {
                Attempt::Stale => earlier = Earlier::Others,
                _ if again == frontend => return Ok(connected),
                _ => {}
            }
            frontend = again;
            self.release(doorbells);
            self.wish = BackWish::Run;
        }
        self.retire(true, format!("{}: changes all the time", self.front_dir));
        Ok(false)
    }

    /// The same, with the frontend's nodes as they were read.
    fn connect_to<S: Store, D: Disks>(
        &mut self,
        platform: &'p P,
        store: &mut S,
        disks: &mut D,
        doorbells: &mut impl Doorbells<P::Channel>,
        frontend: &Frontend,
        earlier: Earlier,
    ) -> Result<Attempt, StoreError> {
        let told = match earlier {
            Earlier::Nobody => Ok(None),
            _ => store.read_opt::<u64>(Tx::NONE, &self.dir, "sectors"),
        };
        let told = told.ok().flatten();
        let begin = match self.keep(disks, frontend, earlier, told) {
            Ok(begin) => begin,
            Err(reason) => {
                self.retire(true, reason);
                return Ok(Attempt::Failed);
            }
        };
        let Some(disk) = self.disk.take() else {
            return Ok(Attempt::Failed);
        };
        let parts = self.divide(disk, frontend);
        // What an earlier process had offered counts, and that is what our own node says.
        let offered = store.read_opt::<bool>(Tx::NONE, &self.dir, "feature-persistent");
        let both = frontend.persistent && offered == Ok(Some(true));
        let persistent = self.offer.persistent && (both || weakened!("blk_persistent_sides"));
        let rings = u16::try_from(frontend.queues.len()).unwrap_or(u16::MAX);
        let terms = Terms {
            abi: frontend.abi,
            indirect_segments: self.offered(begin),
            epoch: Arc::new(Epoch::new(rings)),
            queue: 0,
            clock: Some(|| clock::nanos(clock::now())),
            marked: match begin {
                Begin::Journal { marked, .. } => marked,
                _ => None,
            },
            persistent: persistent.then(|| {
                let share = PAGES_PER_DEVICE.div_ceil(usize::from(rings.max(1)));
                (share, Arc::clone(&self.budget))
            }),
        };
        self.stats.set_rings(rings);
        let connected = (0..).zip(parts).try_for_each(|(queue, disk)| {
            let terms = Terms {
                queue,
                ..terms.clone()
            };
            self.connect_ring(platform, &terms, frontend, disk, doorbells, begin)
        });
        match connected {
            Ok(()) => {
                self.waits.begin();
                self.counts(begin);
                self.announced = told;
                Ok(Attempt::Connected)
            }
            Err(why) => {
                self.release(doorbells);
                self.retire(why.peers_fault, why.reason);
                Ok(why.attempt)
            }
        }
    }

    /// One disk for each queue.
    fn divide(&mut self, disk: Disk, frontend: &Frontend) -> Vec<Disk> {
        match u16::try_from(frontend.queues.len()) {
            Ok(0 | 1) => vec![disk],
            queues => {
                let (split, parts) = Split::new(disk, queues.unwrap_or(u16::MAX));
                self.split = Some(split);
                parts
            }
        }
    }

    /// Connects one ring. On failure the disk is back where [`release`](Self::release) finds it; says why.
    fn connect_ring(
        &mut self,
        platform: &'p P,
        terms: &Terms,
        frontend: &Frontend,
        disk: Disk,
        doorbells: &mut impl Doorbells<P::Channel>,
        begin: Begin,
    ) -> Result<(), Unconnected> {
        let queue = terms.queue;
        let Some(nodes) = frontend.queues.get(usize::from(queue)) else {
            self.disk = Some(disk);
            return Err(Unconnected::failed(format!("queue-{queue} has no nodes")));
        };
        let journal = self.kept.as_ref();
        let journal = journal.map(|kept| journal::Queue::new(kept.record.clone(), queue));
        let front = self.id.front;
        let connected = match begin {
            Begin::Journal { .. } => {
                Engine::reconnect(platform, front, nodes, terms, disk, journal)
            }
            _ => Engine::connect(platform, front, nodes, terms, disk, journal),
        };
        let mut engine: Journaled<'p, P> = match connected {
            Ok(engine) => engine,
            Err((disk, error)) => {
                self.disk = Some(disk);
                let refs: Vec<String> = nodes.refs.iter().map(ToString::to_string).collect();
                let (refs, port) = (refs.join(" "), nodes.port);
                let of = if self.split.is_some() {
                    format!("queue-{queue}: ")
                } else {
                    String::new()
                };
                let reason = format!("{of}{error} (ring-ref {refs}, event-channel {port})");
                return Err(match error {
                    AttachError::AnotherRing => Unconnected {
                        attempt: Attempt::Stale,
                        ..Unconnected::failed(reason)
                    },
                    _ => Unconnected::failed(reason),
                });
            }
        };
        if begin == Begin::Unknown && engine.is_awaited() {
            self.disk = Some(engine.into_disk());
            let reason = "nobody knows which requests an earlier process had taken";
            return Err(Unconnected::failed(reason.into()));
        }
        let id = RingId {
            device: self.id,
            queue,
        };
        if let Err(error) = doorbells.add(id, engine.channel()) {
            self.disk = Some(engine.into_disk());
            return Err(Unconnected {
                peers_fault: false,
                ..Unconnected::failed(error.to_string())
            });
        }
        self.queues.push(Queue::new(id, engine));
        Ok(())
    }

    /// Tells the frontend what the disk is like, and that it is connected.
    pub(super) fn announce<S: Store>(&mut self, store: &mut S) -> Result<(), StoreError> {
        if let Some(queue) = self.queues.first() {
            let geometry = queue.engine.disk().geometry();
            // Also what was written with state 2 if the disk was known then; frontends look again now.
            negotiate::write_features(store, &self.dir, geometry)?;
            let units = queue.engine.disk().units();
            negotiate::write_geometry(store, &self.dir, geometry, units, self.cdrom)?;
            self.announced = Some(units.sectors(geometry.sectors));
        }
        paths::switch_state(store, &self.dir, XenbusState::Connected)
    }

    /// Tells the frontend when the disk has another size than it was told: `sectors`, and state 4 once more. Whether
    /// it was told anything.
    ///
    /// # Errors
    /// The store's.
    pub(in crate::service) fn resize<S: Store>(
        &mut self,
        store: &mut S,
    ) -> Result<bool, StoreError> {
        let Some(announced) = self.announced.filter(|_| self.wish == BackWish::Run) else {
            return Ok(false);
        };
        let units = self.units();
        let mut sizes = self
            .queues
            .iter_mut()
            .map(|queue| units.sectors(queue.engine.refresh().sectors));
        // Each queue has its own view of the same disk: the last one is the newest.
        let Some(sectors) = sizes
            .by_ref()
            .last()
            .filter(|sectors| *sectors != announced)
        else {
            return Ok(false);
        };
        tracing::info!("{}: {announced} sectors have become {sectors}", self.id);
        let connected = XenbusState::Connected.digit();
        store.transaction(|store, tx| {
            // Who closes has another state by now, and must keep it.
            if store.read_opt::<u32>(tx, &self.dir, "state").ok().flatten()
                != Some(XenbusState::Connected.number())
            {
                return Ok(());
            }
            store.write_u64(tx, &self.dir, "sectors", sectors)?;
            store.write_str(tx, &self.dir, "state", connected)
        })?;
        self.announced = Some(sectors);
        Ok(true)
    }

    /// Ends the connection, if there is one: closes the ports, unmaps the rings, keeps the disk.
    pub(in crate::service) fn release(&mut self, doorbells: &mut impl Doorbells<P::Channel>) {
        self.announced = None;
        self.stats.set_rings(0);
        for (number, queue) in (0..).zip(self.queues.drain(..)) {
            let id = RingId {
                device: self.id,
                queue: number,
            };
            // First the table, then the port (CVE-2024-26687): its number may be used again at once.
            if !weakened!("cve_2024_26687_doorbells") {
                doorbells.remove(id, queue.engine.channel());
            }
            self.disk = Some(queue.engine.into_disk());
        }
        if let Some(split) = self.split.take() {
            self.disk = None;
            self.disk = Some(split.join());
        }
    }
}
