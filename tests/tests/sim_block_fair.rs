//! Who asks for more than others gets no more than its share, however it asks.

use ringfence_blkback::service::DeviceId;
use ringfence_core::platform::{Access, Granted, Platform};
use ringfence_core::wire::blkif::{Abi, Op};
use ringfence_tests::blkback_rig::{BACK, OtherRing, Rig, indirect, read, write_segments};

/// Requests of one device in a turn: fewer than its rings hold, so that something is left for the next.
const BUDGET: u32 = 8;
const TURNS: u64 = 50;

/// Reads that the device of this guest has done.
fn reads(rig: &Rig, front: u16) -> u64 {
    let all = rig.service.statistics().snapshot();
    let mut of = all
        .iter()
        .filter(|(id, _): &&(DeviceId, _)| id.front.get() == front);
    of.next().expect("a device").1.reads
}

/// A guest whose ring, or rings, are full of requests at every moment.
struct Flood<R> {
    rings: Vec<OtherRing>,
    /// How many of each ring are open.
    open: Vec<u32>,
    request: R,
}

impl<R: Fn(u64) -> ringfence_core::wire::blkif::RequestNative> Flood<R> {
    fn new(rings: Vec<OtherRing>, request: R) -> Self {
        let open = vec![0; rings.len()];
        Self {
            rings,
            open,
            request,
        }
    }

    /// Takes the answers and fills up; says how many answers each ring had.
    fn refill(&mut self) -> Vec<u64> {
        let rings = self.rings.iter_mut().zip(&mut self.open);
        rings
            .map(|(ring, open)| {
                let answers = ring.answers().len();
                *open -= u32::try_from(answers).expect("few");
                while *open < ring.size() {
                    assert!(ring.push(&(self.request)(u64::from(*open))));
                    *open += 1;
                }
                ring.kick();
                answers as u64
            })
            .collect()
    }
}

#[test]
fn many_rings_have_one_share() {
    const QUEUES: u32 = 4;
    let mut rig = Rig::new();
    let mut wide = rig.attach(7, 51712, "w");
    let mut narrow = rig.attach(8, 51712, "w");
    rig.settle();
    let wide_rings = wide.publish_queues(QUEUES, 0);
    let narrow_ring = narrow.publish_ring(0, Abi::Native);
    for guest in [&mut wide, &mut narrow] {
        guest.set("state", "3");
    }
    rig.settle();
    for guest in [&wide, &narrow] {
        assert_eq!(rig.state(guest), "4");
    }
    let (of_wide, of_narrow) = (wide.page.grant_ref(), narrow.page.grant_ref());
    let mut wide_flood = Flood::new(wide_rings, |id| read(id, 0, of_wide));
    let mut narrow_flood = Flood::new(vec![narrow_ring], |id| read(id, 8, of_narrow));
    let mut by_queue = vec![0; QUEUES as usize];
    for _ in 0..TURNS {
        let answers = wide_flood.refill();
        by_queue
            .iter_mut()
            .zip(answers)
            .for_each(|(sum, n)| *sum += n);
        narrow_flood.refill();
        rig.service.poll(BUDGET, rig.now);
        rig.service.serve(BUDGET, rig.now);
    }
    let (wide_reads, narrow_reads) = (reads(&rig, 7), reads(&rig, 8));
    assert!(
        narrow_reads * 10 >= wide_reads * 9,
        "{narrow_reads} with one ring, {wide_reads} with {QUEUES}"
    );
    // Nobody's budget is left unused, and the rings of one device share theirs.
    assert!(wide_reads >= TURNS * u64::from(BUDGET), "{wide_reads}");
    let (least, most) = (by_queue.iter().min(), by_queue.iter().max());
    let (least, most) = (*least.expect("rings"), *most.expect("rings"));
    assert!(
        most <= least + 4 * u64::from(BUDGET),
        "{by_queue:?} of {QUEUES} rings"
    );
}

#[test]
fn large_requests_count_for_what_they_move() {
    const SEGMENTS: u16 = 64;
    let mut rig = Rig::new();
    let mut large = rig.attach(7, 51712, "w");
    let mut small = rig.attach(8, 51712, "w");
    rig.settle();
    let large_ring = large.publish_ring(0, Abi::Native);
    let small_ring = small.publish_ring(0, Abi::Native);
    for guest in [&mut large, &mut small] {
        guest.set("state", "3");
    }
    rig.settle();
    let table = large.sim.alloc(BACK, Access::ReadWrite).expect("a page");
    let (of_large, of_small) = (large.page.grant_ref(), small.page.grant_ref());
    write_segments(&table, 0, &[(of_large, 0, 7); SEGMENTS as usize]);
    let table = [table.grant_ref()];
    let mut large_flood = Flood::new(vec![large_ring], |id| {
        indirect(id, Op::READ, 0, SEGMENTS, &table)
    });
    let mut small_flood = Flood::new(vec![small_ring], |id| read(id, 8, of_small));
    for _ in 0..TURNS {
        large_flood.refill();
        small_flood.refill();
        rig.service.poll(BUDGET, rig.now);
        rig.service.serve(BUDGET, rig.now);
    }
    let (large_reads, small_reads) = (reads(&rig, 7), reads(&rig, 8));
    // Each moves 256 KiB, which counts as four.
    assert!(large_reads > 0);
    assert!(
        large_reads * 3 <= small_reads,
        "{large_reads} large ones, {small_reads} small ones"
    );
}
