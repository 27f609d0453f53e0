//! What a connection leaves unanswered when it ends, and what becomes of it on the next one: a model with random ends, and the
//! single cases.

use std::collections::BTreeMap;

use ringfence_blkfront::{Completion, Event, IoError, Op, Reason, Tag};
use ringfence_core::platform::Channel;
use ringfence_core::wire::blkif::{Op as WireOp, RequestNative, Status};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{GrantRef, PAGE, Sector, SectorCount, SharedMem};
use ringfence_sim::{Fault, Sim};
use ringfence_tests::blkfront_rig::{BACK_DIR, FRONT, FRONT_DIR, Rig, response};

/// Blocks of the disk that the model uses, of a page each.
const BLOCKS: u64 = 24;
const SEEDS: u64 = 60;
const MOVES: usize = 400;

/// What the caller knows of a request that it has no answer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Read(u64),
    Write(u64, u64),
    Barrier(u64, u64),
    Discard(u64),
    Flush,
}

impl Asked {
    const fn block(self) -> Option<u64> {
        match self {
            Self::Read(b) | Self::Write(b, _) | Self::Barrier(b, _) | Self::Discard(b) => Some(b),
            Self::Flush => None,
        }
    }
}

/// A caller that never has two requests for one block in flight, and so knows what each must bring.
struct Model {
    rig: Rig,
    /// By tag, which is the order of submission.
    open: BTreeMap<Tag, Asked>,
    /// What each block holds for sure, while nothing writes to it.
    blocks: [u64; BLOCKS as usize],
    /// What the backend took and did not answer.
    taken: Vec<RequestNative>,
    /// The groups that the requests of the last connection must come in.
    groups: Vec<Vec<Asked>>,
    number: u64,
    written: u64,
    completed: u64,
    repeated: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rig = Rig::new();
        rig.connect();
        Self {
            rig,
            open: BTreeMap::new(),
            blocks: [0; BLOCKS as usize],
            taken: Vec::new(),
            groups: Vec::new(),
            number: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            written: 0,
            completed: 0,
            repeated: 0,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.number ^= self.number << 13;
        self.number ^= self.number >> 7;
        self.number ^= self.number << 17;
        (self.number >> 11) % n
    }

    fn is_free(&self, block: u64) -> bool {
        !self.open.values().any(|asked| asked.block() == Some(block))
    }

    fn submit(&mut self) {
        let block = self.below(BLOCKS);
        let kind = self.below(10);
        if kind > 0 && !self.is_free(block) {
            return;
        }
        let (sector, page) = (Sector::new(block * 8), SectorCount::new(8));
        let submitted = match kind {
            0 => self.rig.front.flush().map(|tag| (tag, Asked::Flush)),
            1 => {
                let tag = self
                    .rig
                    .front
                    .discard(sector, page, block.is_multiple_of(2));
                tag.map(|tag| (tag, Asked::Discard(block)))
            }
            _ => {
                let Ok(mut buffer) = self.rig.front.buffer(1) else {
                    return;
                };
                self.written += 1;
                let (op, asked) = match kind {
                    2 | 3 => (Op::Read, Asked::Read(block)),
                    4 => (Op::Barrier, Asked::Barrier(block, self.written)),
                    _ => (Op::Write, Asked::Write(block, self.written)),
                };
                if op != Op::Read {
                    let bytes = self.written.to_le_bytes();
                    buffer.write_at(0, &bytes).expect("it fits");
                    buffer.write_at(PAGE - 8, &bytes).expect("it fits");
                }
                let submitted = self.rig.front.submit(op, sector, buffer);
                submitted.map(|tag| (tag, asked)).map_err(|r| r.reason)
            }
        };
        match submitted {
            Ok((tag, asked)) => {
                let before = self.open.insert(tag, asked);
                assert_eq!(before, None, "a tag of its own");
            }
            Err(reason) => self.refused(reason),
        }
    }

    fn refused(&self, reason: Reason) {
        match reason {
            Reason::Repeating { waiting } => assert!(waiting > 0),
            Reason::Full { open } => assert!(open > 0),
            Reason::NotConnected => assert!(self.rig.peer.is_none()),
            reason => panic!("{reason}"),
        }
    }

    fn on_disk(&self, block: u64) -> u64 {
        let at = block as usize * PAGE;
        let number = |at: usize| {
            let bytes = self.rig.disk[at..at + 8].try_into();
            u64::from_le_bytes(bytes.expect("eight"))
        };
        assert_eq!(number(at), number(at + PAGE - 8), "the whole page or none");
        number(at)
    }

    fn reap(&mut self) {
        while let Some(done) = self.rig.front.reap().expect("an honest backend") {
            self.over(done);
        }
    }

