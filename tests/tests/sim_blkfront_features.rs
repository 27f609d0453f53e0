//! What a backend may offer to a frontend, taken up and withdrawn.

use ringfence_blkfront::{Discards, Event, IoError, Op, Reason};
use ringfence_core::wire::blkif::{DISCARD_SECURE, Op as WireOp, Status};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{PAGE, Sector, SectorCount};
use ringfence_tests::blkfront_rig::{Rig, response};

/// Connected to a backend that says this of its disk besides the usual.
fn offering(nodes: &[(&str, &str)]) -> Rig {
    let mut rig = Rig::new();
    rig.published();
    rig.describe();
    for (name, value) in nodes {
        rig.node(name, value);
    }
    rig.state(XenbusState::Connected);
    let events = rig.events();
    assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
    rig
}

#[test]
fn a_disk_that_grows_can_be_used_at_once() {
    let mut rig = Rig::connected();
    let buffer = rig.front.buffer(1).expect("pages enough");
    let rejected = rig.front.submit(Op::Write, Sector::new(2048), buffer);
    let buffer = rejected.expect_err("beyond the end").buffer;
    rig.disk.resize(4096 * 512, 0);
    rig.node("sectors", "4096");
    rig.state(XenbusState::Connected);
    let events = rig.events();
    let [Event::Resized(info)] = events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(info.sectors.get(), 4096);
    assert_eq!(rig.front.info(), Some(info));
    rig.front
        .submit(Op::Write, Sector::new(2048), buffer)
        .expect("within the disk");
    rig.front.kick().expect("a live world");
    rig.serve();
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!(done.result, Ok(()));
    // The same again is no news.
    rig.state(XenbusState::Connected);
    assert_eq!(rig.events(), []);
}

#[test]
fn a_size_that_changes_while_the_device_closes_is_no_news() {
    let mut rig = Rig::connected();
    rig.front.flush().expect("room");
    rig.front.kick().expect("a live world");
    rig.front.close();
    assert_eq!(rig.events(), [Event::Closing]);
    rig.node("sectors", "4096");
    assert_eq!(rig.events(), []);
}

#[test]
fn discards_carry_their_flag_and_keep_no_buffer() {
    let mut rig = Rig::connected();
    let info = rig.front.info().expect("connected");
    let offered = Discards {
        granularity: 4096,
        alignment: 0,
        secure: true,
    };
    assert_eq!(info.discard, Some(offered));
    for secure in [false, true] {
        let tag = rig
            .front
            .discard(Sector::new(9), SectorCount::new(100), secure);
        let tag = tag.expect("room");
        rig.front.kick().expect("a live world");
        let request = rig.take_all();
        let discard = request.discard();
        assert_eq!(discard.operation, WireOp::DISCARD);
        assert_eq!(discard.flag, if secure { DISCARD_SECURE } else { 0 });
        assert_eq!((discard.sector_number, discard.nr_sectors), (9, 100));
        rig.peer()
            .answer(response(request.id, WireOp::DISCARD, Status::OKAY));
        let done = rig.front.reap().expect("honest").expect("answered");
        assert_eq!((done.tag, done.result), (tag, Ok(())));
        assert!(done.buffer.is_none());
    }
}

#[test]
fn what_is_not_offered_is_not_asked_for() {
    let mut rig = offering(&[
        ("feature-barrier", "0"),
        ("feature-discard", "1"),
        ("discard-secure", "0"),
        ("discard-granularity", "0"),
    ]);
    let info = rig.front.info().expect("connected");
    assert_eq!(info.discard.map(|discard| discard.granularity), Some(512));
    let secure = rig.front.discard(Sector::new(0), SectorCount::new(8), true);
    assert_eq!(secure, Err(Reason::Unsupported));
    let buffer = rig.front.buffer(1).expect("pages enough");
    let rejected = rig.front.submit(Op::Barrier, Sector::new(0), buffer);
    assert_eq!(rejected.map_err(|r| r.reason), Err(Reason::Unsupported));
    let mut rig = offering(&[("feature-discard", "0")]);
    assert_eq!(rig.front.info().and_then(|info| info.discard), None);
    let plain = rig
        .front
        .discard(Sector::new(0), SectorCount::new(8), false);
    assert_eq!(plain, Err(Reason::Unsupported));
    let mut rig = offering(&[("info", "4")]);
    let plain = rig
        .front
        .discard(Sector::new(0), SectorCount::new(8), false);
    assert_eq!(plain, Err(Reason::ReadOnly));
}

#[test]
fn what_a_backend_says_it_cannot_do_is_withdrawn() {
    let mut rig = Rig::connected();
    let buffer = rig.front.buffer(1).expect("pages enough");
    let whole = (Sector::new(0), SectorCount::new(8));
    rig.front
        .submit(Op::Barrier, whole.0, buffer)
        .expect("room");
    rig.front.flush().expect("room");
    rig.front.discard(whole.0, whole.1, true).expect("room");
    rig.front.kick().expect("a live world");
    rig.take_all();
    for request in std::mem::take(&mut rig.seen) {
        let answer = response(request.id, request.operation, Status::EOPNOTSUPP);
        rig.peer().answer(answer);
        let done = rig.front.reap().expect("honest").expect("answered");
        assert_eq!(done.result, Err(IoError::Unsupported));
    }
    let info = rig.front.info().expect("connected");
    let discard = info.discard.map(|discard| discard.secure);
    assert_eq!(
        (info.barrier, info.flush, discard),
        (false, false, Some(false))
    );
    rig.front
        .discard(whole.0, whole.1, false)
        .expect("the plain one is left");
}

#[test]
fn a_barrier_writes_its_buffer() {
    let mut rig = Rig::connected();
    let mut buffer = rig.front.buffer(2).expect("pages enough");
    buffer.write_at(PAGE - 2, b"over").expect("it fits");
    rig.front
        .submit(Op::Barrier, Sector::new(16), buffer)
        .expect("room");
    rig.front.kick().expect("a live world");
    rig.serve();
    assert_eq!(rig.seen[0].operation, WireOp::WRITE_BARRIER);
    assert_eq!(&rig.disk[16 * 512 + PAGE - 2..][..4], b"over");
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!((done.op, done.result), (Op::Barrier, Ok(())));
}
