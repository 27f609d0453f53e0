//! What a thread waits for: a set of descriptors, and what its tokens stand for.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ringfence_core::ids::DomId;
use ringfence_core::platform::PlatformError;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::super::doorbells::Doorbells;
use super::super::id::{BackendType, DeviceId, RingId};
use super::{error, failed};

const STORE: u64 = 0;
const STOP: u64 = 1;
const DISKS: u64 = 2;
const END: u64 = 3;
const TICK: u64 = 4;
/// The first of the tokens that stand for devices.
const DEVICE: u64 = 1 << 63;
/// With it: the device is a [`BackendType::Qdisk`].
const QDISK: u64 = 1 << 62;
/// The bits of a queue's number in a token.
const QUEUES: u16 = (1 << 14) - 1;
const _: () = assert!(crate::negotiate::MAX_QUEUES <= QUEUES);

/// Who may have something to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// XenStore.
    Store,
    /// Whoever asks the process to stop.
    Stop,
    /// A disk that finished something.
    Disks,
    /// Another thread, which failed.
    End,
    /// Time has passed.
    Tick,
    /// A doorbell.
    Ring(RingId),
}

impl Source {
    const fn token(self) -> u64 {
        match self {
            Self::Store => STORE,
            Self::Stop => STOP,
            Self::Disks => DISKS,
            Self::End => END,
            Self::Tick => TICK,
            Self::Ring(id) => token(id),
        }
    }

    const fn of(token: u64) -> Self {
        match token {
            STORE => Self::Store,
            STOP => Self::Stop,
            DISKS => Self::Disks,
            END => Self::End,
            TICK => Self::Tick,
            token => Self::Ring(ring(token)),
        }
    }
}

/// The most that one look finds.
const FOUND_MAX: usize = 64;

/// An epoll set. A handle: clones are the same set.
#[derive(Clone)]
pub(super) struct Poller {
    set: Arc<OwnedFd>,
}

impl Poller {
    pub(super) fn new() -> Result<Self, PlatformError> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create1"))?;
        let set = Arc::new(set);
        Ok(Self { set })
    }

    pub(super) fn watch(&self, fd: BorrowedFd<'_>, source: Source) -> Result<(), PlatformError> {
        watch(&self.set, fd, source.token())
    }

    pub(super) fn forget(&self, fd: BorrowedFd<'_>) -> Result<(), PlatformError> {
        epoll::delete(&self.set, fd).map_err(failed("epoll_ctl"))
    }

    /// Waits for so long at most, without `timeout` for ever. Puts who was found into `found`: nobody when a signal came.
    pub(super) fn wait(
        &self,
        timeout: Option<&Timespec>,
        found: &mut Vec<Source>,
    ) -> Result<(), PlatformError> {
        let mut room = [MaybeUninit::<epoll::Event>::uninit(); FOUND_MAX];
        match epoll::wait(&*self.set, &mut room[..], timeout) {
            Ok((events, _)) => {
                found.extend(events.iter().map(|event| Source::of(event.data.u64())));
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(error("epoll_wait", errno)),
        }
    }
}

impl<C: AsFd> Doorbells<C> for Poller {
    fn add(&mut self, id: RingId, channel: &C) -> Result<(), PlatformError> {
        watch(&self.set, channel.as_fd(), token(id))
    }

    fn mask(&mut self, id: RingId, channel: &C, masked: bool) {
        let flags = if masked {
            epoll::EventFlags::empty()
        } else {
            epoll::EventFlags::IN
        };
        let data = epoll::EventData::new_u64(token(id));
        // It is in the set, so this cannot fail; if it did, the port would be looked at too early or when next due.
        let _ = epoll::modify(&self.set, channel.as_fd(), data, flags);
    }

    fn remove(&mut self, _: RingId, channel: &C) {
        let _ = epoll::delete(&self.set, channel.as_fd());
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
            assert_eq!(Source::of(token(id)), Source::Ring(id));
            assert!(token(id) > TICK);
        }
    }
}
