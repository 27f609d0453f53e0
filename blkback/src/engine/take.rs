//! From the ring to the disk.

use ringfence_core::platform::Platform;
use ringfence_core::wire::blkif::RequestNative;
use ringfence_ring::{PeerFault, Slot};

use super::Engine;
use crate::buffer::Buffer;
use crate::error::{IoError, Refusal};
use crate::grants::{Copy, Staged, copy};
use crate::journal::{self, Journal};
use crate::request::{Echo, Op, Runs, parse};
use crate::sink::{Io, IoOp, Rejected, Tag};
use crate::ticket::Ticket;

impl<P: Platform, J: Journal> Engine<P, J> {
    pub(super) fn can_take(&self) -> bool {
        self.backlog.is_empty()
            && self.table.room() > 0
            && self.replays.is_empty()
            && !self.is_alone()
    }

    /// Takes requests and parses them. All of them are in the journal before anything is done about any.
    pub(super) fn take(&mut self, budget: u32) -> (u32, Option<PeerFault>) {
        let mut taken = 0u32;
        let mut fault = None;
        while taken < budget && self.can_take() {
            match self.ring.take() {
                Ok(Some((request, slot))) => self.enter(&request, slot),
                Ok(None) => break,
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
            taken = taken.saturating_add(1);
        }
        if taken > 0 {
            if !cfg!(ringfence_weaken = "journal_late_commit") {
                self.journal.commit(self.ring.req_cons());
            }
            self.stats.requests.add(u64::from(taken));
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
        match self.stage(request) {
            Ok((op, buffer, runs)) => {
                let io = Io {
                    tag: Tag::new(entry.number()),
                    op,
                    buffer,
                };
                let ticket = ticket(slot, entry, request, runs);
                self.fresh.push(Staged {
                    ticket,
                    io,
                    outcome: Ok(()),
                });
            }
            Err(why) => self
                .refused
                .push((ticket(slot, entry, request, Runs::new()), why)),
        }
    }

    fn stage(&mut self, request: &RequestNative) -> Result<(IoOp, Buffer, Runs), Refusal> {
        let (op, transfer) = match parse(request, self.disk.geometry())? {
            Op::Read(transfer) => (IoOp::Read(transfer.sector), transfer),
            Op::Write(transfer) => (IoOp::Write(transfer.sector), transfer),
            Op::Flush if self.journal.is_flush_lost() => return Err(IoError::FlushLost.into()),
            Op::Flush => return Ok((IoOp::Flush, Buffer::empty(), Runs::new())),
        };
        let buffer = self.pool.get(transfer.bytes).ok_or(Refusal::Exhausted)?;
        Ok((op, buffer, transfer.runs))
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
}

pub(super) fn ticket(
    slot: Slot,
    entry: journal::Slot,
    request: &RequestNative,
    runs: Runs,
) -> Ticket {
    Ticket {
        slot,
        entry,
        echo: Echo::of(request),
        runs,
    }
}
