//! The counters of all devices, for readers in other threads.

use std::sync::{Arc, Mutex, PoisonError};

use ringfence_core::ids::DomId;

use crate::stats::{Snapshot, Stats};

/// Which device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId {
    /// The domain of the frontend.
    pub front: DomId,
    /// The device's number, the last part of its directories.
    pub vdev: u32,
}

/// The counters of the devices of a service. Shared; may be read at any time, also while devices come and go (XSA-528).
#[derive(Debug, Default)]
pub struct Statistics {
    devices: Mutex<Vec<(DeviceId, Arc<Stats>)>>,
}

impl Statistics {
    /// All devices with their counters at this moment.
    pub fn snapshot(&self) -> Vec<(DeviceId, Snapshot)> {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices
            .iter()
            .map(|(id, stats)| (*id, stats.snapshot()))
            .collect()
    }

    pub(super) fn insert(&self, id: DeviceId, stats: Arc<Stats>) {
        self.devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((id, stats));
    }

    pub(super) fn remove(&self, id: DeviceId) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|(other, _)| *other != id);
    }
}
