//! The data path: one ring, one event channel.

use ringfence_core::platform::Platform;
use ringfence_core::weakened;
use ringfence_core::wire::blkif::Convention;
use ringfence_core::{DomId, Handle, Sector, SectorCount};
use ringfence_ring::Armed;

use crate::buffer::Grantee;
use crate::connection::{Connection, Limits};
use crate::error::Doorbell;
use crate::events::Events;
use crate::inflight::Inflight;
use crate::negotiate::Info;
use crate::{
    Buffer, BufferError, Completion, Fault, IoError, MAX_PAGES, Op, PeerFault, Reason, Rejected,
    SLOTS, Tag,
};

/// What was counted since the frontend was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Requests submitted.
    pub requests: u64,
    /// Answers taken.
    pub responses: u64,
    /// Times the backend's doorbell was rung.
    pub notifications: u64,
    /// Events that came.
    pub events: u64,
    /// Events that came without an answer on the ring.
    pub spurious: u64,
    /// Times a request that an ended connection left unanswered was put on the ring of another.
    pub repeated: u64,
}

/// The data path of a disk: one ring, one event channel, and what is in flight on them.
///
/// `DEPTH` is the most requests in flight, 1 to 512, 32 on each page of the ring as far as the backend takes larger ones;
/// `PAGES` the most pages of a buffer, 1 to 512. Memory: `DEPTH` times (a [`Buffer`] and some 100 bytes), in place, and while it
/// is made on the stack.
pub struct Queue<P: Platform, const DEPTH: usize = SLOTS, const PAGES: usize = MAX_PAGES> {
    pub(crate) platform: P,
    pub(crate) handle: Handle,
    pub(crate) connection: Option<Connection<P>>,
    pub(crate) inflight: Inflight<P, DEPTH, PAGES>,
    pub(crate) fault: Option<Fault>,
    pub(crate) counters: Counters,
    pub(crate) events: Events,
    /// Whether what an ended connection left unanswered is repeated on the next one.
    pub(crate) replay: bool,
    /// Whether the backend may keep our pages mapped.
    pub(crate) persistent: bool,
    /// How the backend counts sectors.
    pub(crate) sectors: Convention,
    /// How often this guest was restored.
    pub(crate) life: u32,
    /// What the device's other queues are to repeat has no smaller epoch.
    pub(crate) floor: u64,
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Queue<P, DEPTH, PAGES> {
    const CHECKED: () = {
        assert!(DEPTH >= 1 && DEPTH <= 512, "DEPTH is 1 to 512");
        assert!(PAGES >= 1 && PAGES <= 512, "PAGES is 1 to 512");
    };

    pub(crate) fn new(platform: P, handle: Handle) -> Self {
        let () = Self::CHECKED;
        Self {
            platform,
            handle,
            connection: None,
            inflight: Inflight::new(),
            fault: None,
            counters: Counters::default(),
            events: Events::default(),
            replay: true,
            persistent: false,
            sectors: Convention::default(),
            life: 0,
            floor: u64::MAX,
        }
    }

    /// Allocates a buffer of `pages` pages (1 to `PAGES`), zeroed and granted to the present backend.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let rig = Rig::connected();
    /// let buffer = rig.front.buffer(2)?;
    /// assert_eq!(buffer.len(), 8192);
    /// assert!(rig.front.buffer(12).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn buffer(&self, pages: usize) -> Result<Buffer<P, PAGES>, BufferError> {
        let to = self.grantee().ok_or(BufferError::NoBackend)?;
        Buffer::alloc(&self.platform, to, pages)
    }

    /// Whom buffers must be granted to.
    pub(crate) fn grantee(&self) -> Option<Grantee> {
        let peer = self.connection.as_ref()?.peer;
        let life = self.life;
        Some(Grantee { peer, life })
    }

