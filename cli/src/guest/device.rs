//! A disk of this guest, as the copy and the NBD export see one: a block frontend with its buffers and its share of the store.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, bail};
use ringfence_blkfront::{
    Armed, BufferError, Completion, Info, IoError, Op, Reason, Serviced, Tag,
};
use ringfence_core::{PAGE, Sector, SectorCount};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::disks::{self, DiskBuffer, DiskFront, Disks, Life, PAGES, Shared};
use super::pool::Pool;
use super::world::World;
use crate::nbd::{BlockError, Blocks, Data, Geometry, Offers, SubmitError, Token};
use crate::rarely::Rarely;

/// Who asks for data can ask while a backend holds all pages.
static NO_PAGE: Rarely = Rarely::new();

/// What one disk's data path cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Times the backend's doorbell was rung.
    pub notifications: u64,
    /// System calls of the data path without those for waiting, which the owner of the loop makes.
    pub syscalls: u64,
}

/// A disk in use. While its backend is away it takes no requests, and those in flight then are answered with
/// [`BlockError::Aborted`]; they may be submitted again.
pub struct GuestDisk<P: World> {
    name: String,
    vdev: u32,
    front: Box<DiskFront<P>>,
    disks: Shared<P>,
    /// A descriptor of the store's, to sleep on.
    store_fd: OwnedFd,
    /// Ends the pause that a backend earns which rings without cause.
    pause: OwnedFd,
    paused: bool,
    info: Info,
    life: Life,
    open: HashMap<Tag, Token>,
    idle: Pool<P>,
    /// The last news of the store's that it looked at.
    seen: u64,
    /// Whether it has come back since it was last asked to sleep.
    returned: bool,
    /// Whether whoever wants to sleep was told that it is over.
    told: bool,
    slept: bool,
    reaps: u32,
    syscalls: u64,
}

/// After so many looks at the ring one at the store, whoever woke us.
const LOOK_EVERY: u32 = 64;

