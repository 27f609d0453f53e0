//! Storage whose I/O goes on when the process that submitted it is dead.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use ringfence_blkback::sink::{DiskIo, Done, Geometry, Io, IoOp};
use ringfence_core::ids::SectorCount;
use ringfence_sim::Sim;

use super::Rng;

/// I/O under way.
#[derive(Debug)]
struct Flying {
    life: u32,
    tag: u16,
    op: IoOp,
    data: Vec<u8>,
}

/// What all lives of a backend share.
#[derive(Debug, Default)]
pub struct Storage {
    /// The disk's bytes.
    pub bytes: Vec<u8>,
    /// A write of this byte kills the process that submits it.
    pub poison: Option<u8>,
    /// The most requests that were at the disk at once in the present life.
    pub most: usize,
    /// Stamps that order all that were there before them.
    pub barriers: BTreeSet<u64>,
    /// Requests come in the order of their stamps: those of several queues may overtake each other.
    pub one_queue: bool,
    /// Stamps that were written.
    written: BTreeSet<u64>,
    flying: Vec<Flying>,
    landed: BTreeMap<u32, VecDeque<(u16, Vec<u8>)>>,
    lives: u32,
}

impl Storage {
    /// A disk of so many bytes.
    pub fn new(len: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            bytes: vec![0; len],
            ..Self::default()
        }))
    }

    /// Lets some of what is under way happen, in any order, whoever submitted it.
    pub fn progress(&mut self, rng: &mut Rng) {
        for _ in 0..rng.below(3) {
            let nth = rng.below(self.flying.len());
            let Some(flying) = self.flying.get(nth) else {
                return;
            };
            // What the dead left takes its time, so that much may happen before it lands.
            if flying.life == self.lives || rng.below(8) == 0 {
                self.land(nth);
            }
        }
    }

    /// Waits for everything of earlier lives, as whoever takes the lock of their image does.
    pub fn fence(&mut self) {
        while !self.flying.is_empty() {
            self.land(0);
        }
    }

    fn land(&mut self, nth: usize) {
        let Flying {
            life,
            tag,
            op,
            mut data,
        } = self.flying.swap_remove(nth);
        match op {
            IoOp::Read(sector) => {
                let (at, len) = (sector.get() as usize * 512, data.len());
                data.copy_from_slice(&self.bytes[at..][..len]);
            }
            IoOp::Write(sector) => {
                let at = sector.get() as usize * 512;
                self.bytes[at..][..data.len()].copy_from_slice(&data);
                self.written.extend(stamp(&data));
            }
            _ => {}
        }
        self.landed.entry(life).or_default().push_back((tag, data));
    }
}

fn stamp(data: &[u8]) -> Option<u64> {
    data.first_chunk().copied().map(u64::from_le_bytes)
}

/// The disk as one life of a backend has it.
pub struct Life {
    sim: Sim,
    storage: Rc<RefCell<Storage>>,
    life: u32,
    mine: BTreeMap<u16, Io>,
}

impl Life {
    /// Opens the storage.
    pub fn open(sim: Sim, storage: &Rc<RefCell<Storage>>) -> Self {
        let mut shared = storage.borrow_mut();
        shared.lives += 1;
        shared.most = 0;
        Self {
            sim,
            storage: Rc::clone(storage),
            life: shared.lives,
            mine: BTreeMap::new(),
        }
    }
}

impl DiskIo for Life {
    fn geometry(&self) -> Geometry {
        let sectors = self.storage.borrow().bytes.len() / 512;
        Geometry::new(SectorCount::new(sectors as u64))
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        self.sim.step();
        let data = io.buffer.bytes().to_vec();
        let poison = self.storage.borrow().poison;
        if io.op != IoOp::Flush && poison.is_some() && data.first().copied() == poison {
            self.sim.crash();
        }
        let mut shared = self.storage.borrow_mut();
        if let (IoOp::Write(_), Some(stamp)) = (io.op, stamp(&data)) {
            let is_done = |stamp: &u64| shared.written.contains(stamp);
            if shared.barriers.contains(&stamp) {
                let mut older = 1..stamp;
                let done = older.all(|older| is_done(&older));
                assert!(done, "a barrier went before what is older");
            }
            if shared.one_queue {
                let done = shared.barriers.range(..stamp).all(is_done);
                assert!(done, "a barrier went after what is younger");
            }
        }
        shared.flying.push(Flying {
            life: self.life,
            tag: io.tag.get(),
            op: io.op,
            data,
        });
        self.mine.insert(io.tag.get(), io);
        shared.most = shared.most.max(self.mine.len());
        Ok(())
    }

    // Some finish at once, so that a request is taken and answered in one go.
    fn kick(&mut self) {
        let mut shared = self.storage.borrow_mut();
        let quick = |flying: &Flying| flying.life == self.life && flying.tag.is_multiple_of(3);
        while let Some(nth) = shared.flying.iter().position(quick) {
            shared.land(nth);
        }
    }

    fn reap(&mut self) -> Option<Done> {
        let landed = self
            .storage
            .borrow_mut()
            .landed
            .get_mut(&self.life)
            .and_then(VecDeque::pop_front);
        let (tag, data) = landed?;
        self.sim.step();
        let mut io = self.mine.remove(&tag)?;
        if let IoOp::Read(_) = io.op {
            io.buffer.bytes_mut().copy_from_slice(&data);
        }
        Some(Done { io, result: Ok(()) })
    }
}
