//! A block driver domain's process: its threads.

mod poller;
mod thread;
mod tick;

use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;

use ringfence_core::platform::{Platform, PlatformError};
use ringfence_core::store::{Connection, StoreError, Transport};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use thiserror::Error;

use super::crew::{Crew, THREADS_MAX, Worker};
use super::disks::Disks;
use super::statistics::Statistics;
use super::toolstack::Toolstack;
use super::waiting::Waiting;

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How to wait for those rings whose disks do not say otherwise.
    pub waiting: Waiting,
    /// Requests of one device that are taken before the next device's turn comes; at least 1.
    pub budget: u32,
    /// Where the devices are and who makes them.
    pub toolstack: Toolstack,
    /// Where others see what is counted: see [`Statistics::shared`].
    pub statistics: Option<&'static [AtomicU64]>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            waiting: Waiting::Block,
            budget: 32,
            toolstack: Toolstack::HOSTED,
            statistics: None,
        }
    }
}

/// Why a service ended before it was asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The store is gone.
    #[error("xenstore: {0}")]
    Store(#[from] StoreError),
    /// The system failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// There is nobody to serve, or there are too many.
    #[error("{count} threads: expected 1 to {THREADS_MAX}")]
    Threads {
        /// How many there are.
        count: usize,
    },
}

/// Serves the disks of this domain until `stop` is readable; then takes no more, finishes, flushes, unmaps, and returns with
/// all states as they are: the guests wait for the next process of this domain. `ready` is called once with the counters,
/// when the store is watched.
///
/// Each of `workers` has a thread, the first the caller's, and serves a share of the devices with all their rings: which is
/// whose follows from the numbers of the guest and of the device.
///
/// # Errors
/// When a store or the waiting itself fails, in any thread: then all of them end where they are.
pub fn run<P, T, D, F>(
    platform: &P,
    workers: Vec<Worker<P::Store, F>>,
    stop: BorrowedFd<'_>,
    options: Options,
    ready: impl FnOnce(&Arc<Statistics>),
) -> Result<(), RunError>
where
    P: Platform<Store = Connection<T>> + Sync,
    P::Channel: AsFd,
    P::Store: Send,
    T: Transport + AsFd,
    D: Disks,
    F: FnOnce() -> D + Send,
{
    let count = workers.len();
    let threads = u16::try_from(count).ok().and_then(NonZero::new);
    let threads = threads.filter(|threads| threads.get() <= THREADS_MAX);
    let statistics = options.statistics.map(Statistics::shared);
    let shared = Shared {
        crew: Crew::new(threads.ok_or(RunError::Threads { count })?),
        statistics: Arc::new(statistics.unwrap_or_default()),
        end: eventfd(0, EventfdFlags::CLOEXEC).map_err(failed("eventfd2"))?,
        stop,
        options,
    };
    let (watching, watched) = mpsc::channel();
    let mut workers = workers.into_iter();
    let first = workers.next();
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        for (index, worker) in (1..).zip(workers) {
            let (shared, watching) = (&shared, watching.clone());
            let say = move || {
                // Nobody listens any more once one has failed.
                let _ = watching.send(());
            };
            let serve = move || shared.ends(thread::serve(platform, worker, shared, index, say));
            let named = std::thread::Builder::new().name(format!("disks-{index}"));
            match named.spawn_scoped(scope, serve) {
                Ok(thread) => others.push(thread),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    return shared.ends(Err(PlatformError { op: "clone", errno }.into()));
                }
            }
        }
        drop(watching);
        let say = || {
            // Those that fail hang up.
            watched.iter().take(others.len()).for_each(drop);
            ready(&shared.statistics);
        };
        let own = first.map_or(Ok(()), |first| {
            shared.ends(thread::serve(platform, first, &shared, 0, say))
        });
        others.into_iter().fold(own, |ended, other| {
            let other = other.join();
            ended.and(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
}

/// What the threads of a process share.
struct Shared<'a> {
    crew: Arc<Crew>,
    statistics: Arc<Statistics>,
    /// Readable when one of them has failed.
    end: OwnedFd,
    stop: BorrowedFd<'a>,
    options: Options,
}

impl Shared<'_> {
    /// A thread ends so. If it fails, the others end too.
    fn ends(&self, ended: Result<(), RunError>) -> Result<(), RunError> {
        if ended.is_err() {
            let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
        }
        ended
    }
}

const fn error(op: &'static str, errno: Errno) -> PlatformError {
    PlatformError {
        op,
        errno: errno.raw_os_error(),
    }
}

const fn failed(op: &'static str) -> impl Fn(Errno) -> PlatformError {
    move |errno| error(op, errno)
}
