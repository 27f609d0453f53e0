//! One queue of a disk in use: its buffers, who waits for which of its answers, and the pauses that its backend earns.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use ringfence_blkfront::{BufferError, Completion, IoError, Op, PeerFault, Reason, Serviced, Tag};
use ringfence_core::{Sector, SectorCount};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::front::{DiskBuffer, DiskQueue, PAGES};
use super::pool::Pool;
use super::world::World;
use crate::nbd::{BlockError, Data, Token};

/// Where answers go.
pub(crate) type Done<'a> = dyn FnMut(Token, Result<Data<'_>, BlockError>) + 'a;

/// What the user of a disk knows of one of its queues, which every method is given.
pub(crate) struct Lane<P: World> {
    open: HashMap<Tag, Token>,
    idle: Pool<P>,
    /// Ends the pause that a backend earns which rings without cause.
    pause: OwnedFd,
    paused: bool,
    /// Whether the backend rang, and nobody said yet what came of it.
    rang: bool,
}

impl<P: World> Lane<P> {
    /// With buffers of up to `pages` pages altogether.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self {
            open: HashMap::new(),
            idle: Pool::new(pages),
            pause: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            paused: false,
            rang: false,
        })
    }

    /// Requests whose answers somebody waits for.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// There is another connection: the pages of the last one are for its backend only, and so is the pause.
    pub(crate) fn renew(&mut self) {
        self.idle.clear();
        (self.paused, self.rang) = (false, false);
    }

    /// A buffer of this length, used before or new; `None` while all that there may be are in use.
    ///
    /// # Errors
    /// No page is left; the connection is away.
    pub(crate) fn buffer(
        &mut self,
        queue: &DiskQueue<P>,
        bytes: usize,
    ) -> Result<Option<DiskBuffer<P>>, BufferError> {
        let mut buffer = self.idle.take(queue, bytes)?;
        if let Some(buffer) = &mut buffer {
            buffer.set_len(bytes)?;
        }
        Ok(buffer)
    }

    /// Submits a read or a write; without success the buffer is kept.
    pub(crate) fn submit(
        &mut self,
        queue: &mut DiskQueue<P>,
        token: Token,
        op: Op,
        sector: u64,
        buffer: DiskBuffer<P>,
    ) -> Result<(), Reason> {
        match queue.submit(op, Sector::new(sector), buffer) {
            Ok(tag) => {
                self.open.insert(tag, token);
                Ok(())
            }
            Err(rejected) => {
                self.idle.keep(rejected.buffer);
                Err(rejected.reason)
            }
        }
    }

    /// Submits a flush.
    pub(crate) fn flush(&mut self, queue: &mut DiskQueue<P>, token: Token) -> Result<(), Reason> {
        self.open.insert(queue.flush()?, token);
        Ok(())
    }

    /// Submits a discard.
    pub(crate) fn discard(
        &mut self,
        queue: &mut DiskQueue<P>,
        token: Token,
        sector: u64,
        sectors: u64,
    ) -> Result<(), Reason> {
        let (sector, count) = (Sector::new(sector), SectorCount::new(sectors));
        self.open
            .insert(queue.discard(sector, count, false)?, token);
        Ok(())
    }

    /// Takes the backend's event, if it rang, after a sleep. Adds the system calls that took.
    pub(crate) fn take_event(&mut self, queue: &mut DiskQueue<P>, calls: &mut u64) -> bool {
        *calls += 1;
        if self.paused {
            if rustix::io::read(&self.pause, &mut [0; 8]).is_err() {
                return false;
            }
            self.paused = false;
            let _ = queue.unmask();
            *calls += 2;
        }
        self.rang = queue.take_event().unwrap_or(false);
        self.rang
    }

    /// Says what came of the backend's event, after reaping, if there was one. Adds the system calls that took.
    pub(crate) fn serviced(&mut self, queue: &mut DiskQueue<P>, calls: &mut u64) {
        if !std::mem::take(&mut self.rang) {
            return;
        }
        if let Ok(Serviced::Spurious(delay)) = queue.serviced() {
            let it_value = Timespec {
                tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(delay.subsec_nanos()),
            };
            let once = Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value,
            };
            self.paused = timerfd_settime(&self.pause, TimerfdTimerFlags::empty(), &once).is_ok();
            *calls += 1;
        }
    }

    /// Hands every answer that is there to whoever asked. Those without success are final if the disk is `over`.
    ///
    /// # Errors
    /// The backend lied.
    pub(crate) fn reap(
        &mut self,
        queue: &mut DiskQueue<P>,
        over: bool,
        done: &mut Done<'_>,
    ) -> Result<(), PeerFault> {
        while let Some(completion) = queue.reap()? {
            self.hand_out(completion, over, done);
        }
        Ok(())
    }

    fn hand_out(&mut self, completion: Completion<P, PAGES>, over: bool, done: &mut Done<'_>) {
        let Some(token) = self.open.remove(&completion.tag) else {
            return;
        };
        let buffer = completion.buffer;
        match completion.result {
            Ok(()) => done(
                token,
                Ok(&|offset, out: &mut [u8]| {
                    if let Some(buffer) = &buffer {
                        // The server asks for parts of what it submitted; there is nothing beyond.
                        let _ = buffer.read_at(offset, out);
                    }
                }),
            ),
            Err(_) if over => done(token, Err(BlockError::Gone)),
            Err(IoError::Aborted) => return done(token, Err(BlockError::Aborted)),
            Err(_) => done(token, Err(BlockError::Failed)),
        }
        if let Some(buffer) = buffer {
            self.idle.keep(buffer);
        }
    }

    /// What becomes readable when there is something to reap.
    pub(crate) fn wake<'a>(&'a self, queue: &'a DiskQueue<P>) -> Option<BorrowedFd<'a>> {
        match self.paused {
            true => Some(self.pause.as_fd()),
            false => queue.channel().map(AsFd::as_fd),
        }
    }
}
