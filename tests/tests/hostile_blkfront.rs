//! What backends can do to a disk's frontend with ring, pages and events: rows of `docs/threats.md`, with a backend that keeps no
//! rule. What they can do with nodes is in a file of its own.

use std::time::Duration;

use ringfence_blkfront::{Buffer, Event, Fault, IoError, Op, PeerFault, Reason, Serviced, Tag};
use ringfence_core::platform::{Access, Channel, Platform};
use ringfence_core::wire::blkif::{Op as WireOp, RequestNative, ResponseNative, Status};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{GrantRef, PAGE, Sector, SharedMem};
use ringfence_sim::{Sim, SimMapping};
use ringfence_tests::blkfront_rig::{BACK, ERROR, FRONT, Rig, response};

const SENTINEL: u8 = 0xA5;

fn buffer(rig: &Rig) -> Buffer<Sim> {
    rig.front.buffer(1).expect("pages enough")
}

fn submit(rig: &mut Rig, op: Op, sector: u64) -> Tag {
    let buffer = buffer(rig);
    let tag = rig.front.submit(op, Sector::new(sector), buffer);
    rig.front.kick().expect("a live world");
    tag.expect("room")
}

/// A read the backend has seen.
fn in_flight(rig: &mut Rig) -> RequestNative {
    submit(rig, Op::Read, 0);
    rig.take_all()
}

/// The backend lies; the device must be off for good, and go through all states.
fn lie(rig: &mut Rig, answer: ResponseNative) -> PeerFault {
    rig.peer().answer(answer);
    disabled(rig)
}

fn disabled(rig: &mut Rig) -> PeerFault {
    let open = rig.front.in_flight();
    let fault = rig.front.reap().expect_err("a lie");
    assert_eq!(rig.front.reap().expect_err("latched"), fault);
    assert_eq!(rig.front.flush(), Err(Reason::NotConnected));
    assert_eq!(rig.events(), [Event::Failed(Fault::Peer(fault))]);
    assert_eq!(rig.get(ERROR), format!("22 {fault}"));
    assert_eq!(rig.front_state(), "6");
    // The backend may still write to what was in flight.
    assert_eq!(rig.front.in_flight(), open);
    rig.close_back();
    assert_eq!(rig.events(), [Event::Disconnected, Event::Closed]);
    for _ in 0..open {
        let over = rig.front.reap().expect("handed back").expect("one each");
        assert_eq!(over.result, Err(IoError::Aborted));
    }
    assert_eq!(rig.world.usage(FRONT).granted, 0, "pages were left behind");
    // It does not come back by itself.
    rig.state(XenbusState::InitWait);
    assert_eq!(rig.events(), []);
    assert_eq!(rig.front_state(), "6");
    fault
}

#[test]
fn xsa_376_id_beyond_the_ring() {
    for beyond in [32, 33, 255, u64::from(u32::MAX)] {
        let mut rig = Rig::connected();
        let id = in_flight(&mut rig).id + beyond;
        let fault = lie(&mut rig, response(id, WireOp::READ, Status::OKAY));
        assert!(
            matches!(fault, PeerFault::IdOutOfRange { id: got, .. } if got == id),
            "{fault}"
        );
    }
}

#[test]
fn xsa_376_id_never_in_flight() {
    for id in [1, 31, 1 << 32, u64::MAX << 32] {
        let mut rig = Rig::connected();
        assert_eq!(in_flight(&mut rig).id, 0);
        let fault = lie(&mut rig, response(id | 1, WireOp::READ, Status::OKAY));
        assert_eq!(fault, PeerFault::NotInFlight { id: id | 1 });
    }
}

#[test]
fn xsa_376_same_id_twice() {
    let mut rig = Rig::connected();
    let first = in_flight(&mut rig);
    in_flight(&mut rig);
    let answer = response(first.id, WireOp::READ, Status::OKAY);
    rig.peer().answer(answer);
    let done = rig.front.reap().expect("honest so far").expect("answered");
    assert_eq!((done.tag.get(), done.result), (first.id, Ok(())));
    drop(done);
    let fault = lie(&mut rig, answer);
    assert_eq!(fault, PeerFault::NotInFlight { id: first.id });
}

