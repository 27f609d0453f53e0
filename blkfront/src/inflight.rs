//! What we remember of every request that has no answer yet; never read from a shared page (XSA-155).

use core::fmt;

use ringfence_core::Sector;
use ringfence_core::platform::Platform;
use ringfence_core::wire::blkif::{self, ResponseNative, Status};

use crate::{Buffer, IoError, PeerFault};

/// The most requests in flight: the entries of a one-page ring.
pub const SLOTS: usize = 32;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// From the disk into the buffer.
    Read,
    /// From the buffer to the disk.
    Write,
    /// Makes every write that was answered before durable.
    Flush,
}

impl Op {
    pub(crate) const fn wire(self) -> blkif::Op {
        match self {
            Self::Read => blkif::Op::READ,
            Self::Write => blkif::Op::WRITE,
            Self::Flush => blkif::Op::FLUSH_DISKCACHE,
        }
    }
}

/// Names a submitted request; never the same twice for a frontend within 2^32 requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(u64);

impl Tag {
    /// The request's id on the wire: the slot in the low half, a count in the high half, so that a late answer to an earlier
    /// request of the same slot is told apart.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::connected();
    /// let (a, b) = (rig.front.flush()?, rig.front.flush()?);
    /// assert_ne!(a.get(), b.get());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A request that is over.
pub struct Completion<P: Platform> {
    /// What [`submit`](crate::Frontend::submit) or [`flush`](crate::Frontend::flush) returned.
    pub tag: Tag,
    /// What it was.
    pub op: Op,
    /// How it ended.
    pub result: Result<(), IoError>,
    /// Its buffer, back; `None` for a flush. After [`IoError::Aborted`] it can be read but not submitted again: the backend has
    /// lost access to it. Where the platform does not see whether the backend still has a page mapped
    /// ([`Capabilities::observes_mappings`](ringfence_core::platform::Capabilities::observes_mappings)) there is none after
    /// `Aborted`: it was dropped, and what lies below the platform keeps its pages for as long as they are mapped.
    pub buffer: Option<Buffer<P>>,
}

impl<P: Platform> fmt::Debug for Completion<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("tag", &self.tag)
            .field("op", &self.op)
            .field("result", &self.result)
            .field("buffer", &self.buffer)
            .finish()
    }
}

/// One request's shadow: all that it takes to judge its answer, or to submit it again.
struct Entry<P: Platform> {
    tag: Tag,
    op: Op,
    #[expect(dead_code, reason = "what a replay needs besides the buffer")]
    sector: Sector,
    buffer: Option<Buffer<P>>,
    /// Its place in the order of submission.
    seq: u64,
    /// Its connection ended.
    orphan: bool,
}

pub(crate) struct Inflight<P: Platform> {
    entries: [Option<Entry<P>>; SLOTS],
    /// Requests submitted, ever.
    seq: u64,
    /// Requests below this place are published.
    published: u64,
    open: usize,
    orphans: usize,
}

impl<P: Platform> Inflight<P> {
    pub(crate) fn new() -> Self {
        Self {
            entries: [const { None }; SLOTS],
            seq: 0,
            published: 0,
            open: 0,
            orphans: 0,
        }
    }

    /// Requests that the present backend can still answer.
    pub(crate) const fn open(&self) -> usize {
        self.open
    }

    /// Requests of ended connections that are not handed back yet.
    pub(crate) const fn orphans(&self) -> usize {
        self.orphans
    }

    /// Remembers a transfer. Gives the buffer back when there is no slot.
    pub(crate) fn insert(
        &mut self,
        op: Op,
        sector: Sector,
        buffer: Buffer<P>,
    ) -> Result<Tag, Buffer<P>> {
        match self.slot(op, sector) {
            Some(entry) => {
                entry.buffer = Some(buffer);
                Ok(entry.tag)
            }
            None => Err(buffer),
        }
    }

    /// Remembers a flush; `None` when there is no slot.
    pub(crate) fn insert_flush(&mut self) -> Option<Tag> {
        self.slot(Op::Flush, Sector::new(0)).map(|entry| entry.tag)
    }

