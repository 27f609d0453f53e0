//! A disk of this guest, as the copy and the NBD export see one: a block frontend with its buffers and its share of the store.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, bail};
use ringfence_blkfront::{Armed, BufferError, Info, Op, Reason};
use ringfence_core::PAGE;

use super::disks::{self, Disks, Life, Shared};
use super::front::{DiskFront, DiskQueue, PAGES};
use super::lane::{Done, Lane};
use super::world::World;
use crate::nbd::{Blocks, Geometry, Offers, SubmitError, Token};
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
    /// Queues that carried requests.
    pub queues: u64,
}

/// A disk in use. While its backend is away it takes no requests, and those in flight then are answered with
/// [`BlockError::Aborted`](crate::nbd::BlockError::Aborted); they may be submitted again.
pub struct GuestDisk<P: World> {
    name: String,
    vdev: u32,
    front: Box<DiskFront<P>>,
    disks: Shared<P>,
    /// A descriptor of the store's, to sleep on.
    store_fd: OwnedFd,
    info: Info,
    life: Life,
    /// What is known of each queue of the frontend's, in its order.
    lanes: Vec<Lane<P>>,
    /// The queue that was used last.
    last: usize,
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
        let Some((front, info)) = disks.borrow_mut().lend(vdev) else {
            return Ok(None);
        };
        let mut disk = Self {
            name: name.to_owned(),
            vdev,
            front,
            disks: disks.clone(),
            store_fd,
            info,
            life: Life::Connected(info),
            lanes: Vec::new(),
            last: 0,
            seen: 0,
            returned: false,
            told: false,
            slept: false,
            reaps: 0,
            syscalls: 0,
        };
        let count = disk.front.queues().len();
        let pages = disks.borrow().pages / count;
        for _ in 0..count {
            match Lane::new(pages) {
                Ok(lane) => disk.lanes.push(lane),
                Err(error) => {
                    disk.give_back();
                    return Err(error);
                }
            }
        }
        Ok(Some(disk))
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
        let counters = || self.front.queues().map(DiskQueue::counters);
        let notifications: u64 = counters().map(|counters| counters.notifications).sum();
        let used = counters().filter(|counters| counters.requests > 0);
        Cost {
            notifications,
            syscalls: self.syscalls + notifications,
            queues: used.count() as u64,
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
                    self.lanes.iter_mut().for_each(Lane::renew);
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

    /// Takes the events of queues whose backend rang. Others wake us as well: what they have to say is no fault of the backend's.
    fn take_events(&mut self) {
        if !std::mem::take(&mut self.slept) {
            return;
        }
        let mut rang = false;
        for (lane, mut queue) in self.lanes.iter_mut().zip(self.front.turns()) {
            rang |= lane.take_event(&mut queue, &mut self.syscalls);
        }
        if !rang {
            self.look_at_nodes();
        }
    }

    /// The queue for the next request, without those that were `tried`: of those with room the one with the least to do, in
    /// turns.
    fn queue(&self, tried: u32) -> Option<usize> {
        let count = self.lanes.len();
        let queues = self.front.queues().enumerate();
        let open = queues.filter(|(number, queue)| {
            tried >> number & 1 == 0 && queue.channel().is_some() && queue.free() > 0
        });
        // From the one after the last on.
        let turn = |number: usize| (number + count - self.last - 1) % count;
        let best = open.min_by_key(|(number, queue)| (queue.in_flight(), turn(*number)));
        best.map(|(number, _)| number)
    }

    fn no_buffer(&self, error: &BufferError) -> SubmitError {
        let away = matches!(error, BufferError::NoBackend) && !self.is_over();
        // With fewer pages than the rings could use, requests wait for those that have some.
        if away || self.lanes.iter().any(|lane| lane.open() > 0) {
            return SubmitError::Full;
        }
        if !self.is_over() && NO_PAGE.may().is_some() {
            eprintln!("ringfence: {}: no page for a request: {error}", self.name);
        }
        SubmitError::Gone
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

    /// Has a queue take a request. One may have no room or no page where another has.
    fn submit(
        &mut self,
        hand: impl Fn(&mut Lane<P>, &mut DiskQueue<P>) -> Result<(), Refused>,
    ) -> Result<(), SubmitError> {
        let (mut refused, mut tried) = (Refused::Queue(Reason::NotConnected), 0);
        while let Some(number) = self.queue(tried) {
            match hand(&mut self.lanes[number], &mut self.front.turn(number)) {
                Ok(()) => {
                    self.last = number;
                    return Ok(());
                }
                Err(why) => refused = why,
            }
            tried |= 1 << number;
        }
        Err(match refused {
            Refused::Queue(reason) => self.refused(reason),
            Refused::Buffer(error) => self.no_buffer(&error),
            Refused::InUse => SubmitError::Full,
        })
    }
}

/// Why a queue does not take a request.
enum Refused {
    Queue(Reason),
    Buffer(BufferError),
    /// All buffers that there may be are.
    InUse,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::Queue(reason)
    }
}

impl From<BufferError> for Refused {
    fn from(error: BufferError) -> Self {
        Self::Buffer(error)
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
        self.submit(|lane, queue| {
            let buffer = lane.buffer(queue, bytes as usize)?;
            let buffer = buffer.ok_or(Refused::InUse)?;
            Ok(lane.submit(queue, token, Op::Read, sector, buffer)?)
        })
    }

