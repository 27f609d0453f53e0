//! Write barriers: everything older done and durable before, the write durable before anything newer.

use alloc::sync::Arc;

use ringfence_core::platform::Platform;
use ringfence_ring::PeerFault;

use super::Engine;
use crate::buffer::Buffer;
use crate::epoch::Epoch;
use crate::journal::Journal;
use crate::sink::{Done, Io, IoOp, Tag};
use crate::ticket::Ticket;

/// This ring's part in the barriers of its device.
pub(super) struct Barriers {
    epoch: Arc<Epoch>,
    /// Which ring of the device this is.
    own: u16,
    /// The barrier that this ring has taken and not answered. Nothing is taken behind it.
    taken: Option<Barrier>,
    /// A barrier of another ring.
    other: Option<Other>,
    /// Whether another ring of the device has something to do now.
    call: bool,
}

#[derive(Clone, Copy)]
struct Other {
    epoch: u32,
    /// Requests that were on this ring when the barrier was first seen, and are yet to be taken.
    older: u32,
    /// Whether the other ring knows that everything older has ended.
    said: bool,
}

struct Barrier {
    number: u16,
    /// Once its data is here.
    ready: Option<(Ticket, Io)>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Another ring's barrier is before it.
    Called,
    /// Waits for everything older. With the number of the epoch, also below.
    Draining(u32),
    /// What is older is being made durable.
    Before(u32),
    /// Its own data is being written.
    Writing(u32),
    /// And made durable.
    After(u32),
}

impl Barriers {
    pub(super) const fn new(epoch: Arc<Epoch>, own: u16) -> Self {
        Self {
            epoch,
            own,
            taken: None,
            other: None,
            call: false,
        }
    }

    /// Whether a barrier waits for its answer.
    pub(super) const fn is_open(&self) -> bool {
        self.taken.is_some()
    }

    /// Whether it waits for other rings of the device, and nothing of it is at the disk yet.
    pub(super) fn awaits_others(&self) -> bool {
        let phase = self.taken.as_ref().map(|open| open.phase);
        matches!(phase, Some(Phase::Called | Phase::Draining(_)))
    }

    /// Whether nothing may be taken before another ring's barrier is over, which that ring says.
    pub(super) fn forbid(&self) -> bool {
        self.other.is_some_and(|other| other.older == 0)
    }

    /// A barrier is taken from the ring.
    pub(super) fn begin(&mut self, number: u16) {
        self.taken = Some(Barrier {
            number,
            ready: None,
            phase: Phase::Called,
        });
    }

    /// Whether it is the barrier that was taken.
    pub(super) fn keeps(&self, ticket: &Ticket) -> bool {
        let taken = self.taken.as_ref();
        taken.is_some_and(|barrier| barrier.number == ticket.entry.number())
    }

    /// Keeps the request of a barrier, with its data, until its time comes; any other comes back.
    pub(super) fn keep(&mut self, ticket: Ticket, io: Io) -> Option<(Ticket, Io)> {
        match &mut self.taken {
            Some(barrier) if barrier.number == ticket.entry.number() => {
                barrier.ready = Some((ticket, io));
                None
            }
            _ => Some((ticket, io)),
        }
    }

    /// Whether another ring of the device has something to do, since this was last asked.
    pub(super) fn calls(&mut self) -> bool {
        core::mem::take(&mut self.call)
    }
}

impl<P: Platform, J: Journal> Engine<P, J> {
    /// How many requests may be taken: none while a barrier is open, but for those that were on the ring before another
    /// ring's barrier was seen, also when nothing newer is to be taken.
    pub(super) fn may_take(&mut self, budget: u32) -> Result<u32, PeerFault> {
        let allowed = if self.stopping { 0 } else { budget };
        let Some(epoch) = self.barriers.epoch.open() else {
            self.barriers.other = None;
            return Ok(allowed);
        };
        let own = self.barriers.taken.as_ref().map(|open| open.phase);
        if own.is_some_and(|phase| phase != Phase::Called) {
            return Ok(0);
        }
        let older = match self.barriers.other {
            Some(other) if other.epoch == epoch => other.older,
            _ => {
                // Of two barriers of two rings the one that was seen first is the older one, with all that is behind the other.
                let on_the_ring = match own {
                    Some(_) => Ok(0),
                    None => self.ring.pass(),
                };
                self.barriers.other = Some(Other {
                    epoch,
                    older: on_the_ring.unwrap_or(0),
                    said: false,
                });
                on_the_ring?
            }
        };
        Ok(older.min(budget))
    }

