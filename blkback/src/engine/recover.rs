//! Going on where an earlier process died.

use alloc::collections::VecDeque;

use ringfence_core::ids::DomId;
use ringfence_core::platform::{Channel, Platform};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::RequestNative;
use ringfence_ring::{self as ring, mark_of};

use super::ring::Ring;
use super::take::ticket;
use super::{Engine, OwnFlush, Terms};
use crate::error::{AttachError, Refusal};
use crate::journal::{self, Entry, Journal, JournalError};
use crate::request::Runs;
use crate::sink::Disk;
use crate::stats::layout::TAKEN;

/// In flight at so many crashes that it is done alone.
const SUSPECT: u8 = 2;
/// In flight at so many crashes, at the last one alone, that it is not done again.
const POISON: u8 = 3;

/// What an earlier process took and did not answer.
#[derive(Default)]
pub(super) struct Replays {
    waiting: VecDeque<Replay>,
    /// Whether what the disk is working on is a suspect, which is to be the only one.
    alone: bool,
}

struct Replay {
    slot: ring::Slot,
    entry: journal::Slot,
    request: RequestNative,
    suspect: bool,
}

impl Replays {
    /// Whether all of them were started.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<P: Platform, J: Journal> Engine<P, J> {
    /// Goes on with a ring from which an earlier process had taken what is in its `journal`: drops what it had answered
    /// visibly, shows what it had answered and not shown, and does the rest again, before anything new, in the order of the ring.
    ///
    /// A request that was in flight at two crashes is done alone; one that was then in flight alone at a third is answered with
    /// an error. Deaths that came from outside are not counted. The I/O of the earlier process has ended: that is what opening `disk` waited for.
    ///
    /// # Errors
    /// The disk back, with the reason: [`AttachError::AnotherRing`] before anything was touched. The journal is as it was then, or as
    /// far on as the ring if only ringing failed.
    pub fn recover(
        platform: P,
        peer: DomId,
        mapping: P::Mapping,
        channel: P::Channel,
        terms: &Terms,
        disk: Disk,
        journal: J,
    ) -> Result<Self, (Disk, AttachError)> {
        let is_another = terms.marked.is_some_and(|word| mark_of(&mapping) != word);
        if is_another && !weakened!("journal_stranger") {
            return Err((disk, AttachError::AnotherRing));
        }
        let Some(req_cons) = journal.req_cons() else {
            return Err((disk, JournalError::Incomplete.into()));
        };
        let ring = match Ring::resume(mapping, terms.abi, req_cons) {
            Ok(ring) => ring,
            Err(error) => return Err((disk, error.into())),
        };
        let size = u16::try_from(ring.size()).unwrap_or(u16::MAX);
        let plan = match journal.found(size).plan(ring.rsp_prod()) {
            Ok(plan) => plan,
            Err(error) => return Err((disk, error.into())),
        };
        let mut engine = Self::over(platform, peer, ring, channel, terms, disk, journal);
        for number in plan.stale {
            engine.journal.clear(journal::Slot::new(number));
        }
        for entry in &plan.republish {
            engine.show(entry);
        }
        for entry in &plan.replay {
            engine.redo(entry);
        }
        // The earlier process may have died between showing an answer and ringing.
        match engine.publish().and_then(|()| engine.channel.notify()) {
            Ok(()) => Ok(engine),
            Err(error) => Err((engine.into_disk(), error.into())),
        }
    }

    /// Gives an entry the number and the place on the ring that it had. That there is one, the plan has checked.
    fn reclaim(&mut self, entry: &Entry) -> Option<(ring::Slot, journal::Slot)> {
        self.table.claim(entry.number);
        let slot = self.ring.reopen(entry.index)?;
        // Not by this process, but as far as the ring is concerned.
        self.stats.add_to_ring(self.queue, TAKEN, 1);
        Some((slot, journal::Slot::new(entry.number)))
    }

    fn show(&mut self, entry: &Entry) {
        let Some((_, status)) = entry.answer else {
            return;
        };
        if let Some((slot, own)) = self.reclaim(entry) {
            let ticket = ticket(slot, own, &entry.request, Runs::new(), self.taken_at);
            let response = ticket.response(status);
            self.ring.respond(ticket.slot, response);
            self.answered.push(ticket.entry);
        }
    }

    fn redo(&mut self, entry: &Entry) {
        let Some((slot, own)) = self.reclaim(entry) else {
            return;
        };
        if entry.crashes >= POISON && !weakened!("journal_poison") {
            let why = Refusal::Poisoned(entry.crashes);
            let ticket = ticket(slot, own, &entry.request, Runs::new(), self.taken_at);
            self.refused.push((ticket, why));
            return;
        }
        self.journal.wait(&own, entry.crashes);
        self.replays.waiting.push_back(Replay {
            slot,
            entry: own,
            request: entry.request,
            suspect: entry.crashes >= SUSPECT,
        });
    }

    /// Whether a request that was in flight at two crashes waits for its turn, or has it: nothing else of this process is to be
    /// in flight then, or another crash would be blamed on the wrong one.
    pub fn has_suspects(&self) -> bool {
        self.is_alone() || self.replays.waiting.iter().any(|replay| replay.suspect)
    }

    /// Whether what is to be alone waits for the other rings of its device.
    pub fn awaits_others(&self) -> bool {
        self.barriers.awaits_others()
    }

    /// Whether a suspect is to be left alone with the disk.
    pub(super) fn is_alone(&self) -> bool {
        self.replays.alone && (self.is_at_work() || self.barriers.is_open())
    }

    /// Whether something was begun and has not ended.
    pub fn is_at_work(&self) -> bool {
        self.table.in_flight() > 0
            || !self.fresh.is_empty()
            || !self.waiting.is_empty()
            || self.own_flush == OwnFlush::Running
    }

    /// Starts what an earlier process left, as far as it may be started now. Each is marked before anything is done about it, so
    /// that a crash tells who was at work.
    pub(super) fn take_again(&mut self) {
        while self.backlog.is_empty()
            && self.waiting.is_empty()
            && !self.barriers.is_open()
            && !self.is_alone()
        {
            let Some(next) = self.replays.waiting.front() else {
                self.replays.alone = false;
                return;
            };
            let suspect = next.suspect && !weakened!("journal_suspect");
            if suspect && self.is_at_work() {
                return;
            }
            let Some(next) = self.replays.waiting.pop_front() else {
                return;
            };
            self.replays.alone = suspect;
            self.journal.restart(&next.entry);
            self.accept(next.slot, next.entry, &next.request);
            if suspect {
                return;
            }
        }
    }
}
