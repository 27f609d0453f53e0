//! The driver domain of a measurement.

use super::{BackOptions, Disk, Served};
use crate::load::{DISK, Waiting};
use anyhow::Result;
use ringfence_blkback::Stats;
use ringfence_blkback::journal::{self, Record};
use ringfence_blkback::service::{
    self, Asked, DiskError, Disks, Files, Image, Images, Kept, OpenDisk, Options, Source, Worker,
};
use ringfence_blkback::sink::{Layers, Null, Uring};
use ringfence_core::SectorCount;
use ringfence_hosted::{Hosted, HostedStore, RestrictedRing};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long it looks for work before it sleeps, when it may: as long as the peer.
const SPIN: Duration = Duration::from_millis(1);
/// Submission entries of the ring for all disks.
const RING_ENTRIES: u32 = 256;

/// What the broker opens, or nothing at all.
struct Opened {
    platform: Hosted,
    options: BackOptions,
    files: Files<Broker>,
}

/// Images as the broker opens them.
struct Broker {
    platform: Hosted,
    disk: Disk,
}

impl Images for Broker {
    fn open(&mut self, backend_dir: &str) -> Result<Asked<Image>, DiskError> {
        let Some(opened) = self.platform.open_image(backend_dir)? else {
            return Ok(Asked::Later);
        };
        let file = opened.file.into();
        Ok(Asked::Open(Image {
            source: match self.disk {
                Disk::Null | Disk::File => Source::Raw(file),
                Disk::Qcow2 => Source::Qcow2(file, Vec::new()),
            },
            read_only: opened.spec.read_only,
            layers: Layers::default(),
        }))
    }
}

impl Disks for Opened {
    fn open(
        &mut self,
        backend_dir: &str,
        read_only: bool,
        stats: &Arc<Stats>,
    ) -> Result<Asked<OpenDisk>, DiskError> {
        // Also where nothing is stored: the journal is for an image that is open.
        Ok(match self.files.open(backend_dir, read_only, stats)? {
            Asked::Open(_) if self.options.disk == Disk::Null => {
                Asked::Open(Box::new(Null::new(SectorCount::new(DISK / 512))).into())
            }
            asked => asked,
        })
    }

    fn abandon(&mut self, backend_dir: &str) {
        self.files.abandon(backend_dir);
    }

    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        if self.options.unjournaled {
            return Ok(None);
        }
        let bytes = u32::try_from(journal::BYTES)?;
        let (record, image) = self.platform.record(backend_dir, bytes)?;
        let record = Record::new(record);
        Ok(Some(Kept { record, image }))
    }

    fn forget(&mut self, backend_dir: &str) {
        self.files.forget(backend_dir);
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.files.wake()
    }

    fn moved(&mut self) -> bool {
        self.files.moved()
    }
}

/// Serves until its standard input ends.
pub(super) fn run(platform: &Hosted, store: HostedStore, options: BackOptions) -> Result<Served> {
    let ring = match options.disk {
        Disk::Null => None,
        Disk::File | Disk::Qcow2 => Some(RestrictedRing::new(RING_ENTRIES)?),
    };
    let disks = || Opened {
        platform: platform.clone(),
        options,
        files: Files::new(
            Broker {
                platform: platform.clone(),
                disk: options.disk,
            },
            ring.map(|ring| Uring::new(ring.into_inner())),
        ),
    };
    let workers = vec![Worker { store, disks }];
    let waiting = match options.waiting {
        Waiting::Events => service::Waiting::Block,
        Waiting::Spin => service::Waiting::Spin(SPIN),
    };
    let options = Options {
        waiting,
        ..Options::default()
    };
    let statistics = OnceLock::new();
    let stop = std::io::stdin();
    service::run(platform, workers, stop.as_fd(), options, |counters| {
        let _ = statistics.set(Arc::clone(counters));
    })?;
    let Some(statistics) = statistics.get() else {
        return Ok(Served::default());
    };
    let total = statistics.total();
    let calls: u64 = total
        .named()
        .filter(|(name, _)| name.starts_with("sys_"))
        .map(|(_, count)| count)
        .sum();
    Ok(Served {
        requests: total.requests,
        notifications: total.notifications_sent,
        calls: calls + total.notifications_sent + statistics.waits(),
    })
}
