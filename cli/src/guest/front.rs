//! The frontend of one disk: its control plane and its queues, all of them this thread's.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use ringfence_blkfront::{
    Buffer, Convention, Error, Event, ManyFrontend, Queue, QueueHandle, Shared, Turn,
};

use super::world::World;

/// The most queues of a disk: what our backend offers at most. Each takes 18 nodes of the 1000 that a domain has.
pub const QUEUES: usize = 16;
/// Requests in flight on one queue, where the backend takes rings of 16 pages. More would be a megabyte on the stack where a
/// queue is made.
pub const DEPTH: usize = 288;
/// Pages of the longest request.
pub const PAGES: usize = 32;

/// One queue's data path.
pub(crate) type DiskQueue<P> = Queue<P, DEPTH, PAGES>;
/// A buffer of a queue's.
pub(crate) type DiskBuffer<P> = Buffer<P, PAGES>;

type Parts<P> = Rc<Shared<P, QUEUES>>;
type Handle<P> = QueueHandle<Parts<P>, P, QUEUES, DEPTH, PAGES>;
type DiskTurn<'t, P> = Turn<'t, Parts<P>, P, QUEUES, DEPTH, PAGES>;

/// Whether something was done that another queue has yet to hear of.
#[derive(Default)]
struct News(AtomicBool);

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The frontend of a disk of this guest.
pub struct DiskFront<P: World> {
    control: ManyFrontend<Parts<P>, P, QUEUES>,
    queues: Vec<Box<Handle<P>>>,
    news: Arc<News>,
}

impl<P: World> DiskFront<P> {
    /// For the device whose directory is `dir`, with up to `queues` queues, of which at least one and at most [`QUEUES`] are
    /// made. Backends may keep our pages mapped if `persistent`.
    ///
    /// # Errors
    /// The path is too long.
    pub(crate) fn new(
        platform: P,
        dir: &str,
        queues: usize,
        persistent: bool,
    ) -> Result<Self, Error> {
        let (mut control, queues) = ManyFrontend::counted(Rc::new, platform, dir, queues)?;
        control.set_persistent(persistent);
        let news = Arc::new(News::default());
        let queues: Vec<Box<Handle<P>>> = queues.map(Box::new).collect();
        for queue in &queues {
            queue.set_waker(Waker::from(Arc::clone(&news)));
        }
        Ok(Self {
            control,
            queues,
            news,
        })
    }

    /// As [`ManyFrontend::step`]; the queues know of what happened.
    pub(crate) fn step(&mut self, store: &mut P::Store) -> Result<Option<Event>, Error> {
        let event = self.control.step(store)?;
        if event.is_some() {
            self.turns().for_each(drop);
        }
        Ok(event)
    }

    /// As [`ManyFrontend::set_sectors`].
    pub(crate) const fn set_sectors(&mut self, convention: Convention) {
        self.control.set_sectors(convention);
    }

    /// As [`ManyFrontend::close`].
    pub(crate) fn close(&mut self) {
        self.control.close();
    }

    /// A turn of each queue, one after the other.
    pub(crate) fn turns(&mut self) -> impl Iterator<Item = DiskTurn<'_, P>> {
        self.queues.iter_mut().map(|queue| queue.turn())
    }

    /// A turn of this queue.
    pub(crate) fn turn(&mut self, queue: usize) -> DiskTurn<'_, P> {
        self.queues[queue].turn()
    }

    /// The queues as their last turns left them, connected or not.
    pub(crate) fn queues(&self) -> impl ExactSizeIterator<Item = &DiskQueue<P>> {
        self.queues.iter().map(|queue| queue.queue())
    }

    /// Whether every queue has to take a turn before anybody sleeps. Asking forgets.
    pub(crate) fn take_news(&self) -> bool {
        self.news.0.swap(false, Ordering::Relaxed)
    }

    /// Requests that were not handed back yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.queues().map(DiskQueue::in_flight).sum()
    }

    /// Whether there is a connection, of which the backend has nothing more to answer.
    pub(crate) fn is_drained(&self) -> bool {
        let connected = self.queues().any(|queue| queue.channel().is_some());
        connected && self.queues().all(DiskQueue::is_drained)
    }

    /// Takes back what was answered, and forgets it.
    pub(crate) fn discard_answers(&mut self) {
        for mut queue in self.turns() {
            while queue.reap().is_ok_and(|completion| completion.is_some()) {}
        }
    }
}
