//! Whose turn it is: which rings are looked at, and for how long.

use std::collections::BTreeSet;
use std::time::Duration;

use ringfence_core::platform::Platform;

use super::crew::Allowed;
use super::device::{Device, Rings, Round, Served};
use super::disks::Disks;
use super::doorbells::Doorbells;
use super::id::{DeviceId, RingId};
use super::{Service, clock};

/// What a look at the rings left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    /// Requests were taken.
    pub worked: bool,
    /// Call [`Service::serve`] again at once.
    pub again: bool,
    /// Call [`Service::serve`] again soon, before any sleep: a device is waited for by looking at it.
    pub spins: bool,
    /// Call [`Service::control`]: a device drained or failed.
    pub control: bool,
    /// Call [`Service::serve`] at this time at the latest: a delayed doorbell is due.
    pub until: Option<Duration>,
}

impl Turn {
    pub(super) const fn add(&mut self, served: Served) {
        self.again |= served.again;
        self.spins |= served.spins;
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

impl<P: Platform, D: Disks, B: Doorbells<P::Channel>> Service<'_, P, D, B> {
    fn round(&self, budget: u32, now: Duration) -> Round {
        Round {
            number: self.round,
            budget,
            now,
            woke: None,
        }
    }

    /// Serves a ring whose doorbell was rung, within what the last [`serve`](Self::serve) left of its device's share.
    pub fn rung(&mut self, ring: RingId, budget: u32, now: Duration) -> Turn {
        self.rung_in(ring, &self.round(budget, now))
    }

    /// The same, by a thread that woke just `now`, by the clock.
    pub(super) fn woken(&mut self, ring: RingId, budget: u32, now: Duration) -> Turn {
        let woke = Some(clock::nanos(now));
        let round = Round {
            woke,
            ..self.round(budget, now)
        };
        self.rung_in(ring, &round)
    }

    fn rung_in(&mut self, ring: RingId, round: &Round) -> Turn {
        let mut turn = Turn::default();
        match self.allowed() {
            Allowed::All => {}
            Allowed::Only(alone) if alone == ring => {}
            Allowed::Only(_) | Allowed::Finish => {
                self.put_off(ring);
                return turn;
            }
        }
        if let Some(device) = self.devices.get_mut(&ring.device) {
            let served = device.rung(ring.queue, round, &mut self.doorbells);
            turn.add(served);
            if served.control {
                self.dirty.insert(ring.device);
            }
            self.list(ring.device);
        }
        turn
    }

    /// Rung it stays, and nobody is woken for it until its ring may be served again.
    fn put_off(&mut self, ring: RingId) {
        if let Some(device) = self.devices.get_mut(&ring.device) {
            device.put_off(ring.queue, &mut self.doorbells);
        }
        self.list(ring.device);
    }

    /// Asks every channel and serves those that were rung: for worlds without descriptors.
    pub fn poll(&mut self, budget: u32, now: Duration) -> Turn {
        let mut turn = Turn::default();
        if self.allowed() != Allowed::All {
            return turn;
        }
        self.round = self.round.saturating_add(1);
        let round = self.round(budget, now);
        for (id, device) in &mut self.devices {
            let served = device.poll(&round, &mut self.doorbells);
            turn.add(served);
            if served.control {
                self.dirty.insert(*id);
            }
        }
        self.list_all();
        turn
    }

    /// Serves the devices that have something to do without being rung: unfinished shares, disks that finished something,
    /// doorbells whose delay is over, rings that are waited for by looking at them. Each device takes at most `budget` requests,
    /// however many rings it has, so that no guest starves another.
    pub fn serve(&mut self, budget: u32, now: Duration) -> Turn {
        self.round = self.round.saturating_add(1);
        let round = self.round(budget, now);
        let mut turn = match self.allowed() {
            Allowed::All => self.serve_due(&round),
            Allowed::Only(ring) => self.serve_alone(ring, &round),
            Allowed::Finish => self.finish(&round),
        };
        // Nobody is woken for what one disk's look took from another's.
        turn.again |= self.disks.moved();
        turn
    }

    fn serve_due(&mut self, round: &Round) -> Turn {
        let mut turn = Turn::default();
        let mut due = core::mem::take(&mut self.due);
        due.retain(|id| self.serve_one(*id, round, &mut turn));
        self.due = due;
        turn
    }

    /// Whether the device has more to do.
    fn serve_one(&mut self, id: DeviceId, round: &Round, turn: &mut Turn) -> bool {
        let Some(device) = self.devices.get_mut(&id) else {
            return false;
        };
        let served = device.serve(round, Rings::All, &mut self.doorbells);
        turn.serve(id, device, served, &mut self.dirty);
        device.listed
    }

    /// Looks whether a device has something to do without being rung.
    pub(super) fn list(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id)
            && !device.listed
            && device.is_due()
        {
            device.listed = true;
            self.due.push(id);
        }
    }

    pub(super) fn list_all(&mut self) {
        for (id, device) in &mut self.devices {
            if !device.listed && device.is_due() {
                device.listed = true;
                self.due.push(*id);
            }
        }
    }
}
