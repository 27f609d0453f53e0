//! Rings of several pages, requests of many, persistent grants: where they are offered, and where they are not.

use std::collections::BTreeSet;

use ringfence_blkfront::{Event, IoError, Op, Reason};
use ringfence_core::wire::blkif::{Op as WireOp, Status};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{PAGE, Sector};
use ringfence_tests::blkfront_rig::{FRONT, FRONT_DIR, Rig, echo, response};

/// Room for requests of 40 pages.
type Large = Rig<64, 40>;

/// Connected to a backend that says this before its ring comes, and this of its disk.
fn offering<const DEPTH: usize, const PAGES: usize>(
    before: &[(&str, &str)],
    after: &[(&str, &str)],
) -> Rig<DEPTH, PAGES> {
    let mut rig = Rig::with_limits();
    rig.front.set_persistent(true);
    reconnect(&mut rig, before, after);
    rig
}

fn reconnect<const DEPTH: usize, const PAGES: usize>(
    rig: &mut Rig<DEPTH, PAGES>,
    before: &[(&str, &str)],
    after: &[(&str, &str)],
) {
    for (name, value) in before {
        rig.node(name, value);
    }
    rig.published();
    rig.describe();
    for (name, value) in after {
        rig.node(name, value);
    }
    rig.state(XenbusState::Connected);
    let events = rig.events();
    assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
}

const INDIRECT: (&str, &str) = ("feature-max-indirect-segments", "256");

/// Bytes that are all different from page to page and sector to sector.
fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| ((at / 512) * 7 + at + seed * 31) as u8)
        .collect()
}

/// Writes `pages` pages and reads them back; how many requests that took each way.
fn there_and_back(rig: &mut Large, pages: usize, sectors: usize) -> (usize, usize) {
    let data = pattern(sectors * 512, pages);
    let mut counts = [0; 2];
    let mut buffer = rig.front.buffer(pages).expect("pages enough");
    buffer.set_len(data.len()).expect("it fits");
    buffer.write_at(0, &data).expect("it fits");
    for (op, count) in [Op::Write, Op::Read].into_iter().zip(&mut counts) {
        let tag = rig.front.submit(op, Sector::new(24), buffer).expect("room");
        rig.front.kick().expect("a live world");
        rig.seen.clear();
        let done = loop {
            rig.serve();
            if let Some(done) = rig.front.reap().expect("honest") {
                break done;
            }
        };
        *count = rig.seen.len();
        assert_eq!((done.tag, done.op, done.result), (tag, op, Ok(())));
        assert_eq!(&rig.disk[24 * 512..][..data.len()], data);
        buffer = done.buffer.expect("a transfer has one");
        let mut back = vec![0; data.len()];
        buffer.read_at(0, &mut back).expect("in range");
        assert_eq!(back, data);
        buffer
            .write_at(0, &vec![0xEE; data.len()])
            .expect("it fits");
    }
    assert!(rig.front.reap().expect("honest").is_none());
    assert_eq!(rig.front.in_flight(), 0);
    (counts[0], counts[1])
}

#[test]
fn a_large_ring_holds_as_many_requests_as_it_has_entries() {
    for (offer, entries) in [
        ("0", 32),
        ("1", 64),
        ("2", 128),
        ("3", 256),
        ("4", 256),
        ("31", 256),
    ] {
        let mut rig: Rig<256> = offering(&[("max-ring-page-order", offer)], &[]);
        assert_eq!(rig.peer().slots(), entries, "{offer}");
        let order = (entries / 32).trailing_zeros();
        let name = |name: &str| format!("{FRONT_DIR}/{name}");
        let (ring_ref, pages) = (rig.get(&name("ring-ref")), rig.get(&name("num-ring-pages")));
        assert_eq!(
            rig.get(&name("ring-page-order")),
            if order > 0 {
                order.to_string()
            } else {
                String::new()
            }
        );
        assert_eq!(
            pages,
            if order > 0 {
                (1 << order).to_string()
            } else {
                String::new()
            }
        );
        assert_eq!(ring_ref.is_empty(), order > 0);
        // Three times round, through all slots, those across two pages too.
        for round in 0..3 {
            for n in 0..entries {
                let mut buffer = rig.front.buffer(1).expect("pages enough");
                buffer.set_len(512).expect("a sector");
                buffer
                    .write_at(0, &[round as u8 ^ n as u8; 512])
                    .expect("it fits");
                let sector = Sector::new(u64::from(n * 5 % 2048));
                rig.front.submit(Op::Write, sector, buffer).expect("room");
            }
            let buffer = rig.front.buffer(1).expect("pages enough");
            let rejected = rig.front.submit(Op::Read, Sector::new(0), buffer);
            assert!(matches!(
                rejected.map_err(|r| r.reason),
                Err(Reason::Full { .. })
            ));
            rig.front.kick().expect("a live world");
            rig.serve();
            let mut tags = BTreeSet::new();
            while let Some(done) = rig.front.reap().expect("honest") {
                assert_eq!(done.result, Ok(()));
                assert!(tags.insert(done.tag));
            }
            assert_eq!(tags.len(), entries as usize);
            for n in 0..entries {
                let at = (n * 5 % 2048) as usize * 512;
                assert_eq!(rig.disk[at], round as u8 ^ n as u8);
            }
        }
        rig.front.close();
        rig.events();
        rig.close_back();
        rig.events();
        let usage = rig.world.usage(FRONT);
        assert_eq!((usage.granted, usage.quarantined), (0, 0));
    }
}

