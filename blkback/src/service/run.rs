//! The loop of a block driver domain's process.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ringfence_core::ids::DomId;
use ringfence_core::platform::{Platform, PlatformError};
use ringfence_core::store::{Connection, StoreError, Transport};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use thiserror::Error;

use super::disks::Disks;
use super::doorbells::Doorbells;
use super::id::{BackendType, DeviceId, RingId};
use super::statistics::Statistics;
use super::toolstack::Toolstack;
use super::waiting::Waiting;
use super::{Service, Turn};

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
}

const STORE: u64 = 0;
const STOP: u64 = 1;
const DISKS: u64 = 2;
/// The first of the tokens that stand for devices.
const DEVICE: u64 = 1 << 63;
/// With it: the device is a [`BackendType::Qdisk`].
const QDISK: u64 = 1 << 62;
/// The bits of a queue's number in a token.
const QUEUES: u16 = (1 << 14) - 1;
const _: () = assert!(crate::negotiate::MAX_QUEUES <= QUEUES);

/// Serves the disks of this domain until `stop` is readable; then takes no more, finishes, flushes, unmaps, and returns with
/// all states as they are: the guests wait for the next process of this domain. `ready` is called once with the counters,
/// when the store is watched.
///
/// # Errors
/// When the store or the waiting itself fails.
pub fn run<P, T, D>(
    platform: &P,
    store: P::Store,
    disks: D,
    stop: BorrowedFd<'_>,
    options: Options,
    ready: impl FnOnce(&Arc<Statistics>),
) -> Result<(), RunError>
where
    P: Platform<Store = Connection<T>>,
    P::Channel: AsFd,
    T: Transport + AsFd,
    D: Disks,
{
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create1"))?;
    watch(&poller, store.transport().as_fd(), STORE)?;
    watch(&poller, stop, STOP)?;
    if let Some(fd) = disks.wake() {
        watch(&poller, fd, DISKS)?;
    }
    let epoll = Epoll {
        poller: poller.try_clone().map_err(|_| error("dup", Errno::MFILE))?,
    };
    let mut service = Service::with_toolstack(platform, store, disks, epoll, options.toolstack)?;
    service.wait_by(options.waiting);
    if let Some(words) = options.statistics {
        service.count_in(Statistics::shared(words));
    }
    ready(service.statistics());
    let now = Instant::now();
    Loop {
        service,
        poller,
        stop,
        options,
        start: now,
        last_work: now,
        last_refresh: now,
        connected: false,
        looks: 0,
    }
    .run()
}

/// The channels in the epoll set.
struct Epoll {
    poller: OwnedFd,
}

/// Looks at the rings between two looks at the descriptors, while spinning.
const LOOKS: u32 = 64;

/// Looks at the rings between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 8;

/// Looks at the rings that have more to do between two looks at the descriptors, while not spinning.
const ROUNDS: u32 = 8;

/// Between two looks at the sizes of the disks, while there is work.
const REFRESH: Duration = Duration::from_secs(1);

struct Loop<'p, P: Platform, D> {
    service: Service<'p, P, D, Epoll>,
    poller: OwnedFd,
    stop: BorrowedFd<'p>,
    options: Options,
    start: Instant,
    last_work: Instant,
    /// When the disks' sizes were last looked at.
    last_refresh: Instant,
    /// Whether there may be a frontend to tell of them: who serves nobody sleeps until called.
    connected: bool,
    /// Looks since the last one at the descriptors.
    looks: u32,
}

