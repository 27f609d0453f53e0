//! Our frontend against our backend in a simulated world: data both ways, the end, and what a request costs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringfence_blkback::service::{BackendType, DeviceId, RingId};
use ringfence_blkfront::{Event, Frontend, Op};
use ringfence_core::ids::{DomId, Sector};
use ringfence_sim::Sim;
use ringfence_tests::blkback_rig::{BACK, BUDGET, Guest, Rig};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread allocates.
struct Counting;

// SAFETY: passes everything on to the system's allocator; the counter is a thread-local that needs no allocation itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the memory came from `alloc`, hence from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const FRONT: u16 = 7;
const RING: RingId = RingId {
    device: DeviceId {
        backend: BackendType::Vbd,
        front: DomId::new(FRONT),
        vdev: 51712,
    },
    queue: 0,
};

struct Pair {
    rig: Rig,
    guest: Guest,
    front: Frontend<Sim>,
}

impl Pair {
    fn connected() -> Self {
        let mut rig = Rig::new();
        let guest = rig.attach(FRONT, 51712, "w");
        let front = Frontend::new(guest.sim.clone(), &guest.dir).expect("a short path");
        let mut pair = Self { rig, guest, front };
        assert!(matches!(pair.steps().last(), Some(Event::Connected(_))));
        pair
    }

    /// Lets both control planes work until they rest.
    fn steps(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..20 {
            self.rig.settle();
            while let Some(event) = self.front.step(&mut self.guest.store).expect("a store") {
                events.push(event);
            }
        }
        events
    }

    /// One doorbell's work, by the data path alone.
    fn serve(&mut self) {
        let now = self.rig.now;
        let mut turn = self.rig.service.rung(RING, BUDGET, now);
        while turn.again {
            turn = self.rig.service.serve(BUDGET, now);
        }
    }
}

#[test]
fn what_is_written_is_read_and_the_device_closes() {
    let mut pair = Pair::connected();
    for (sector, fill) in [(3u64, 7u8), (901, 9)] {
        let mut buffer = pair.front.buffer(11).expect("pages");
        buffer.set_len(80 * 512).expect("fits");
        buffer.write_at(0, &[fill; 80 * 512]).expect("fits");
        pair.front
            .submit(Op::Write, Sector::new(sector), buffer)
            .map_err(|r| r.reason)
            .expect("room");
        pair.front.kick().expect("a bell");
        pair.serve();
        let done = pair.front.reap().expect("honest").expect("an answer");
        assert_eq!(done.result, Ok(()));
        pair.front.flush().expect("room");
        let buffer = done.buffer.expect("its buffer");
        buffer_wiped(&mut pair, buffer, sector, fill);
    }
    pair.front.close();
    let events = pair.steps();
    assert!(events.contains(&Event::Closed), "{events:?}");
    let usage = pair.rig.usage();
    assert_eq!((usage.mapped, usage.ports), (0, 0));
    assert_eq!(pair.rig.state(&pair.guest), "6");
}

fn buffer_wiped(
    pair: &mut Pair,
    mut buffer: ringfence_blkfront::Buffer<Sim>,
    sector: u64,
    fill: u8,
) {
    buffer.write_at(0, &[0; 80 * 512]).expect("fits");
    pair.front
        .submit(Op::Read, Sector::new(sector), buffer)
        .map_err(|r| r.reason)
        .expect("room");
    pair.front.kick().expect("a bell");
    pair.serve();
    let mut answers = 0;
    while let Some(done) = pair.front.reap().expect("honest") {
        assert_eq!(done.result, Ok(()));
        answers += 1;
        if let Some(buffer) = done.buffer {
            let mut bytes = vec![0; 80 * 512];
            buffer.read_at(0, &mut bytes).expect("fits");
            assert!(bytes.iter().all(|byte| *byte == fill));
        }
    }
    assert_eq!(answers, 2, "the flush and the read");
}

/// Rounds of `depth` reads; returns what each request cost, in doorbells each way, copies and allocations.
fn cost(depth: u64) -> (u64, u64, u64, u64) {
    let mut pair = Pair::connected();
    let mut buffers: Vec<_> = (0..depth)
        .map(|_| pair.front.buffer(1).expect("a page"))
        .collect();
    let mut before = None;
    for round in 0..40 {
        if round == 8 {
            let counts = pair.rig.world.counts(BACK);
            let rung = pair.front.counters().notifications;
            before = Some((rung, counts, ALLOCATIONS.with(Cell::get)));
        }
        for (sector, buffer) in (0..).zip(buffers.drain(..)) {
            let op = if sector % 2 == 0 { Op::Read } else { Op::Write };
            let tag = pair.front.submit(op, Sector::new(sector * 8), buffer);
            assert!(tag.is_ok(), "room");
        }
        pair.front.kick().expect("a bell");
        pair.serve();
        while let Some(done) = pair.front.reap().expect("honest") {
            assert_eq!(done.result, Ok(()));
            buffers.push(done.buffer.expect("its buffer"));
        }
        assert_eq!(buffers.len(), depth as usize);
        let _ = pair.front.arm();
    }
    let allocations = ALLOCATIONS.with(Cell::get);
    let (rung, old, allocated) = before.expect("there were rounds");
    let new = pair.rig.world.counts(BACK);
    (
        pair.front.counters().notifications - rung,
        new.notifications - old.notifications,
        new.copy_calls - old.copy_calls,
        allocations - allocated,
    )
}

#[test]
fn one_doorbell_each_way_and_one_copy_per_direction_and_batch() {
    let rounds = 32;
    let (front, back, copies, allocations) = cost(1);
    assert_eq!(
        (front, back, copies),
        (rounds, rounds, rounds),
        "at depth 1"
    );
    let (front, back, batched, many) = cost(32);
    assert_eq!((front, back), (rounds, rounds), "at depth 32");
    assert_eq!(batched, 2 * rounds, "one batch of reads and one of writes");
    assert_eq!(
        (allocations, many),
        (0, 0),
        "nothing is allocated after the first rounds"
    );
}
