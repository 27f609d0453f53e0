//! One ring, one disk, one owner thread.
//!
//! The loop of whoever owns an engine is [`step`](Engine::step) until there is nothing [`more`](Progress::more), then
//! [`arm`](Engine::arm), and only after [`Armed::Sleep`] a wait for the doorbell ([`Engine::channel`]) or the disk
//! ([`Engine::wake`]).

mod barrier;
mod finish;
mod gather;
mod recover;
mod ring;
mod take;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ringfence_core::ids::DomId;
use ringfence_core::platform::{Access, Platform};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{Abi, MAX_SEGMENTS_PER_REQUEST};
use ringfence_ring::Armed;

use self::barrier::Barriers;
use self::gather::Waiting;
use self::recover::Replays;
use self::ring::Ring;
use crate::buffer::{Buffer, Pool};
use crate::epoch::Epoch;
use crate::error::{AttachError, EngineError, IoError, Refusal};
use crate::grants::Staged;
use crate::grants::persistent::{Budget, Persistent};
use crate::journal::{self, Journal, Unjournaled};
use crate::negotiate::RingNodes;
use crate::request::Run;
use crate::sink::{Disk, Geometry, Io, IoOp, Tag};
use crate::stats::Stats;
use crate::ticket::{Table, Ticket};

/// The tag of a flush that no frontend asked for.
const OWN_FLUSH: Tag = Tag::new(u16::MAX);

/// Requests whose answers go out together, of a disk that finishes at once.
const PART: u32 = 8;

/// Pages of all buffers of a ring together: enough for a ring of one page full of requests that carry their segments, or for
/// four of the largest. Who asks for more waits.
const BUFFER_PAGES: usize = 1056;
const _: () = assert!(32 * MAX_SEGMENTS_PER_REQUEST.next_power_of_two() <= BUFFER_PAGES);

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Requests taken from the ring.
    pub taken: u32,
    /// Bytes of data of the requests that got their buffers.
    pub bytes: u64,
    /// Responses published.
    pub answered: u32,
    /// Whether another ring of the device has something to do that it is not rung for: a barrier begins, goes on, or is over.
    pub others: bool,
    /// Whether the budget ran out, so that another step may find work at once.
    pub more: bool,
    /// The last request of this step that failed, for a (rate-limited) log.
    pub refused: Option<Refusal>,
}

/// What both sides agreed on.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The layout of the requests.
    pub abi: Abi,
    /// The most segments of an indirect request; with 0 there are none.
    pub indirect_segments: u16,
    /// What the rings of the device share, and which of them this is.
    pub epoch: Arc<Epoch>,
    /// The number of the ring.
    pub queue: u16,
    /// How many pages of this ring stay mapped, within whose budget; `None` where both sides did not agree on it.
    pub persistent: Option<(usize, Arc<Budget>)>,
    /// What time it is, in nanoseconds since any moment, for the statistics; `None` if nobody wants to know.
    pub clock: Option<fn() -> u64>,
    /// What is [marked](Engine::mark) on the ring that an earlier process had; `None` if that is not known.
    pub marked: Option<u64>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            abi: Abi::default(),
            indirect_segments: 0,
            epoch: Arc::new(Epoch::new(1)),
            queue: 0,
            persistent: None,
            clock: None,
            marked: None,
        }
    }
}

/// One ring of a connected disk.
pub struct Engine<P: Platform, J: Journal = Unjournaled> {
    platform: P,
    peer: DomId,
    ring: Ring<P::Mapping>,
    channel: P::Channel,
    disk: Disk,
    journal: J,
    stats: Arc<Stats>,
    table: Table,
    pool: Pool,
    persistent: Option<Persistent<P::Mapping>>,
    indirect_segments: u16,
    queue: u16,
    clock: Option<fn() -> u64>,
    /// When the requests of this step were taken.
    taken_at: u64,
    /// What counts as that for the next ones.
    woke: Option<u64>,
    /// Memory of indirect requests' runs that are answered.
    rooms: Vec<Vec<Run>>,
    /// Taken, and not yet ready for the disk.
    waiting: VecDeque<Waiting>,
    /// Taken in this step, with their buffers.
    fresh: Vec<Staged>,
    /// Taken in this step, and no operation.
    refused: Vec<(Ticket, Refusal)>,
    /// Done by the disk in this step.
    done: Vec<Staged>,
    /// Answered, and not yet published.
    answered: Vec<journal::Slot>,
    /// What the disk had no room for.
    backlog: VecDeque<Io>,
    barriers: Barriers,
    /// The write of the barrier that is at work.
    held: Option<Io>,
    /// What an earlier process left to be done again.
    replays: Replays,
    stopping: bool,
    own_flush: OwnFlush,
    last_refusal: Option<Refusal>,
    /// Bytes of data of this step.
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnFlush {
    No,
    Running,
    Ended(Result<(), IoError>),
}

impl<P: Platform, J: Journal> Engine<P, J> {
    /// Maps the ring, binds the port and [attaches](Self::attach).
    ///
    /// # Errors
    /// The disk back, with the reason; nothing stays mapped or bound then.
    pub fn connect(
        platform: P,
        peer: DomId,
        ring: &RingNodes,
        terms: &Terms,
        disk: Disk,
        journal: J,
    ) -> Result<Self, (Disk, AttachError)> {
        match reach(&platform, peer, ring) {
            Ok((mapping, channel)) => {
                Self::attach(platform, peer, mapping, channel, terms, disk, journal)
            }
            Err(error) => Err((disk, error)),
        }
    }

