//! What an ended connection left unanswered, on the ring of the next one.
//!
//! The backend that took a request may have done it, partly done it, or not begun: reads, writes, flushes and discards may be done twice
//! as long as nobody was told that they were done once, so all of them are put on the new ring, with pages of their own
//! (XSA-396: the old backend may still write to the old ones). The order is that of submission, and a flush or
//! a barrier goes alone: after the answers to everything older, before everything younger. New requests wait for all of it.

use core::mem;

use ringfence_core::platform::Platform;
use ringfence_core::weakened;
use ringfence_core::wire::blkif::Convention;

use crate::{Buffer, BufferError, IoError, Queue, Reason};

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Queue<P, DEPTH, PAGES> {
    /// Whether what an ended connection left unanswered is put on the ring of the next one: it is, unless it was turned off
    /// here. Then it comes back from [`reap`](Self::reap) as [`IoError::Aborted`] when the connection ends.
    ///
    /// The caller sees nothing of the change but the time that it takes: each request is completed once, by whichever
    /// connection answered it, with its own [`Tag`](crate::Tag) and its buffer, whose pages are then others. What cannot be
    /// done on the new connection (the disk shrank, is read-only, no longer flushes) is completed with
    /// [`IoError::NotRepeated`]. A flush that is repeated covers what the last backend had answered only as far as *that
    /// backend* keeps what it answers across its end.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::{IoError, Op};
    /// use ringfence_core::Sector;
    ///
    /// let mut rig = Rig::connected();
    /// let mut buffer = rig.front.buffer(1)?;
    /// buffer.write_at(0, b"kept")?;
    /// let tag = rig.front.submit(Op::Write, Sector::new(8), buffer)?;
    /// rig.front.kick()?;
    /// # rig.close_back(); rig.events(); rig.connect(); rig.serve();
    /// // ... the backend closes and comes back ...
    /// let done = rig.front.reap()?.expect("the new one answered");
    /// assert_eq!((done.tag, done.result), (tag, Ok(())));
    ///
    /// rig.front.set_replay(false);
    /// rig.front.flush()?;
    /// # rig.close_back(); rig.events();
    /// let done = rig.front.reap()?.expect("given up");
    /// assert_eq!(done.result, Err(IoError::Aborted));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn set_replay(&mut self, replay: bool) {
        self.replay = replay;
    }

    /// Whether, from the next connection on, the backend may keep the pages of buffers mapped that it saw once
    /// (`feature-persistent`), where it offers that ([`Info::persistent`](crate::Info::persistent)): no copy and no map is left
    /// then for a buffer that is used again. Off at first, because a buffer that is *dropped* then stays with the platform
    /// until the connection ends: keep buffers and use them again.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::new();
    /// rig.front.set_persistent(true);
    /// # rig.connect();
    /// assert_eq!(rig.get("/local/domain/1/device/vbd/51712/feature-persistent"), "1");
    /// assert!(rig.front.info().expect("connected").persistent);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn set_persistent(&mut self, persistent: bool) {
        self.persistent = persistent;
    }

    /// How the backend counts sectors larger than 512 bytes, from the next connection on: as Linux and `xen/io/blkif.h`, unless
    /// another [`Convention`] is chosen here. Nothing in the store says which one a backend follows, and one that follows another
    /// reads and writes other places of the disk, or none. Here everything stays in units of 512 bytes.
    ///
    /// [`Convention::Qemu`] is for QEMU's qdisk, which serves such disks only to who says so (`feature-large-sector-size`).
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::{Convention, Op};
    /// use ringfence_core::Sector;
    ///
    /// let mut rig = Rig::new();
    /// rig.front.set_sectors(Convention::Qemu);
    /// # rig.published(); rig.describe();
    /// # for (name, value) in [("sector-size", "4096"), ("physical-sector-size", "4096")] {
    /// #     rig.node(name, value);
    /// # }
    /// # rig.state(ringfence_core::wire::xenbus::XenbusState::Connected);
    /// # rig.events();
    /// let info = rig.front.info().expect("connected");
    /// assert_eq!((info.sector_size, info.sectors.get()), (4096, 2048 * 8));
    /// let buffer = rig.front.buffer(1)?;
    /// rig.front.submit(Op::Read, Sector::new(16), buffer)?;
    /// rig.front.kick()?;
    /// # let request = rig.take_all();
    /// // ... what the backend finds on the ring ...
    /// assert_eq!(request.sector_number, 2);
    /// assert_eq!((request.seg[0].first_sect, request.seg[0].last_sect), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn set_sectors(&mut self, convention: Convention) {
        self.sectors = convention;
    }

    /// Gives up what waits for a connection: it comes back from [`reap`](Self::reap) as [`IoError::Aborted`]. Does nothing
    /// while there is a connection. For whoever cannot wait for ever for a backend that may return.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::IoError;
    ///
    /// let mut rig = Rig::connected();
    /// rig.front.flush()?;
    /// # rig.close_back(); rig.events();
    /// assert!(rig.front.reap()?.is_none());
    /// rig.front.abandon();
    /// let done = rig.front.reap()?.expect("given up");
    /// assert_eq!(done.result, Err(IoError::Aborted));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abandon(&mut self) {
        if self.connection.is_none() {
            self.inflight.end();
        }
    }

    /// Puts new pages, granted to the present backend, in the place of the buffer's, with the same data. For buffers of an
    /// earlier backend ([`Reason::ForeignBuffer`]), of an earlier life of this guest, and of requests that came to nothing.
    ///
    /// # Errors
    /// No backend, or no page left; the data is still there.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Op;
    /// use ringfence_core::Sector;
    ///
    /// let mut rig = Rig::connected();
    /// let mut buffer = rig.front.buffer(1)?;
    /// buffer.write_at(0, b"still here")?;
    /// # rig.restored(); rig.front.resume()?; rig.connect();
    /// // ... the guest was saved and restored ...
    /// let mut buffer = rig.front.submit(Op::Write, Sector::new(0), buffer).unwrap_err().buffer;
    /// rig.front.renew(&mut buffer)?;
    /// rig.front.submit(Op::Write, Sector::new(0), buffer)?;
    /// # rig.front.kick()?; rig.serve();
    /// # assert_eq!(&rig.disk[..10], b"still here");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn renew(&self, buffer: &mut Buffer<P, PAGES>) -> Result<(), BufferError> {
        let to = self.grantee().ok_or(BufferError::NoBackend)?;
        let all = buffer.len();
        Ok(buffer.renew(&self.platform, to, all)?)
    }

    /// Puts on the ring what waits for it, as far as order, room and pages allow, and shows it to the backend.
    pub(crate) fn repeat(&mut self) {
        if self.inflight.waiting() == 0 || self.fault.is_some() {
            return;
        }
        let Some(to) = self.grantee() else { return };
        let Some(connection) = self.connection.as_mut().filter(|c| c.accepting) else {
            return;
        };
        let Some(info) = connection.info else { return };
        let mut pushed = false;
        while connection.ring.free() > 0 {
            let alone = self.inflight.open() == 0;
            let Some(entry) = self.inflight.next_waiting(self.floor) else {
                break;
            };
            let tag = entry.tag;
            if let Err(reason) = info.allows(entry.op, entry.sector, entry.count) {
                self.inflight.give_up(tag, IoError::NotRepeated(reason));
                continue;
            }
            // Of a read the new pages get what earlier pieces brought: only the rest comes again.
            let keep = if entry.op.changes() {
                usize::MAX
            } else {
                entry.brought()
            };
            let stale = mem::take(&mut entry.stale);
            if let Some(buffer) = entry.buffer.as_mut().filter(|_| stale)
                && !weakened!("xsa_396_blk_repeated")
                && buffer.renew(&self.platform, to, keep).is_err()
            {
                entry.stale = true;
                if alone {
                    // No answer will come that frees a page: better an error than to wait for ever.
                    self.inflight.give_up(tag, IoError::Aborted);
                    continue;
                }
                break;
            }
            if let Some(entry) = self.inflight.open_again(tag) {
                connection.push(self.handle, entry);
                let again = u64::from(stale);
                self.counters.repeated = self.counters.repeated.saturating_add(again);
                pushed = true;
            }
        }
        if pushed {
            self.inflight.publish();
            // A bell that cannot be rung is owed, and `kick` says so.
            if let Ok(true) = connection.publish() {
                self.counters.notifications = self.counters.notifications.saturating_add(1);
            }
        }
    }

    /// Why nothing new goes on the ring now, if that is because something older waits.
    pub(crate) fn repeating(&self) -> Result<(), Reason> {
        match self.inflight.waiting() {
            0 if self.inflight.epoch <= self.floor => Ok(()),
            waiting => Err(Reason::Repeating { waiting }),
        }
    }
}
