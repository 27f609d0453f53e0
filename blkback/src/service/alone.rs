//! Requests that may be what kills this domain's processes, one at a time.

use std::time::Duration;

use ringfence_core::platform::Platform;

use super::crew::Allowed;
use super::device::{Device, Rings, Round};
use super::disks::Disks;
use super::doorbells::Doorbells;
use super::id::{DeviceId, RingId};
use super::{Service, Turn};

/// How often a thread that waits for others, or that others wait for, looks again.
const PAUSE: Duration = Duration::from_millis(1);

impl<'p, P: Platform, D: Disks, B: Doorbells<P::Channel>> Service<'p, P, D, B> {
    /// Which rings may be served now, as far as this and the other threads of the process have requests that must be alone.
    pub(super) fn allowed(&mut self) -> Allowed {
        let alone = self.alone();
        match self.part.allowed(alone) {
            // What this thread has in flight beside it comes first.
            Allowed::Only(ring) if self.is_at_work(ring) => Allowed::Finish,
            allowed => allowed,
        }
    }

    /// Whether something of this thread is in flight; but for what this ring waits for, or has.
    fn is_at_work(&self, but: RingId) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|(id, device)| match *id == but.device {
            true => device.is_at_work_beside(but.queue),
            false => device.is_at_work(),
        })
    }

    /// Finishes what was taken, and takes nothing: a thread must be alone, maybe this one.
    pub(super) fn finish(&mut self, round: &Round) -> Turn {
        let mut turn = Turn::default();
        let round = Round {
            budget: 0,
            ..*round
        };
        turn.until = Some(round.now.saturating_add(PAUSE));
        if self.part.has_finished() {
            // A device that is connected now may have something to do again, but not beside that.
            return turn;
        }
        let mut finished = true;
        for (id, device) in &mut self.devices {
            // What must be alone is not begun here, nor what waits for it.
            if device.suspects().is_some() && !device.is_at_work() {
                continue;
            }
            let served = device.serve(&round, Rings::Plain, &mut self.doorbells);
            turn.control |= served.control;
            if served.control {
                self.dirty.insert(*id);
            }
            finished &= !device.is_at_work();
        }
        self.list_all();
        if finished {
            self.part.finished();
        }
        turn.again = self.allowed() != Allowed::Finish;
        turn
    }

    /// All others stay as they are: due, or rung; but for those that it waits for itself.
    pub(super) fn serve_alone(&mut self, ring: RingId, round: &Round) -> Turn {
        let mut turn = Turn::default();
        if let Some(device) = self.devices.get_mut(&ring.device) {
            let rings = device.beside(ring.queue);
            let served = device.serve(round, rings, &mut self.doorbells);
            turn.add(served);
            if served.control {
                self.dirty.insert(ring.device);
            }
        }
        // Whose turn it is now.
        turn.again |= self.allowed() != Allowed::Only(ring);
        turn
    }

    /// The ring whose requests may be what kills this domain's processes. Until they are done nothing else is started: what is in
    /// flight beside them would share the blame.
    fn alone(&mut self) -> Option<RingId> {
        if !self.suspects {
            return None;
        }
        // Whose turn it was may have begun something.
        let same = self.alone.filter(|ring| {
            let device = self.devices.get(&ring.device);
            device.is_some_and(|device| device.is_suspect(ring.queue))
        });
        let ring = |(id, device): (&DeviceId, &Device<'p, P>)| {
            device.suspects().map(|queue| RingId { device: *id, queue })
        };
        self.alone = same.or_else(|| self.devices.iter().find_map(ring));
        self.suspects = self.alone.is_some();
        self.alone
    }
}