#[test]
fn xsa_376_stale_id_of_a_slot_in_use_again() {
    let mut rig = Rig::connected();
    let first = in_flight(&mut rig);
    let answer = response(first.id, WireOp::READ, Status::OKAY);
    rig.peer().answer(answer);
    rig.front.reap().expect("honest so far").expect("answered");
    let second = in_flight(&mut rig);
    assert_eq!(second.id as u32, first.id as u32, "the slot is used again");
    let fault = lie(&mut rig, answer);
    assert_eq!(fault, PeerFault::NotInFlight { id: first.id });
}

#[test]
fn xsa_376_stale_id_not_published_yet() {
    let mut rig = Rig::connected();
    in_flight(&mut rig);
    let hidden = rig.front.flush().expect("room").get();
    let fault = lie(
        &mut rig,
        response(hidden, WireOp::FLUSH_DISKCACHE, Status::OKAY),
    );
    assert_eq!(fault, PeerFault::NotInFlight { id: hidden });
}

#[test]
fn xsa_376_operation_that_was_not_asked_for() {
    for got in [
        WireOp::WRITE,
        WireOp::FLUSH_DISKCACHE,
        WireOp::INDIRECT,
        WireOp(255),
    ] {
        let mut rig = Rig::connected();
        let id = in_flight(&mut rig).id;
        let fault = lie(&mut rig, response(id, got, Status::OKAY));
        let sent = WireOp::READ;
        assert_eq!(fault, PeerFault::Operation { id, sent, got });
    }
}

/// A read of 16 pages that the backend has seen, in one request or in two.
fn long(indirect: &str) -> (Rig<32, 16>, RequestNative) {
    let mut rig = Rig::with_limits();
    rig.published();
    rig.describe();
    rig.node("feature-max-indirect-segments", indirect);
    rig.state(XenbusState::Connected);
    rig.events();
    let buffer = rig.front.buffer(16).expect("pages enough");
    let submitted = rig.front.submit(Op::Read, Sector::new(0), buffer);
    submitted.expect("room");
    rig.front.kick().expect("a live world");
    let request = rig.take_all();
    (rig, request)
}

#[test]
fn xsa_376_operation_of_an_indirect_request() {
    for (got, honest) in [
        (WireOp::READ, true),
        (WireOp::INDIRECT, true),
        (WireOp::WRITE, false),
        (WireOp::DISCARD, false),
    ] {
        let (mut rig, request) = long("256");
        assert_eq!(request.operation, WireOp::INDIRECT);
        let id = request.id;
        rig.peer().answer(response(id, got, Status::OKAY));
        let reaped = rig.front.reap().map(|done| done.map(|done| done.result));
        let sent = WireOp::READ;
        let lie = PeerFault::Operation { id, sent, got };
        assert_eq!(reaped, if honest { Ok(Some(Ok(()))) } else { Err(lie) });
    }
}

#[test]
fn xsa_376_stale_id_of_a_piece() {
    let (mut rig, request) = long("0");
    let answer = response(request.id, WireOp::READ, Status::OKAY);
    rig.peer().answer(answer);
    assert!(rig.front.reap().expect("honest").is_none());
    let second = rig.take_all();
    assert_eq!(second.id as u32, request.id as u32, "the slot is the same");
    rig.peer().answer(answer);
    let fault = rig.front.reap().expect_err("a lie");
    assert_eq!(fault, PeerFault::NotInFlight { id: request.id });
}

#[test]
fn xsa_376_status_that_does_not_exist() {
    for status in [1, -3, i16::MAX, i16::MIN].map(Status) {
        let mut rig = Rig::connected();
        let id = in_flight(&mut rig).id;
        let fault = lie(&mut rig, response(id, WireOp::READ, status));
        assert_eq!(fault, PeerFault::Status { id, status });
    }
}

#[test]
fn xsa_376_index_ahead_or_backwards() {
    for (answered, claims) in [(0, 2), (0, 33), (0, 1 << 31), (0, u32::MAX), (1, 0)] {
        let mut rig = Rig::connected();
        let request = in_flight(&mut rig);
        if answered == 1 {
            let answer = response(request.id, request.operation, Status::OKAY);
            rig.peer().answer(answer);
            rig.front.reap().expect("honest so far").expect("answered");
            in_flight(&mut rig);
        }
        rig.peer().publish(claims);
        let fault = disabled(&mut rig);
        assert!(matches!(fault, PeerFault::Ring(_)), "{fault}");
    }
}