    /// So many requests were taken, which are older than another ring's barrier if there is one.
    pub(super) fn took(&mut self, taken: u32) {
        if let Some(other) = &mut self.barriers.other {
            // Behind a barrier of this ring nothing is older.
            other.older = match self.barriers.taken {
                Some(_) => 0,
                None => other.older.saturating_sub(taken),
            };
        }
    }

    /// The ring takes no more, as its frontend has lied: nothing on it is older than anything.
    pub(super) fn forget_older(&mut self) {
        if let Some(other) = &mut self.barriers.other {
            other.older = 0;
        }
    }

    fn has_ended_all(&self) -> bool {
        self.table.in_flight() == 0
            && self.waiting.is_empty()
            && self.fresh.is_empty()
            && self.refused.is_empty()
    }

    /// Tells another ring's barrier that everything older is done, when it is; moves the own one on.
    pub(super) fn advance(&mut self) {
        let ended = self.has_ended_all();
        if let Some(other) = &mut self.barriers.other
            && ended
            && other.older == 0
            && !other.said
            && self.replays.is_empty()
        {
            other.said = true;
            self.barriers.epoch.drain(self.barriers.own, other.epoch);
            self.barriers.call = true;
        }
        let Some(open) = &mut self.barriers.taken else {
            return;
        };
        if open.phase == Phase::Called {
            let Some(epoch) = self.barriers.epoch.begin(self.barriers.own) else {
                return;
            };
            open.phase = Phase::Draining(epoch);
            self.barriers.call = true;
        }
        if let Phase::Draining(epoch) = open.phase
            && ended
            && self.barriers.epoch.is_drained(epoch)
            && let Some((ticket, io)) = open.ready.take()
        {
            let number = open.number;
            open.phase = Phase::Before(epoch);
            self.journal.restart(&ticket.entry);
            self.table.put(ticket);
            self.backlog.push_back(Io {
                tag: Tag::new(number),
                op: IoOp::Flush,
                buffer: Buffer::empty(),
            });
            self.held = Some(io);
        }
    }

    /// Whether what the disk has finished is a part of a barrier that goes on.
    pub(super) fn continues(&mut self, done: &Done) -> bool {
        let Some(open) = &mut self.barriers.taken else {
            return false;
        };
        if done.io.tag != Tag::new(open.number) || done.result.is_err() {
            return false;
        }
        let tag = done.io.tag;
        match open.phase {
            Phase::Before(epoch) => match self.held.take() {
                Some(io) if io.op != IoOp::Flush => {
                    open.phase = Phase::Writing(epoch);
                    self.backlog.push_back(io);
                    true
                }
                _ => false,
            },
            Phase::Writing(epoch) => {
                open.phase = Phase::After(epoch);
                self.backlog.push_back(Io {
                    tag,
                    op: IoOp::Flush,
                    buffer: Buffer::empty(),
                });
                true
            }
            _ => false,
        }
    }

    /// A request is answered: if it was the barrier, it is over, whatever became of it.
    pub(super) fn end_barrier(&mut self, number: u16) {
        let Some(open) = self.barriers.taken.take_if(|open| open.number == number) else {
            return;
        };
        if let Some(io) = self.held.take() {
            self.pool.put(io.buffer);
        }
        match open.phase {
            Phase::Called => {}
            Phase::Draining(epoch)
            | Phase::Before(epoch)
            | Phase::Writing(epoch)
            | Phase::After(epoch) => {
                self.barriers.epoch.end(epoch);
                self.barriers.call = true;
            }
        }
    }
}