#[test]
fn the_old_name_of_large_rings_is_understood() {
    for (offer, entries) in [
        ("0", 32),
        ("1", 32),
        ("3", 64),
        ("8", 256),
        ("4294967295", 256),
    ] {
        let mut rig: Rig<256> = offering(&[("max-ring-pages", offer)], &[]);
        assert_eq!(rig.peer().slots(), entries, "{offer}");
    }
}

#[test]
fn a_long_request_is_one_where_the_backend_takes_it_and_several_elsewhere() {
    for (pages, sectors) in [(1, 8), (11, 88), (12, 89), (12, 96), (40, 320), (40, 313)] {
        let mut rig: Large = offering(&[], &[INDIRECT]);
        assert_eq!(rig.front.info().map(|info| info.max_pages), Some(40));
        assert_eq!(
            there_and_back(&mut rig, pages, sectors),
            (1, 1),
            "{sectors}"
        );
        let indirect = sectors > 88;
        assert_eq!(rig.seen[0].operation == WireOp::INDIRECT, indirect);
        let mut rig: Large = offering(&[], &[]);
        assert_eq!(rig.front.info().map(|info| info.max_pages), Some(11));
        let pieces = sectors.div_ceil(88);
        assert_eq!(there_and_back(&mut rig, pages, sectors), (pieces, pieces));
        let mut rig: Large = offering(&[], &[("feature-max-indirect-segments", "16")]);
        let pieces = sectors.div_ceil(128);
        assert_eq!(there_and_back(&mut rig, pages, sectors), (pieces, pieces));
    }
}

#[test]
fn a_piece_that_fails_ends_the_request() {
    let mut rig: Large = offering(&[], &[]);
    let buffer = rig.front.buffer(40).expect("pages enough");
    let tag = rig
        .front
        .submit(Op::Read, Sector::new(0), buffer)
        .expect("room");
    rig.front.kick().expect("a live world");
    for status in [Status::OKAY, Status::ERROR] {
        assert!(rig.front.reap().expect("honest").is_none());
        let request = rig.take_all();
        let answer = response(request.id, echo(&request), status);
        rig.peer().answer(answer);
    }
    let done = rig.front.reap().expect("honest").expect("over");
    assert_eq!((done.tag, done.result), (tag, Err(IoError::Failed)));
    assert_eq!(rig.seen.len(), 2);
}

#[test]
fn what_is_in_flight_moves_to_smaller_rings_and_requests() {
    let mut rig: Large = offering(&[("max-ring-page-order", "4")], &[INDIRECT]);
    let mut tags = BTreeSet::new();
    for n in 0..48 {
        let mut buffer = rig.front.buffer(40).expect("pages enough");
        buffer.write_at(0, &pattern(40 * PAGE, n)).expect("it fits");
        let sector = Sector::new(n as u64 % 6 * 320);
        tags.insert(rig.front.submit(Op::Write, sector, buffer).expect("room"));
    }
    rig.front.kick().expect("a live world");
    assert_eq!(rig.take_all().operation, WireOp::INDIRECT);
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    reconnect(
        &mut rig,
        &[("max-ring-page-order", "0")],
        &[("feature-max-indirect-segments", "0")],
    );
    assert_eq!(rig.peer().slots(), 32);
    while !tags.is_empty() {
        rig.serve();
        while let Some(done) = rig.front.reap().expect("honest") {
            assert_eq!(done.result, Ok(()));
            assert!(tags.remove(&done.tag));
        }
    }
    assert!(
        rig.seen
            .iter()
            .skip(48)
            .all(|request| request.operation == WireOp::WRITE)
    );
    for n in 42..48 {
        let at = n % 6 * 320 * 512;
        assert_eq!(rig.disk[at..][..40 * PAGE], pattern(40 * PAGE, n));
    }
    assert_eq!(rig.front.counters().repeated, 48);
}

/// How the connection ends under a transfer whose first piece is answered.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    /// The second piece is on the ring.
    Open,
    /// It waits, for the device is closing.
    Closing,
    /// It waits for an older flush, and the guest is restored elsewhere.
    Restored,
}

