//! Who reads the numbers of devices while they come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringfence_blkback::service::{Report, Statistics};
use ringfence_blkback::stats::layout;
use ringfence_core::platform::Granted;
use ringfence_core::store::{Store, Tx};
use ringfence_core::wire::blkif::Status;
use ringfence_core::{DomId, Words};
use ringfence_tests::blkback_rig::{Guest, Rig, read, write};

struct Memory(&'static [AtomicU64]);

impl Words for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::Acquire)
    }
    fn store(&self, _: usize, _: u64) {}
}

/// A guest that reads, and nothing else, and one that writes.
const READER: u16 = 7;
const WRITER: u16 = 8;

fn come_and_go(rig: &mut Rig, front: u16) {
    let mut guest: Guest = rig.attach(front, 51712, "w");
    guest.connect(rig);
    let gref = guest.page.grant_ref();
    for id in 0..4 {
        let request = match front {
            READER => read(id, 0, gref),
            _ => write(id, 0, gref),
        };
        assert_eq!(guest.ask(rig, &request), Status::OKAY);
    }
    // In the middle of it, and without a farewell.
    rig.detach(&guest);
    let _ = rig.toolstack.rm(Tx::NONE, &guest.back_dir);
    let _ = rig.toolstack.rm(Tx::NONE, &guest.dir);
    rig.settle();
}

#[test]
fn xsa_528_statistics_are_read_while_rings_come_and_go() {
    let words = (0..3 * layout::WORDS).map(|_| AtomicU64::new(0));
    let memory = Memory(Box::leak(words.collect()));
    let mut rig = Rig::new();
    rig.service.count_in(Arc::new(Statistics::shared(memory.0)));
    let statistics = Arc::clone(rig.service.statistics());
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let report = Report::read(&memory).expect("begun");
                for device in &report.devices {
                    let counted = device.counters;
                    // The page was the other's before.
                    match device.id.front {
                        front if front == DomId::new(READER) => assert_eq!(counted.writes, 0),
                        _ => assert_eq!(counted.reads, 0),
                    }
                    assert!(counted.requests <= 4, "{counted:?}");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                statistics.snapshot();
            }
        });
        let mut began = 0;
        while began < 200 || (seen.load(Ordering::Relaxed) == 0 && !reading.is_finished()) {
            come_and_go(&mut rig, READER);
            come_and_go(&mut rig, WRITER);
            began += 2;
        }
        done.store(true, Ordering::Relaxed);
        reading.join().expect("the reader");
        began
    });
    let total = statistics.total();
    assert_eq!((total.reads, total.writes), (began * 2, began * 2));
    let report = Report::read(&memory).expect("begun");
    assert!(report.devices.is_empty(), "{:?}", report.devices);
    assert_eq!(report.gone, total);
}