    /// Maps the ring, binds the port and [recovers](Self::recover).
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn reconnect(
        platform: P,
        peer: DomId,
        ring: &RingNodes,
        terms: &Terms,
        disk: Disk,
        journal: J,
    ) -> Result<Self, (Disk, AttachError)> {
        match reach(&platform, peer, ring) {
            Ok((mapping, channel)) => {
                Self::recover(platform, peer, mapping, channel, terms, disk, journal)
            }
            Err(error) => Err((disk, error)),
        }
    }

    /// Attaches to a mapped ring where it stands. Never writes to it: the frontend may have posted requests already.
    ///
    /// # Errors
    /// The disk back, with the reason.
    pub fn attach(
        platform: P,
        peer: DomId,
        mapping: P::Mapping,
        channel: P::Channel,
        terms: &Terms,
        disk: Disk,
        mut journal: J,
    ) -> Result<Self, (Disk, AttachError)> {
        let ring = match Ring::attach(mapping, terms.abi) {
            Ok(ring) => ring,
            Err(error) => return Err((disk, error.into())),
        };
        journal.start(ring.rsp_prod());
        Ok(Self::over(
            platform, peer, ring, channel, terms, disk, journal,
        ))
    }

    fn over(
        platform: P,
        peer: DomId,
        ring: Ring<P::Mapping>,
        channel: P::Channel,
        terms: &Terms,
        disk: Disk,
        journal: J,
    ) -> Self {
        let size = u16::try_from(ring.size()).unwrap_or(u16::MAX);
        disk.stats().set_entries(terms.queue, size.into());
        let room = usize::from(size);
        Self {
            platform,
            peer,
            ring,
            channel,
            stats: disk.stats().clone(),
            disk,
            journal,
            table: Table::new(size),
            pool: Pool::new(BUFFER_PAGES),
            persistent: terms
                .persistent
                .as_ref()
                .map(|(limit, budget)| Persistent::new(*limit, Arc::clone(budget))),
            indirect_segments: terms.indirect_segments,
            queue: terms.queue,
            clock: terms.clock,
            taken_at: terms.clock.map_or(0, |clock| clock()),
            woke: None,
            rooms: Vec::new(),
            waiting: VecDeque::new(),
            fresh: Vec::with_capacity(room),
            refused: Vec::with_capacity(room),
            done: Vec::with_capacity(room),
            answered: Vec::with_capacity(room),
            backlog: VecDeque::with_capacity(room.saturating_add(1)),
            barriers: Barriers::new(Arc::clone(&terms.epoch), terms.queue),
            held: None,
            replays: Replays::default(),
            stopping: false,
            own_flush: OwnFlush::No,
            last_refusal: None,
            bytes: 0,
        }
    }

    fn now(&self) -> u64 {
        self.clock.map_or(0, |clock| clock())
    }

    /// What the next [`step`](Self::step) takes counts as taken at this time of [`Terms::clock`], which is not asked for it: of one
    /// who has just looked at it.
    pub const fn woke(&mut self, at: u64) {
        self.woke = Some(at);
    }

    /// Our end of the event channel.
    pub const fn channel(&self) -> &P::Channel {
        &self.channel
    }

    /// The disk.
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Looks again how large the disk is; what is taken from now on is held against that.
    pub fn refresh(&mut self) -> &Geometry {
        self.disk.refresh()
    }

    /// The counters, which outlive the engine.
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The descriptor that is readable when the disk finished something; `None` for disks that finish at once.
    pub fn wake(&self) -> Option<i32> {
        self.disk.wake()
    }

    /// Leaves a word on the ring by which a later process knows it again.
    pub fn mark(&self, word: u64) {
        self.ring.mark(word);
    }

    /// How many requests the disk is working on.
    pub fn in_flight(&self) -> usize {
        self.table.in_flight()
    }

    /// Whether the frontend has requests on the ring that were not taken, or claims to.
    pub fn is_awaited(&mut self) -> bool {
        self.ring.pass() != Ok(0)
    }

