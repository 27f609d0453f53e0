//! One ring of a connected device: its engine, and how often it may be rung.

use std::time::Duration;

use ringfence_core::platform::{Channel, Platform};
use ringfence_ring::Armed;

use super::super::doorbells::Doorbells;
use super::super::id::RingId;
use super::super::storm::Storm;
use super::Served;
use super::share::{Round, Share};
use super::waits::Look;
use crate::engine::Engine;
use crate::error::{EngineError, Refusal};
use crate::journal::{self, Record};
use crate::stats::Stats;
use crate::stats::layout::RECEIVED;

/// An engine with a journal, if somebody keeps one.
pub(super) type Journaled<'p, P> = Engine<&'p P, Option<journal::Queue<Record>>>;

pub(super) struct Queue<'p, P: Platform> {
    id: RingId,
    pub(super) engine: Journaled<'p, P>,
    storm: Storm,
    /// No event is looked at before.
    pub(super) masked_until: Option<Duration>,
    /// It was rung while nothing might be taken.
    put_off: bool,
    /// Look at the ring without being rung.
    pub(super) due: bool,
}

/// What one look at a ring brought.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) served: Served,
    /// The other rings of the device have something to do.
    pub(super) others: bool,
    /// The last request that failed.
    pub(super) refused: Option<Refusal>,
    /// Why nothing more is taken.
    pub(super) failed: Option<EngineError>,
}

impl<'p, P: Platform> Queue<'p, P> {
    /// Due at once: the frontend may have posted requests before there was anybody to ring.
    pub(super) fn new(id: RingId, engine: Journaled<'p, P>) -> Self {
        Self {
            id,
            engine,
            storm: Storm::default(),
            masked_until: None,
            put_off: false,
            due: true,
        }
    }

    /// The doorbell was rung. Looks at it, unless it is rung too often for nothing.
    pub(super) fn rung(&self, stats: &Stats) -> bool {
        if self.masked_until.is_some() {
            return false;
        }
        stats.sys_evtchn.add(1);
        // A failure here shows again when the doorbell is to be rung.
        self.engine.channel().take_pending().unwrap_or(false)
    }

    /// Whether its doorbell is not heard now, and will be.
    pub(super) const fn is_masked(&self) -> bool {
        self.masked_until.is_some() || self.put_off
    }

    /// The doorbell was rung while nothing may be taken: it is not heard until then.
    pub(super) fn put_off(&mut self, doorbells: &mut impl Doorbells<P::Channel>) {
        if !self.is_masked() {
            self.put_off = true;
            doorbells.mask(self.id, self.engine.channel(), true);
        }
    }

    /// Looks at a doorbell that was put off, now that something may be taken: whether it was rung.
    pub(super) fn take_up(
        &mut self,
        round: &Round,
        doorbells: &mut impl Doorbells<P::Channel>,
        stats: &Stats,
    ) -> bool {
        if !self.put_off || round.budget == 0 {
            return false;
        }
        self.put_off = false;
        doorbells.mask(self.id, self.engine.channel(), false);
        self.rung(stats)
    }

    /// Whether there is something to do without being rung.
    pub(super) fn wants(
        &mut self,
        look: Look,
        round: &Round,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> bool {
        let unmasked = self.unmask(round.now, doorbells);
        unmasked || !self.engine.is_idle() || self.due || look != Look::Due
    }

    /// Whether the time of a masked doorbell has come.
    fn unmask(&mut self, now: Duration, doorbells: &mut impl Doorbells<P::Channel>) -> bool {
        if self.masked_until.is_none_or(|until| until > now) {
            return false;
        }
        self.masked_until = None;
        let _ = self.engine.channel().unmask();
        doorbells.mask(self.id, self.engine.channel(), false);
        true
    }

    /// Serves the ring once, within what the device has left. `event`: because the doorbell was rung. `arm`: ask to be rung again.
    pub(super) fn serve(
        &mut self,
        event: bool,
        arm: bool,
        round: &Round,
        share: &mut Share,
        doorbells: &mut impl Doorbells<P::Channel>,
        stats: &Stats,
    ) -> Looked {
        let was_idle = self.engine.is_idle();
        let mut looked = Looked::default();
        let served = &mut looked.served;
        if let Some(woke) = round.woke {
            self.engine.woke(woke);
        }
        match self.engine.step(share.left(round)) {
            Ok(progress) => {
                share.spend(&progress);
                if progress.taken > 0 {
                    self.storm.worked();
                    served.worked = true;
                }
                served.again = progress.more || (arm && self.engine.arm() == Armed::Again);
                // A ring that is to go on may be empty at any moment.
                served.control = self.engine.is_stopping() && !was_idle && self.engine.is_idle();
                looked.refused = progress.refused;
                looked.others = progress.others;
            }
            Err(error) => {
                served.control = true;
                served.again = true;
                looked.failed = Some(error);
            }
        }
        self.due = served.again;
        if event {
            self.settle(round.now, doorbells, stats);
        }
        looked
    }

    /// Lets the next event come, now or later.
    fn settle(&mut self, now: Duration, doorbells: &mut impl Doorbells<P::Channel>, stats: &Stats) {
        stats.notifications_received.add(1);
        stats.add_to_ring(self.id.queue, RECEIVED, 1);
        let delay = self.storm.event();
        if self.storm.is_idle() {
            stats.spurious_events.add(1);
        }
        match delay {
            None => {
                let _ = self.engine.channel().unmask();
            }
            Some(delay) => {
                self.masked_until = Some(now.saturating_add(delay));
                doorbells.mask(self.id, self.engine.channel(), true);
            }
        }
    }
}
