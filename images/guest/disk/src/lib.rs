//! A disk of a guest kernel, waited for: one thread, nothing else to do but what the toolstack asks for, which may be to be saved
//! in the middle of it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::error::Error;
use core::time::Duration;

use ext4_view::Ext4Read;
use log::info;
use ringfence_blkfront::{
    Armed, Buffer, Completion, Counters, Event, Frontend, Op, Reason, Serviced,
};
use ringfence_core::platform::{Channel as _, Platform as _};
use ringfence_core::store::Store as _;
use ringfence_core::{PAGE, Sector, SectorCount};
use ringfence_guest::toolstack::{self, Request};
use ringfence_guest::{Guest, GuestStore, Resumed, shutdown};

/// Whatever went wrong, in words.
pub type Result<T> = core::result::Result<T, Box<dyn Error>>;

/// Pages of a request, and how many requests are in flight.
const PAGES: usize = 8;
const DEPTH: u64 = 32;
const REQUEST: u64 = (PAGES * PAGE) as u64;
/// Nobody who is there takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connected disk.
pub struct Disk {
    guest: Guest,
    store: Box<GuestStore>,
    front: Frontend<Guest>,
    bytes: u64,
    idle: Vec<Buffer<Guest>>,
    patience: Duration,
    /// When what is waited for now should have come.
    end: Duration,
}

/// The disk as `ext4-view` wants it.
pub struct Reader(pub Rc<RefCell<Disk>>);

impl Disk {
    /// The disk of this directory, which is not connected yet. A backend that lets it wait for longer than `patience` is gone.
    ///
    /// # Errors
    /// The name of the directory is too long.
    pub fn new(
        guest: Guest,
        store: Box<GuestStore>,
        dir: &str,
        patience: Duration,
    ) -> Result<Self> {
        Ok(Self {
            guest,
            store,
            front: Frontend::new(guest, dir)?,
            bytes: 0,
            idle: Vec::new(),
            patience,
            end: Duration::ZERO,
        })
    }

    /// Waits until it is connected.
    ///
    /// # Errors
    /// The backend has none, or nobody answers.
    pub fn connect(&mut self) -> Result<()> {
        self.expect();
        self.step()?;
        while self.front.info().is_none() {
            let left = self.left()?;
            self.store.wait(Some(left))?;
            self.news()?;
        }
        Ok(())
    }

    /// Something is waited for from now on.
    fn expect(&mut self) {
        self.end = self.guest.now() + self.patience;
    }

    /// How long it still may take.
    fn left(&self) -> Result<Duration> {
        match self.end.saturating_sub(self.guest.now()) {
            Duration::ZERO => {
                let seconds = self.patience.as_secs();
                Err(format!("the backend did not answer in {seconds} s").into())
            }
            left => Ok(left),
        }
    }

    /// Lets go of it, in order as far as the backend keeps to it. Gives back the store.
    ///
    /// # Errors
    /// The store failed.
    pub fn close(mut self) -> Result<Box<GuestStore>> {
        self.idle.clear();
        self.front.close();
        self.expect();
        while let Ok(left) = self.left() {
            match self.front.step(&mut *self.store)? {
                Some(Event::Disconnected | Event::Closed) => break,
                Some(_) => continue,
                None => self.store.wait(Some(left))?,
            }
            while self.store.next_watch()?.is_some() {}
        }
        Ok(self.store)
    }

    /// Follows the backend.
    fn step(&mut self) -> Result<()> {
        while let Some(event) = self.front.step(&mut *self.store)? {
            match event {
                Event::Connected(info) | Event::Resized(info) => {
                    self.bytes = info.sectors.bytes().unwrap_or(0);
                }
                Event::Closing | Event::Disconnected => {}
                Event::Failed(fault) => return Err(fault.into()),
                Event::Closed => return Err("the backend closed it".into()),
            }
        }
        Ok(())
    }

    /// Does what the store says, until it has said everything: what comes while we ask it something rings no bell again.
    fn news(&mut self) -> Result<()> {
        loop {
            let mut any = false;
            while self.store.next_watch()?.is_some() {
                any = true;
            }
            if !any {
                return Ok(());
            }
            match toolstack::take(&mut *self.store)? {
                Some(Request::Suspend) => self.suspend()?,
                Some(Request::Poweroff) => shutdown(ringfence_guest::Reason::Poweroff),
                Some(Request::Reboot) => shutdown(ringfence_guest::Reason::Reboot),
                None => {}
            }
            self.step()?;
        }
    }

    fn suspend(&mut self) -> Result<()> {
        let open = self.front.in_flight();
        let domid = self.guest.domid();
        if self.guest.suspend(&mut *self.store)? == Resumed::Restored {
            toolstack::listen(&mut *self.store)?;
            self.front.resume()?;
            // Nobody can reach their pages any more.
            self.idle.clear();
        }
        // The clock is another one.
        self.expect();
        let now = self.guest.domid();
        info!("saved as domain {domid} with {open} requests in flight, goes on as domain {now}");
        Ok(())
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.front.counters()
    }

