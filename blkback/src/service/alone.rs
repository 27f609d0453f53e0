//! Requests that may be what kills this domain's processes, one at a time.

use std::time::Duration;

use ringfence_core::platform::Platform;

use super::crew::Allowed;
use super::device::{Device, Round};
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
        self.part.allowed(alone)
    }

    /// Finishes what was taken, and takes nothing: a thread must be alone, maybe this one.
    pub(super) fn finish(&mut self, round: &Round) -> Turn {
        let mut turn = Turn::default();
        let round = Round {
            budget: 0,
            ..*round
        };
        let mut idle = true;
        for (id, device) in &mut self.devices {
            // What must be alone is not begun here.
            if device.suspects().is_some() {
                continue;
            }
            let served = device.serve(&round, None, &mut self.doorbells);
            turn.control |= served.control;
            if served.control {
                self.dirty.insert(*id);
            }
            idle &= device.is_idle();
        }
        self.list_all();
        if idle {
            self.part.finished();
        }
        turn.until = Some(round.now.saturating_add(PAUSE));
        turn
    }

    /// All others stay as they are: due, or rung.
    pub(super) fn serve_alone(&mut self, ring: RingId, round: &Round) -> Turn {
        let mut turn = Turn::default();
        if let Some(device) = self.devices.get_mut(&ring.device) {
            let queue = Some(ring.queue);
            let served = device.serve(round, queue, &mut self.doorbells);
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
        let ring = |(id, device): (&DeviceId, &Device<'p, P>)| {
            device.suspects().map(|queue| RingId { device: *id, queue })
        };
        let found = self.devices.iter().find_map(ring);
        self.suspects = found.is_some();
        found
    }
}
