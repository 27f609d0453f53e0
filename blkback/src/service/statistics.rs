//! The counters of all devices, for readers in other threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::id::DeviceId;
use crate::stats::{Counter, Snapshot, Stats};

/// The counters of the devices of a service. Shared; may be read at any time, also while devices come and go (XSA-528).
#[derive(Debug, Default)]
pub struct Statistics {
    devices: Mutex<Devices>,
    waits: Counter,
}

#[derive(Debug, Default)]
struct Devices {
    present: Vec<(DeviceId, Arc<Stats>)>,
    /// What those did that are gone.
    gone: Snapshot,
}

impl Statistics {
    /// All devices with their counters at this moment.
    pub fn snapshot(&self) -> Vec<(DeviceId, Snapshot)> {
        self.devices()
            .present
            .iter()
            .map(|(id, stats)| (*id, stats.snapshot()))
            .collect()
    }

    /// Everything this service has done, also for devices that are gone.
    pub fn total(&self) -> Snapshot {
        let devices = self.devices();
        let mut total = devices.gone;
        for (_, stats) in &devices.present {
            total.add(&stats.snapshot());
        }
        total
    }

    /// Times the service asked the system what happened, `epoll_wait`: for all devices together.
    pub fn waits(&self) -> u64 {
        self.waits.get()
    }

    pub(super) fn waited(&self) {
        self.waits.add(1);
    }

    pub(super) fn insert(&self, id: DeviceId, stats: Arc<Stats>) {
        self.devices().present.push((id, stats));
    }

    pub(super) fn remove(&self, id: DeviceId) {
        let mut devices = self.devices();
        let Devices { present, gone } = &mut *devices;
        present.retain(|(other, stats)| {
            let stays = *other != id;
            if !stays {
                gone.add(&stats.snapshot());
            }
            stays
        });
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::BackendType;
    use super::*;
    use ringfence_core::ids::DomId;

    #[test]
    fn what_a_device_did_outlives_it() {
        let statistics = Statistics::default();
        let id = DeviceId {
            backend: BackendType::Vbd,
            front: DomId::new(3),
            vdev: 51712,
        };
        for _ in 0..2 {
            let stats = Arc::new(Stats::default());
            statistics.insert(id, stats.clone());
            stats.requests.add(5);
            statistics.remove(id);
        }
        assert_eq!(statistics.total().requests, 10);
        assert!(statistics.snapshot().is_empty());
    }
}