#[test]
fn what_is_between_two_pieces_goes_on_with_other_pages_and_with_all_data() {
    for end in [End::Open, End::Closing, End::Restored] {
        for op in [Op::Read, Op::Write] {
            let mut rig: Large = offering(&[], &[]);
            let data = pattern(40 * PAGE, 5);
            let mut buffer = rig.front.buffer(40).expect("pages enough");
            if op == Op::Write {
                buffer.write_at(0, &data).expect("it fits");
            } else {
                rig.disk[..data.len()].copy_from_slice(&data);
            }
            let flush = (end == End::Restored).then(|| rig.front.flush().expect("room"));
            let tag = rig.front.submit(op, Sector::new(0), buffer).expect("room");
            rig.front.kick().expect("a live world");
            if end == End::Closing {
                rig.state(XenbusState::Closing);
                assert_eq!(rig.events(), [Event::Closing]);
            }
            let first = rig.take_all();
            rig.transfer(&first);
            rig.peer()
                .answer(response(first.id, first.operation, Status::OKAY));
            assert!(rig.front.reap().expect("honest").is_none());
            let on_ring = std::iter::from_fn(|| rig.peer().take()).count();
            assert_eq!(on_ring, usize::from(end == End::Open), "{end:?}");
            assert_eq!(rig.front.is_drained(), end == End::Closing);
            if end == End::Restored {
                rig.restored();
                rig.front.resume().expect("a short path");
            } else {
                rig.close_back();
                let events = rig.events();
                assert_eq!(events.last(), Some(&Event::Disconnected), "{events:?}");
            }
            rig.seen.clear();
            reconnect(&mut rig, &[], &[]);
            let mut over = Vec::new();
            while rig.front.in_flight() > 0 {
                rig.serve();
                over.extend(rig.front.reap().expect("honest"));
            }
            let whole = over.pop().expect("one each");
            assert_eq!(over.pop().map(|done| done.tag), flush);
            assert_eq!((whole.tag, whole.result), (tag, Ok(())), "{end:?} {op:?}");
            let mut back = vec![0; data.len()];
            let buffer = whole.buffer.expect("a transfer has one");
            buffer.read_at(0, &mut back).expect("in range");
            assert!(back == data, "{end:?} {op:?}: the buffer");
            assert!(rig.disk[..data.len()] == data, "{end:?} {op:?}: the disk");
            let asked = 1 + u64::from(flush.is_some());
            assert_eq!(rig.front.counters().repeated, asked, "{end:?} {op:?}");
            drop(buffer);
            let usage = rig.world.usage(FRONT);
            assert_eq!((usage.granted, usage.quarantined), (1, 0));
        }
    }
}

#[test]
fn a_barrier_is_never_cut() {
    let mut rig: Large = offering(&[], &[INDIRECT]);
    let buffer = rig.front.buffer(12).expect("pages enough");
    let rejected = rig.front.submit(Op::Barrier, Sector::new(0), buffer);
    let rejected = rejected.expect_err("too long");
    assert!(matches!(rejected.reason, Reason::Barrier { .. }));
    let mut buffer = rejected.buffer;
    buffer.set_len(11 * PAGE).expect("shorter");
    rig.front
        .submit(Op::Barrier, Sector::new(0), buffer)
        .expect("room");
    rig.front.kick().expect("a live world");
    assert_eq!(rig.take_all().operation, WireOp::WRITE_BARRIER);
}

#[test]
fn persistent_grants_are_used_again_and_need_both_sides() {
    let node = format!("{FRONT_DIR}/feature-persistent");
    let mut rig: Large = offering(&[], &[INDIRECT]);
    assert_eq!(rig.get(&node), "1");
    assert_eq!(rig.front.info().map(|info| info.persistent), Some(true));
    let mut buffer = rig.front.buffer(40).expect("pages enough");
    let mut grants = BTreeSet::new();
    for round in 0..20 {
        let op = if round % 2 == 0 { Op::Write } else { Op::Read };
        rig.front
            .submit(op, Sector::new(round * 8), buffer)
            .expect("room");
        rig.front.kick().expect("a live world");
        rig.serve();
        let request = *rig.seen.last().expect("served");
        grants.extend(rig.segments(&request).iter().map(|segment| segment.gref));
        grants.insert(request.indirect().indirect_grefs[0]);
        let done = rig.front.reap().expect("honest").expect("answered");
        buffer = done.buffer.expect("a transfer has one");
    }
    assert_eq!(grants.len(), 41, "forty pages and the list of them");
    let info = |rig: &Large| rig.front.info().map(|info| info.persistent);
    let rig: Large = offering(&[], &[("feature-persistent", "0")]);
    assert_eq!(info(&rig), Some(false));
    let mut rig = Large::with_limits();
    reconnect(&mut rig, &[], &[]);
    assert_eq!((rig.get(&node), info(&rig)), (String::new(), Some(false)));
}

#[test]
fn pages_of_a_type_are_its_limit() {
    let mut rig: Large = offering(&[], &[]);
    let refused = rig.front.buffer(41).map_err(|error| error.to_string());
    assert_eq!(refused.err().as_deref(), Some("41 pages, not 1 to 40"));
    let before = rig.world.usage(FRONT).granted;
    let whole = rig.front.buffer(40).expect("pages enough");
    assert_eq!(rig.world.usage(FRONT).granted - before, 41);
    drop(whole);
    assert_eq!(rig.world.usage(FRONT).granted, before);
    rig.front.close();
}
