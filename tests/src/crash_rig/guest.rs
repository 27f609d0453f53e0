//! An honest guest that uses number, grant and page again the moment it sees an answer.

use ringfence_blkback::BlkifNative;
use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::wire::blkif::{Op, RequestNative, Status};
use ringfence_core::{PAGE, SharedMem};
use ringfence_ring::layout::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use ringfence_ring::{Front, RingIndex};
use ringfence_sim::{Sim, SimChannel, SimGranted, World};

use super::{BACK, FRONT, Rng};
use crate::blkback_rig::request;

/// Requests in flight at most.
pub const LANES: usize = 6;
/// Places of a page each on the disk.
pub const BLOCKS: usize = 8;

/// What a lane is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Open {
    Read { block: usize },
    Write { block: usize, stamp: u64 },
    Flush,
}

impl Open {
    const fn block(self) -> Option<usize> {
        match self {
            Self::Read { block } | Self::Write { block, .. } => Some(block),
            Self::Flush => None,
        }
    }

    const fn op(self) -> Op {
        match self {
            Self::Read { .. } => Op::READ,
            Self::Write { .. } => Op::WRITE,
            Self::Flush => Op::FLUSH_DISKCACHE,
        }
    }
}

/// One of the requests that may be in flight: its number is the request's, and it has a page of its own.
struct Lane {
    page: SimGranted,
    open: Option<Open>,
}

/// The guest, and what it knows to be on the disk.
pub struct Guest {
    /// The domain.
    pub sim: Sim,
    /// Its end of the event channel.
    pub channel: SimChannel,
    ring: Front<SimGranted, BlkifNative>,
    lanes: Vec<Lane>,
    /// The last acknowledged stamp of every block.
    pub acknowledged: [u64; BLOCKS],
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

impl Guest {
    /// A guest that is going to send so many requests, on a ring whose indices are about to wrap around.
    pub fn new(world: &World, to_do: usize) -> Self {
        let sim = world.domain(FRONT);
        let alloc = || sim.alloc(BACK, Access::ReadWrite).expect("a page");
        let page = alloc();
        let start = 0u32.wrapping_sub(5);
        for (at, value) in [
            (REQ_PROD, start),
            (RSP_PROD, start),
            (REQ_EVENT, start.wrapping_add(1)),
            (RSP_EVENT, start.wrapping_add(1)),
        ] {
            page.store_u32(at, value);
        }
        Self {
            channel: sim.alloc_unbound(BACK).expect("a port"),
            ring: Front::attach_at(page, RingIndex::new(start)).expect("a ring"),
            lanes: (0..LANES)
                .map(|_| Lane {
                    page: alloc(),
                    open: None,
                })
                .collect(),
            sim,
            acknowledged: [0; BLOCKS],
            stamp: 0,
            to_do,
            errors: Vec::new(),
        }
    }

    /// The ring's page.
    pub fn ring(&self) -> &SimGranted {
        self.ring.mem()
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
        if self.ring.publish().is_needed() {
            self.channel.notify().expect("a bell");
        }
    }

    /// Takes the answers that are there.
    ///
    /// # Panics
    /// If one of them is not what it must be.
    pub fn look(&mut self) {
        while let Some(answer) = self.ring.take_response().expect("an honest backend") {
            let lane = self.lanes.get_mut(answer.id as usize).expect("our number");
            let open = lane.open.take().expect("one answer for each request");
            assert_eq!(answer.operation, open.op(), "an answer to what was asked");
            let mut page = [0; PAGE];
            lane.page.read(0, &mut page);
            // Whatever comes now from or to this page is wrong.
            lane.page.write(0, &stamped(u64::MAX));
            if answer.status != Status::OKAY {
                self.errors.push(answer.id);
                continue;
            }
            match open {
                Open::Read { block } => {
                    let wanted = stamped(self.acknowledged[block]);
                    assert!(page == wanted, "block {block}: {:?}", &page[..8]);
                }
                Open::Write { block, stamp } => self.acknowledged[block] = stamp,
                Open::Flush => {}
            }
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
            _ => {
                self.stamp += 1;
                let stamp = self.stamp;
                Open::Write { block, stamp }
            }
        };
        self.post(lane, open);
    }

    /// Writes bytes of `value` from one lane.
    pub fn write(&mut self, lane: usize, value: u8) {
        let stamp = u64::from_le_bytes([value; 8]);
        self.post(lane, Open::Write { block: lane, stamp });
        let _ = self.ring.publish();
    }

    fn post(&mut self, lane: usize, open: Open) {
        let gref = self.lanes[lane].page.grant_ref();
        match open {
            Open::Write { stamp, .. } => self.lanes[lane].page.write(0, &stamped(stamp)),
            _ => self.lanes[lane].page.write(0, &stamped(u64::MAX)),
        }
        let segments = [(gref, 0, 7)];
        let segments = match open {
            Open::Flush => &segments[..0],
            _ => &segments[..],
        };
        let sector = open.block().unwrap_or(0) as u64 * 8;
        let wanted: RequestNative = request(lane as u64, open.op(), sector, segments);
        self.ring.push(&wanted).expect("room");
        self.lanes[lane].open = Some(open);
        self.to_do = self.to_do.saturating_sub(1);
    }
}