/// The shadow is private: whatever happens to the shared page, the answer is judged by what was asked.
#[test]
fn xsa_155_requests_are_not_read_back() {
    let mut rig = Rig::connected();
    let tag = submit(&mut rig, Op::Write, 8);
    let request = rig.take_all();
    let page = rig.peer().page.clone();
    page.write(64, &[0xFF; 32 * 112]);
    page.store_u32(0, 0xDEAD_BEEF);
    rig.peer()
        .answer(response(request.id, WireOp::WRITE, Status::OKAY));
    // The slot holds the response now; the rest of the page is still nonsense.
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!((done.tag, done.op, done.result), (tag, Op::Write, Ok(())));
    submit(&mut rig, Op::Read, 16);
    assert_eq!(page.load_u32(0), 2, "published from what we remember");
}

/// Maps a page of the request's and keeps it.
fn keep(rig: &Rig, request: &RequestNative) -> SimMapping {
    let gref = GrantRef::new(request.seg[0].gref);
    let kept = rig.back.map(FRONT, &[gref], Access::ReadWrite);
    kept.expect("a page of a request")
}

#[test]
fn xsa_396_page_mapped_after_the_answer() {
    let mut rig = Rig::connected();
    let request = in_flight(&mut rig);
    let kept = keep(&rig, &request);
    let answer = response(request.id, request.operation, Status::OKAY);
    rig.peer().answer(answer);
    let done = rig.front.reap().expect("honest").expect("answered");
    drop(done);
    assert_eq!(rig.world.usage(FRONT).quarantined, 1);
    in_flight(&mut rig);
    assert_ne!(rig.take_all().seg[0].gref, request.seg[0].gref);
    drop(kept);
    assert_eq!(rig.world.usage(FRONT).quarantined, 0);
}

#[test]
fn xsa_396_handed_back_only_after_the_unmap() {
    let mut rig = Rig::connected();
    rig.front.set_replay(false);
    let request = in_flight(&mut rig);
    let other = submit(&mut rig, Op::Write, 8);
    let kept = keep(&rig, &request);
    // Says that it let go, and did not.
    rig.close_back();
    let events = rig.events();
    assert_eq!(events, [Event::Closing, Event::Disconnected]);
    let over = rig
        .front
        .reap()
        .expect("no lie on the ring")
        .expect("let go");
    assert_eq!((over.tag, over.result), (other, Err(IoError::Aborted)));
    assert!(rig.front.reap().expect("no lie").is_none(), "still mapped");
    assert_eq!(rig.front.in_flight(), 1);
    // It connects again meanwhile, and the page stays where it is.
    rig.connect();
    assert_eq!(rig.front.free(), 31);
    assert_ne!(in_flight(&mut rig).seg[0].gref, request.seg[0].gref);
    kept.write(0, &[SENTINEL; 16]);
    drop(kept);
    let over = rig.front.reap().expect("no lie").expect("let go");
    assert_eq!(
        (over.tag.get(), over.result),
        (request.id, Err(IoError::Aborted))
    );
    let back = over.buffer.expect("a read has one");
    let rejected = rig.front.submit(Op::Read, Sector::new(0), back);
    let reason = rejected.map_err(|rejected| rejected.reason);
    assert_eq!(reason, Err(Reason::ForeignBuffer { peer: BACK }));
}

/// The old backend says that it let go of the pages, did not, and writes to them.
#[test]
fn xsa_396_repeated_with_other_pages() {
    let mut rig = Rig::connected();
    let mut buffer = buffer(&rig);
    buffer.write_at(0, &[1; PAGE]).expect("it fits");
    let submitted = rig.front.submit(Op::Write, Sector::new(0), buffer);
    submitted.expect("room");
    rig.front.kick().expect("a live world");
    let old = rig.take_all();
    let kept = keep(&rig, &old);
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    rig.connect();
    kept.write(0, &[SENTINEL; PAGE]);
    assert_eq!(rig.world.usage(FRONT).quarantined, 1);
    rig.serve();
    assert_ne!(rig.seen[1].seg[0].gref, old.seg[0].gref);
    assert_eq!(rig.disk[..PAGE], [1; PAGE], "what was submitted");
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!((done.tag.get(), done.result), (old.id, Ok(())));
    drop(kept);
    assert_eq!(rig.world.usage(FRONT).quarantined, 0);
}

