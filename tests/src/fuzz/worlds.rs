//! Whole worlds: our frontend, our backend with its journal, a disk and doorbells, and what happens to them when.

use ringfence_blkfront::{Frontend, IoError, Op, Tag};
use ringfence_core::PAGE;
use ringfence_core::ids::{DomId, Sector, SectorCount};
use ringfence_core::store::{Store as _, StoreExt as _, Tx};
use ringfence_sim::{Adversary, Crash, Limits, Sim, World};
use std::collections::BTreeMap;

use crate::blkback_rig::{BACK, BUDGET, Guest, Rig};

/// Places of a page each, at most one request at a time for each of them.
const BLOCKS: usize = 12;
/// Steps of one world.
const STEPS: usize = 200;
/// The guest.
const FRONT: u16 = 7;
/// Who is in flight at so many deaths may be taken for their reason, and is answered with an error.
const SUSPICIOUS: u32 = 3;

/// What a request in flight is about.
#[derive(Clone, Copy)]
enum Open {
    Read(usize),
    Write(usize, u64),
    Discard(usize),
    Flush,
}

impl Open {
    const fn block(self) -> Option<usize> {
        match self {
            Self::Read(block) | Self::Write(block, _) | Self::Discard(block) => Some(block),
            Self::Flush => None,
        }
    }
}

struct Scene {
    // Only absent while one process of the driver domain follows another.
    rig: Option<Rig>,
    guest: Guest,
    front: Frontend<Sim, 32, 11>,
    /// Each with the deaths that were before it.
    open: BTreeMap<Tag, (Open, u32)>,
    /// The stamp that each place holds, or those of which it holds one.
    stamps: [Vec<u64>; BLOCKS],
    next: u64,
    /// Nobody has taken the place of a process of the driver domain that died.
    dead: bool,
    tally: Tally,
}

/// What happened in a world.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Processes of the driver domain that died.
    pub deaths: u32,
    /// Times that nobody took a dead process's place for a while.
    pub outages: u32,
    /// Times that the guest was restored.
    pub restores: u32,
    /// Times that another kernel began in the guest.
    pub kernels: u32,
    /// Requests that were answered.
    pub answers: u32,
    /// Requests that a connection left to the next one.
    pub repeated: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.deaths += other.deaths;
        self.outages += other.outages;
        self.restores += other.restores;
        self.kernels += other.kernels;
        self.answers += other.answers;
        self.repeated += other.repeated;
    }
}

/// Lets each byte of the data do something: a request, a turn of one of the two, a death of the driver domain's process at some
/// step of its work, an outage, a restore of the guest, another kernel in it, a disk that holds back. In the end everything is answered once, without an error but
/// for what was in flight at many deaths, and read back.
///
/// # Panics
/// If not.
pub fn sim_worlds(data: &[u8]) {
    live(data);
}

/// The same; says what happened.
///
/// # Panics
/// As [`sim_worlds`].
pub fn live(world: &[u8]) -> Tally {
    let (first, steps) = world.split_first().unwrap_or((&0, world));
    let world = match first % 4 {
        0 => World::new(),
        seed => World::with(u64::from(*first), hostile(seed), Limits::DEFAULT),
    };
    let mut scene = Scene::new(world);
    for (step, byte) in steps.iter().take(STEPS).enumerate() {
        scene.step(*byte, step);
    }
    scene.end();
    scene.tally.repeated = scene.front.counters().repeated;
    scene.tally
}

/// Doorbells that take their time, come twice, or both.
fn hostile(kind: u8) -> Adversary {
    match kind {
        1 => Adversary {
            delay: 3,
            ..Adversary::EXACT
        },
        _ => Adversary::HOSTILE,
    }
}