impl<P: World> GuestDisk<P> {
    /// Takes the disk with this number for use; `None` unless it is connected and free.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn take(disks: &Shared<P>, vdev: u32, name: &str) -> Result<Option<Self>> {
        let store_fd = disks.borrow().fd()?;
        let pause = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let Some((front, info)) = disks.borrow_mut().lend(vdev) else {
            return Ok(None);
        };
        Ok(Some(Self {
            name: name.to_owned(),
            vdev,
            front,
            disks: disks.clone(),
            store_fd,
            pause,
            paused: false,
            info,
            life: Life::Connected(info),
            open: HashMap::new(),
            idle: Pool::new(disks.borrow().pages),
            seen: 0,
            returned: false,
            told: false,
            slept: false,
            reaps: 0,
            syscalls: 0,
        }))
    }

    /// Waits until the disk with this number is connected; `None` if `stop` came first.
    ///
    /// # Errors
    /// The backend closed the device or its nodes make no sense.
    pub fn connect(
        disks: &Shared<P>,
        vdev: u32,
        name: &str,
        stop: BorrowedFd<'_>,
    ) -> Result<Option<Self>> {
        loop {
            disks.borrow_mut().attend()?;
            match disks.borrow().life(vdev) {
                Some(Life::Closed) => bail!("{name}: the backend closed the device"),
                Some(Life::Failed(why)) => bail!("{name}: {why}"),
                Some(Life::Connected(_) | Life::Waiting) | None => {}
            }
            if let Some(disk) = Self::take(disks, vdev, name)? {
                return Ok(Some(disk));
            }
            if disks.borrow().wait(Some(stop), None)? {
                return Ok(None);
            }
        }
    }

    /// The name it was attached by, e.g. `xvda`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub const fn vdev(&self) -> u32 {
        self.vdev
    }

    /// Whether it is closed, disabled or detached: it takes no more requests.
    pub fn is_over(&self) -> bool {
        matches!(self.life, Life::Closed | Life::Failed(_))
    }

    /// What the data path cost so far.
    pub fn cost(&self) -> Cost {
        let notifications = self.front.counters().notifications;
        Cost {
            notifications,
            syscalls: self.syscalls + notifications,
        }
    }

    fn look_at_nodes(&mut self) {
        self.syscalls += 1;
        let disks = self.disks.clone();
        let mut disks = disks.borrow_mut();
        loop {
            if let Err(error) = disks.attend() {
                self.life = Life::Failed(format!("{error:#}"));
                return;
            }
            // Whatever comes while it steps is news again.
            if self.seen == disks.news() {
                return;
            }
            self.seen = disks.news();
            self.step(&mut disks);
            if disks.life(self.vdev).is_none() {
                self.life = Life::Closed;
            }
        }
    }

    fn step(&mut self, disks: &mut Disks<P>) {
        match disks::step(self.vdev, &mut self.front, &mut disks.store, &mut self.life) {
            Ok(anew) => {
                if anew {
                    self.returned = true;
                    self.told = false;
                    // The pages of the last connection are for its backend only.
                    self.idle.clear();
                }
                if let Life::Connected(info) = self.life {
                    self.info = info;
                }
            }
            Err(error) => self.life = Life::Failed(format!("{error:#}")),
        }
    }

    /// Steps without news, and takes in what came of the store's meanwhile: its descriptor announces that no more.
    fn step_now(&mut self) {
        let disks = self.disks.clone();
        self.step(&mut disks.borrow_mut());
        self.look_at_nodes();
    }

    /// Ends the use of it.
    pub fn give_back(self) {
        let mut disks = self.disks.borrow_mut();
        disks.give_back(self.vdev, self.front, self.life);
    }

    /// Whether the backend rang. Others wake us as well: what they have to say is no fault of the backend's.
    fn take_event(&mut self) -> bool {
        if !std::mem::take(&mut self.slept) {
            return false;
        }
        if std::mem::take(&mut self.paused) {
            let mut expirations = [0; 8];
            let _ = rustix::io::read(&self.pause, &mut expirations);
            let _ = self.front.unmask();
            self.syscalls += 2;
        }
        self.syscalls += 1;
        let rang = self.front.take_event().unwrap_or(false);
        if !rang {
            self.look_at_nodes();
        }
        rang
    }

    fn serviced(&mut self) {
        if let Ok(Serviced::Spurious(delay)) = self.front.serviced() {
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
            self.syscalls += 1;
        }
    }

    /// A buffer of this length, used before or new.
    fn buffer(&mut self, bytes: usize) -> Result<DiskBuffer<P>, SubmitError> {
        let taken = self.idle.take(&self.front, bytes);
        let taken = taken.map_err(|error| self.no_buffer(&error))?;
        let mut buffer = taken.ok_or(SubmitError::Full)?;
        buffer.set_len(bytes).map_err(|_| SubmitError::Gone)?;
        Ok(buffer)
    }

    fn no_buffer(&self, error: &BufferError) -> SubmitError {
        let away = matches!(error, BufferError::NoBackend) && !self.is_over();
        // With fewer pages than the ring could use, requests wait for those that have some.
        if away || !self.open.is_empty() {
            return SubmitError::Full;
        }
        if !self.is_over() && NO_PAGE.may().is_some() {
            eprintln!("ringfence: {}: no page for a request: {error}", self.name);
        }
        SubmitError::Gone
    }

    fn submit(
        &mut self,
        token: Token,
        op: Op,
        sector: u64,
        buffer: DiskBuffer<P>,
    ) -> Result<(), SubmitError> {
        match self.front.submit(op, Sector::new(sector), buffer) {
            Ok(tag) => {
                self.open.insert(tag, token);
                Ok(())
            }
            Err(rejected) => {
                self.idle.keep(rejected.buffer);
                Err(self.refused(rejected.reason))
            }
        }
    }

    /// While the backend is away, requests wait as they do for a full ring.
    fn refused(&self, reason: Reason) -> SubmitError {
        match reason {
            Reason::Full { .. } | Reason::Repeating { .. } => SubmitError::Full,
            Reason::NotConnected | Reason::ForeignBuffer { .. } if !self.is_over() => {
                SubmitError::Full
            }
            _ => SubmitError::Gone,
        }
    }

    /// One answer to whoever asked.
    fn hand_out(
        &mut self,
        completion: Completion<P, PAGES>,
        done: &mut dyn FnMut(Token, Result<Data<'_>, BlockError>),
    ) {
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
            Err(_) if self.is_over() => done(token, Err(BlockError::Gone)),
            Err(IoError::Aborted) => return done(token, Err(BlockError::Aborted)),
            Err(_) => done(token, Err(BlockError::Failed)),
        }
        if let Some(buffer) = buffer {
            self.idle.keep(buffer);
        }
    }
}

