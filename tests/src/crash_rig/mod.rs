//! A block backend that dies at any step, its storage, and an honest guest that must not notice.

mod guest;
mod storage;

pub use guest::{BLOCKS, Guest, LANES, Ring, stamped};
pub use storage::{Life, Storage};

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ringfence_blkback::engine::Terms;
use ringfence_blkback::epoch::Epoch;
use ringfence_blkback::grants::persistent::Budget;
use ringfence_blkback::journal::{self, Header, Queue, QueueHeader};
use ringfence_blkback::sink::Split;
use ringfence_blkback::{AttachError, Disk, Engine};
use ringfence_core::platform::{Access, Channel, Platform};
use ringfence_core::{DomId, PAGE, Words as _};
use ringfence_sim::{Crash, Sim, SimRecord, SimWords, World};

/// The guest.
pub const FRONT: DomId = DomId::new(7);
/// The driver domain.
pub const BACK: DomId = DomId::new(1);
/// Entries of a page of a ring.
const SLOTS: u16 = 32;
/// Pages of a journal before the entries of the second queue.
const JOURNAL_PAGES_PER_QUEUE: usize = 16;

/// What the two ends use of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Rings.
    pub queues: u16,
    /// Pages of each.
    pub ring_pages: usize,
    /// Pages of each read and write.
    pub segments: usize,
    /// Reads and writes name their pages in another page.
    pub indirect: bool,
    /// Some writes are barriers.
    pub barriers: bool,
    /// Pages stay mapped.
    pub persistent: bool,
}

impl Shape {
    /// One ring of one page, one page in each request, and nothing that is optional.
    pub const PLAIN: Self = Self {
        queues: 1,
        ring_pages: 1,
        segments: 1,
        indirect: false,
        barriers: false,
        persistent: false,
    };
}

/// The backend of one life.
pub struct Backend {
    /// One for each ring.
    pub engines: Vec<Engine<Sim, Queue<SimRecord>>>,
    /// What they share, if there are several.
    _split: Option<Split>,
}

impl Backend {
    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.engines.iter().all(Engine::is_idle)
    }

    fn turn(&mut self, budget: u32) {
        for engine in &mut self.engines {
            let _ = engine.channel().take_pending();
            engine.step(budget).expect("an honest guest");
            let _ = engine.arm();
        }
    }
}

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
    shape: Shape,
    rng: Rng,
}

impl Rig {
    /// A guest that is going to send so many plain requests.
    pub fn new(seed: u64, requests: usize) -> Self {
        Self::of(Shape::PLAIN, seed, requests)
    }

    /// A guest that is going to send so many requests.
    pub fn of(shape: Shape, seed: u64, requests: usize) -> Self {
        let world = World::new();
        world.create(BACK);
        // The header, all that the queues before the last may have, and the entries of that one.
        let others = usize::from(shape.queues - 1) * JOURNAL_PAGES_PER_QUEUE;
        let journal = 1 + others + shape.ring_pages;
        Self {
            guest: Guest::new(&world, shape, requests),
            storage: Storage::new(BLOCKS * shape.segments * PAGE),
            kept: SimWords::new(journal * PAGE / 8),
            shape,
            fence: true,
            deaths: 0,
            rng: Rng::new(seed),
            world,
        }
    }

    fn header(&self) -> Header {
        let pages = self.shape.ring_pages as u16;
        let queue = |ring: &Ring| QueueHeader {
            port: ring.channel.port(),
            refs: ring.front.mem().refs().into_iter().collect(),
            slots: SLOTS * pages,
        };
        Header {
            frontend: FRONT,
            generation: 0,
            vdev: 51712,
            image: [1, 2],
            protocol: 0,
            features: 0,
            queues: self.guest.rings.iter().map(queue).collect(),
        }
    }

    fn terms(&self) -> Terms {
        let budget = Arc::new(Budget::new(1000));
        Terms {
            indirect_segments: if self.shape.indirect { 32 } else { 0 },
            epoch: Arc::new(Epoch::new(self.shape.queues)),
            persistent: self.shape.persistent.then_some((100, budget)),
            ..Terms::default()
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
        let (header, terms) = (self.header(), self.terms());
        let record = sim.words(&self.kept);
        Crash::catch(|| {
            let disk = Disk::new(Box::new(Life::open(sim.clone(), &self.storage)));
            let (split, parts) = match self.shape.queues {
                1 => (None, vec![disk]),
                queues => {
                    let (split, parts) = Split::new(disk, queues);
                    (Some(split), parts)
                }
            };
            let fresh = journal::is_empty(&record);
            if fresh {
                header.prepare(&record);
            } else {
                assert_eq!(
                    Header::read(&record),
                    Ok(header.clone()),
                    "what was written"
                );
            }
            let mut engines = Vec::new();
            for ((number, part), ring) in (0..).zip(parts).zip(&header.queues) {
                let mapping = sim.map(FRONT, &ring.refs, Access::ReadWrite)?;
                let channel = sim.bind(FRONT, ring.port)?;
                let queue = Queue::new(record.clone(), number);
                let terms = Terms {
                    queue: number,
                    ..terms.clone()
                };
                let begin = match fresh {
                    true => Engine::attach,
                    false => Engine::recover,
                };
                let engine = begin(sim.clone(), FRONT, mapping, channel, &terms, part, queue);
                engines.push(engine.map_err(|(_, error)| error)?);
            }
            if fresh {
                journal::complete(&record);
            }
            Ok(Backend {
                engines,
                _split: split,
            })
        })
    }

    /// One turn of everybody. `None` if the backend died in it.
    pub fn turn(&mut self, backend: &mut Backend) -> Option<()> {
        self.others();
        let budget = 1 + self.rng.below(8) as u32;
        let alive = Crash::catch(|| backend.turn(budget));
        if alive.is_none() {
            self.died();
        }
        alive
    }

    /// The guest does not notice, and goes on with what it can see.
    pub fn died(&mut self) {
        self.deaths += 1;
        self.others();
    }

    /// A turn of everybody but the backend.
    fn others(&mut self) {
        self.guest.turn(&mut self.rng);
        let mut storage = self.storage.borrow_mut();
        storage.barriers.clone_from(&self.guest.barriers);
        storage.one_queue = self.shape.queues == 1;
        storage.progress(&mut self.rng);
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
        let pages = storage.bytes.chunks(PAGE).enumerate();
        for (page, bytes) in pages {
            let block = page / self.shape.segments;
            let stamp = self.guest.acknowledged[block];
            assert!(bytes == stamped(stamp), "block {block}: {:?}", &bytes[..8]);
        }
        assert!(
            self.guest.errors.is_empty(),
            "{:?} failed",
            self.guest.errors
        );
    }
}
