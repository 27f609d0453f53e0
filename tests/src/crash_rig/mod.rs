//! A block backend that dies at any step, its storage, and an honest guest that must not notice.

mod guest;
mod storage;

pub use guest::{BLOCKS, Guest, LANES, stamped};
pub use storage::{Life, Storage};

use std::cell::RefCell;
use std::rc::Rc;

use ringfence_blkback::engine::Terms;
use ringfence_blkback::journal::{self, Header, Queue, QueueHeader};
use ringfence_blkback::{AttachError, Disk, Engine};
use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::{DomId, PAGE, Words as _};
use ringfence_sim::{Crash, Sim, SimRecord, SimWords, World};

/// The guest.
pub const FRONT: DomId = DomId::new(7);
/// The driver domain.
pub const BACK: DomId = DomId::new(1);
/// Entries of a ring of one page.
const SLOTS: u16 = 32;

/// The backend of one life.
pub type Backend = Engine<Sim, Queue<SimRecord>>;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap_or(0)
    }
}

/// All of it.
pub struct Rig {
    /// The world.
    pub world: World,
    /// The guest.
    pub guest: Guest,
    /// The disk.
    pub storage: Rc<RefCell<Storage>>,
    /// The journal, which the supervisor keeps.
    pub kept: SimWords,
    /// Whether opening the disk waits for the I/O of dead processes.
    pub fence: bool,
    /// Lives that ended.
    pub deaths: u32,
    rng: Rng,
}

impl Rig {
    /// A guest that is going to send so many requests.
    pub fn new(seed: u64, requests: usize) -> Self {
        let world = World::new();
        world.create(BACK);
        Self {
            guest: Guest::new(&world, requests),
            storage: Storage::new(BLOCKS * PAGE),
            // The header and the entries of one short ring.
            kept: SimWords::new(2 * PAGE / 8),
            fence: true,
            deaths: 0,
            rng: Rng::new(seed),
            world,
        }
    }

    fn header(&self) -> Header {
        let queue = QueueHeader {
            port: self.guest.channel.port(),
            refs: [self.guest.ring().grant_ref()].into_iter().collect(),
            slots: SLOTS,
        };
        Header {
            frontend: FRONT,
            generation: 0,
            vdev: 51712,
            image: [1, 2],
            protocol: 0,
            features: 0,
            queues: [queue].into_iter().collect(),
        }
    }

    /// What the supervisor notes about the next deaths: whether they come from outside.
    pub fn killed(&mut self, killed: bool) {
        let record = self.world.domain(BACK).words(&self.kept);
        record.store(journal::AT_KILLED, killed.into());
    }

    /// What a process of the driver domain does at its start. `None` if it dies in it.
    pub fn start(&mut self) -> Option<Result<Backend, AttachError>> {
        let sim = self.world.domain(BACK);
        if self.fence {
            self.storage.borrow_mut().fence();
        }
        let header = self.header();
        let (ring, port) = (self.guest.ring().grant_ref(), self.guest.channel.port());
        let record = sim.words(&self.kept);
        Crash::catch(|| {
            let disk = Disk::new(Box::new(Life::open(sim.clone(), &self.storage)));
            let mapping = sim.map(FRONT, &[ring], Access::ReadWrite)?;
            let channel = sim.bind(FRONT, port)?;
            let terms = Terms::default();
            let queue = Queue::new(record.clone(), 0);
            let engine = if journal::is_empty(&record) {
                header.prepare(&record);
                let engine = Engine::attach(sim, FRONT, mapping, channel, &terms, disk, queue);
                journal::complete(&record);
                engine
            } else {
                assert_eq!(Header::read(&record), Ok(header), "what was written");
                Engine::recover(sim, FRONT, mapping, channel, &terms, disk, queue)
            };
            engine.map_err(|(_, error)| error)
        })
    }

    /// One turn of everybody. `None` if the backend died in it.
    pub fn turn(&mut self, backend: &mut Backend) -> Option<()> {
        self.guest.turn(&mut self.rng);
        self.storage.borrow_mut().progress(&mut self.rng);
        let budget = 1 + self.rng.below(8) as u32;
        let alive = Crash::catch(|| {
            let _ = backend.channel().take_pending();
            backend.step(budget).expect("an honest guest");
            let _ = backend.arm();
        });
        if alive.is_none() {
            self.died();
        }
        alive
    }

    /// The guest does not notice, and goes on with what it can see.
    pub fn died(&mut self) {
        self.deaths += 1;
        self.guest.turn(&mut self.rng);
        self.storage.borrow_mut().progress(&mut self.rng);
    }

    /// Lives one life after the other, each ending after so many steps, the last not at all, until the guest is done.
    ///
    /// # Panics
    /// If something was noticed.
    pub fn run(&mut self, ends: &[u64]) {
        let mut ends = ends.iter();
        for _ in 0..32 {
            if let Some(steps) = ends.next() {
                self.world.die_after(BACK, *steps);
            }
            match self.start() {
                None => self.died(),
                Some(Err(error)) => panic!("after {} deaths: {error}", self.deaths),
                Some(Ok(mut backend)) => {
                    if self.live(&mut backend) {
                        return;
                    }
                }
            }
        }
        panic!("not done in 32 lives");
    }

    /// One life. Whether the guest was done in it.
    ///
    /// # Panics
    /// If nothing happens any more.
    pub fn live(&mut self, backend: &mut Backend) -> bool {
        for _ in 0..3000 {
            if self.guest.is_done() && backend.is_idle() {
                return true;
            }
            if self.turn(backend).is_none() {
                return false;
            }
        }
        panic!("requests that nobody answers");
    }

    /// Everything acknowledged is on the disk, and nothing else.
    ///
    /// # Panics
    /// If not.
    pub fn check(&mut self) {
        self.storage.borrow_mut().fence();
        let storage = self.storage.borrow();
        for (block, stamp) in self.guest.acknowledged.iter().enumerate() {
            let bytes = &storage.bytes[block * PAGE..][..PAGE];
            assert!(bytes == stamped(*stamp), "block {block}: {:?}", &bytes[..8]);
        }
        assert!(
            self.guest.errors.is_empty(),
            "{:?} failed",
            self.guest.errors
        );
    }
}
