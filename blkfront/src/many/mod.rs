//! A disk with several queues, each of which has an owner of its own: a thread, or a processor of the guest.
//!
//! The control plane and the queues share a [`Shared`]: per queue a locked place where connections are handed over, which a
//! queue looks at only after a number has changed. The data path takes no lock and writes one word per turn, of its own.

mod handle;

pub use handle::{QueueHandle, Turn};

use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::Waker;

use heapless::Vec;
use ringfence_core::platform::Platform;
use ringfence_core::wire::blkif::Convention;
use ringfence_core::xenbus::Held;
use ringfence_core::{DomId, SectorCount};
use spin::Mutex;

use crate::connection::Connection;
use crate::life::{Event, Life, device};
use crate::rings::{Rings, Wants};
use crate::{Error, Fault, Info};

/// What the control plane wants of the queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing yet.
    Idle,
    /// Take requests.
    Open,
    /// Take no more.
    Refuse,
    /// The connection is over.
    Released,
    /// What waits is over.
    Ended,
}

/// What control plane and one queue tell each other.
struct Slot<P: Platform> {
    /// The connection that the queue is to take, once.
    offered: Option<Connection<P>>,
    /// Counts connections of the device.
    era: u32,
    phase: Phase,
    info: Option<Info>,
    /// Whether what the last connection left waits for another.
    again: bool,
    /// How often this guest was restored.
    life: u32,
    /// What the queue found out about the backend.
    fault: Option<Fault>,
    /// In which era the queue last said what it has to repeat, and the smallest epoch of that.
    low: (u32, u64),
    /// Nobody owns the queue: not yet, or not any more.
    gone: bool,
    waker: Option<Waker>,
}

/// What the queues of one device share: see [`ManyFrontend`].
///
/// Memory: per queue a connection in passing and some 200 bytes.
pub struct Shared<P: Platform, const QUEUES: usize> {
    slots: [Mutex<Slot<P>>; QUEUES],
    /// Era and requests on the ring, per queue: the queue's to write.
    open: [AtomicU64; QUEUES],
    /// Changes whenever a queue is to look at its slot.
    news: AtomicU32,
    /// The largest epoch that a queue has seen.
    epoch: AtomicU64,
}

impl<P: Platform, const QUEUES: usize> Default for Shared<P, QUEUES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform, const QUEUES: usize> Shared<P, QUEUES> {
    const CHECKED: () = assert!(QUEUES >= 1 && QUEUES <= 64, "QUEUES is 1 to 64");

    /// For one device.
    pub fn new() -> Self {
        let () = Self::CHECKED;
        Self {
            slots: [const {
                Mutex::new(Slot {
                    offered: None,
                    era: 0,
                    phase: Phase::Idle,
                    info: None,
                    again: true,
                    life: 0,
                    fault: None,
                    low: (0, u64::MAX),
                    gone: true,
                    waker: None,
                })
            }; QUEUES],
            open: [const { AtomicU64::new(0) }; QUEUES],
            news: AtomicU32::new(0),
            epoch: AtomicU64::new(0),
        }
    }