    fn over(&mut self, done: Completion<Sim>) {
        let asked = self.open.remove(&done.tag).expect("once each");
        assert_eq!(done.result, Ok(()), "{asked:?}");
        self.completed += 1;
        match asked {
            Asked::Flush => assert!(done.buffer.is_none()),
            Asked::Discard(block) => {
                assert_eq!(self.on_disk(block), 0, "forgotten");
                self.blocks[block as usize] = 0;
            }
            Asked::Write(block, value) | Asked::Barrier(block, value) => {
                assert_eq!(self.on_disk(block), value, "completed, hence on the disk");
                self.blocks[block as usize] = value;
            }
            Asked::Read(block) => {
                let mut bytes = [0; 8];
                let buffer = done.buffer.expect("a read has one");
                buffer.read_at(PAGE - 8, &mut bytes).expect("in range");
                assert_eq!(u64::from_le_bytes(bytes), self.blocks[block as usize]);
            }
        }
    }

    /// What a request on the ring is, as the backend sees it.
    fn seen(&self, request: &RequestNative) -> Asked {
        let block = request.sector_number / 8;
        match request.operation {
            WireOp::READ => Asked::Read(block),
            WireOp::FLUSH_DISKCACHE => Asked::Flush,
            WireOp::DISCARD => Asked::Discard(block),
            operation => {
                let gref = GrantRef::new(request.seg[0].gref);
                let page = self.rig.world.page(FRONT, gref).expect("granted");
                let mut bytes = [0; 8];
                page.read(0, &mut bytes);
                let value = u64::from_le_bytes(bytes);
                if operation == WireOp::WRITE {
                    Asked::Write(block, value)
                } else {
                    Asked::Barrier(block, value)
                }
            }
        }
    }

    /// The backend takes what is there. What the last connection left comes first, a flush apart from all else.
    fn take(&mut self) {
        while let Some(request) = self.rig.peer().take() {
            // A group ends with its last answer; behind the last one comes what is new.
            while self.groups.first().is_some_and(Vec::is_empty)
                && (self.taken.is_empty() || self.groups.len() == 1)
            {
                self.groups.remove(0);
            }
            let asked = self.seen(&request);
            if let Some(group) = self.groups.first_mut() {
                assert_eq!(group.first(), Some(&asked), "in its order");
                group.remove(0);
                self.repeated += 1;
            }
            self.taken.push(request);
        }
    }

    /// Answers some of what was taken, in any order.
    fn answer(&mut self) {
        for _ in 0..self.below(6) {
            if self.taken.is_empty() {
                return;
            }
            let n = self.below(self.taken.len() as u64) as usize;
            let request = self.taken.swap_remove(n);
            self.rig.transfer(&request);
            let answer = response(request.id, request.operation, Status::OKAY);
            self.rig.peer().answer(answer);
        }
        self.rig.peer().channel.notify().expect("a live world");
    }

    /// The connection ends: some of what was taken was done, and nothing more is answered.
    fn end(&mut self) {
        for request in std::mem::take(&mut self.taken) {
            if self.below(2) == 0 {
                self.rig.transfer(&request);
            }
        }
        if self.below(3) == 0 {
            self.rig.restored();
            self.rig.front.resume().expect("a short path");
        } else {
            self.rig.close_back();
            let events = self.rig.events();
            assert_eq!(events, [Event::Closing, Event::Disconnected]);
        }
        // What has no answer by now, also if one was on the ring, is asked again.
        self.groups = vec![Vec::new()];
        for asked in self.open.values() {
            if matches!(asked, Asked::Flush | Asked::Barrier(..)) {
                self.groups.extend([vec![*asked], Vec::new()]);
            } else if let Some(group) = self.groups.last_mut() {
                group.push(*asked);
            }
        }
        self.groups.retain(|group| !group.is_empty());
        while self.below(3) == 0 {
            self.submit();
            self.reap();
        }
        self.rig.connect();
    }

    fn step(&mut self) {
        match self.below(16) {
            0..=6 => self.submit(),
            7 | 8 => {
                self.rig.front.kick().expect("a live world");
            }
            9 | 10 => self.take(),
            11..=13 => self.answer(),
            14 => self.reap(),
            _ => {
                if self.below(6) == 0 {
                    self.end();
                }
            }
        }
    }

    fn finish(&mut self) {
        for _ in 0..1000 {
            self.rig.front.kick().expect("a live world");
            self.take();
            self.answer();
            self.reap();
        }
        assert_eq!(self.open.len(), 0, "every request completes");
        assert_eq!(self.rig.front.in_flight(), 0);
        for block in 0..BLOCKS {
            assert_eq!(self.on_disk(block), self.blocks[block as usize]);
        }
        // Nothing of the old connections is left but the present ring.
        let usage = self.rig.world.usage(FRONT);
        assert_eq!((usage.granted, usage.quarantined, usage.ports), (1, 0, 1));
    }
}

#[test]
fn every_request_completes_once_whatever_happens_to_the_backend() {
    let (mut completed, mut repeated) = (0, 0);
    for seed in 0..SEEDS {
        let mut model = Model::new(seed);
        for _ in 0..MOVES {
            model.step();
        }
        model.finish();
        completed += model.completed;
        repeated += model.repeated;
    }
    assert!(completed > SEEDS * 50, "{completed} requests");
    assert!(repeated > SEEDS, "{repeated} came again");
}