    /// Takes no more requests from now on; [`step`](Self::step) then only finishes what was taken.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether [`stop`](Self::stop) was called.
    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether everything that was taken is answered, and no flush of [`flush`](Self::flush) is on its way.
    pub fn is_idle(&self) -> bool {
        self.table.in_flight() == 0
            && self.waiting.is_empty()
            && !self.barriers.is_open()
            && self.own_flush != OwnFlush::Running
            && self.replays.is_empty()
            && self.refused.is_empty()
    }

    /// Starts a flush that the frontend did not ask for. [`is_idle`](Self::is_idle) says when it has ended.
    pub fn flush(&mut self) {
        if self.own_flush == OwnFlush::Running || !self.disk.geometry().flush {
            return;
        }
        self.own_flush = OwnFlush::Running;
        self.backlog.push_back(Io {
            tag: OWN_FLUSH,
            op: IoOp::Flush,
            buffer: Buffer::empty(),
        });
    }

    /// How the last flush of [`flush`](Self::flush) ended, if one has.
    pub fn flushed(&self) -> Option<Result<(), IoError>> {
        match self.own_flush {
            OwnFlush::Ended(result) => Some(result),
            _ => None,
        }
    }

    /// Ends the engine: unmaps the ring, closes the port. Requests still at the disk are never answered.
    pub fn into_disk(self) -> Disk {
        self.disk
    }

    /// Finishes what the disk has done, takes up to `budget` requests and starts them, and answers. Rings when the frontend
    /// asked for it: once, unless it asks again meanwhile.
    ///
    /// With a disk that finishes at once, and pages that are mapped, the answers go out in parts, so that the frontend works on
    /// the first ones while we work on the rest, and neither has to sleep until the other is through with all of them. Where
    /// data is copied by the platform, a call for all of them is worth more.
    ///
    /// # Errors
    /// [`EngineError::Peer`] once the frontend has lied about its index, and from then on until [`stop`](Self::stop). What
    /// was done before is published all the same.
    pub fn step(&mut self, budget: u32) -> Result<Progress, EngineError> {
        self.last_refusal = None;
        self.bytes = 0;
        let copies = self.disk.touches_data() && self.persistent.is_none();
        let part = match self.disk.wake() {
            None if !copies => budget.min(PART),
            _ => budget,
        };
        let mut all = Progress::default();
        loop {
            let pass = self.pass(part.min(budget.saturating_sub(all.taken)))?;
            all.taken = all.taken.saturating_add(pass.taken);
            all.bytes = pass.bytes;
            all.answered = all.answered.saturating_add(pass.answered);
            all.others |= pass.others;
            all.refused = pass.refused;
            all.more = pass.more || (all.taken == budget && budget > 0);
            if pass.more || pass.taken < part || all.taken >= budget {
                return Ok(all);
            }
        }
    }

    /// One part of a step; `more` if something is held up.
    fn pass(&mut self, budget: u32) -> Result<Progress, EngineError> {
        let woke = self.woke.take();
        let mut answered = self.finish();
        self.take_again();
        let (allowed, fault) = match self.may_take(budget) {
            Ok(allowed) => (allowed, None),
            Err(fault) => (0, Some(fault)),
        };
        let (taken, fault) = match fault {
            None => self.take(allowed, woke),
            fault => (0, fault),
        };
        self.took(taken);
        if fault.is_some() {
            self.forget_older();
        }
        self.gather();
        answered = answered.saturating_add(self.start());
        self.disk.kick();
        // Some disks finish at once: their answers go out with the same doorbell.
        answered = answered.saturating_add(self.finish());
        self.advance();
        self.publish()?;
        if weakened!("journal_late_commit") {
            self.journal.commit(self.ring.req_cons());
        }
        let waits = !self.replays.is_empty() && self.table.in_flight() == 0;
        let held_up = (answered > 0 || self.barriers.is_open()) && self.is_held_up();
        match fault {
            Some(fault) => Err(fault.into()),
            None => Ok(Progress {
                taken,
                bytes: self.bytes,
                answered,
                others: self.barriers.calls(),
                more: waits || held_up,
                refused: self.last_refusal,
            }),
        }
    }

    /// Whether something waits for what those that were answered may have given back.
    fn is_held_up(&self) -> bool {
        !self.waiting.is_empty() || !self.backlog.is_empty()
    }

    /// Asks to be rung at the next request and looks once more. While the engine can take nothing, the disk's descriptor is
    /// what wakes it.
    pub fn arm(&mut self) -> Armed {
        if self.stopping || !self.can_take() || self.barriers.forbid() {
            Armed::Sleep
        } else {
            self.ring.arm()
        }
    }
}

/// Maps and binds, all or nothing.
fn reach<P: Platform>(
    platform: &P,
    peer: DomId,
    ring: &RingNodes,
) -> Result<(P::Mapping, P::Channel), AttachError> {
    let mapping = platform.map(peer, &ring.refs, Access::ReadWrite)?;
    Ok((mapping, platform.bind(peer, ring.port)?))
}
