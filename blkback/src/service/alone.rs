//! Requests that may be what kills this domain's processes, one at a time.

use ringfence_core::platform::Platform;

use super::device::{Device, Round};
use super::disks::Disks;
use super::doorbells::Doorbells;
use super::id::{DeviceId, RingId};
use super::{Service, Turn};

impl<'p, P: Platform, D: Disks, B: Doorbells<P::Channel>> Service<'p, P, D, B> {
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
        turn.again |= self.alone() != Some(ring);
        turn
    }

    /// The ring whose requests may be what kills this domain's processes. Until they are done nothing else is started: what is in
    /// flight beside them would share the blame.
    pub(super) fn alone(&mut self) -> Option<RingId> {
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
