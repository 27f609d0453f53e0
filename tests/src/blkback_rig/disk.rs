//! Disks in memory that remember everything, answer when they are told to, and refuse nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use ringfence_blkback::error::IoError;
use ringfence_blkback::journal::Record;
use ringfence_blkback::service::{Asked, DiskError, Disks, Kept, OpenDisk, Waiting};
use ringfence_blkback::sink::{Discard, DiskIo, Done, Geometry, Io, IoOp};
use ringfence_blkback::stats::Stats;
use ringfence_core::PAGE;
use ringfence_core::ids::SectorCount;
use ringfence_core::wire::blkif::Convention;
use ringfence_sim::{Sim, SimWords};

/// Size of every disk to begin with, in sectors of 512 bytes.
pub const SECTORS: u64 = 1000;

/// What one disk has seen and holds.
#[derive(Debug)]
pub struct Shared {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Every request that reached it: what, and bytes.
    pub seen: Vec<(IoOp, usize)>,
    /// Keep requests until [`release`](Self::release).
    pub hold: bool,
    /// What it works on at once, at most.
    pub room: usize,
    /// So many looks find nothing that is done.
    pub blind: u32,
    /// Flushes fail.
    pub fail_flush: bool,
    /// What it says of discards when it is opened.
    pub discard: Option<Discard>,
    /// Its size.
    pub sectors: u64,
    /// Bytes of a logical sector, from when it is opened.
    pub logical: u32,
    /// How its frontend counts sectors, from when it is opened.
    pub counted: Convention,
    /// How its rings are waited for, from when it is opened.
    pub waiting: Option<Waiting>,
    /// How often the disk was opened.
    pub opened: u32,
    /// What is held is a dead process's, until the next one opens the disk.
    left: bool,
    held: VecDeque<Io>,
    done: VecDeque<Done>,
}

impl Shared {
    fn new() -> Self {
        Self {
            bytes: vec![0; SECTORS as usize * 512],
            seen: Vec::with_capacity(1 << 16),
            hold: false,
            room: usize::MAX,
            blind: 0,
            fail_flush: false,
            discard: Some(Discard {
                secure: true,
                ..Discard::new(512)
            }),
            sectors: SECTORS,
            logical: 512,
            counted: Convention::default(),
            waiting: None,
            opened: 0,
            left: false,
            held: VecDeque::with_capacity(64),
            done: VecDeque::with_capacity(64),
        }
    }

    /// How many requests of the present process are held.
    pub fn held(&self) -> usize {
        if self.left { 0 } else { self.held.len() }
    }

    /// What a dead process submitted happens, and is nobody's.
    fn fence(&mut self) {
        if std::mem::take(&mut self.left) {
            self.release();
            self.done.clear();
        }
    }

    /// Finishes what is held longest.
    pub fn release_first(&mut self) {
        if let Some(io) = self.held.pop_front() {
            self.finish(io);
        }
    }

    /// Finishes everything that is held, the last first.
    pub fn release(&mut self) {
        while let Some(io) = self.held.pop_back() {
            self.finish(io);
        }
    }

    fn finish(&mut self, mut io: Io) {
        let mut result = Ok(());
        match io.op {
            IoOp::Read(sector) => {
                if let Some(bytes) = range(&mut self.bytes, sector.get(), io.buffer.len()) {
                    io.buffer.bytes_mut().copy_from_slice(bytes);
                }
            }
            IoOp::Write(sector) => {
                if let Some(bytes) = range(&mut self.bytes, sector.get(), io.buffer.len()) {
                    bytes.copy_from_slice(io.buffer.bytes());
                }
            }
            IoOp::Flush if self.fail_flush => {
                result = Err(IoError::System {
                    op: "fdatasync",
                    errno: 5,
                });
            }
            IoOp::Flush => {}
            IoOp::Discard { sector, count, .. } => {
                let len = usize::try_from(count.get().saturating_mul(512)).unwrap_or(0);
                if let Some(bytes) = range(&mut self.bytes, sector.get(), len) {
                    bytes.fill(0);
                }
            }
        }
        self.done.push_back(Done { io, result });
    }
}

/// Out of range is not an error here: the check that is tested lies before the disk.
fn range(bytes: &mut [u8], sector: u64, len: usize) -> Option<&mut [u8]> {
    let start = usize::try_from(sector.checked_mul(512)?).ok()?;
    bytes.get_mut(start..start.checked_add(len)?)
}

struct Recording(Rc<RefCell<Shared>>);

impl DiskIo for Recording {
    fn geometry(&self) -> Geometry {
        let shared = self.0.borrow();
        Geometry {
            discard: shared.discard,
            logical: shared.logical,
            physical: shared.logical,
            ..Geometry::new(SectorCount::new(shared.sectors))
        }
    }

    fn refresh(&mut self) -> Geometry {
        self.geometry()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        let mut shared = self.0.borrow_mut();
        if shared.held.len() + shared.done.len() >= shared.room {
            return Err(io);
        }
        shared.seen.push((io.op, io.buffer.len()));
        if shared.hold {
            shared.held.push_back(io);
        } else {
            shared.finish(io);
        }
        Ok(())
    }

    fn kick(&mut self) {}

