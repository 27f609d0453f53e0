//! What we remember of every request that has no answer yet; never read from a shared page (XSA-155).

use core::fmt;

use heapless::Vec;
use ringfence_core::platform::Platform;
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{
    self, DISCARD_SECURE, MAX_INDIRECT_PAGES_PER_REQUEST, MAX_SEGMENTS_PER_REQUEST,
    RequestDiscardNative, RequestIndirectNative, RequestNative, ResponseNative, Segment, Status,
};
use ringfence_core::{Handle, Sector, SectorCount};

use crate::connection::Limits;
use crate::{Buffer, IoError, MAX_PAGES, PeerFault};

/// The most requests in flight unless the type says otherwise: the entries of a one-page ring.
pub const SLOTS: usize = 32;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// From the disk into the buffer.
    Read,
    /// From the buffer to the disk.
    Write,
    /// From the buffer to the disk, durably, after everything submitted before it was done and made durable, and before
    /// anything submitted after it is begun (`BLKIF_OP_WRITE_BARRIER`).
    Barrier,
    /// Makes every write that was answered before durable.
    Flush,
    /// Lets the disk forget sectors.
    Discard,
    /// Forgets sectors so that they cannot be recovered.
    SecureDiscard,
}

impl Op {
    pub(crate) const fn wire(self) -> blkif::Op {
        match self {
            Self::Read => blkif::Op::READ,
            Self::Write => blkif::Op::WRITE,
            Self::Barrier => blkif::Op::WRITE_BARRIER,
            Self::Flush => blkif::Op::FLUSH_DISKCACHE,
            Self::Discard | Self::SecureDiscard => blkif::Op::DISCARD,
        }
    }

    /// Whether there is a buffer.
    pub(crate) const fn moves_data(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::Barrier)
    }

    /// Whether the disk's contents change.
    pub(crate) const fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }

    /// Whether, when requests are put on a ring again, those before and after it are kept apart.
    const fn is_fence(self) -> bool {
        matches!(self, Self::Flush | Self::Barrier)
    }
}

/// Names a submitted request; never the same twice for a frontend within 2^32 requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(u64);

impl Tag {
    const fn of(number: u64, slot: u16) -> Self {
        Self(number.wrapping_shl(32) | slot as u64)
    }

    /// The request's id on the wire, the first time it was on a ring: the slot in the low half, a count in the high half, so
    /// that a late answer to an earlier request of the same slot is told apart.
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
pub struct Completion<P: Platform, const PAGES: usize = MAX_PAGES> {
    /// What [`submit`](crate::Queue::submit), [`flush`](crate::Queue::flush) or [`discard`](crate::Queue::discard)
    /// returned.
    pub tag: Tag,
    /// What it was.
    pub op: Op,
    /// How it ended.
    pub result: Result<(), IoError>,
    /// Its buffer, back; `None` where there was none. After [`IoError::Aborted`] and [`IoError::NotRepeated`] it can be read, but not
    /// submitted before it was [renewed](crate::Queue::renew): no backend has access to it. Where the platform does not see
    /// whether a backend still has a page mapped
    /// ([`Capabilities::observes_mappings`](ringfence_core::platform::Capabilities::observes_mappings)) there is none then:
    /// it was dropped, and what lies below the platform keeps its pages for as long as they are mapped.
    pub buffer: Option<Buffer<P, PAGES>>,
}

impl<P: Platform, const PAGES: usize> fmt::Debug for Completion<P, PAGES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("tag", &self.tag)
            .field("op", &self.op)
            .field("result", &self.result)
            .field("buffer", &self.buffer)
            .finish()
    }
}

/// Where a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// On the ring.
    Open,
    /// To be put on a ring again.
    Waiting,
    /// It ended without an answer; its pages may still be mapped.
    Over(IoError),
}

/// One request's shadow: all that it takes to judge its answer, or to submit it again.
pub(crate) struct Entry<P: Platform, const PAGES: usize> {
    pub(crate) tag: Tag,
    /// Its present id on the wire.
    pub(crate) id: u64,
    pub(crate) op: Op,
    pub(crate) sector: Sector,
    pub(crate) count: SectorCount,
    pub(crate) buffer: Option<Buffer<P, PAGES>>,
    /// Whether its pages were shown to the backend of a connection that ended.
    pub(crate) stale: bool,
    /// Sectors that were transferred by earlier pieces.
    pub(crate) done: u64,
    /// Sectors of the piece that is on the ring.
    piece: u64,
    /// Whether that piece is an indirect request.
    indirect: bool,
    /// Whether an ended connection left it unanswered.
    again: bool,
    /// What keeps it apart from requests of the device's other queues: see [`Inflight::epoch`].
    epoch: u64,
    /// Its place in the order of submission.
    seq: u64,
    /// Its place in the order of what was put on rings.
    push: u64,
    stage: Stage,
}