    /// The next request that is over, waited for.
    fn complete(&mut self) -> Result<Completion<Guest>> {
        self.front.kick()?;
        self.expect();
        loop {
            let rang = self.front.take_event()?;
            let over = self.front.reap()?;
            if rang && let Serviced::Spurious(pause) = self.front.serviced()? {
                self.guest.wait(&[], Some(pause))?;
                self.front.unmask()?;
            }
            if let Some(over) = over {
                over.result?;
                return Ok(over);
            }
            if self.front.info().is_none() && self.front.is_drained() {
                // No news tell that a device that closes has its last answer.
                self.step()?;
            }
            self.news()?;
            let left = self.left()?;
            if self.front.arm() == Armed::Sleep {
                let port = self.front.channel().map(|channel| channel.port());
                self.guest
                    .wait_with_store(&self.store, port.as_slice(), Some(left))?;
            }
        }
    }

    fn buffer(&mut self, bytes: usize) -> Result<Buffer<Guest>> {
        let mut buffer = match self.idle.pop() {
            Some(buffer) => buffer,
            None => self.front.buffer(PAGES)?,
        };
        buffer.set_len(bytes)?;
        Ok(buffer)
    }

    fn submit(&mut self, op: Op, at: u64, buffer: Buffer<Guest>) -> Result<()> {
        self.front
            .submit(op, Sector::new(at / 512), buffer)
            .map_err(|rejected| rejected.reason)?;
        Ok(())
    }

    fn read(&mut self, start: u64, dst: &mut [u8]) -> Result<()> {
        let mut at = start;
        for part in dst.chunks_mut(PAGE * (PAGES - 1)) {
            let skip = (at % PAGE as u64) as usize;
            let begin = at - skip as u64;
            let len = (skip + part.len()).next_multiple_of(PAGE);
            let len = len.min(usize::try_from(self.bytes.saturating_sub(begin))?);
            let buffer = self.buffer(len)?;
            self.submit(Op::Read, begin, buffer)?;
            let buffer = self.complete()?.buffer.ok_or("a read without a buffer")?;
            buffer.read_at(skip, part)?;
            self.idle.push(buffer);
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Whether there is an ext4 on it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has_ext4(&mut self) -> Result<bool> {
        let mut magic = [0; 2];
        self.read(1024 + 56, &mut magic)?;
        Ok(magic == [0x53, 0xEF])
    }

    /// Writes a pattern with many requests in flight, flushes, reads it back likewise, and discards it where that can be done.
    /// Patterns of different rounds differ. Returns how many bytes that were.
    ///
    /// # Errors
    /// A request failed, or what is read is not what was written.
    pub fn write_and_verify(&mut self, most: u64, round: u64) -> Result<u64> {
        let all = most.min(self.bytes) / REQUEST;
        self.run(Op::Write, all, round)?;
        if self.front.info().is_some_and(|info| info.flush) {
            self.front.flush()?;
            self.complete()?;
        }
        self.run(Op::Read, all, round)?;
        if self.front.info().is_some_and(|info| info.discard.is_some()) {
            self.front
                .discard(Sector::new(0), SectorCount::new(all * REQUEST / 512), false)?;
            self.complete()?;
        }
        Ok(all * REQUEST)
    }

    fn run(&mut self, op: Op, all: u64, round: u64) -> Result<()> {
        let mut places = Vec::new();
        let (mut next, mut open) = (0, 0);
        let (mut data, mut wanted) = (vec![0; PAGES * PAGE], vec![0; PAGES * PAGE]);
        while next < all || open > 0 {
            while next < all && open < DEPTH {
                let mut buffer = self.buffer(PAGES * PAGE)?;
                pattern(next, round, &mut data);
                if op == Op::Write {
                    buffer.write_at(0, &data)?;
                }
                let at = next * REQUEST;
                match self.front.submit(op, Sector::new(at / 512), buffer) {
                    Ok(tag) => places.push((tag, next)),
                    // After the answers to what is older.
                    Err(rejected) if matches!(rejected.reason, Reason::Repeating { .. }) => {
                        self.idle.push(rejected.buffer);
                        break;
                    }
                    Err(rejected) => return Err(rejected.reason.into()),
                }
                (next, open) = (next + 1, open + 1);
            }
            let over = self.complete()?;
            open -= 1;
            let buffer = over.buffer.ok_or("a transfer without a buffer")?;
            let place = places.iter().position(|(tag, _)| *tag == over.tag);
            let (_, nth) = places.swap_remove(place.ok_or("an answer to no request")?);
            if op == Op::Read {
                buffer.read_at(0, &mut data)?;
                pattern(nth, round, &mut wanted);
                if data != wanted {
                    return Err(format!("request {nth} reads other bytes than were written").into());
                }
            }
            self.idle.push(buffer);
        }
        Ok(())
    }
}

/// Bytes that differ from place to place and from round to round.
fn pattern(nth: u64, round: u64, data: &mut [u8]) {
    for (at, word) in (nth * REQUEST..).step_by(8).zip(data.chunks_exact_mut(8)) {
        let mixed = (at + 1 + round).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
}

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start: u64,
        dst: &mut [u8],
    ) -> core::result::Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let read = self.0.borrow_mut().read(start, dst);
        read.map_err(|error| format!("{error}").into())
    }
}
