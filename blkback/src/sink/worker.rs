//! Threads for disks whose calls block, so that whoever serves the ring never does.

use std::boxed::Box;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::vec::Vec;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::{Done, Io, IoOp};
use crate::error::IoError;

/// Requests that may be on their way.
const QUEUE: usize = 256;

/// Threads of one disk, of which each does one request at a time.
const THREADS: usize = 16;

/// So many are settled although more are on their way, which could be settled with them.
const SETTLE: usize = 32;

/// A thread that had nothing to do for so long ends, but for the last.
const IDLE: Duration = Duration::from_secs(5);

/// A disk that is slow, for several requests at once.
pub(super) trait Blocking: Send + Sync + 'static {
    /// What failures are called that have no better name.
    const NAME: &'static str;

    /// Whether such a request may have to be settled.
    fn changes(op: IoOp) -> bool;

    /// Does this request. Whether it is answered only after [`settle`](Self::settle).
    fn serve(&self, io: &mut Io) -> (Result<(), IoError>, bool);

    /// Makes all that was done so far outlive the process.
    fn settle(&self) -> Result<(), IoError>;
}

/// The threads' queues.
struct Shared {
    todo: Mutex<Todo>,
    more: Condvar,
    /// A thread has ended.
    ended: Condvar,
    /// Done, and not settled yet.
    unsettled: Mutex<Vec<Done>>,
    /// Whoever has it settles, for all the others too.
    settling: Mutex<()>,
    done: Mutex<Vec<Done>>,
    /// Readable when there is something in `done`.
    event: OwnedFd,
}

#[derive(Default)]
struct Todo {
    queue: VecDeque<Io>,
    /// Requests that may have to be settled, and are not done yet.
    changes: usize,
    threads: usize,
    /// Those that are not about to end: at least one.
    staying: usize,
    idle: usize,
    closed: bool,
    /// The disk has panicked.
    broken: bool,
}

impl Todo {
    const fn started(&mut self) {
        self.threads = self.threads.saturating_add(1);
        self.staying = self.staying.saturating_add(1);
    }
}

