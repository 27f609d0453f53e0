//! An honest guest that uses number, grant and page again the moment it sees an answer.

use std::collections::BTreeSet;

use ringfence_blkback::BlkifNative;
use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::wire::blkif::{Op, RequestNative, ResponseNative, Status};
use ringfence_core::{PAGE, SharedMem};
use ringfence_ring::layout::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use ringfence_ring::{Front, RingIndex};
use ringfence_sim::{Sim, SimChannel, SimGranted, World};

use super::{BACK, FRONT, Rng, Shape};
use crate::blkback_rig::{Pages, indirect, request, write_segments};

/// Requests in flight at most.
pub const LANES: usize = 6;
/// Places of as many pages as a request has on the disk.
pub const BLOCKS: usize = 8;

/// What is in a page that no request has.
const NOBODYS: u64 = u64::MAX;
const SECTORS_PER_PAGE: usize = PAGE / 512;

/// What a lane is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Open {
    Read {
        block: usize,
    },
    Write {
        block: usize,
        stamp: u64,
    },
    /// A write that orders all others.
    Barrier {
        block: usize,
        stamp: u64,
    },
    Flush,
}

impl Open {
    const fn block(self) -> Option<usize> {
        match self {
            Self::Read { block } | Self::Write { block, .. } | Self::Barrier { block, .. } => {
                Some(block)
            }
            Self::Flush => None,
        }
    }

    const fn op(self) -> Op {
        match self {
            Self::Read { .. } => Op::READ,
            Self::Write { .. } => Op::WRITE,
            Self::Barrier { .. } => Op::WRITE_BARRIER,
            Self::Flush => Op::FLUSH_DISKCACHE,
        }
    }
}

/// One of the requests that may be in flight: its number is the request's, and it has pages of its own.
struct Lane {
    pages: Vec<SimGranted>,
    /// For the segments.
    segments: SimGranted,
    open: Option<Open>,
}

impl Lane {
    fn fill(&self, stamp: u64) {
        self.pages
            .iter()
            .for_each(|page| page.write(0, &stamped(stamp)));
    }

    /// Whether all its pages hold this.
    fn holds(&self, stamp: u64) -> bool {
        let mut bytes = [0; PAGE];
        self.pages.iter().all(|page| {
            page.read(0, &mut bytes);
            bytes == stamped(stamp)
        })
    }
}

/// A ring and our end of its event channel.
pub struct Ring {
    /// The ring.
    pub front: Front<Pages, BlkifNative>,
    /// The channel.
    pub channel: SimChannel,
}

/// The guest, and what it knows to be on the disk.
pub struct Guest {
    /// The domain.
    pub sim: Sim,
    /// Its rings; lanes take turns.
    pub rings: Vec<Ring>,
    shape: Shape,
    lanes: Vec<Lane>,
    /// The last acknowledged stamp of every block.
    pub acknowledged: [u64; BLOCKS],
    /// The stamps of its barriers.
    pub barriers: BTreeSet<u64>,
    stamp: u64,
    to_do: usize,
    /// Answers with an error; nobody expects one but who orders it.
    pub errors: Vec<u64>,
}

/// A page that holds this stamp and nothing else.
pub fn stamped(stamp: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&stamp.to_le_bytes());
    }
    page
}

/// A ring whose indices are about to wrap around.
fn ring(sim: &Sim, pages: usize) -> Ring {
    let page = |_| sim.alloc(BACK, Access::ReadWrite).expect("a page");
    let pages = Pages::new((0..pages).map(page).collect());
    let start = 0u32.wrapping_sub(5);
    for (at, value) in [
        (REQ_PROD, start),
        (RSP_PROD, start),
        (REQ_EVENT, start.wrapping_add(1)),
        (RSP_EVENT, start.wrapping_add(1)),
    ] {
        pages.store_u32(at, value);
    }
    Ring {
        front: Front::attach_at(pages, RingIndex::new(start)).expect("a ring"),
        channel: sim.alloc_unbound(BACK).expect("a port"),
    }
}

impl Guest {
    /// A guest that is going to send so many requests.
    pub fn new(world: &World, shape: Shape, to_do: usize) -> Self {
        let sim = world.domain(FRONT);
        let alloc = || sim.alloc(BACK, Access::ReadWrite).expect("a page");
        let lane = |_| {
            let lane = Lane {
                pages: (0..shape.segments).map(|_| alloc()).collect(),
                segments: alloc(),
                open: None,
            };
            lane.fill(NOBODYS);
            lane
        };
        Self {
            rings: (0..shape.queues)
                .map(|_| ring(&sim, shape.ring_pages))
                .collect(),
            lanes: (0..LANES).map(lane).collect(),
            shape,
            sim,
            acknowledged: [0; BLOCKS],
            barriers: BTreeSet::new(),
            stamp: 0,
            to_do,
            errors: Vec::new(),
        }
    }

