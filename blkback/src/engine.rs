//! One ring, one disk, one owner thread.
//!
//! The loop of whoever owns an engine is [`step`](Engine::step) until there is nothing [`more`](Progress::more), then
//! [`arm`](Engine::arm), and only after [`Armed::Sleep`] a wait for the doorbell ([`Engine::channel`]) or the disk
//! ([`Engine::wake`]).

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ringfence_core::ids::{DomId, EvtchnPort, GrantRef};
use ringfence_core::platform::{Access, Channel, Platform, PlatformError};
use ringfence_core::wire::blkif::{MAX_SEGMENTS_PER_REQUEST, RequestNative, Status};
use ringfence_ring::{Armed, Back, PeerFault, Slot, Taken};

use crate::BlkifNative;
use crate::buffer::{Buffer, Pool};
use crate::error::{AttachError, EngineError, IoError, Refusal};
use crate::grants::{Copy, Staged, copy};
use crate::journal::{self, Journal, Unjournaled};
use crate::request::{Echo, Op, Runs, parse};
use crate::sink::{Disk, Io, IoOp, Rejected, Tag};
use crate::stats::Stats;
use crate::ticket::{Table, Ticket};

/// The tag of a flush that no frontend asked for.
const OWN_FLUSH: Tag = Tag::new(u16::MAX);

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Requests taken from the ring.
    pub taken: u32,
    /// Responses published.
    pub answered: u32,
    /// Whether the budget ran out, so that another step may find work at once.
    pub more: bool,
    /// The last request of this step that failed, for a (rate-limited) log.
    pub refused: Option<Refusal>,
}

/// A connected disk.
pub struct Engine<P: Platform, J: Journal = Unjournaled> {
    platform: P,
    peer: DomId,
    ring: Back<P::Mapping, BlkifNative>,
    channel: P::Channel,
    disk: Disk,
    journal: J,
    stats: Arc<Stats>,
    table: Table,
    pool: Pool,
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
    stopping: bool,
    own_flush: OwnFlush,
    last_refusal: Option<Refusal>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnFlush {
    No,
    Running,
    Ended(Result<(), IoError>),
}

impl<P: Platform> Engine<P> {
    /// Maps the ring, binds the port and attaches, without a journal.
    ///
    /// # Errors
    /// The disk back, with the reason; nothing stays mapped or bound then.
    pub fn connect(
        platform: P,
        peer: DomId,
        ring_ref: GrantRef,
        port: EvtchnPort,
        disk: Disk,
    ) -> Result<Self, (Disk, AttachError)> {
        let mapping = match platform.map(peer, &[ring_ref], Access::ReadWrite) {
            Ok(mapping) => mapping,
            Err(error) => return Err((disk, error.into())),
        };
        let channel = match platform.bind(peer, port) {
            Ok(channel) => channel,
            Err(error) => return Err((disk, error.into())),
        };
        Self::attach(platform, peer, mapping, channel, disk, Unjournaled)
    }
}

impl<P: Platform, J: Journal> Engine<P, J> {
    /// Attaches to a mapped ring where it stands. Never writes to it: the frontend may have posted requests already.
    ///
    /// # Errors
    /// The disk back, with the reason.
    pub fn attach(
        platform: P,
        peer: DomId,
        mapping: P::Mapping,
        channel: P::Channel,
        disk: Disk,
        journal: J,
    ) -> Result<Self, (Disk, AttachError)> {
        let ring = match Back::attach(mapping) {
            Ok(ring) => ring,
            Err(error) => return Err((disk, error.into())),
        };
        let size = u16::try_from(ring.size()).unwrap_or(u16::MAX);
        let room = usize::from(size);
        Ok(Self {
            platform,
            peer,
            ring,
            channel,
            stats: disk.stats().clone(),
            disk,
            journal,
            table: Table::new(size),
            pool: Pool::new(room, MAX_SEGMENTS_PER_REQUEST),
            fresh: Vec::with_capacity(room),
            refused: Vec::with_capacity(room),
            done: Vec::with_capacity(room),
            answered: Vec::with_capacity(room),
            backlog: VecDeque::with_capacity(room.saturating_add(1)),
            stopping: false,
            own_flush: OwnFlush::No,
            last_refusal: None,
        })
    }