fn write(rig: &mut Rig, sector: u64, fill: u8) -> Tag {
    let mut buffer = rig.front.buffer(1).expect("pages enough");
    buffer.write_at(0, &[fill; PAGE]).expect("it fits");
    let tag = rig.front.submit(Op::Write, Sector::new(sector), buffer);
    rig.front.kick().expect("a live world");
    tag.expect("room")
}

fn reopen(rig: &mut Rig) {
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    rig.seen.clear();
    rig.connect();
}

#[test]
fn new_requests_wait_for_those_that_come_again() {
    let mut rig = Rig::connected();
    write(&mut rig, 0, 1);
    let flush = rig.front.flush().expect("room");
    write(&mut rig, 8, 2);
    reopen(&mut rig);
    assert_eq!(rig.take_all().operation, WireOp::WRITE);
    assert_eq!(rig.seen.len(), 1, "the flush waits for the first write");
    let refused = rig.front.flush();
    assert_eq!(refused, Err(Reason::Repeating { waiting: 2 }));
    let request = rig.seen[0];
    rig.peer()
        .answer(response(request.id, request.operation, Status::OKAY));
    rig.front.reap().expect("honest").expect("answered");
    let request = rig.take_all();
    assert_eq!(
        (request.operation, rig.seen.len()),
        (WireOp::FLUSH_DISKCACHE, 2)
    );
    rig.peer()
        .answer(response(request.id, request.operation, Status::OKAY));
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!(done.tag, flush);
    assert_eq!(rig.take_all().sector_number, 8);
    rig.front.flush().expect("all is on the ring");
    assert_eq!(rig.front.counters().repeated, 3);
}

#[test]
fn what_the_next_disk_cannot_do_is_said() {
    let mut rig = Rig::connected();
    let far = write(&mut rig, 2040, 1);
    let flush = rig.front.flush().expect("room");
    let near = write(&mut rig, 8, 2);
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    rig.published();
    rig.describe();
    rig.node("sectors", "1024");
    rig.node("feature-flush-cache", "0");
    rig.state(XenbusState::Connected);
    rig.events();
    rig.serve();
    let mut results = Vec::new();
    while let Some(done) = rig.front.reap().expect("honest") {
        results.push((done.tag, done.result));
    }
    results.sort_by_key(|(tag, _)| *tag);
    let [
        (a, Err(IoError::NotRepeated(Reason::OutOfRange { .. }))),
        b,
        c,
    ] = results[..]
    else {
        panic!("{results:?}");
    };
    assert_eq!(a, far);
    assert_eq!(b, (flush, Err(IoError::NotRepeated(Reason::Unsupported))));
    assert_eq!(c, (near, Ok(())));
}

#[test]
fn a_device_that_is_closed_gives_everything_back() {
    for detach in [false, true] {
        let mut rig = Rig::connected();
        let tag = write(&mut rig, 0, 1);
        if detach {
            rig.set(BACK_DIR, "online", "0");
        } else {
            rig.front.close();
            assert_eq!(rig.events(), [Event::Closing]);
        }
        rig.close_back();
        let events = rig.events();
        assert_eq!(events.last(), Some(&Event::Closed), "{events:?}");
        let done = rig.front.reap().expect("no lie").expect("given up");
        assert_eq!((done.tag, done.result), (tag, Err(IoError::Aborted)));
        assert_eq!(rig.front.in_flight(), 0);
    }
}

#[test]
fn without_pages_for_another_backend_requests_are_given_up_one_by_one() {
    let mut rig = Rig::connected();
    let first = write(&mut rig, 0, 1);
    let second = write(&mut rig, 8, 2);
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    rig.published();
    rig.describe();
    rig.world.inject(Fault::Alloc { nth: 0, errno: 12 });
    rig.state(XenbusState::Connected);
    rig.events();
    assert_eq!(rig.world.faults_waiting(), 0, "it struck");
    let done = rig.front.reap().expect("no lie").expect("given up");
    assert_eq!((done.tag, done.result), (first, Err(IoError::Aborted)));
    rig.serve();
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!((done.tag, done.result), (second, Ok(())));
    assert_eq!(rig.disk[8 * 512], 2);
}

#[test]
fn a_restored_guest_shows_no_page_that_it_granted_before() {
    let mut rig = Rig::connected();
    let mut idle = rig.front.buffer(2).expect("pages enough");
    idle.write_at(0, &[7; 2 * PAGE]).expect("it fits");
    rig.restored();
    rig.front.resume().expect("a short path");
    rig.connect();
    let rejected = rig.front.submit(Op::Write, Sector::new(0), idle);
    let rejected = rejected.expect_err("granted in another life");
    assert!(matches!(rejected.reason, Reason::ForeignBuffer { .. }));
    let mut idle = rejected.buffer;
    rig.front.renew(&mut idle).expect("pages enough");
    rig.front
        .submit(Op::Write, Sector::new(0), idle)
        .expect("renewed");
    rig.front.kick().expect("a live world");
    rig.serve();
    rig.front.reap().expect("honest").expect("answered");
    assert!(rig.disk[..2 * PAGE].iter().all(|byte| *byte == 7));
    assert_eq!(rig.get(&format!("{FRONT_DIR}/state")), "4");
}
