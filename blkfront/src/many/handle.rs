//! One queue of several, in the hands of its owner.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering;
use core::task::Waker;

use ringfence_core::Handle;
use ringfence_core::platform::Platform;

use super::{Phase, Shared};
use crate::rings::Rings;
use crate::{MAX_PAGES, Queue, SLOTS};

/// One queue of a device with several, which holds what they share as an `S`. Everything is done in a [`turn`](Self::turn).
pub struct QueueHandle<
    S,
    P: Platform,
    const QUEUES: usize,
    const DEPTH: usize = SLOTS,
    const PAGES: usize = MAX_PAGES,
> where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    shared: S,
    number: usize,
    queue: Queue<P, DEPTH, PAGES>,
    /// The news that were looked at.
    seen: u32,
    era: u32,
    /// What the others were told last that is to be repeated here.
    low: u64,
    /// Whether the control plane knows of the fault.
    told: bool,
}

/// A turn of a queue's owner: by [`DerefMut`] its [`Queue`].
pub struct Turn<'t, S, P: Platform, const QUEUES: usize, const DEPTH: usize, const PAGES: usize>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    handle: &'t mut QueueHandle<S, P, QUEUES, DEPTH, PAGES>,
}

impl<S, P: Platform, const QUEUES: usize, const DEPTH: usize, const PAGES: usize>
    QueueHandle<S, P, QUEUES, DEPTH, PAGES>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    pub(super) fn new(shared: S, number: usize, platform: P, device: Handle) -> Self {
        if let Some(slot) = shared.slots.get(number) {
            slot.lock().gone = false;
        }
        Self {
            shared,
            number,
            queue: Queue::new(platform, device),
            seen: 0,
            era: 0,
            low: u64::MAX,
            told: false,
        }
    }

    /// The number of the queue, from 0.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// The queue as its last turn left it: what to wait for, and what was counted.
    pub const fn queue(&self) -> &Queue<P, DEPTH, PAGES> {
        &self.queue
    }

    /// Who is to be woken when this queue has to take a turn though its event channel does not ring: it got a connection or lost
    /// it, or another queue of the device let it go on.
    pub fn set_waker(&self, waker: Waker) {
        if let Some(slot) = self.shared.slots.get(self.number) {
            slot.lock().waker = Some(waker);
        }
    }

    /// Takes in what the control plane and the other queues did, and gives the queue out. A turn is short: what was done in it
    /// is made known when it is dropped, and what another owner did after that counts as later than this turn.
    pub fn turn(&mut self) -> Turn<'_, S, P, QUEUES, DEPTH, PAGES> {
        let news = self.shared.news.load(Ordering::Acquire);
        if news != self.seen {
            self.seen = news;
            self.attend();
        }
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        self.queue.inflight.epoch = self.queue.inflight.epoch.max(epoch);
        Turn { handle: self }
    }

    fn attend(&mut self) {
        let Some(slot) = self.shared.slots.get(self.number) else {
            return;
        };
        let mut slot = slot.lock();
        let offered = slot.offered.take();
        let (era, phase, again) = (slot.era, slot.phase, slot.again);
        let (info, life) = (slot.info, slot.life);
        drop(slot);
        // Of what came between, only the end of the old connection can have been missed.
        if era != self.era {
            self.queue.release(again);
            self.era = era;
            match (offered, phase) {
                (Some(connection), _) => self.queue.take(connection),
                (None, Phase::Open | Phase::Refuse) => self.queue.end(),
                _ => {}
            }
            if let (Some(connection), Some(info)) = (&mut self.queue.connection, info) {
                connection.open(info);
            }
        }
        self.queue.life = life;
        match phase {
            Phase::Idle | Phase::Open => {}
            Phase::Refuse => {
                self.queue.refuse();
            }
            Phase::Released => self.queue.release(again),
            Phase::Ended => self.queue.release(false),
        }
        if let Some(info) = info {
            self.queue.resize(info.sectors);
        }
        self.queue.floor = self.floor();
        self.queue.repeat();
        self.tell_low(true);
    }

    /// The smallest epoch that another queue has still to repeat; 0 while one has not said.
    fn floor(&self) -> u64 {
        let slots = self.shared.slots.iter().enumerate();
        let others = slots.filter(|(n, _)| *n != self.number);
        let lows = others.map(|(_, slot)| {
            let slot = slot.lock();
            match slot.low {
                _ if slot.gone => u64::MAX,
                (era, low) if era == self.era => low,
                _ => 0,
            }
        });
        lows.min().unwrap_or(u64::MAX)
    }

    /// Tells the others what is to be repeated here, if that is news to them.
    fn tell_low(&mut self, anew: bool) {
        if !anew && self.low == u64::MAX {
            return;
        }
        let low = self.queue.inflight.low();
        let said = (self.era, low);
        let news = match self.shared.slots.get(self.number) {
            Some(slot) => core::mem::replace(&mut slot.lock().low, said) != said,
            None => false,
        };
        self.low = low;
        if news {
            self.shared.tell(|_, _| {});
        }
    }

    /// Makes known what a turn did.
    fn tell(&mut self) {
        let era = u64::from(self.era).wrapping_shl(32);
        let open = u64::try_from(self.queue.inflight.open()).unwrap_or(0);
        if let Some(word) = self.shared.open.get(self.number) {
            word.store(era | open, Ordering::Release);
        }
        let epoch = self.queue.inflight.epoch;
        if epoch > self.shared.epoch.load(Ordering::Relaxed) {
            self.shared.epoch.fetch_max(epoch, Ordering::Release);
        }
        if !self.told
            && let Some(fault) = &self.queue.fault
            && let Some(slot) = self.shared.slots.get(self.number)
        {
            slot.lock().fault = Some(fault.clone());
            self.told = true;
        }
        self.tell_low(false);
    }
}

impl<S, P: Platform, const QUEUES: usize, const DEPTH: usize, const PAGES: usize> Drop
    for QueueHandle<S, P, QUEUES, DEPTH, PAGES>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    /// What was on the ring is lost, its pages go to the platform; the others do not wait for it.
    fn drop(&mut self) {
        if let Some(slot) = self.shared.slots.get(self.number) {
            let mut slot = slot.lock();
            (slot.gone, slot.waker) = (true, None);
        }
        if let Some(word) = self.shared.open.get(self.number) {
            word.store(0, Ordering::Release);
        }
        self.shared.tell(|_, _| {});
    }
}

impl<S, P: Platform, const QUEUES: usize, const DEPTH: usize, const PAGES: usize> Deref
    for Turn<'_, S, P, QUEUES, DEPTH, PAGES>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    type Target = Queue<P, DEPTH, PAGES>;

    fn deref(&self) -> &Self::Target {
        &self.handle.queue
    }
}

impl<S, P: Platform, const QUEUES: usize, const DEPTH: usize, const PAGES: usize> DerefMut
    for Turn<'_, S, P, QUEUES, DEPTH, PAGES>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.handle.queue
    }
}

impl<S, P: Platform, const QUEUES: usize, const DEPTH: usize, const PAGES: usize> Drop
    for Turn<'_, S, P, QUEUES, DEPTH, PAGES>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    fn drop(&mut self) {
        self.handle.tell();
    }
}