/// The same between two pieces of a request: one is answered while the device closes, and the next is on no ring.
#[test]
fn xsa_396_repeated_between_pieces() {
    let mut rig = Rig::<32, 12>::with_limits();
    rig.connect();
    let mut buffer = rig.front.buffer(12).expect("pages enough");
    buffer.write_at(0, &[1; 12 * PAGE]).expect("it fits");
    let submitted = rig.front.submit(Op::Write, Sector::new(0), buffer);
    submitted.expect("room");
    rig.front.kick().expect("a live world");
    rig.state(XenbusState::Closing);
    assert_eq!(rig.events(), [Event::Closing]);
    let first = rig.take_all();
    // Whoever guesses references guesses that of the page of the next piece.
    let next = GrantRef::new(first.seg[10].gref + 1);
    let kept = rig.back.map(FRONT, &[next], Access::ReadWrite);
    let kept = kept.expect("a granted page");
    rig.transfer(&first);
    rig.peer()
        .answer(response(first.id, first.operation, Status::OKAY));
    assert!(rig.front.reap().expect("honest").is_none());
    rig.close_back();
    assert_eq!(rig.events(), [Event::Disconnected]);
    rig.connect();
    kept.write(0, &[SENTINEL; PAGE]);
    assert_eq!(rig.world.usage(FRONT).quarantined, 1);
    rig.serve();
    assert_ne!(rig.seen[1].seg[0].gref, next.get());
    assert_eq!(rig.disk[..12 * PAGE], [1; 12 * PAGE], "what was submitted");
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!((done.tag.get(), done.result), (first.id, Ok(())));
}

/// An answer to the id that a request had on the ring of an earlier connection.
#[test]
fn xsa_376_stale_id_of_an_earlier_connection() {
    let mut rig = Rig::connected();
    let old = in_flight(&mut rig).id;
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    rig.connect();
    assert_ne!(rig.take_all().id, old);
    let fault = lie(&mut rig, response(old, WireOp::READ, Status::OKAY));
    assert_eq!(fault, PeerFault::NotInFlight { id: old });
}

#[test]
fn xsa_396_ring_page_mapped_after_the_close() {
    let mut rig = Rig::connected();
    let old = rig.get("/local/domain/1/device/vbd/51712/ring-ref");
    let kept = rig.peer().mapping.take();
    rig.close_back();
    assert_eq!(rig.events(), [Event::Closing, Event::Disconnected]);
    assert_eq!(rig.world.usage(FRONT).quarantined, 1);
    rig.connect();
    assert_ne!(rig.get("/local/domain/1/device/vbd/51712/ring-ref"), old);
    drop(kept);
    assert_eq!(rig.world.usage(FRONT).quarantined, 0);
}

#[test]
fn xsa_396_frontend_dropped_with_everything_mapped() {
    let mut rig = Rig::connected();
    let request = in_flight(&mut rig);
    let kept = keep(&rig, &request);
    let Rig {
        front, world, peer, ..
    } = rig;
    drop(front);
    let usage = world.usage(FRONT);
    assert_eq!((usage.granted, usage.quarantined), (0, 2));
    drop((kept, peer));
    assert_eq!(world.usage(FRONT).quarantined, 0);
}

#[test]
fn xsa_391_a_storm_without_work_is_slowed_down() {
    let mut rig = Rig::connected();
    let mut asked = Vec::new();
    for _ in 0..100 {
        rig.peer().channel.notify().expect("a live world");
        assert!(rig.front.take_event().expect("a live world"));
        assert!(rig.front.reap().expect("no lie").is_none());
        if let Serviced::Spurious(delay) = rig.front.serviced().expect("a live world") {
            asked.push(delay);
            rig.front.unmask().expect("a live world");
        }
    }
    assert!(asked.len() >= 90, "{} of 100 were delayed", asked.len());
    assert!(asked.is_sorted());
    assert_eq!(asked.first(), Some(&Duration::from_millis(1)));
    assert_eq!(asked.last(), Some(&Duration::from_secs(1)));
    assert_eq!(rig.front.counters().spurious, 100);
    // Work ends it.
    submit(&mut rig, Op::Read, 0);
    rig.serve();
    assert!(rig.front.take_event().expect("a live world"));
    rig.front.reap().expect("no lie").expect("answered");
    let serviced = rig.front.serviced().expect("a live world");
    assert_eq!(serviced, Serviced::Unmasked);
}