    fn reap(&mut self) -> Option<Done> {
        let mut shared = self.0.borrow_mut();
        if let Some(left) = shared.blind.checked_sub(1) {
            shared.blind = left;
            return None;
        }
        shared.done.pop_front()
    }
}

/// Opens a [`Shared`] disk for every backend directory; the bytes survive the connection.
#[derive(Clone, Debug, Default)]
pub struct RecordingDisks {
    disks: Rc<RefCell<BTreeMap<String, Rc<RefCell<Shared>>>>>,
    refuse: Rc<RefCell<Option<&'static str>>>,
    later: Rc<RefCell<BTreeSet<String>>>,
    moving: Rc<RefCell<BTreeSet<String>>>,
    journals: Rc<RefCell<Option<BTreeMap<String, SimWords>>>>,
    moved: Rc<Cell<bool>>,
    abandoned: Rc<Cell<u32>>,
    sim: Option<Sim>,
}

impl RecordingDisks {
    /// The disk of a backend directory, made if it was never opened.
    pub fn of(&self, backend_dir: &str) -> Rc<RefCell<Shared>> {
        let mut disks = self.disks.borrow_mut();
        let disk = disks.entry(backend_dir.to_owned());
        Rc::clone(disk.or_insert_with(|| Rc::new(RefCell::new(Shared::new()))))
    }

    /// Another disk for this backend directory, from when it is opened next.
    pub fn replace(&self, backend_dir: &str) -> Rc<RefCell<Shared>> {
        self.disks.borrow_mut().remove(backend_dir);
        self.of(backend_dir)
    }

    /// From now on there is a journal for every device.
    pub fn keep_journals(&self) {
        *self.journals.borrow_mut() = Some(BTreeMap::new());
    }

    /// The journal of a backend directory.
    ///
    /// # Panics
    /// If there is none.
    pub fn journal_of(&self, backend_dir: &str) -> SimWords {
        let journals = self.journals.borrow();
        let kept = journals.as_ref().and_then(|all| all.get(backend_dir));
        kept.expect("a journal").clone()
    }

    /// The same disks for this process. What an earlier one submitted happens when this one opens the disk, as whoever opens an
    /// image waits for it.
    #[must_use]
    pub fn of_process(&self, sim: &Sim) -> Self {
        let disks = self.disks.borrow();
        disks
            .values()
            .for_each(|disk| disk.borrow_mut().left = true);
        Self {
            sim: Some(sim.clone()),
            ..self.clone()
        }
    }

    /// Whoever asks for the disk of this backend directory is to ask again, from now on; or not any more.
    pub fn withhold(&self, backend_dir: &str, on: bool) {
        let mut later = self.later.borrow_mut();
        match on {
            true => later.insert(backend_dir.to_owned()),
            false => later.remove(backend_dir),
        };
    }

    /// The disk of this backend directory is in use by another domain of the same machine, from now on; or not any more.
    pub fn hold_elsewhere(&self, backend_dir: &str, on: bool) {
        let mut moving = self.moving.borrow_mut();
        match on {
            true => moving.insert(backend_dir.to_owned()),
            false => moving.remove(backend_dir),
        };
    }

    /// How often a disk that was to be asked for again was not the one any more.
    pub fn abandoned(&self) -> u32 {
        self.abandoned.get()
    }

    /// A look at one disk took what another one finished.
    pub fn move_one(&self) {
        self.moved.set(true);
    }

    /// From now on no disk can be opened, for this reason; or again.
    pub fn refuse(&self, reason: Option<&'static str>) {
        *self.refuse.borrow_mut() = reason;
    }
}

/// Words of the header, of all entries of one queue, and of a page of those of the next: enough for two short rings.
const JOURNAL: usize = (1 + 16 + 1) * PAGE / 8;

impl Disks for RecordingDisks {
    fn open(
        &mut self,
        backend_dir: &str,
        _: bool,
        _: &Arc<Stats>,
    ) -> Result<Asked<OpenDisk>, DiskError> {
        if let Some(reason) = *self.refuse.borrow() {
            return Err(reason.into());
        }
        if self.later.borrow().contains(backend_dir) {
            return Ok(Asked::Later);
        }
        if self.moving.borrow().contains(backend_dir) {
            return Ok(Asked::Moving);
        }
        let disk = self.of(backend_dir);
        disk.borrow_mut().fence();
        disk.borrow_mut().opened += 1;
        let (waiting, sectors) = (disk.borrow().waiting, disk.borrow().counted);
        Ok(Asked::Open(OpenDisk {
            io: Box::new(Recording(disk)),
            waiting,
            sectors,
        }))
    }

    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        let mut journals = self.journals.borrow_mut();
        let (Some(journals), Some(sim)) = (journals.as_mut(), &self.sim) else {
            return Ok(None);
        };
        let words = journals.entry(backend_dir.to_owned());
        let words = words.or_insert_with(|| SimWords::new(JOURNAL));
        Ok(Some(Kept {
            record: Record::new(sim.words(words)),
            image: [1, 2],
        }))
    }

    fn abandon(&mut self, _: &str) {
        self.abandoned.update(|times| times + 1);
    }

    fn forget(&mut self, backend_dir: &str) {
        if let Some(journals) = self.journals.borrow_mut().as_mut() {
            journals.remove(backend_dir);
        }
    }

    fn moved(&mut self) -> bool {
        self.moved.take()
    }
}