impl Scene {
    fn new(world: World) -> Self {
        let mut rig = Rig::on(world);
        rig.disks.keep_journals();
        let guest = rig.attach(FRONT, 51712, "w");
        let front = Frontend::with_limits(guest.sim.clone(), &guest.dir).expect("a short path");
        let mut scene = Self {
            rig: Some(rig),
            guest,
            front,
            open: BTreeMap::new(),
            stamps: std::array::from_fn(|_| vec![0]),
            next: 0,
            dead: false,
            tally: Tally::default(),
        };
        scene.settle();
        scene
    }

    fn rig(&mut self) -> &mut Rig {
        self.rig.as_mut().expect("a rig")
    }

    /// The driver domain does something; if its process dies in that, another takes its place.
    fn back(&mut self, act: impl FnOnce(&mut Rig)) {
        if self.dead {
            return;
        }
        let rig = self.rig();
        if Crash::catch(|| act(rig)).is_none() {
            self.restart();
        }
    }

    /// Another process takes the dead one's place.
    fn restart(&mut self) {
        for _ in 0..8 {
            let Some(rig) = self.rig.take() else { return };
            self.tally.deaths += u32::from(!self.dead);
            self.dead = false;
            let mut rig = rig.restarted();
            let alive = Crash::catch(|| rig.service.control().map(|_| ())).is_some();
            self.rig = Some(rig);
            if alive {
                return;
            }
        }
    }

    fn front(&mut self) {
        while self
            .front
            .step(&mut self.guest.store)
            .expect("a store")
            .is_some()
        {}
        while let Some(done) = self.front.reap().expect("an honest backend") {
            let (open, before) = self.open.remove(&done.tag).expect("each answer once");
            self.tally.answers += 1;
            let failed = done.result.is_err();
            if failed {
                let deaths = self.tally.deaths - before;
                assert_eq!(done.result, Err(IoError::Failed));
                assert!(deaths >= SUSPICIOUS, "it fails after {deaths} deaths");
            }
            match open {
                Open::Write(block, stamp) => self.changed(block, stamp, failed),
                Open::Discard(block) => self.changed(block, 0, failed),
                Open::Read(block) if !failed => {
                    let mut bytes = [0; PAGE];
                    let buffer = done.buffer.expect("it had one");
                    buffer.read_at(0, &mut bytes).expect("a page");
                    // What is read once is there until something else is written.
                    let stamps = &mut self.stamps[block];
                    stamps.retain(|stamp| bytes == stamped(*stamp));
                    assert!(!stamps.is_empty(), "{block}: {:?}", &bytes[..8]);
                }
                Open::Read(_) | Open::Flush => {}
            }
        }
        let _ = self.front.kick();
    }

    /// A place has another stamp now; or not, if that failed, or nobody knows whether it did.
    fn changed(&mut self, block: usize, stamp: u64, failed: bool) {
        if !failed {
            self.stamps[block].clear();
        }
        self.stamps[block].push(stamp);
    }

    fn submit(&mut self, what: u8, block: usize) {
        let mut open = self.open.values();
        if open.any(|(open, _)| open.block() == Some(block)) {
            return;
        }
        let sector = Sector::new(block as u64 * 8);
        let mut with_page = |op, bytes: [u8; PAGE]| {
            let mut buffer = self.front.buffer(1).ok()?;
            buffer.write_at(0, &bytes).expect("a page");
            self.front.submit(op, sector, buffer).ok()
        };
        let (tag, open) = match what {
            0 => (with_page(Op::Read, [0x5A; PAGE]), Open::Read(block)),
            1 => {
                let sectors = SectorCount::new(8);
                let tag = self.front.discard(sector, sectors, false).ok();
                (tag, Open::Discard(block))
            }
            2 => (self.front.flush().ok(), Open::Flush),
            _ => {
                self.next += 1;
                let tag = with_page(Op::Write, stamped(self.next));
                (tag, Open::Write(block, self.next))
            }
        };
        if let Some(tag) = tag {
            self.open.insert(tag, (open, self.tally.deaths));
        }
    }