    fn slot(&mut self, op: Op, sector: Sector) -> Option<&mut Entry<P>> {
        let (slot, place) = (0u64..)
            .zip(&mut self.entries)
            .find(|(_, place)| place.is_none())?;
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.open = self.open.saturating_add(1);
        Some(place.insert(Entry {
            tag: Tag(seq.wrapping_shl(32) | slot),
            op,
            sector,
            buffer: None,
            seq,
            orphan: false,
        }))
    }

    /// Everything remembered so far was shown to the backend.
    pub(crate) const fn publish(&mut self) {
        self.published = self.seq;
    }

    /// Judges an answer. Whatever is wrong with it, nothing is given back.
    pub(crate) fn complete(
        &mut self,
        response: &ResponseNative,
    ) -> Result<Completion<P>, PeerFault> {
        let id = response.id;
        let slot = usize::try_from(id & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let out_of_range = PeerFault::IdOutOfRange { id, slots: SLOTS };
        let slot = if cfg!(ringfence_weaken = "xsa_376_blk_id") {
            slot.checked_rem(SLOTS).unwrap_or(0)
        } else {
            slot
        };
        let place = self.entries.get_mut(slot).ok_or(out_of_range)?;
        let not_in_flight = PeerFault::NotInFlight { id };
        let published = self.published;
        let entry = place.as_ref().ok_or(not_in_flight)?;
        let in_flight = entry.tag.0 == id && !entry.orphan && entry.seq < published;
        if !(cfg!(ringfence_weaken = "xsa_376_blk_stale") || in_flight) {
            return Err(not_in_flight);
        }
        let sent = entry.op.wire();
        if !(cfg!(ringfence_weaken = "xsa_376_blk_operation") || response.operation == sent) {
            let got = response.operation;
            return Err(PeerFault::Operation { id, sent, got });
        }
        let result = match response.status {
            Status::OKAY => Ok(()),
            Status::ERROR => Err(IoError::Failed),
            Status::EOPNOTSUPP => Err(IoError::Unsupported),
            _ if cfg!(ringfence_weaken = "xsa_376_blk_status") => Ok(()),
            status => return Err(PeerFault::Status { id, status }),
        };
        let entry = place.take().ok_or(not_in_flight)?;
        self.open = self.open.saturating_sub(1);
        Ok(Completion {
            tag: entry.tag,
            op: entry.op,
            result,
            buffer: entry.buffer,
        })
    }

    /// The connection ended: nothing of it will be answered any more.
    pub(crate) fn orphan(&mut self) {
        for entry in self.entries.iter_mut().flatten() {
            entry.orphan = true;
        }
        self.orphans = self.orphans.saturating_add(self.open);
        self.open = 0;
    }

    /// The oldest request of an ended connection whose pages the backend has let go of. The others stay here, in quarantine.
    /// Unless that can be observed, the oldest of all, without its pages.
    pub(crate) fn take_orphan(&mut self, observes: bool) -> Option<Completion<P>> {
        if self.orphans == 0 {
            return None;
        }
        let mut oldest: Option<&mut Option<Entry<P>>> = None;
        let mut oldest_seq = u64::MAX;
        for place in &mut self.entries {
            let Some(entry) = place.as_mut().filter(|entry| entry.orphan) else {
                continue;
            };
            if entry.seq < oldest_seq && (!observes || revoked(entry)) {
                oldest_seq = entry.seq;
                oldest = Some(place);
            }
        }
        let entry = oldest?.take()?;
        self.orphans = self.orphans.saturating_sub(1);
        Some(Completion {
            tag: entry.tag,
            op: entry.op,
            result: Err(IoError::Aborted),
            // Of pages that may still be mapped nobody gets hold any more (XSA-396).
            buffer: entry.buffer.filter(|_| observes),
        })
    }
}

fn revoked<P: Platform>(entry: &mut Entry<P>) -> bool {
    entry.buffer.as_mut().is_none_or(|buffer| {
        let revoked = buffer.revoke();
        cfg!(ringfence_weaken = "xsa_396_blk_handed_back") || revoked
    })
}
