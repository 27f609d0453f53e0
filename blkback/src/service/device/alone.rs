//! What a device does while requests have to be alone with the process: its own, or those of another.

use ringfence_core::platform::Platform;

use super::super::doorbells::Doorbells;
use super::{Device, Rings};

impl<P: Platform> Device<'_, P> {
    /// The first of its queues with requests that have to be alone with the process.
    pub(in crate::service) fn suspects(&self) -> Option<u16> {
        let mut queues = (0..).zip(&self.queues);
        queues.find_map(|(number, queue)| queue.engine.has_suspects().then_some(number))
    }

    /// Whether this queue has such requests.
    pub(in crate::service) fn is_suspect(&self, queue: u16) -> bool {
        let queue = self.queues.get(usize::from(queue));
        queue.is_some_and(|queue| queue.engine.has_suspects())
    }

    /// Which rings are served while this queue's requests have to be alone: a barrier waits for what is older on the others.
    pub(in crate::service) fn beside(&self, queue: u16) -> Rings {
        let alone = self.queues.get(usize::from(queue));
        match alone.is_some_and(|alone| alone.engine.awaits_others()) {
            true => Rings::All,
            false => Rings::Only(queue),
        }
    }

    /// Whether something that was begun is under way.
    pub(in crate::service) fn is_at_work(&self) -> bool {
        self.queues.iter().any(|queue| queue.engine.is_at_work())
    }

    /// The same, of queues that are not served [beside](Self::beside) this one.
    pub(in crate::service) fn is_at_work_beside(&self, queue: u16) -> bool {
        let mut queues = (0..).zip(&self.queues);
        self.beside(queue) != Rings::All
            && queues.any(|(number, other)| number != queue && other.engine.is_at_work())
    }

    /// The doorbell of a queue was rung while nothing may be taken from its ring.
    pub(in crate::service) fn put_off(
        &mut self,
        queue: u16,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) {
        if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
            queue.put_off(doorbells);
        }
    }
}