impl<P, D> Loop<'_, P, D>
where
    P: Platform,
    P::Channel: AsFd,
    D: Disks,
{
    fn run(mut self) -> Result<(), RunError> {
        let budget = self.options.budget.max(1);
        let mut stopping = false;
        let mut flushed = false;
        let mut control = true;
        let mut now = self.start;
        loop {
            if self.looks.is_multiple_of(LOOKS_PER_CLOCK) {
                now = Instant::now();
            }
            let time = now.saturating_duration_since(self.start);
            let mut turn = self.service.serve(budget, time);
            if turn.control || control {
                control = self.service.control()?;
                // Maybe; the next look at the sizes says.
                self.connected = true;
                // A connection just made has its first look at the ring to come.
                turn.again = true;
            }
            if stopping && self.service.is_idle() {
                if std::mem::replace(&mut flushed, true) {
                    self.service.leave();
                    return Ok(());
                }
                self.service.flush();
                turn.again = true;
            }
            if turn.worked {
                self.last_work = now;
            }
            // Only where somebody is there to notice: a disk that nobody uses can wait.
            if self.last_work.saturating_duration_since(self.last_refresh) >= REFRESH && !stopping {
                self.last_refresh = self.last_work;
                self.service.refresh()?;
            }
            // Whoever keeps us busy costs no system call, for a while.
            let looks = match turn.spins {
                true => LOOKS,
                false if turn.again => ROUNDS,
                false => 0,
            };
            if self.looks < looks {
                self.looks = self.looks.saturating_add(1);
                if !turn.worked {
                    std::hint::spin_loop();
                }
                continue;
            }
            self.looks = 0;
            let timeout = self.timeout(&turn);
            let woken = self.wait(timeout.as_ref(), budget)?;
            control |= woken.control;
            if woken.stop && !stopping {
                stopping = true;
                // Readable for ever: it would keep us from sleeping while the disks finish.
                epoll::delete(&self.poller, self.stop).map_err(failed("epoll_ctl"))?;
                self.service.stop();
            }
        }
    }

    fn timeout(&self, turn: &Turn) -> Option<Timespec> {
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // After spinning, one more look with the doorbells armed comes before any sleep.
        if turn.again || turn.spins {
            return Some(none);
        }
        let unmask = turn.until.map(|at| at.saturating_sub(self.start.elapsed()));
        let refresh = (self.connected).then(|| REFRESH.saturating_sub(self.last_refresh.elapsed()));
        let until = unmask.into_iter().chain(refresh).min()?;
        Some(Timespec::try_from(until).unwrap_or(none))
    }

    /// Waits, and serves who rang.
    fn wait(&mut self, timeout: Option<&Timespec>, budget: u32) -> Result<Woken, RunError> {
        let mut room = [MaybeUninit::<epoll::Event>::uninit(); 64];
        self.service.statistics().waited();
        let events = match epoll::wait(&self.poller, &mut room[..], timeout) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(Woken::default()),
            Err(errno) => return Err(error("epoll_wait", errno).into()),
        };
        let mut woken = Woken::default();
        let now = Instant::now();
        for event in events.iter() {
            match event.data.u64() {
                STORE => woken.control = true,
                // The disks' turn is `serve`.
                DISKS => {}
                STOP => woken.stop = true,
                token => {
                    let time = now.saturating_duration_since(self.start);
                    let turn = self.service.rung(ring(token), budget, time);
                    woken.control |= turn.control;
                    if turn.worked {
                        self.last_work = now;
                    }
                }
            }
        }
        Ok(woken)
    }
}

/// Why a wait ended, beside doorbells.
#[derive(Clone, Copy, Default)]
struct Woken {
    /// XenStore, or a device that drained or failed.
    control: bool,
    /// It is time to stop.
    stop: bool,
}

impl<C: AsFd> Doorbells<C> for Epoll {
    fn add(&mut self, id: RingId, channel: &C) -> Result<(), PlatformError> {
        watch(&self.poller, channel.as_fd(), token(id))
    }

    fn mask(&mut self, id: RingId, channel: &C, masked: bool) {
        let flags = if masked {
            epoll::EventFlags::empty()
        } else {
            epoll::EventFlags::IN
        };
        let data = epoll::EventData::new_u64(token(id));
        // It is in the set, so this cannot fail; if it did, the port would be looked at too early or when next due.
        let _ = epoll::modify(&self.poller, channel.as_fd(), data, flags);
    }

    fn remove(&mut self, _: RingId, channel: &C) {
        let _ = epoll::delete(&self.poller, channel.as_fd());
    }
}

fn watch(poller: &OwnedFd, fd: BorrowedFd<'_>, token: u64) -> Result<(), PlatformError> {
    let data = epoll::EventData::new_u64(token);
    epoll::add(poller, fd, data, epoll::EventFlags::IN).map_err(failed("epoll_ctl"))
}

/// 64 bits: device or not, its type, 14 bits of queue, 16 of domain, 32 of device.
const fn token(id: RingId) -> u64 {
    let device = id.device;
    let kind = match device.backend {
        BackendType::Vbd => 0,
        BackendType::Qdisk => QDISK,
    };
    let queue = (id.queue & QUEUES) as u64;
    DEVICE | kind | queue << 48 | (device.front.get() as u64) << 32 | device.vdev as u64
}

#[expect(clippy::cast_possible_truncation, reason = "takes the token apart")]
const fn ring(token: u64) -> RingId {
    let device = DeviceId {
        backend: if token & QDISK == 0 {
            BackendType::Vbd
        } else {
            BackendType::Qdisk
        },
        front: DomId::new((token >> 32) as u16),
        vdev: token as u32,
    };
    RingId {
        device,
        queue: (token >> 48) as u16 & QUEUES,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_one_ring() {
        for (backend, front, vdev, queue) in [
            (BackendType::Vbd, u16::MAX, u32::MAX, QUEUES),
            (BackendType::Qdisk, u16::MAX, u32::MAX, 0),
            (BackendType::Qdisk, 0, 0, 3),
            (BackendType::Vbd, 0, 0, 0),
        ] {
            let device = DeviceId {
                backend,
                front: DomId::new(front),
                vdev,
            };
            let id = RingId { device, queue };
            assert_eq!(ring(token(id)), id);
            assert!(token(id) > DISKS);
        }
    }
}
