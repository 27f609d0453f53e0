//! One disk of those whose images are opened here.

use std::time::{Duration, Instant};

use super::connections::Connections;
use super::opened::{Opened, Tried, address};
use crate::image::{ImageError, ImageFormat, ImageSpec};
use crate::locks::Seat;
use crate::nbd::Fence;
use crate::open::Identity;

/// How much longer than an attempt that failed it is left alone: others are not served while storage does not answer.
const REST: u32 = 4;

/// How long a process may take to let go of the image of a disk that is gone, where locks say whether it did.
const PARTING: Duration = Duration::from_secs(5);

/// A disk as configured.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) spec: ImageSpec,
    /// As messages name it.
    pub(super) name: String,
    /// Of a file, once it was open.
    pub(super) identity: Identity,
    /// Whose it is: domains of the same machine are one and the same guest, before and after it is migrated.
    pub(super) machine: Option<String>,
    /// Some process had it open: I/O of a dead one may still be under way.
    pub(super) served: bool,
    /// By which that of a server's disk is waited for.
    pub(super) fence: Option<Fence>,
    /// When a process was first told to ask again.
    pub(super) waits: Option<Instant>,
    /// Why it could not be opened last, and when that is tried again.
    trouble: Option<(ImageError, Instant)>,
}

impl Disk {
    /// Of which nothing is known but what it is for.
    pub(super) fn new(spec: ImageSpec, name: String) -> Self {
        let identity = match spec.format {
            ImageFormat::Nbd => address(&spec).map_or((0, 0), |address| address.identity()),
            _ => (0, 0),
        };
        Self {
            spec,
            name,
            identity,
            machine: None,
            served: false,
            fence: None,
            waits: None,
            trouble: None,
        }
    }

    /// Opens it, for one process.
    pub(super) fn open(
        &mut self,
        seat: Seat,
        connections: &mut Connections,
    ) -> Result<Tried, ImageError> {
        let opened = match Opened::by(&self.spec, seat, connections)? {
            Tried::Open(opened) => opened,
            other => return Ok(other),
        };
        if self.spec.format == ImageFormat::Nbd {
            let fence = Fence::new(&opened.file).map_err(|error| ImageError::System {
                target: self.spec.target.clone(),
                op: "dup".to_owned(),
                errno: error.raw_os_error().unwrap_or(0),
            })?;
            self.fence = Some(fence);
        }
        self.served = true;
        self.waits = None;
        self.trouble = None;
        self.identity = opened.identity;
        Ok(Tried::Open(opened))
    }

    /// An attempt to open it failed: whether another is to follow.
    pub(super) fn tries_again(
        &mut self,
        error: &ImageError,
        took: Duration,
        patience: Duration,
    ) -> bool {
        let last = self.trouble.take();
        if !error.may_pass() || !self.may_wait(patience) {
            return false;
        }
        if last.is_none_or(|(last, _)| last != *error) {
            tracing::warn!("{}: {error}: tried again for {patience:?}", self.name);
        }
        self.trouble = Some((error.clone(), Instant::now() + took * REST));
        true
    }

    /// Whether it is left alone for now, since the last attempt failed just then.
    pub(super) fn rests(&self, now: Instant) -> bool {
        matches!(self.trouble, Some((_, until)) if now < until)
    }

    /// Whether its image is this one.
    pub(super) fn has(&self, identity: Identity) -> bool {
        identity != (0, 0) && self.identity == identity
    }

    /// Whether whoever asks may go on asking. Once that is refused a new time begins.
    pub(super) fn may_wait(&mut self, patience: Duration) -> bool {
        let since = *self.waits.get_or_insert_with(Instant::now);
        let may = since.elapsed() < patience;
        if !may {
            self.waits = None;
        }
        may
    }
}

/// What was a disk's until just now.
#[derive(Debug)]
pub(super) struct Parted {
    pub(super) disk: Disk,
    pub(super) since: Instant,
}

impl Parted {
    /// Whether something of it may still be under way: until its server has closed the connection, for nothing else keeps the
    /// next one out there.
    pub(super) fn is_under_way(&mut self) -> bool {
        match &mut self.disk.fence {
            Some(fence) => !fence.is_over(),
            None => self.since.elapsed() < PARTING,
        }
    }
}