pub(crate) struct Inflight<P: Platform, const DEPTH: usize, const PAGES: usize> {
    entries: [Option<Entry<P, PAGES>>; DEPTH],
    free: Vec<u16, DEPTH>,
    /// The number that the next request put on a ring gets.
    next: u64,
    /// Even; grows by two with each flush and barrier, which has the odd number between.
    pub(crate) epoch: u64,
    /// What has a smaller number is published.
    published: u64,
    open: usize,
    waiting: usize,
    over: usize,
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Inflight<P, DEPTH, PAGES> {
    pub(crate) fn new() -> Self {
        // The first slot is taken first.
        let free = (0u16..).take(DEPTH).collect::<Vec<_, DEPTH>>();
        Self {
            entries: [const { None }; DEPTH],
            free: free.into_iter().rev().collect(),
            next: 0,
            epoch: 0,
            published: 0,
            open: 0,
            waiting: 0,
            over: 0,
        }
    }

    /// Requests that the present backend can still answer.
    pub(crate) const fn open(&self) -> usize {
        self.open
    }

    /// Requests that are to be put on a ring again.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// All that are not handed back yet.
    pub(crate) const fn all(&self) -> usize {
        self.open
            .saturating_add(self.waiting)
            .saturating_add(self.over)
    }

    /// Remembers a request that goes on the ring now. Its buffer is for the caller to put in. `None` when there is no slot.
    pub(crate) fn insert(
        &mut self,
        op: Op,
        (sector, count): (Sector, SectorCount),
    ) -> Option<&mut Entry<P, PAGES>> {
        let slot = self.free.pop()?;
        let place = self.entries.get_mut(usize::from(slot))?;
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.open = self.open.saturating_add(1);
        let tag = Tag::of(number, slot);
        let mut epoch = self.epoch;
        if op.is_fence() {
            epoch = epoch.saturating_add(1);
            self.epoch = epoch.saturating_add(1);
        }
        Some(place.insert(Entry {
            tag,
            id: tag.0,
            op,
            sector,
            count,
            buffer: None,
            stale: false,
            done: 0,
            piece: 0,
            indirect: false,
            again: false,
            epoch,
            seq: number,
            push: number,
            stage: Stage::Open,
        }))
    }

    /// Everything on the ring so far was shown to the backend.
    pub(crate) const fn publish(&mut self) {
        self.published = self.next;
    }

    /// Judges an answer. Whatever is wrong with it, nothing is given back; nor, with `None`, while there is more to transfer.
    pub(crate) fn complete(
        &mut self,
        response: &ResponseNative,
    ) -> Result<Option<Completion<P, PAGES>>, PeerFault> {
        let id = response.id;
        let slot = usize::try_from(id & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let out_of_range = PeerFault::IdOutOfRange { id, slots: DEPTH };
        let slot = if weakened!("xsa_376_blk_id") {
            slot.checked_rem(DEPTH).unwrap_or(0)
        } else {
            slot
        };
        let place = self.entries.get_mut(slot).ok_or(out_of_range)?;
        let not_in_flight = PeerFault::NotInFlight { id };
        let published = self.published;
        let entry = place.as_mut().ok_or(not_in_flight)?;
        let in_flight = entry.id == id && entry.stage == Stage::Open && entry.push < published;
        if !(weakened!("xsa_376_blk_stale") || in_flight) {
            return Err(not_in_flight);
        }
        let (sent, got) = (entry.op.wire(), response.operation);
        // Linux answers an indirect request with what it was for; the header says that the operation is copied.
        let echo = got == sent || (entry.indirect && got == blkif::Op::INDIRECT);
        if !(weakened!("xsa_376_blk_operation") || echo) {
            return Err(PeerFault::Operation { id, sent, got });
        }
        let result = match response.status {
            Status::OKAY => Ok(()),
            Status::ERROR => Err(IoError::Failed),
            Status::EOPNOTSUPP => Err(IoError::Unsupported),
            _ if weakened!("xsa_376_blk_status") => Ok(()),
            status => return Err(PeerFault::Status { id, status }),
        };
        self.open = self.open.saturating_sub(1);
        if entry.op.moves_data() && result.is_ok() {
            entry.done = entry.done.saturating_add(entry.piece);
            if entry.done < entry.count.get() {
                entry.stage = Stage::Waiting;
                self.waiting = self.waiting.saturating_add(1);
                return Ok(None);
            }
        }
        let entry = place.take().ok_or(not_in_flight)?;
        self.release(slot);
        Ok(Some(Completion {
            tag: entry.tag,
            op: entry.op,
            result,
            buffer: entry.buffer,
        }))
    }

    fn release(&mut self, slot: usize) {
        // There are as many places in the list as slots.
        let _ = self.free.push(u16::try_from(slot).unwrap_or(u16::MAX));
    }

    /// The connection ended, and what it left unanswered is to be put on the ring of the next one: also what had no piece on
    /// its ring just then.
    pub(crate) fn wait(&mut self) {
        for entry in self.entries.iter_mut().flatten() {
            if matches!(entry.stage, Stage::Open | Stage::Waiting) {
                entry.stage = Stage::Waiting;
                (entry.stale, entry.again) = (true, true);
            }
        }
        self.waiting = self.waiting.saturating_add(self.open);
        self.open = 0;
    }

    /// Nothing of what has no answer yet will be answered any more.
    pub(crate) fn end(&mut self) {
        for entry in self.entries.iter_mut().flatten() {
            if matches!(entry.stage, Stage::Open | Stage::Waiting) {
                entry.stage = Stage::Over(IoError::Aborted);
            }
        }
        self.over = self.all();
        (self.open, self.waiting) = (0, 0);
    }

    /// The oldest request that waits, unless the order forbids that it goes on the ring now: a flush goes alone, after the
    /// answers to all that is older and before all that is younger, on this queue and, as far as epochs below `floor` tell, on
    /// the others.
    pub(crate) fn next_waiting(&mut self, floor: u64) -> Option<&mut Entry<P, PAGES>> {
        let mut oldest: Option<(usize, u64, bool)> = None;
        for (slot, entry) in self.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let older = oldest.is_none_or(|(_, seq, _)| entry.seq < seq);
            if entry.stage == Stage::Waiting && older {
                oldest = Some((slot, entry.seq, entry.op.is_fence()));
            }
        }
        let (slot, seq, fence) = oldest?;
        let apart = |entry: &Entry<P, PAGES>| {
            entry.stage == Stage::Open && entry.seq < seq && (fence || entry.op.is_fence())
        };
        if self.entries.iter().flatten().any(apart) {
            return None;
        }
        let entry = self.entries.get_mut(slot)?.as_mut();
        entry.filter(|entry| !entry.again || entry.epoch <= floor)
    }

    /// The smallest epoch of what an ended connection left and nobody answered yet; the largest number if there is none.
    pub(crate) fn low(&self) -> u64 {
        let unanswered = |entry: &&Entry<P, PAGES>| {
            entry.again && matches!(entry.stage, Stage::Open | Stage::Waiting)
        };
        let left = self.entries.iter().flatten().filter(unanswered);
        left.map(|entry| entry.epoch).min().unwrap_or(u64::MAX)
    }

    /// The request that waits goes on the ring, under a new id.
    pub(crate) fn open_again(&mut self, tag: Tag) -> Option<&mut Entry<P, PAGES>> {
        let number = self.next;
        let entry = self.entry(tag)?;
        let slot = u16::try_from(tag.0 & u64::from(u32::MAX)).unwrap_or(u16::MAX);
        entry.stage = Stage::Open;
        entry.push = number;
        entry.id = Tag::of(number, slot).0;
        self.next = number.wrapping_add(1);
        self.waiting = self.waiting.saturating_sub(1);
        self.open = self.open.saturating_add(1);
        self.entry(tag)
    }

    /// The request that waits cannot be done any more.
    pub(crate) fn give_up(&mut self, tag: Tag, error: IoError) {
        if let Some(entry) = self.entry(tag) {
            entry.stage = Stage::Over(error);
            self.waiting = self.waiting.saturating_sub(1);
            self.over = self.over.saturating_add(1);
        }
    }

    pub(crate) fn entry(&mut self, tag: Tag) -> Option<&mut Entry<P, PAGES>> {
        let slot = usize::try_from(tag.0 & u64::from(u32::MAX)).ok()?;
        self.entries.get_mut(slot)?.as_mut()
    }

    /// The oldest request that ended without an answer and whose pages no backend can reach any more. The others stay here, in
    /// quarantine. Unless that can be observed, the oldest of all, without its pages.
    pub(crate) fn take_over(&mut self, observes: bool) -> Option<Completion<P, PAGES>> {
        if self.over == 0 {
            return None;
        }
        let mut oldest: Option<(usize, IoError)> = None;
        let mut oldest_seq = u64::MAX;
        for (slot, place) in self.entries.iter_mut().enumerate() {
            let Some(entry) = place else { continue };
            let Stage::Over(error) = entry.stage else {
                continue;
            };
            if entry.seq < oldest_seq && (!observes || revoked(entry)) {
                oldest_seq = entry.seq;
                oldest = Some((slot, error));
            }
        }
        let (slot, error) = oldest?;
        let entry = self.entries.get_mut(slot)?.take()?;
        self.over = self.over.saturating_sub(1);
        self.release(slot);
        Some(Completion {
            tag: entry.tag,
            op: entry.op,
            result: Err(error),
            // Of pages that may still be mapped nobody gets hold any more (XSA-396).
            buffer: entry.buffer.filter(|_| observes),
        })
    }
}

impl<P: Platform, const PAGES: usize> Entry<P, PAGES> {
    /// Bytes that were transferred by earlier pieces.
    pub(crate) fn brought(&self) -> usize {
        usize::try_from(self.done.saturating_mul(Sector::BYTES)).unwrap_or(usize::MAX)
    }