impl<P: World> Blocks for GuestDisk<P> {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.info.sectors.get(),
            block_bytes: self.info.sector_size,
            request_bytes: (PAGES * PAGE) as u32,
            read_only: self.info.read_only,
            flush: self.info.flush,
            offers: Offers {
                trim: self.info.discard.is_some() && !self.info.read_only,
                zeroes: !self.info.read_only,
                durable: self.info.flush,
            },
        }
    }

    fn submit_read(&mut self, token: Token, sector: u64, bytes: u32) -> Result<(), SubmitError> {
        if self.front.free() == 0 {
            return Err(SubmitError::Full);
        }
        let buffer = self.buffer(bytes as usize)?;
        self.submit(token, Op::Read, sector, buffer)
    }

    fn submit_write(&mut self, token: Token, sector: u64, data: &[u8]) -> Result<(), SubmitError> {
        if self.front.free() == 0 {
            return Err(SubmitError::Full);
        }
        let mut buffer = self.buffer(data.len())?;
        buffer.write_at(0, data).map_err(|_| SubmitError::Gone)?;
        self.submit(token, Op::Write, sector, buffer)
    }

    fn submit_discard(
        &mut self,
        token: Token,
        sector: u64,
        sectors: u64,
    ) -> Result<(), SubmitError> {
        let (sector, count) = (Sector::new(sector), SectorCount::new(sectors));
        match self.front.discard(sector, count, false) {
            Ok(tag) => {
                self.open.insert(tag, token);
                Ok(())
            }
            Err(reason) => Err(self.refused(reason)),
        }
    }

    fn submit_flush(&mut self, token: Token) -> Result<(), SubmitError> {
        match self.front.flush() {
            Ok(tag) => {
                self.open.insert(tag, token);
                Ok(())
            }
            Err(reason) => Err(self.refused(reason)),
        }
    }

    fn kick(&mut self) {
        if let Err(error) = self.front.kick() {
            self.life = Life::Failed(error.to_string());
        }
    }

    fn reap(&mut self, done: &mut dyn FnMut(Token, Result<Data<'_>, BlockError>)) {
        let rang = self.take_event();
        self.reaps = self.reaps.wrapping_add(1);
        // A backend that always has something to say does not keep us from hearing that it wants to go.
        if self.reaps.is_multiple_of(LOOK_EVERY) || self.seen != self.disks.borrow().news() {
            self.look_at_nodes();
        }
        let mut any = false;
        loop {
            match self.front.reap() {
                Ok(Some(completion)) => {
                    any = true;
                    self.hand_out(completion, done);
                }
                Ok(None) => break,
                // A lie of the backend's: the device closes, and what is in flight comes back aborted.
                Err(fault) => {
                    if self.is_over() {
                        break;
                    }
                    self.life = Life::Failed(fault.to_string());
                    self.step_now();
                }
            }
        }
        if rang {
            self.serviced();
        }
        // A device that closes waits for the last answer, and no event of the store's tells it of that.
        if any && !matches!(self.life, Life::Connected(_)) && self.front.in_flight() == 0 {
            self.step_now();
        }
    }

    fn arm(&mut self) -> bool {
        // Requests that waited for the backend to return can be submitted now, or fail now.
        if std::mem::take(&mut self.returned)
            || (self.is_over() && !std::mem::replace(&mut self.told, true))
            || self.seen != self.disks.borrow().news()
        {
            return false;
        }
        self.slept = self.front.channel().is_none() || self.front.arm() == Armed::Sleep;
        self.slept
    }

    fn wake(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.store_fd.as_fd()];
        if self.paused {
            fds.push(self.pause.as_fd());
        } else {
            fds.extend(self.front.channel().map(AsFd::as_fd));
        }
        fds
    }
}