    /// Changes every slot, then tells the queues. The wakers are called with no lock held.
    fn tell(&self, mut change: impl FnMut(usize, &mut Slot<P>)) {
        let mut wakers: Vec<Waker, QUEUES> = Vec::new();
        for (n, slot) in self.slots.iter().enumerate() {
            let mut slot = slot.lock();
            change(n, &mut slot);
            wakers.extend(slot.waker.clone());
        }
        self.news.fetch_add(1, Ordering::Release);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The rings as the control plane sees them.
struct Many<S, P: Platform, const QUEUES: usize> {
    platform: P,
    shared: S,
    /// How many queues have owners.
    queues: usize,
    /// Made, and not handed over.
    made: Vec<Connection<P>, QUEUES>,
    /// Whether there is a connection.
    held: bool,
    accepting: bool,
    info: Option<Info>,
    fault: Option<Fault>,
    era: u32,
    depth: usize,
    pages: usize,
    persistent: bool,
    offered_persistent: bool,
    sectors: Convention,
    replay: bool,
}

impl<S, P: Platform, const QUEUES: usize> Rings<P> for Many<S, P, QUEUES>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    fn platform(&self) -> &P {
        &self.platform
    }

    fn wants(&self) -> Wants {
        Wants {
            queues: self.queues,
            depth: self.depth,
            pages: self.pages,
            persistent: if self.held {
                self.offered_persistent
            } else {
                self.persistent
            },
            sectors: self.sectors,
        }
    }

    fn fault(&mut self) -> Option<Fault> {
        if self.fault.is_none() {
            let mut slots = self.shared.slots.iter();
            self.fault = slots.find_map(|slot| slot.lock().fault.clone());
        }
        self.fault.clone()
    }

    fn disable(&mut self, fault: Fault) -> Fault {
        self.fault.get_or_insert(fault).clone()
    }

    fn held(&self) -> Held {
        let busy = |word: &AtomicU64| {
            let word = word.load(Ordering::Acquire);
            word.wrapping_shr(32) == u64::from(self.era) && word & u64::from(u32::MAX) > 0
        };
        match self.held {
            false => Held::Nothing,
            true if self.fault.is_none() && self.shared.open.iter().any(busy) => Held::Busy,
            true => Held::Idle,
        }
    }

    fn offer(&mut self, peer: DomId, order: u32, queues: usize) -> Result<(), Error> {
        for _ in 0..queues {
            match Connection::new(&self.platform, peer, order, self.persistent) {
                Ok(connection) => {
                    // Beyond the table nothing is asked for.
                    let _ = self.made.push(connection);
                }
                // With fewer queues than there could be a disk is slower, and works.
                Err(_) if !self.made.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        self.held = true;
        self.offered_persistent = self.persistent;
        Ok(())
    }

    fn offered(&self) -> &[Connection<P>] {
        &self.made
    }

    fn withdraw(&mut self) {
        self.held = false;
        for connection in core::mem::take(&mut self.made) {
            connection.ring.into_mem().revoke();
        }
    }

    fn open(&mut self, info: Info) {
        self.era = self.era.wrapping_add(1);
        self.info = Some(info);
        self.accepting = true;
        let mut made = core::mem::take(&mut self.made).into_iter();
        self.shared.tell(|_, slot| {
            slot.offered = made.next();
            slot.era = self.era;
            slot.phase = Phase::Open;
            slot.info = Some(info);
        });
    }

    fn info(&self) -> Option<Info> {
        self.info
    }

    fn resize(&mut self, sectors: SectorCount) {
        if let Some(info) = &mut self.info {
            info.sectors = sectors;
        }
        self.shared.tell(|_, slot| slot.info = self.info);
    }

    fn refuse(&mut self) -> bool {
        if self.held {
            self.shared.tell(|_, slot| slot.phase = Phase::Refuse);
        }
        core::mem::take(&mut self.accepting)
    }

    fn release(&mut self, again: bool) {
        self.withdraw();
        (self.info, self.accepting) = (None, false);
        let again = again && self.replay;
        self.shared.tell(|_, slot| {
            slot.phase = Phase::Released;
            slot.again = again;
            slot.info = None;
            if let Some(connection) = slot.offered.take() {
                connection.ring.into_mem().revoke();
            }
        });
    }

    fn end(&mut self) {
        self.shared.tell(|_, slot| slot.phase = Phase::Ended);
    }

    fn restored(&mut self) {
        self.shared
            .tell(|_, slot| slot.life = slot.life.wrapping_add(1));
    }
}

/// The control plane of a disk with up to `QUEUES` queues, as many as the backend takes (`multi-queue-max-queues`). Its methods
/// do what those of [`Frontend`](crate::Frontend) do; the data path is that of the [`QueueHandle`]s. It and they hold what they
/// share as an `S`: a reference, or a pointer that counts.
///
/// A flush covers the writes that were answered on any queue. A barrier orders what is on *its* queue; whether it orders what is
/// on the others is the backend's affair, and ours does. What is repeated after a connection ended is kept in order over all
/// queues. If the next backend takes fewer queues, what the others left unanswered is
/// [aborted](crate::IoError::Aborted), and they take no requests.
pub struct ManyFrontend<S, P: Platform, const QUEUES: usize> {
    life: Life<P, Many<S, P, QUEUES>>,
}

impl<P: Platform, const QUEUES: usize> Shared<P, QUEUES> {
    /// The control plane and the queues of the device whose own directory is `dir`, with `DEPTH` requests on each queue and
    /// `PAGES` pages in each of them.
    ///
    /// # Errors
    /// [`StoreError::Unsendable`](ringfence_core::store::StoreError::Unsendable) if the path is too long.
    ///
    /// ```
    /// use ringfence_blkfront::Shared;
    /// use ringfence_core::DomId;
    /// use ringfence_sim::World;
    ///
    /// let guest = World::new().create(DomId::new(1));
    /// let mut shared = Shared::<_, 4>::new();
    /// let (front, queues) = shared.split::<32, 11>(guest, "device/vbd/51712")?;
    /// assert_eq!(front.dir(), "/local/domain/1/device/vbd/51712");
    /// assert_eq!(queues.len(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split<const DEPTH: usize, const PAGES: usize>(
        &mut self,
        platform: P,
        dir: &str,
    ) -> Result<Split<'_, P, QUEUES, DEPTH, PAGES>, Error>
    where
        P: Clone,
    {
        // Whatever another life of it left.
        *self = Self::new();
        let shared = &*self;
        let front = ManyFrontend::with::<DEPTH, PAGES>(shared, platform.clone(), dir, QUEUES)?;
        let device = device(dir);
        let handles =
            core::array::from_fn(|n| QueueHandle::new(shared, n, platform.clone(), device));
        Ok((front, handles))
    }
}

/// A control plane and its queues.
pub type Split<'s, P, const QUEUES: usize, const DEPTH: usize, const PAGES: usize> = (
    ManyFrontend<&'s Shared<P, QUEUES>, P, QUEUES>,
    [QueueHandle<&'s Shared<P, QUEUES>, P, QUEUES, DEPTH, PAGES>; QUEUES],
);

impl<S, P: Platform, const QUEUES: usize> ManyFrontend<S, P, QUEUES>
where
    S: Deref<Target = Shared<P, QUEUES>>,
{
    /// As [`Shared::split`] for whoever keeps the parts together: what they share is put behind a pointer that counts by
    /// `share`, and of the `QUEUES` queues that there can be, only `queues` (at least one) are made, one by one as they are
    /// asked for. All of them are to be, before the first [`step`](Self::step).
    ///
    /// # Errors
    /// [`StoreError::Unsendable`](ringfence_core::store::StoreError::Unsendable) if the path is too long.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// use ringfence_blkfront::{ManyFrontend, QueueHandle, Shared};
    /// use ringfence_core::DomId;
    /// use ringfence_sim::{Sim, World};
    ///
    /// type Queue = QueueHandle<Rc<Shared<Sim, 16>>, Sim, 16, 32, 11>;
    ///
    /// let guest = World::new().create(DomId::new(1));
    /// let (front, queues) = ManyFrontend::counted(Rc::new, guest, "device/vbd/51712", 2)?;
    /// let queues: Vec<Box<Queue>> = queues.map(Box::new).collect();
    /// assert_eq!(front.dir(), "/local/domain/1/device/vbd/51712");
    /// assert_eq!(queues.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn counted<W, const DEPTH: usize, const PAGES: usize>(
        share: W,
        platform: P,
        dir: &str,
        queues: usize,
    ) -> Result<
        (
            Self,
            impl Iterator<Item = QueueHandle<S, P, QUEUES, DEPTH, PAGES>>
            + use<S, P, W, QUEUES, DEPTH, PAGES>,
        ),
        Error,
    >
    where
        W: FnOnce(Shared<P, QUEUES>) -> S,
        S: Clone,
        P: Clone,
    {
        let shared = share(Shared::new());
        let front = Self::with::<DEPTH, PAGES>(shared.clone(), platform.clone(), dir, queues)?;
        let device = device(dir);
        let handles = (0..front.life.rings.queues)
            .map(move |n| QueueHandle::new(shared.clone(), n, platform.clone(), device));
        Ok((front, handles))
    }

    fn with<const DEPTH: usize, const PAGES: usize>(
        shared: S,
        platform: P,
        dir: &str,
        queues: usize,
    ) -> Result<Self, Error> {
        let rings = Many {
            platform,
            shared,
            queues: queues.clamp(1, QUEUES),
            made: Vec::new(),
            held: false,
            accepting: false,
            info: None,
            fault: None,
            era: 0,
            depth: DEPTH,
            pages: PAGES,
            persistent: false,
            offered_persistent: false,
            sectors: Convention::default(),
            replay: true,
        };
        let life = Life::new(dir, rings)?;
        Ok(Self { life })
    }

    /// As [`Frontend::token`](crate::Frontend::token).
    pub fn token(&self) -> &str {
        self.life.token()
    }

    /// As [`Frontend::dir`](crate::Frontend::dir).
    pub fn dir(&self) -> &str {
        self.life.dir()
    }

    /// As [`Frontend::step`](crate::Frontend::step). Also to be called when a queue met a lie of the backend's, and when
    /// all are [drained](crate::Queue::is_drained) while the device closes.
    ///
    /// # Errors
    /// The store or the platform failed; calling again tries again.
    pub fn step(&mut self, store: &mut P::Store) -> Result<Option<Event>, Error> {
        self.life.step(store)
    }

    /// As [`Frontend::close`](crate::Frontend::close).
    pub const fn close(&mut self) {
        self.life.close();
    }

    /// As [`Frontend::resume`](crate::Frontend::resume).
    ///
    /// # Errors
    /// The path is too long with the guest's new number.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.life.resume()
    }

    /// As [`Queue::set_replay`](crate::Queue::set_replay), for all queues.
    pub const fn set_replay(&mut self, replay: bool) {
        self.life.rings.replay = replay;
    }

    /// As [`Queue::set_persistent`](crate::Queue::set_persistent), for all queues.
    pub const fn set_persistent(&mut self, persistent: bool) {
        self.life.rings.persistent = persistent;
    }

    /// As [`Queue::set_sectors`](crate::Queue::set_sectors), for all queues.
    pub const fn set_sectors(&mut self, convention: Convention) {
        self.life.rings.sectors = convention;
    }

    /// The disk, while there is a connection.
    pub fn info(&self) -> Option<Info> {
        self.life.rings.info
    }
}