    /// What goes on the ring of the request now: all of it, or the next piece.
    pub(crate) fn request(&mut self, handle: Handle, limits: Limits) -> RequestNative {
        let (id, sector, count) = (self.id, self.sector.get(), self.count.get());
        let (handle, units) = (handle.get(), limits.units);
        // What is submitted is whole sectors of the disk; anything else would be refused as beyond its end.
        let number = |sector| units.sector_number(sector).unwrap_or(u64::MAX);
        if matches!(self.op, Op::Discard | Op::SecureDiscard) {
            let secure = self.op == Op::SecureDiscard;
            return RequestNative::from(RequestDiscardNative {
                operation: self.op.wire(),
                flag: if secure { DISCARD_SECURE } else { 0 },
                handle,
                pad: [0; 4],
                id,
                sector_number: number(self.sector),
                nr_sectors: units.nr_sectors(self.count).unwrap_or(u64::MAX),
            });
        }
        let left = count.saturating_sub(self.done);
        self.piece = left.min(limits.sectors(self.op));
        let sector_number = number(Sector::new(sector.saturating_add(self.done)));
        let (first, piece) = (self.done, self.piece);
        let buffer = self.buffer.as_ref();
        let wide = piece > Limits::DIRECT.sectors(self.op);
        let table = buffer
            .filter(|_| wide)
            .and_then(|b| b.indirect(first, piece, units));
        self.indirect = table.is_some();
        if let Some((nr_segments, gref)) = table {
            let mut indirect_grefs = [0; MAX_INDIRECT_PAGES_PER_REQUEST];
            if let Some(only) = indirect_grefs.first_mut() {
                *only = gref.get();
            }
            return RequestNative::from(RequestIndirectNative {
                operation: blkif::Op::INDIRECT,
                indirect_op: self.op.wire(),
                nr_segments,
                pad: [0; 4],
                id,
                sector_number,
                handle,
                pad2: [0; 2],
                indirect_grefs,
                pad3: [0; 4],
            });
        }
        let none = (0, [Segment::default(); MAX_SEGMENTS_PER_REQUEST]);
        let (nr_segments, seg) = buffer.map_or(none, |buffer| buffer.direct(first, piece, units));
        RequestNative {
            operation: self.op.wire(),
            nr_segments,
            handle,
            pad: [0; 4],
            id,
            sector_number,
            seg,
        }
    }
}

fn revoked<P: Platform, const PAGES: usize>(entry: &mut Entry<P, PAGES>) -> bool {
    entry.buffer.as_mut().is_none_or(|buffer| {
        let revoked = buffer.revoke();
        weakened!("xsa_396_blk_handed_back") || revoked
    })
}