    /// Our end of the event channel.
    pub const fn channel(&self) -> &P::Channel {
        &self.channel
    }

    /// The disk.
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The counters, which outlive the engine.
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The descriptor that is readable when the disk finished something; `None` for disks that finish at once.
    pub fn wake(&self) -> Option<i32> {
        self.disk.wake()
    }

    /// How many requests the disk is working on.
    pub fn in_flight(&self) -> usize {
        self.table.in_flight()
    }

    /// Takes no more requests from now on; [`step`](Self::step) then only finishes what was taken.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether everything that was taken is answered, and no flush of [`flush`](Self::flush) is on its way.
    pub fn is_idle(&self) -> bool {
        self.table.in_flight() == 0 && self.own_flush != OwnFlush::Running
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

    /// Finishes what the disk has done, takes up to `budget` requests and starts them, answers, and rings at most once.
    ///
    /// # Errors
    /// [`EngineError::Peer`] once the frontend has lied about its index, and from then on until [`stop`](Self::stop). What
    /// was done before is published all the same.
    pub fn step(&mut self, budget: u32) -> Result<Progress, EngineError> {
        self.last_refusal = None;
        let mut answered = self.finish();
        let (taken, fault) = if self.stopping {
            (0, None)
        } else {
            self.take(budget)
        };
        answered = answered.saturating_add(self.start());
        self.disk.kick();
        // Some disks finish at once: their answers go out with the same doorbell.
        answered = answered.saturating_add(self.finish());
        self.publish()?;
        match fault {
            Some(fault) => Err(fault.into()),
            None => Ok(Progress {
                taken,
                answered,
                more: taken == budget && budget > 0,
                refused: self.last_refusal,
            }),
        }
    }

    /// Asks to be rung at the next request and looks once more. While the engine can take nothing, the disk's descriptor is
    /// what wakes it.
    pub fn arm(&mut self) -> Armed {
        if self.stopping || !self.can_take() {
            Armed::Sleep
        } else {
            self.ring.arm()
        }
    }

    fn can_take(&self) -> bool {
        self.backlog.is_empty() && self.table.room() > 0
    }

    /// Takes requests and parses them. All of them are in the journal before anything is done about any.
    fn take(&mut self, budget: u32) -> (u32, Option<PeerFault>) {
        let mut taken = 0u32;
        let mut fault = None;
        while taken < budget && self.can_take() {
            match self.ring.take() {
                Ok(Some(request)) => self.accept(request),
                Ok(None) => break,
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
            taken = taken.saturating_add(1);
        }
        if taken > 0 {
            self.journal.commit(self.ring.req_cons());
            self.stats.requests.add(u64::from(taken));
        }
        (taken, fault)
    }

    fn accept(&mut self, taken: Taken<BlkifNative>) {
        let (request, slot) = taken.into_parts();
        // `can_take` saw a free number.
        let number = self.table.reserve().unwrap_or(u16::MAX);
        let entry = self.journal.take(number, slot.index(), &request);
        match self.stage(&request) {
            Ok((op, buffer, runs)) => {
                let io = Io {
                    tag: Tag::new(number),
                    op,
                    buffer,
                };
                let ticket = ticket(slot, entry, &request, runs);
                self.fresh.push(Staged {
                    ticket,
                    io,
                    outcome: Ok(()),
                });
            }
            Err(why) => self
                .refused
                .push((ticket(slot, entry, &request, Runs::new()), why)),
        }
    }

    fn stage(&mut self, request: &RequestNative) -> Result<(IoOp, Buffer, Runs), Refusal> {
        let (op, transfer) = match parse(request, self.disk.geometry())? {
            Op::Read(transfer) => (IoOp::Read(transfer.sector), transfer),
            Op::Write(transfer) => (IoOp::Write(transfer.sector), transfer),
            Op::Flush => return Ok((IoOp::Flush, Buffer::empty(), Runs::new())),
        };
        let buffer = self.pool.get(transfer.bytes).ok_or(Refusal::Exhausted)?;
        Ok((op, buffer, transfer.runs))
    }

    /// Answers what was refused and hands the rest to the disk.
    fn start(&mut self) -> u32 {
        let mut answered = 0u32;
        let mut refused = core::mem::take(&mut self.refused);
        for (ticket, why) in refused.drain(..) {
            self.answer(ticket, Err(why));
            answered = answered.saturating_add(1);
        }
        self.refused = refused;

        while let Some(io) = self.backlog.pop_front() {
            match self.submit(io) {
                Ok(n) => answered = answered.saturating_add(n),
                Err(io) => {
                    self.backlog.push_front(io);
                    break;
                }
            }
        }

        let mut fresh = core::mem::take(&mut self.fresh);
        if self.disk.touches_data() {
            copy(
                &self.platform,
                self.peer,
                &mut fresh,
                Copy::Writes,
                &self.stats,
            );
        }
        for Staged {
            ticket,
            io,
            outcome,
        } in fresh.drain(..)
        {
            if outcome.is_err() {
                self.pool.put(io.buffer);
                self.answer(ticket, outcome);
                answered = answered.saturating_add(1);
                continue;
            }
            self.table.put(ticket);
            match self.submit(io) {
                Ok(n) => answered = answered.saturating_add(n),
                Err(io) => self.backlog.push_back(io),
            }
        }
        self.fresh = fresh;
        answered
    }

    /// Submits a request whose ticket is in the table. Gives it back when the disk is busy; says how many were answered.
    fn submit(&mut self, io: Io) -> Result<u32, Io> {
        match self.disk.submit(io) {
            Ok(()) => Ok(0),
            Err(Rejected::Busy(io)) => Err(io),
            Err(Rejected::Refused { io, why }) => {
                self.pool.put(io.buffer);
                let Some(ticket) = self.table.take(io.tag.get()) else {
                    return Ok(0);
                };
                self.answer(ticket, Err(why));
                Ok(1)
            }
        }
    }

    /// Reaps the disk, copies what was read and answers.
    fn finish(&mut self) -> u32 {
        while self.done.len() < self.done.capacity() {
            let Some(done) = self.disk.reap() else { break };
            let outcome = done.result.map_err(Refusal::from);
            match self.table.take(done.io.tag.get()) {
                Some(ticket) => self.done.push(Staged {
                    ticket,
                    io: done.io,
                    outcome,
                }),
                None if done.io.tag == OWN_FLUSH => self.own_flush = OwnFlush::Ended(done.result),
                None => self.pool.put(done.io.buffer),
            }
        }
        if self.disk.touches_data() {
            copy(
                &self.platform,
                self.peer,
                &mut self.done,
                Copy::Reads,
                &self.stats,
            );
        }
        let mut finished = core::mem::take(&mut self.done);
        let mut answered = 0u32;
        for Staged {
            ticket,
            io,
            outcome,
        } in finished.drain(..)
        {
            self.pool.put(io.buffer);
            self.answer(ticket, outcome);
            answered = answered.saturating_add(1);
        }
        self.done = finished;
        answered
    }

    /// Writes one response; the frontend sees it after [`publish`](Self::publish).
    fn answer(&mut self, ticket: Ticket, outcome: Result<(), Refusal>) {
        let status = match outcome {
            Ok(()) => Status::OKAY,
            Err(why) => {
                self.last_refusal = Some(why);
                why.status()
            }
        };
        match status {
            Status::OKAY => {}
            Status::EOPNOTSUPP => self.stats.unsupported.add(1),
            _ => self.stats.errors.add(1),
        }
        self.journal
            .answer(&ticket.entry, self.ring.rsp_prod_pvt(), status);
        let response = ticket.response(status);
        self.ring.respond(ticket.slot, &response);
        self.answered.push(ticket.entry);
    }

    /// Shows all answers and rings the doorbell if the frontend asked for it.
    fn publish(&mut self) -> Result<(), PlatformError> {
        let (old, new) = (self.ring.rsp_prod(), self.ring.rsp_prod_pvt());
        if old == new {
            return Ok(());
        }
        self.journal.publish(old, new);
        let notify = self.ring.publish();
        for entry in self.answered.drain(..) {
            let number = entry.number();
            self.journal.clear(entry);
            self.table.release(number);
        }
        if notify.is_needed() {
            self.stats.notifications_sent.add(1);
            self.channel.notify()?;
        }
        Ok(())
    }
}

fn ticket(slot: Slot, entry: journal::Slot, request: &RequestNative, runs: Runs) -> Ticket {
    Ticket {
        slot,
        entry,
        echo: Echo::of(request),
        runs,
    }
}
