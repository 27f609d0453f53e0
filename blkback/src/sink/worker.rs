//! A thread for disks whose calls block, so that whoever serves the ring never does.

use std::boxed::Box;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::vec::Vec;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::{Done, Io};
use crate::error::IoError;

/// Requests that may be on their way.
const QUEUE: usize = 256;

/// A disk that is slow.
pub(super) trait Blocking: Send + 'static {
    /// What failures are called that have no better name.
    const NAME: &'static str;

    /// Does all of these, in any order, and says of each what became of it; it went well where nothing else is said.
    fn serve(&mut self, batch: &mut [Done]);
}

/// The thread's queues.
struct Shared {
    todo: Mutex<Todo>,
    more: Condvar,
    done: Mutex<Vec<Done>>,
    /// Readable when there is something in `done`.
    event: OwnedFd,
}

#[derive(Default)]
struct Todo {
    batch: Vec<Done>,
    closed: bool,
}

/// The owner's side.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Submitted since the last kick.
    fresh: Vec<Done>,
    /// Finished and taken over from the thread.
    ready: VecDeque<Done>,
    in_flight: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// Starts the thread.
    pub(super) fn new<B: Blocking>(disk: B) -> Result<Self, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let shared = Arc::new(Shared {
            todo: Mutex::default(),
            more: Condvar::new(),
            done: Mutex::default(),
            event: eventfd(0, flags)?,
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(B::NAME.into())
            .spawn(move || own.run(disk))
            .map_err(|error| {
                error
                    .raw_os_error()
                    .map_or(Errno::AGAIN, Errno::from_raw_os_error)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
            fresh: Vec::new(),
            ready: VecDeque::new(),
            in_flight: 0,
        })
    }

    pub(super) fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.in_flight >= QUEUE {
            return Err(io);
        }
        self.in_flight = self.in_flight.saturating_add(1);
        self.fresh.push(Done { io, result: Ok(()) });
        Ok(())
    }

    pub(super) fn kick(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        lock(&self.shared.todo).batch.append(&mut self.fresh);
        self.shared.more.notify_one();
    }

    pub(super) fn reap(&mut self) -> Option<Done> {
        if self.ready.is_empty() && self.in_flight > 0 {
            let mut done = lock(&self.shared.done);
            let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
            self.ready.extend(done.drain(..));
        }
        let done = self.ready.pop_front()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(done)
    }

    pub(super) fn wake(&self) -> i32 {
        self.shared.event.as_raw_fd()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.shared.todo).closed = true;
        self.shared.more.notify_one();
        // It finishes what it was given, for which nobody waits; with nothing to do it ends at once, and has closed everything.
        if self.in_flight == 0
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run<B: Blocking>(&self, disk: B) {
        let mut disk = Some(Box::new(disk));
        while let Some(mut batch) = self.next() {
            let served = disk.as_mut().is_some_and(|disk| {
                let serve = AssertUnwindSafe(|| disk.serve(&mut batch));
                std::panic::catch_unwind(serve).is_ok()
            });
            if !served {
                // Whatever it left behind is not touched again, not even to be closed in order.
                if let Some(broken) = disk.take() {
                    tracing::error!("{} is broken: all its requests fail from now on", B::NAME);
                    std::mem::forget(broken);
                }
                for done in &mut batch {
                    done.result = Err(IoError::System {
                        op: B::NAME,
                        errno: Errno::IO.raw_os_error(),
                    });
                }
            }
            let mut done = lock(&self.done);
            done.append(&mut batch);
            // Under the lock, so that the event is there when and only when there is something to take over.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    fn next(&self) -> Option<Vec<Done>> {
        let mut todo = lock(&self.todo);
        loop {
            if !todo.batch.is_empty() {
                return Some(std::mem::take(&mut todo.batch));
            }
            if todo.closed {
                return None;
            }
            todo = self.more.wait(todo).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;
    use crate::sink::{IoOp, Tag};

    struct Fragile;

    impl Blocking for Fragile {
        const NAME: &'static str = "fragile";

        fn serve(&mut self, batch: &mut [Done]) {
            assert!(batch.iter().all(|done| done.io.tag.get() != 13));
        }
    }

    fn flush(worker: &mut Worker, tag: u16) -> Result<(), IoError> {
        let io = Io {
            tag: Tag::new(tag),
            op: IoOp::Flush,
            buffer: Buffer::empty(),
        };
        worker.submit(io).unwrap();
        worker.kick();
        loop {
            match worker.reap() {
                Some(done) => return done.result,
                None => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn a_disk_that_panics_fails_its_requests_from_then_on() {
        let mut worker = Worker::new(Fragile).unwrap();
        let broken = Err(IoError::System {
            op: "fragile",
            errno: Errno::IO.raw_os_error(),
        });
        assert_eq!(flush(&mut worker, 1), Ok(()));
        assert_eq!(flush(&mut worker, 13), broken);
        assert_eq!(flush(&mut worker, 1), broken);
    }
}