/// The owner's side.
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// Whether such a request may have to be settled.
    changes: fn(IoOp) -> bool,
    /// Starts another thread.
    start: Box<dyn Fn() -> std::io::Result<()> + Send>,
    /// Submitted since the last kick.
    fresh: Vec<Io>,
    /// Finished and taken over from the threads.
    ready: VecDeque<Done>,
    in_flight: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// Starts the first thread.
    pub(super) fn new<B: Blocking>(disk: B) -> Result<Self, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let shared = Arc::new(Shared {
            todo: Mutex::default(),
            more: Condvar::new(),
            ended: Condvar::new(),
            unsettled: Mutex::default(),
            settling: Mutex::default(),
            done: Mutex::default(),
            event: eventfd(0, flags)?,
        });
        let (own, disk) = (Arc::clone(&shared), Arc::new(disk));
        let start = move || {
            let (own, disk) = (Arc::clone(&own), Arc::clone(&disk));
            let thread = std::thread::Builder::new().name(B::NAME.into());
            thread.spawn(move || own.run(disk)).map(drop)
        };
        start().map_err(|error| {
            error
                .raw_os_error()
                .map_or(Errno::AGAIN, Errno::from_raw_os_error)
        })?;
        lock(&shared.todo).started();
        Ok(Self {
            shared,
            changes: B::changes,
            start: Box::new(start),
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
        self.fresh.push(io);
        Ok(())
    }

    pub(super) fn kick(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let changes = self.fresh.iter().filter(|io| (self.changes)(io.op)).count();
        let mut todo = lock(&self.shared.todo);
        todo.changes = todo.changes.saturating_add(changes);
        todo.queue.extend(self.fresh.drain(..));
        let wanted = todo.queue.len().saturating_sub(todo.idle);
        let more = wanted.min(THREADS.saturating_sub(todo.staying));
        for _ in 0..more {
            // Those that are there do it too.
            if (self.start)().is_err() {
                break;
            }
            todo.started();
        }
        match todo.queue.len() {
            1 => self.shared.more.notify_one(),
            _ => self.shared.more.notify_all(),
        }
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
        let mut todo = lock(&self.shared.todo);
        todo.closed = true;
        self.shared.more.notify_all();
        // They finish what they were given, for which nobody waits; with nothing to do they end at once.
        while self.in_flight == 0 && todo.threads > 0 {
            let ended = self.shared.ended.wait(todo);
            todo = ended.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn run<B: Blocking>(&self, disk: Arc<B>) {
        while let Some((mut io, broken)) = self.next() {
            let served = match broken {
                true => None,
                false => self.guard(&disk, || disk.serve(&mut io)),
            };
            let (result, settle) = served.unwrap_or((Err(broken_disk::<B>()), false));
            let changes = B::changes(io.op);
            match settle {
                true => lock(&self.unsettled).push(Done { io, result }),
                false => self.finish(&mut vec![Done { io, result }]),
            }
            if changes {
                let mut todo = lock(&self.todo);
                todo.changes = todo.changes.saturating_sub(1);
                drop(todo);
                self.settle(&disk);
            }
        }
        // Closed, if this is the last, before anybody hears of it.
        drop(disk);
        let mut todo = lock(&self.todo);
        todo.threads = todo.threads.saturating_sub(1);
        self.ended.notify_all();
    }

    /// Whether what is done is to be settled: nothing comes that could be settled with it, or there is much of it.
    fn is_due(&self) -> bool {
        let last = lock(&self.todo).changes == 0;
        let unsettled = lock(&self.unsettled).len();
        unsettled >= SETTLE || (last && unsettled > 0)
    }

    /// Settles what is done, unless somebody does: who then looks again for what came meanwhile.
    fn settle<B: Blocking>(&self, disk: &Arc<B>) {
        while self.is_due() {
            let Ok(_settling) = self.settling.try_lock() else {
                return;
            };
            let mut batch = std::mem::take(&mut *lock(&self.unsettled));
            let broken = lock(&self.todo).broken;
            let settled = match broken {
                true => None,
                false => self.guard(disk, || disk.settle()),
            };
            // What the tables would have shown is lost if that fails.
            if let Err(error) = settled.unwrap_or_else(|| Err(broken_disk::<B>())) {
                let lost = batch.iter_mut().filter(|done| done.result.is_ok());
                lost.for_each(|done| done.result = Err(error));
            }
            self.finish(&mut batch);
        }
    }

    /// Calls the disk. Once it has panicked it is not touched again, not even to be closed in order.
    fn guard<B: Blocking, T>(&self, disk: &Arc<B>, call: impl FnOnce() -> T) -> Option<T> {
        let called = std::panic::catch_unwind(AssertUnwindSafe(call));
        if called.is_err() {
            tracing::error!("{} is broken: all its requests fail from now on", B::NAME);
            lock(&self.todo).broken = true;
            std::mem::forget(Arc::clone(disk));
        }
        called.ok()
    }

    fn finish(&self, batch: &mut Vec<Done>) {
        let mut done = lock(&self.done);
        done.append(batch);
        // Under the lock, so that the event is there when and only when there is something to take over.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// The next request, and whether the disk is broken; `None` if this thread is to end.
    fn next(&self) -> Option<(Io, bool)> {
        let mut todo = lock(&self.todo);
        loop {
            if let Some(io) = todo.queue.pop_front() {
                return Some((io, todo.broken));
            }
            if todo.closed {
                return None;
            }
            todo.idle = todo.idle.saturating_add(1);
            let waited = self.more.wait_timeout(todo, IDLE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            todo = guard;
            todo.idle = todo.idle.saturating_sub(1);
            if timeout.timed_out() && todo.queue.is_empty() && todo.staying > 1 {
                todo.staying = todo.staying.saturating_sub(1);
                return None;
            }
        }
    }
}

fn broken_disk<B: Blocking>() -> IoError {
    IoError::System {
        op: B::NAME,
        errno: Errno::IO.raw_os_error(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::buffer::Buffer;
    use crate::sink::Tag;

    struct Fragile;

    impl Blocking for Fragile {
        const NAME: &'static str = "fragile";

        fn changes(_: IoOp) -> bool {
            false
        }

        fn serve(&self, io: &mut Io) -> (Result<(), IoError>, bool) {
            assert!(io.tag.get() != 13);
            (Ok(()), false)
        }

        fn settle(&self) -> Result<(), IoError> {
            Ok(())
        }
    }

    fn submit(worker: &mut Worker, tag: u16) {
        let io = Io {
            tag: Tag::new(tag),
            op: IoOp::Flush,
            buffer: Buffer::empty(),
        };
        worker.submit(io).unwrap();
    }

    fn next(worker: &mut Worker) -> Done {
        loop {
            match worker.reap() {
                Some(done) => return done,
                None => std::thread::yield_now(),
            }
        }
    }

    fn flush(worker: &mut Worker, tag: u16) -> Result<(), IoError> {
        submit(worker, tag);
        worker.kick();
        next(worker).result
    }

    #[test]
    fn a_disk_that_panics_fails_its_requests_from_then_on() {
        let mut worker = Worker::new(Fragile).unwrap();
        let broken = Err(broken_disk::<Fragile>());
        assert_eq!(flush(&mut worker, 1), Ok(()));
        assert_eq!(flush(&mut worker, 13), broken);
        assert_eq!(flush(&mut worker, 1), broken);
    }

    /// Serves only so many at once, and settles while the next ones are served.
    struct Together {
        barrier: Arc<Barrier>,
        settled: Arc<AtomicU32>,
        dropped: Arc<AtomicU32>,
    }

    impl Blocking for Together {
        const NAME: &'static str = "together";

        fn changes(_: IoOp) -> bool {
            true
        }

        fn serve(&self, io: &mut Io) -> (Result<(), IoError>, bool) {
            self.barrier.wait();
            (Ok(()), io.tag.get().is_multiple_of(2))
        }

        fn settle(&self) -> Result<(), IoError> {
            self.settled.fetch_add(1, Ordering::Relaxed);
            Err(IoError::FlushLost)
        }
    }

    impl Drop for Together {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn requests_are_served_together_and_what_settles_them_tells_how_they_end() {
        let barrier = Arc::new(Barrier::new(THREADS));
        let [settled, dropped] = [(); 2].map(|()| Arc::new(AtomicU32::new(0)));
        let disk = Together {
            barrier,
            settled: settled.clone(),
            dropped: dropped.clone(),
        };
        let mut worker = Worker::new(disk).unwrap();
        for _ in 0..50 {
            for tag in 0..THREADS {
                submit(&mut worker, u16::try_from(tag).unwrap());
            }
            worker.kick();
            for _ in 0..THREADS {
                let done = next(&mut worker);
                let lost = done.io.tag.get().is_multiple_of(2);
                assert_eq!(done.result.is_err(), lost);
            }
        }
        assert_eq!(settled.load(Ordering::Relaxed), 50);
        assert_eq!(lock(&worker.shared.todo).threads, THREADS);
        drop(worker);
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}