    /// Puts a transfer between `buffer` (its length) and the disk at `sector` (in units of 512 bytes) on the ring. The backend
    /// sees it after [`kick`](Self::kick). What is longer than [`Info::max_pages`] goes in pieces, one after the other, and
    /// comes back once. The operations without a buffer are [`flush`](Self::flush) and
    /// [`discard`](Self::discard).
    ///
    /// # Errors
    /// The buffer comes back with the [`Reason`].
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::{Op, Reason};
    /// use ringfence_core::Sector;
    ///
    /// let mut rig = Rig::connected();
    /// let mut buffer = rig.front.buffer(1)?;
    /// buffer.write_at(0, b"to be kept")?;
    /// let tag = rig.front.submit(Op::Write, Sector::new(8), buffer)?;
    /// rig.front.kick()?;
    /// # rig.serve();
    /// let done = rig.front.reap()?.expect("the backend answered");
    /// assert_eq!((done.tag, done.result), (tag, Ok(())));
    ///
    /// // Past the end: the buffer comes back.
    /// let buffer = done.buffer.expect("a write has one");
    /// let rejected = rig.front.submit(Op::Read, Sector::new(2048), buffer).unwrap_err();
    /// assert!(matches!(rejected.reason, Reason::OutOfRange { .. }));
    /// assert_eq!(rejected.buffer.len(), 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit(
        &mut self,
        op: Op,
        sector: Sector,
        buffer: Buffer<P, PAGES>,
    ) -> Result<Tag, Rejected<P, PAGES>> {
        if let Err(reason) = self.check(op, sector, &buffer) {
            return Err(Rejected { buffer, reason });
        }
        if op.changes() && !weakened!("xsa_403_blk_tail") {
            buffer.zero_tail();
        }
        if let Err(reason) = self.room() {
            return Err(Rejected { buffer, reason });
        }
        let reason = self.full();
        let Some(entry) = self.inflight.insert(op, (sector, buffer.sectors())) else {
            return Err(Rejected { buffer, reason });
        };
        entry.buffer = Some(buffer);
        let tag = entry.tag;
        Ok(self.push(tag))
    }

    /// Puts a flush on the ring: it makes every write durable whose completion was reaped before. For others, wait first.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::connected();
    /// let tag = rig.front.flush()?;
    /// rig.front.kick()?;
    /// # rig.serve();
    /// let done = rig.front.reap()?.expect("the backend answered");
    /// assert_eq!((done.tag, done.result), (tag, Ok(())));
    /// assert!(done.buffer.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&mut self) -> Result<Tag, Reason> {
        self.bare(Op::Flush, Sector::new(0), SectorCount::new(0))
    }

    /// Puts a discard on the ring: the disk may forget what `count` sectors from `sector` on hold. With `secure` nobody must be
    /// able to recover it. Worth the while for whole units of [`Discards::granularity`](crate::Discards::granularity).
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_core::{Sector, SectorCount};
    ///
    /// let mut rig = Rig::connected();
    /// rig.disk.fill(7);
    /// let tag = rig.front.discard(Sector::new(8), SectorCount::new(16), false)?;
    /// rig.front.kick()?;
    /// # rig.serve();
    /// let done = rig.front.reap()?.expect("the backend answered");
    /// assert_eq!((done.tag, done.result), (tag, Ok(())));
    /// # assert_eq!((rig.disk[8 * 512 - 1], rig.disk[8 * 512], rig.disk[24 * 512]), (7, 0, 7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(
        &mut self,
        sector: Sector,
        count: SectorCount,
        secure: bool,
    ) -> Result<Tag, Reason> {
        let op = if secure {
            Op::SecureDiscard
        } else {
            Op::Discard
        };
        self.bare(op, sector, count)
    }

    /// Puts a request without a buffer on the ring.
    fn bare(&mut self, op: Op, sector: Sector, count: SectorCount) -> Result<Tag, Reason> {
        self.ready()?.allows(op, sector, count)?;
        self.room()?;
        let full = self.full();
        let tag = self.inflight.insert(op, (sector, count)).ok_or(full)?.tag;
        Ok(self.push(tag))
    }

    /// Whether one more request may go on the ring.
    fn room(&self) -> Result<(), Reason> {
        self.repeating()?;
        match &self.connection {
            Some(connection) if connection.ring.free() > 0 => Ok(()),
            _ => Err(self.full()),
        }
    }

    const fn full(&self) -> Reason {
        Reason::Full {
            open: self.in_flight(),
        }
    }

    /// The disk, while requests are taken.
    fn ready(&self) -> Result<Info, Reason> {
        let connection = self.connection.as_ref().filter(|c| c.accepting);
        let info = connection.and_then(|c| c.info);
        info.filter(|_| self.fault.is_none())
            .ok_or(Reason::NotConnected)
    }

    fn check(&self, op: Op, sector: Sector, buffer: &Buffer<P, PAGES>) -> Result<(), Reason> {
        let info = self.ready()?;
        if !self.grantee().is_some_and(|to| buffer.is_granted_to(to)) {
            let peer = self.connection.as_ref().map_or(DomId::DOM0, |c| c.peer);
            return Err(Reason::ForeignBuffer { peer });
        }
        if !op.moves_data() {
            return Err(Reason::Unsupported);
        }
        info.allows(op, sector, buffer.sectors())?;
        let (count, max) = (buffer.sectors(), Limits::DIRECT.sectors(op));
        if op == Op::Barrier && count.get() > max {
            let max = SectorCount::new(max);
            return Err(Reason::Barrier { count, max });
        }
        Ok(())
    }

    /// Writes the request. There is room: the caller looked.
    fn push(&mut self, tag: Tag) -> Tag {
        if let (Some(connection), Some(entry)) = (&mut self.connection, self.inflight.entry(tag)) {
            connection.push(self.handle, entry);
        }
        self.counters.requests = self.counters.requests.saturating_add(1);
        tag
    }

    /// Shows everything submitted to the backend, and rings its doorbell if it asked for that. Returns whether it rang.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Op;
    /// use ringfence_core::Sector;
    ///
    /// let mut rig = Rig::connected();
    /// for n in 0..4 {
    ///     let buffer = rig.front.buffer(1)?;
    ///     rig.front.submit(Op::Read, Sector::new(n * 8), buffer)?;
    /// }
    /// assert!(rig.front.kick()?); // one doorbell for all four
    /// assert!(!rig.front.kick()?); // nothing new
    /// assert_eq!(rig.front.counters().notifications, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn kick(&mut self) -> Doorbell<bool> {
        let Some(connection) = self.connection.as_mut() else {
            return Ok(false);
        };
        if self.fault.is_some() {
            return Ok(false);
        }
        self.inflight.publish();
        let rang = connection.publish()?;
        if rang {
            self.counters.notifications = self.counters.notifications.saturating_add(1);
        }
        Ok(rang)
    }

    /// The next request that is over; `None` when there is none now. What an ended connection left unanswered is not: it is
    /// put on the ring of the next one ([`set_replay`](Self::set_replay)).
    ///
    /// # Errors
    /// The backend lied: now, or earlier. The device is disabled; the frontend's `step` closes it, and what was in flight comes
    /// back from here as [`IoError::Aborted`] once the backend has let go of it.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Op;
    /// use ringfence_core::Sector;
    ///
    /// let mut rig = Rig::connected();
    /// rig.disk[512..516].copy_from_slice(b"data");
    /// let buffer = rig.front.buffer(1)?;
    /// rig.front.submit(Op::Read, Sector::new(1), buffer)?;
    /// rig.front.kick()?;
    /// assert!(rig.front.reap()?.is_none());
    /// # rig.serve();
    /// let done = rig.front.reap()?.expect("the backend answered");
    /// let mut data = [0; 4];
    /// done.buffer.expect("a read has one").read_at(0, &mut data)?;
    /// assert_eq!(&data, b"data");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reap(&mut self) -> Result<Option<Completion<P, PAGES>>, PeerFault> {
        self.repeat();
        let observes = self.platform.capabilities().observes_mappings;
        if let Some(over) = self.inflight.take_over(observes) {
            return Ok(Some(over));
        }
        if let Some(Fault::Peer(fault)) = &self.fault {
            return Err(*fault);
        }
        let Some(connection) = self.connection.as_mut() else {
            return Ok(None);
        };
        let mut answer = Ok(None);
        // Of a request in several pieces nothing is to be told before the last one.
        while matches!(answer, Ok(None)) {
            answer = match connection.ring.take_response() {
                Ok(None) => break,
                Ok(Some(response)) => self.inflight.complete(&response),
                Err(fault) => Err(fault.into()),
            };
            if answer.is_ok() {
                self.counters.responses = self.counters.responses.saturating_add(1);
            }
        }
        match answer {
            Ok(None) => {
                self.repeat();
                Ok(None)
            }
            Ok(Some(completion)) => {
                let unsupported = completion.result == Err(IoError::Unsupported);
                // A backend may find out late what cannot be done below it.
                if let Some(info) = connection.info.as_mut().filter(|_| unsupported) {
                    info.withdraw(completion.op);
                }
                self.repeat();
                Ok(Some(completion))
            }
            Err(fault) => {
                self.fault = Some(Fault::Peer(fault));
                Err(fault)
            }
        }
    }

    /// Asks to be woken by the next answer. After [`Armed::Sleep`] wait for [`channel`](Self::channel) (and for the store);
    /// after [`Armed::Again`] reap.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Armed;
    ///
    /// let mut rig = Rig::connected();
    /// rig.front.flush()?;
    /// rig.front.kick()?;
    /// assert_eq!(rig.front.arm(), Armed::Sleep);
    /// # rig.serve();
    /// assert_eq!(rig.front.arm(), Armed::Again);
    /// assert!(rig.front.reap()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn arm(&mut self) -> Armed {
        match &mut self.connection {
            // A ring at fault says `Again` for ever; we latched why.
            Some(connection) if self.fault.is_none() => connection.ring.arm(),
            _ => Armed::Sleep,
        }
    }

    /// What to wait for: the event channel of the present connection, if any.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let rig = Rig::connected();
    /// assert!(rig.front.channel().is_some());
    /// assert!(Rig::new().front.channel().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn channel(&self) -> Option<&P::Channel> {
        self.connection.as_ref().map(|c| &c.channel)
    }

    /// Requests in flight, and those of ended connections that are not reaped yet.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::connected();
    /// rig.front.flush()?;
    /// assert_eq!((rig.front.in_flight(), rig.front.free()), (1, 31));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn in_flight(&self) -> usize {
        self.inflight.all()
    }

    /// Whether the backend has nothing more to answer. Requests may be in flight all the same: what is left of a long one waits
    /// for the next connection if this one closes between two pieces.
    pub const fn is_drained(&self) -> bool {
        self.inflight.open() == 0
    }

    /// Why the device is disabled, if it is.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::new();
    /// rig.set("/local/domain/1/device/vbd/51712", "backend", "/local/domain/0/elsewhere");
    /// rig.events();
    /// let fault = rig.front.fault().expect("that is not domain 2's");
    /// assert_eq!(
    ///     fault.to_string(),
    ///     "backend is not a path below /local/domain/2, which backend-id names",
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// How many requests can be submitted before [`Reason::Full`], or [`Reason::Repeating`] ends.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// assert_eq!(Rig::connected().front.free(), ringfence_blkfront::SLOTS);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn free(&self) -> usize {
        DEPTH.saturating_sub(self.in_flight())
    }

    /// What was counted.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::connected();
    /// rig.front.flush()?;
    /// assert_eq!(rig.front.counters().requests, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The disk, while there is a connection.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let rig = Rig::connected();
    /// let info = rig.front.info().expect("connected");
    /// assert_eq!((info.sectors.get(), info.sector_size), (2048, 512));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn info(&self) -> Option<Info> {
        self.connection.as_ref().and_then(|c| c.info)
    }
}