    fn submit_write(&mut self, token: Token, sector: u64, data: &[u8]) -> Result<(), SubmitError> {
        self.submit(|lane, queue| {
            let buffer = lane.buffer(queue, data.len())?;
            let mut buffer = buffer.ok_or(Refused::InUse)?;
            buffer.write_at(0, data)?;
            Ok(lane.submit(queue, token, Op::Write, sector, buffer)?)
        })
    }

    fn submit_discard(
        &mut self,
        token: Token,
        sector: u64,
        sectors: u64,
    ) -> Result<(), SubmitError> {
        self.submit(|lane, queue| Ok(lane.discard(queue, token, sector, sectors)?))
    }

    /// On one queue: it covers what was answered on any.
    fn submit_flush(&mut self, token: Token) -> Result<(), SubmitError> {
        self.submit(|lane, queue| Ok(lane.flush(queue, token)?))
    }

    fn kick(&mut self) {
        for mut queue in self.front.turns() {
            if let Err(error) = queue.kick() {
                self.life = Life::Failed(error.to_string());
            }
        }
    }

    fn reap(&mut self, done: &mut Done<'_>) {
        self.take_events();
        self.reaps = self.reaps.wrapping_add(1);
        // A backend that always has something to say does not keep us from hearing that it wants to go.
        if self.reaps.is_multiple_of(LOOK_EVERY) || self.seen != self.disks.borrow().news() {
            self.look_at_nodes();
        }
        for number in 0..self.lanes.len() {
            loop {
                let over = self.is_over();
                let (lane, mut queue) = (&mut self.lanes[number], self.front.turn(number));
                let reaped = lane.reap(&mut queue, over, done);
                drop(queue);
                match reaped {
                    Ok(()) => break,
                    Err(_) if over => break,
                    // A lie of the backend's: the device closes, and what is in flight comes back aborted.
                    Err(fault) => {
                        self.life = Life::Failed(fault.to_string());
                        self.step_now();
                    }
                }
            }
        }
        for (lane, mut queue) in self.lanes.iter_mut().zip(self.front.turns()) {
            lane.serviced(&mut queue, &mut self.syscalls);
        }
        // A device that closes waits for the last answer, and no event of the store's tells it of that. Nor may anybody be told of
        // the answer: it may be to a piece of a request.
        if !matches!(self.life, Life::Connected(_)) && self.front.is_drained() {
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
        let mut quiet = true;
        for mut queue in self.front.turns() {
            quiet &= queue.channel().is_none() || queue.arm() == Armed::Sleep;
        }
        // What one queue did may let another go on.
        self.slept = quiet && !self.front.take_news();
        self.slept
    }

    fn wake(&self) -> Vec<BorrowedFd<'_>> {
        let lanes = self.lanes.iter().zip(self.front.queues());
        let queues = lanes.filter_map(|(lane, queue)| lane.wake(queue));
        std::iter::once(self.store_fd.as_fd())
            .chain(queues)
            .collect()
    }
}
