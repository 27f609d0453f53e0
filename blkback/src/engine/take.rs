//! From the ring to the disk.

use ringfence_core::platform::Platform;
use ringfence_core::weakened;
use ringfence_core::wire::blkif::RequestNative;
use ringfence_ring::{PeerFault, Slot};

use super::Engine;
use super::gather::{Waiting, Want};
use crate::buffer::{Buffer, NoBuffer};
use crate::error::{IoError, Refusal};
use crate::grants::{Copy, Staged, copy};
use crate::journal::{self, Journal};
use crate::request::{Echo, Op, Runs, parse};
use crate::sink::{Io, IoOp, Rejected};
use crate::stats::layout::TAKEN;
use crate::ticket::Ticket;

impl<P: Platform, J: Journal> Engine<P, J> {
    pub(super) fn can_take(&self) -> bool {
        self.backlog.is_empty()
            && self.waiting.is_empty()
            && self.table.room() > 0
            && !self.barriers.is_open()
            && self.replays.is_empty()
            && !self.is_alone()
    }

    /// Takes requests and parses them. All of them are in the journal before anything is done about any. They count as taken at `woke`, if
    /// that is known.
    pub(super) fn take(&mut self, budget: u32, woke: Option<u64>) -> (u32, Option<PeerFault>) {
        let mut taken = 0u32;
        let mut fault = None;
        if !self.can_take() {
            return (0, None);
        }
        while taken < budget && self.table.room() > 0 && !self.barriers.is_open() {
            match self.ring.take() {
                Ok(Some((request, slot))) => {
                    if taken == 0 {
                        self.taken_at = woke.unwrap_or_else(|| self.now());
                    }
                    self.enter(&request, slot);
                }
                Ok(None) => break,
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
            taken = taken.saturating_add(1);
        }
        if taken > 0 {
            if !weakened!("journal_late_commit") {
                self.journal.commit(self.ring.req_cons());
            }
            self.stats.requests.add(u64::from(taken));
            self.stats.add_to_ring(self.queue, TAKEN, u64::from(taken));
        }
        (taken, fault)
    }

    fn enter(&mut self, request: &RequestNative, slot: Slot) {
        // `can_take` saw a free number.
        let number = self.table.reserve().unwrap_or(u16::MAX);
        let entry = self.journal.take(number, slot.index(), request);
        self.accept(slot, entry, request);
    }

    /// Prepares a request that is in the journal.
    pub(super) fn accept(&mut self, slot: Slot, entry: journal::Slot, request: &RequestNative) {
        let mut ticket = ticket(slot, entry, request, Runs::new(), self.taken_at);
        let lost = Refusal::from(IoError::FlushLost);
        let (geometry, units) = (self.disk.geometry(), self.disk.units());
        let (op, bytes) = match parse(request, geometry, units, self.indirect_segments) {
            Err(why) => return self.refused.push((ticket, why)),
            Ok(Op::Flush) if self.journal.is_flush_lost() => {
                return self.refused.push((ticket, lost));
            }
            Ok(Op::Flush) => (IoOp::Flush, 0),
            Ok(Op::Barrier(_)) if self.journal.is_flush_lost() => {
                return self.refused.push((ticket, lost));
            }
            Ok(Op::Barrier(transfer)) => {
                self.barriers.begin(ticket.entry.number());
                match transfer {
                    None => (IoOp::Flush, 0),
                    Some(transfer) => {
                        ticket.runs = transfer.runs;
                        (IoOp::Write(transfer.sector), transfer.bytes)
                    }
                }
            }
            Ok(Op::Discard {
                sector,
                count,
                secure,
            }) => {
                let op = IoOp::Discard {
                    sector,
                    count,
                    secure,
                };
                (op, 0)
            }
            Ok(Op::Read(transfer)) => {
                ticket.runs = transfer.runs;
                (IoOp::Read(transfer.sector), transfer.bytes)
            }
            Ok(Op::Write(transfer)) => {
                ticket.runs = transfer.runs;
                (IoOp::Write(transfer.sector), transfer.bytes)
            }
            Ok(Op::Indirect(indirect)) => {
                let want = Want::Segments(indirect);
                return self.waiting.push_back(Waiting { ticket, want });
            }
        };
        if bytes == 0 {
            return self.stage(ticket, op, Buffer::empty());
        }
        // Nobody overtakes who waits, or a large request would wait for ever.
        let buffer = match self.waiting.is_empty() {
            true => self.pool.get(bytes),
            false => Err(NoBuffer::Now),
        };
        match buffer {
            Ok(buffer) => self.stage(ticket, op, buffer),
            Err(NoBuffer::Now) => {
                let want = Want::Buffer(op, bytes);
                self.waiting.push_back(Waiting { ticket, want });
            }
            Err(NoBuffer::Ever) => self.refused.push((ticket, Refusal::Exhausted)),
        }
    }

    /// Answers what was refused and hands the rest to the disk.
    pub(super) fn start(&mut self) -> u32 {
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
                self.persistent.as_mut(),
            );
        }
        for Staged {
            ticket,
            io,
            outcome,
            ..
        } in fresh.drain(..)
        {
            if outcome.is_err() {
                self.pool.put(io.buffer);
                self.answer(ticket, outcome);
                answered = answered.saturating_add(1);
                continue;
            }
            if self.barriers.keeps(&ticket) && !weakened!("journal_barrier_rests") {
                self.journal.rest(&ticket.entry);
            }
            let Some((ticket, io)) = self.barriers.keep(ticket, io) else {
                continue;
            };
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
}

pub(super) fn ticket(
    slot: Slot,
    entry: journal::Slot,
    request: &RequestNative,
    runs: Runs,
    taken_at: u64,
) -> Ticket {
    Ticket {
        taken_at,
        slot,
        entry,
        echo: Echo::of(request),
        runs,
    }
}