    fn step(&mut self, byte: u8, step: usize) {
        match byte {
            0..96 => self.submit(byte % 6, usize::from(byte / 6) % BLOCKS),
            96..128 => self.front(),
            128..160 => self.back(|rig| {
                rig.service.poll(u32::from(byte % 4) + 1, rig.now);
            }),
            160..176 => self.back(|rig| {
                let _ = rig.service.control();
                rig.service.serve(BUDGET, rig.now);
            }),
            176..208 => {
                let steps = u64::from(byte - 176) * 3;
                self.rig().world.die_after(BACK, steps);
            }
            208..216 => self.restart(),
            216..224 => self.rig().world.tick(),
            224..240 => {
                let hold = byte.is_multiple_of(2);
                let disk = self.disk();
                disk.borrow_mut().hold = hold;
                if !hold {
                    disk.borrow_mut().release();
                }
            }
            240..244 => self.restore(),
            244..248 => self.outage(),
            248..250 => self.kernel(),
            _ => {
                let rig = self.rig();
                rig.now += std::time::Duration::from_millis(step as u64);
            }
        }
    }

    fn disk(&mut self) -> std::rc::Rc<std::cell::RefCell<crate::blkback_rig::Shared>> {
        let back_dir = self.guest.back_dir.clone();
        self.rig().disks.of(&back_dir)
    }

    /// The guest is saved and restored: its toolstack makes its nodes anew.
    fn restore(&mut self) {
        let dir = self.guest.dir.clone();
        let rig = self.rig.as_mut().expect("a rig");
        for node in [
            "ring-ref",
            "event-channel",
            "ring-page-order",
            "num-ring-pages",
        ] {
            // Not all of them are there.
            let _ = rig.toolstack.rm(Tx::NONE, &format!("{dir}/{node}"));
        }
        let written = rig.toolstack.write_str(Tx::NONE, &dir, "state", "1");
        written.expect("dom0 may");
        self.front.resume().expect("a short path");
        self.tally.restores += 1;
    }

    /// The driver domain's process dies, and it takes its time until the next one.
    fn outage(&mut self) {
        if !self.dead {
            self.rig().world.kill(BACK);
            self.dead = true;
            self.tally.deaths += 1;
            self.tally.outages += 1;
        }
    }

    /// Another kernel of the guest knows nothing of what the one before was doing.
    fn kernel(&mut self) {
        for (open, _) in std::mem::take(&mut self.open).into_values() {
            match open {
                Open::Write(block, stamp) => self.changed(block, stamp, true),
                Open::Discard(block) => self.changed(block, 0, true),
                Open::Read(_) | Open::Flush => {}
            }
        }
        let sim = self.guest.sim.clone();
        self.guest.store = sim.store();
        self.front = Frontend::with_limits(sim, &self.guest.dir).expect("a short path");
        self.tally.kernels += 1;
    }

    /// Lets everybody work until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..12 {
            self.back(Rig::settle);
            self.front();
        }
    }

    fn end(&mut self) {
        if self.dead {
            self.restart();
        }
        // What was ordered does not happen any more.
        self.rig().world.die_after(BACK, u64::MAX);
        let disk = self.disk();
        disk.borrow_mut().hold = false;
        disk.borrow_mut().release();
        for _ in 0..8 {
            self.settle();
            if self.front.in_flight() == 0 {
                break;
            }
        }
        assert!(
            self.open.is_empty(),
            "{} without an answer",
            self.open.len()
        );
        for block in 0..BLOCKS {
            self.submit(0, block);
        }
        assert_eq!(self.open.len(), BLOCKS, "it takes requests");
        self.settle();
        assert!(self.open.is_empty(), "the last reads have no answer");
        self.front.close();
        self.settle();
        let usage = self.rig().world.usage(DomId::new(FRONT));
        // One page is the rig's own.
        assert_eq!((usage.granted, usage.quarantined), (1, 0));
        let usage = self.rig().usage();
        assert_eq!((usage.mapped, usage.ports), (0, 0));
    }
}

fn stamped(stamp: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&stamp.to_le_bytes());
    }
    page
}