    /// Whether all is sent and answered.
    pub fn is_done(&self) -> bool {
        self.to_do == 0 && self.lanes.iter().all(|lane| lane.open.is_none())
    }

    /// Looks at the answers, sends what it may.
    pub fn turn(&mut self, rng: &mut Rng) {
        self.look();
        for lane in 0..LANES {
            if self.to_do > 0 && self.lanes[lane].open.is_none() && rng.below(4) > 0 {
                self.send(lane, rng);
            }
        }
        for ring in &mut self.rings {
            if ring.front.publish().is_needed() {
                ring.channel.notify().expect("a bell");
            }
        }
    }

    /// Takes the answers that are there.
    ///
    /// # Panics
    /// If one of them is not what it must be.
    pub fn look(&mut self) {
        for ring in 0..self.rings.len() {
            while let Some(answer) = self.rings[ring]
                .front
                .take_response()
                .expect("an honest backend")
            {
                self.answered(ring, &answer);
            }
        }
    }

    fn answered(&mut self, ring: usize, answer: &ResponseNative) {
        let number = answer.id as usize;
        let lane = self.lanes.get_mut(number).expect("our number");
        assert_eq!(number % self.rings.len(), ring, "the ring it was asked on");
        let open = lane.open.take().expect("one answer for each request");
        assert_eq!(answer.operation, open.op(), "an answer to what was asked");
        let read = match open {
            Open::Read { block } => Some((block, lane.holds(self.acknowledged[block]))),
            _ => None,
        };
        // Whatever comes now from or to these pages is wrong.
        lane.fill(NOBODYS);
        lane.segments.write(0, &stamped(NOBODYS));
        if answer.status != Status::OKAY {
            self.errors.push(answer.id);
            return;
        }
        match open {
            Open::Read { .. } => {
                let (block, right) = read.expect("a read");
                assert!(right, "block {block} is not what was written");
            }
            Open::Write { block, stamp } | Open::Barrier { block, stamp } => {
                self.acknowledged[block] = stamp;
            }
            Open::Flush => {}
        }
    }

    fn send(&mut self, lane: usize, rng: &mut Rng) {
        let taken = |block| {
            self.lanes
                .iter()
                .any(|lane| lane.open.and_then(Open::block) == Some(block))
        };
        let block = rng.below(BLOCKS);
        let open = match rng.below(8) {
            0 => Open::Flush,
            _ if taken(block) => return,
            1..4 => Open::Read { block },
            kind => {
                self.stamp += 1;
                let stamp = self.stamp;
                match kind {
                    4 if self.may_order() => {
                        self.barriers.insert(stamp);
                        Open::Barrier { block, stamp }
                    }
                    _ => Open::Write { block, stamp },
                }
            }
        };
        self.post(lane, open);
    }

    /// Which of two barriers on two rings is the older one nobody can tell: there is one at a time.
    fn may_order(&self) -> bool {
        let mut open = self.lanes.iter().filter_map(|lane| lane.open);
        self.shape.barriers && !open.any(|open| matches!(open, Open::Barrier { .. }))
    }

    /// Writes bytes of `value` from one lane.
    pub fn write(&mut self, lane: usize, value: u8) {
        let stamp = u64::from_le_bytes([value; 8]);
        self.post(lane, Open::Write { block: lane, stamp });
        for ring in &mut self.rings {
            let _ = ring.front.publish();
        }
    }

    fn post(&mut self, number: usize, open: Open) {
        let lane = &mut self.lanes[number];
        assert!(lane.holds(NOBODYS), "lane {number}: pages that were free");
        if let Open::Write { stamp, .. } | Open::Barrier { stamp, .. } = open {
            lane.fill(stamp);
        }
        let whole = |page: &SimGranted| (page.grant_ref(), 0, 7);
        let mut segments: Vec<_> = lane.pages.iter().map(whole).collect();
        if open == Open::Flush {
            segments.clear();
        }
        let (id, op) = (number as u64, open.op());
        let sector = open.block().unwrap_or(0) * self.shape.segments * SECTORS_PER_PAGE;
        let sector = sector as u64;
        let wanted: RequestNative = match op {
            Op::READ | Op::WRITE if self.shape.indirect => {
                write_segments(&lane.segments, 0, &segments);
                let count = u16::try_from(segments.len()).expect("few");
                indirect(id, op, sector, count, &[lane.segments.grant_ref()])
            }
            _ => request(id, op, sector, &segments),
        };
        lane.open = Some(open);
        let ring = number % self.rings.len();
        self.rings[ring].front.push(&wanted).expect("room");
        self.to_do = self.to_do.saturating_sub(1);
    }
}
