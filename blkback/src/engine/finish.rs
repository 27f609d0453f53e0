//! From the disk to the ring.

use ringfence_core::platform::{Channel, Platform, PlatformError};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::Status;

use super::{Engine, OWN_FLUSH, OwnFlush};
use crate::error::Refusal;
use crate::grants::{Copy, Staged, copy};
use crate::journal::Journal;
use crate::sink::IoOp;
use crate::stats::layout::{ANSWERED, SENT};
use crate::ticket::Ticket;

impl<P: Platform, J: Journal> Engine<P, J> {
    /// Reaps the disk, copies what was read and answers.
    pub(super) fn finish(&mut self) -> u32 {
        while self.done.len() < self.done.capacity() {
            let Some(done) = self.disk.reap() else { break };
            if done.io.op == IoOp::Flush && done.result.is_err() {
                self.journal.flush_lost();
            }
            if self.continues(&done) {
                // A read or write comes back with its buffer, which nobody needs any more.
                self.pool.put(done.io.buffer);
                continue;
            }
            let outcome = done.result.map_err(Refusal::from);
            match self.table.take(done.io.tag.get()) {
                Some(ticket) => self.done.push(Staged {
                    ticket,
                    io: done.io,
                    outcome,
                    moved: false,
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
                self.persistent.as_mut(),
            );
        }
        let mut finished = core::mem::take(&mut self.done);
        let mut answered = 0u32;
        let now = match finished.is_empty() {
            true => 0,
            false => self.now(),
        };
        for Staged {
            ticket,
            io,
            outcome,
            ..
        } in finished.drain(..)
        {
            if outcome.is_ok() && self.clock.is_some() {
                self.stats.took(io.op, now.saturating_sub(ticket.taken_at));
            }
            self.pool.put(io.buffer);
            self.answer(ticket, outcome);
            answered = answered.saturating_add(1);
        }
        self.done = finished;
        answered
    }

    /// Writes one response; the frontend sees it after [`publish`](Self::publish).
    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Result<(), Refusal>) {
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
        self.end_barrier(ticket.entry.number());
        self.journal
            .answer(&ticket.entry, self.ring.rsp_prod_pvt(), status);
        let response = ticket.response(status);
        self.ring.respond(ticket.slot, response);
        self.answered.push(ticket.entry);
        if let Some(room) = ticket.runs.into_room() {
            self.rooms.push(room);
        }
    }

    /// Shows all answers and rings the doorbell if the frontend asked for it.
    pub(super) fn publish(&mut self) -> Result<(), PlatformError> {
        let (old, new) = (self.ring.rsp_prod(), self.ring.rsp_prod_pvt());
        if old == new {
            return Ok(());
        }
        let answered = u64::try_from(self.answered.len()).unwrap_or(0);
        self.stats.add_to_ring(self.queue, ANSWERED, answered);
        self.journal.publish(old, new);
        if weakened!("journal_clear_first") {
            self.answered.drain(..).for_each(|entry| {
                let number = entry.number();
                self.journal.clear(entry);
                self.table.release(number);
            });
        }
        let notify = self.ring.publish();
        for entry in self.answered.drain(..) {
            let number = entry.number();
            self.journal.clear(entry);
            self.table.release(number);
        }
        if notify.is_needed() {
            self.stats.notifications_sent.add(1);
            self.stats.add_to_ring(self.queue, SENT, 1);
            self.channel.notify()?;
        }
        Ok(())
    }
}
