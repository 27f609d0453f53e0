//! Waking up at a time, beside when the disk below has finished something.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::DiskIo;

/// The descriptor that `disk` has just given by its [`DiskIo::wake`], to be waited on.
pub(crate) fn wake_fd(disk: &dyn DiskIo, fd: i32) -> BorrowedFd<'_> {
    debug_assert_eq!(disk.wake(), Some(fd));
    // SAFETY: the disk owns it and is borrowed as long as this.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// A timer, and a set of it and the descriptor of the disk below.
#[derive(Debug)]
pub(super) struct Timer {
    timer: OwnedFd,
    set: OwnedFd,
    armed: Option<Instant>,
}

impl Timer {
    /// For a decorator of `below`, which must go on owning its descriptor as long as the timer is there.
    pub(super) fn new(below: &dyn DiskIo) -> Result<Self, Errno> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let add = |fd: BorrowedFd<'_>| {
            epoll::add(
                &set,
                fd,
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN,
            )
        };
        add(timer.as_fd())?;
        if let Some(fd) = below.wake() {
            add(wake_fd(below, fd))?;
        }
        Ok(Self {
            timer,
            set,
            armed: None,
        })
    }

    /// What is readable when the time has come or the disk below has something.
    pub(super) fn fd(&self) -> i32 {
        self.set.as_raw_fd()
    }

    /// Wakes up at this time, or no more. Takes back that it did.
    pub(super) fn set(&mut self, at: Option<Instant>, now: Instant) {
        if at == self.armed {
            return;
        }
        self.armed = at;
        // All zeros stop the timer: what is due already comes as soon as can be.
        let left = at.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(now)
                .max(Duration::from_nanos(1))
        });
        let value = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        });
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        // It can fail for a wrong descriptor or time only.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }
}
