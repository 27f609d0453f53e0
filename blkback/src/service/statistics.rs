//! The counters of all devices, for readers in other threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_core::weakened;

use super::board::Board;
use super::id::DeviceId;
use crate::stats::{Snapshot, Stats};

/// The counters of the devices of a service. Shared; may be read at any time, also while devices come and go (XSA-528).
#[derive(Debug, Default)]
pub struct Statistics {
    devices: Mutex<Devices>,
    /// Of all threads.
    waits: AtomicU64,
    board: Option<Arc<Board>>,
}

#[derive(Debug, Default)]
struct Devices {
    present: Vec<(DeviceId, Arc<Stats>)>,
    /// What those did that are gone.
    gone: Snapshot,
}

impl Statistics {
    /// Counts where others see it: in memory that whoever may look has mapped too, of [`STATISTICS_BYTES`](super::STATISTICS_BYTES),
    /// read with [`Report`](super::Report). What an earlier process counted there is forgotten.
    pub fn shared(words: &'static [AtomicU64]) -> Self {
        Self {
            board: Some(Arc::new(Board::new(words))),
            ..Self::default()
        }
    }

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
        self.waits.load(Ordering::Relaxed)
    }

    pub(super) fn waited(&self) {
        let before = self.waits.fetch_add(1, Ordering::Relaxed);
        if let Some(board) = &self.board {
            board.set_waits(before.wrapping_add(1));
        }
    }

    /// Counters for a device that was found.
    pub(super) fn insert(&self, id: DeviceId) -> Arc<Stats> {
        // One thread at a time takes a page.
        let mut devices = self.devices();
        let stats = match &self.board {
            Some(board) => board.stats(id),
            None => Stats::default(),
        };
        let stats = Arc::new(stats);
        devices.present.push((id, Arc::clone(&stats)));
        stats
    }

    pub(super) fn remove(&self, id: DeviceId) {
        let mut devices = self.devices();
        let Devices { present, gone } = &mut *devices;
        present.retain(|(other, stats)| {
            let stays = *other != id;
            if !stays {
                if !weakened!("xsa_528_gone") {
                    gone.add(&stats.snapshot());
                }
                stats.disown();
            }
            stays
        });
        if let Some(board) = &self.board {
            board.set_gone(gone);
        }
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::BackendType;
    use super::super::{Report, ReportError};
    use super::*;
    use crate::sink::IoOp;
    use crate::stats::layout::{ANSWERED, TAKEN, WORDS};
    use ringfence_core::Words;
    use ringfence_core::ids::{DomId, Sector};

    fn id(vdev: u32) -> DeviceId {
        DeviceId {
            backend: BackendType::Qdisk,
            front: DomId::new(3),
            vdev,
        }
    }

    #[test]
    fn what_a_device_did_outlives_it() {
        let statistics = Statistics::default();
        for _ in 0..2 {
            let stats = statistics.insert(id(51712));
            stats.requests.add(5);
            statistics.remove(id(51712));
        }
        assert_eq!(statistics.total().requests, 10);
        assert!(statistics.snapshot().is_empty());
    }

    struct Memory(&'static [AtomicU64]);

    impl Words for Memory {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn load(&self, at: usize) -> u64 {
            self.0[at].load(std::sync::atomic::Ordering::Acquire)
        }
        fn store(&self, _: usize, _: u64) {
            panic!("a reader writes");
        }
    }

    /// As much as `devices` devices need.
    fn memory(devices: usize) -> Memory {
        let words = (0..(devices + 1) * WORDS).map(|_| AtomicU64::new(0));
        Memory(Box::leak(words.collect()))
    }

    #[test]
    fn another_process_reads_what_this_one_counts() {
        let memory = memory(2);
        let nothing = Report::read(&memory).expect_err("nobody counts");
        assert_eq!(nothing, ReportError::Magic { found: 0 });
        let statistics = Statistics::shared(memory.0);
        assert!(Report::read(&memory).expect("begun").devices.is_empty());

        let stats = statistics.insert(id(51712));
        stats.reads.add(7);
        stats.sys_evtchn.add(9);
        stats.set_state(4);
        stats.set_rings(2);
        stats.set_entries(1, 32);
        stats.add_to_ring(1, TAKEN, 5);
        stats.add_to_ring(1, ANSWERED, 3);
        stats.took(IoOp::Read(Sector::new(0)), 100_000);
        stats.took(IoOp::Flush, 100_000);
        statistics.waited();
        let report = Report::read(&memory).expect("begun");
        assert_eq!((report.waits, report.devices.len()), (1, 1));
        let device = &report.devices[0];
        assert_eq!((device.id, device.state), (id(51712), 4));
        assert_eq!(device.counters, stats.snapshot());
        assert_eq!(device.counters.reads, 7);
        assert_eq!((device.reads.count(), device.writes.count()), (1, 0));
        assert_eq!(device.reads, stats.read_latency());
        assert_eq!(device.rings.len(), 2);
        assert_eq!(
            (device.rings[1].entries, device.rings[1].in_flight()),
            (32, 2)
        );

        // The next process begins anew.
        let before = report.process;
        let next = Statistics::shared(memory.0);
        let report = Report::read(&memory).expect("begun");
        assert!(report.devices.is_empty() && report.process != before);
        assert_eq!(next.insert(id(2)).snapshot(), Snapshot::default());
    }

    #[test]
    fn a_page_has_another_owner_only_when_nobody_counts_there() {
        let memory = memory(2);
        let statistics = Statistics::shared(memory.0);
        let old = statistics.insert(id(1));
        old.writes.add(4);
        statistics.remove(id(1));
        let report = Report::read(&memory).expect("begun");
        assert!(report.devices.is_empty());
        assert_eq!(report.gone.writes, 4);
        let new = statistics.insert(id(1));
        // As late as it may be.
        old.writes.add(1);
        let counted = |at: usize| {
            let report = Report::read(&memory).expect("begun");
            (report.devices.len(), report.devices[at].counters.writes)
        };
        assert_eq!(counted(0), (1, 0));
        // There is no room for a third; it counts all the same.
        let hidden = statistics.insert(id(3));
        hidden.writes.add(2);
        assert_eq!((counted(0), hidden.snapshot().writes), ((1, 0), 2));
        drop(old);
        let third = statistics.insert(id(4));
        third.writes.add(3);
        assert_eq!(counted(0), (2, 3));
        drop((new, third));
    }
}
