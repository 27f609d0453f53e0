//! The whole service dies and another takes its place: from its journals it goes on with what it had taken.

use ringfence_blkback::journal::{Journal as _, Plan, Queue};
use ringfence_blkback::sink::IoOp;
use ringfence_core::Words as _;
use ringfence_core::ids::{DomId, Sector};
use ringfence_core::platform::Granted;
use ringfence_core::wire::blkif::{Convention, Op};
use ringfence_ring::layout::HEADER;
use ringfence_ring::{Front, RingMem as _};
use ringfence_sim::Crash;
use ringfence_tests::blkback_rig::{BACK, Guest, Rig, backend_dir, read, write};

/// The first word after the header's fixed ones: the head of the first queue, and in it how far requests were taken.
const REQ_CONS: usize = 32 + 9;

fn rig() -> Rig {
    let rig = Rig::new();
    rig.disks.keep_journals();
    rig
}

/// A guest with so many writes at its disk, which keeps none that come later.
fn in_flight(rig: &mut Rig, front: u16, writes: u64) -> Guest {
    let guest = rig.in_flight(front, writes);
    rig.disks.of(&guest.back_dir).borrow_mut().hold = false;
    guest
}

#[test]
fn what_was_in_flight_is_answered_once_by_the_next_process() {
    let mut rig = rig();
    let mut guest = in_flight(&mut rig, 7, 8);
    let disk = rig.disks.of(&guest.back_dir);
    let before = disk.borrow().seen.len();
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(
        (rig.state(&guest).as_str(), rig.error(&guest)),
        ("4", String::new())
    );
    let mut ids: Vec<u64> = guest.answers().iter().map(|answer| answer.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..8).collect::<Vec<_>>());
    let again: Vec<IoOp> = disk.borrow().seen[before..]
        .iter()
        .map(|seen| seen.0)
        .collect();
    let wanted = (0..8).map(|id| IoOp::Write(ringfence_core::Sector::new(id * 8)));
    assert_eq!(
        again,
        wanted.collect::<Vec<_>>(),
        "in the order of the ring"
    );
    guest.round_trip(&mut rig, 5);
    // And once more, with nothing in flight.
    let mut rig = rig.restarted();
    guest.round_trip(&mut rig, 6);
}

#[test]
fn who_is_told_to_end_leaves_nothing_to_be_done_again() {
    let mut rig = rig();
    let mut guest = in_flight(&mut rig, 7, 5);
    let disk = rig.disks.of(&guest.back_dir);
    rig.service.stop();
    // Not taken any more.
    guest.push(&write(9, 80, guest.page.grant_ref()));
    guest.kick();
    rig.settle();
    disk.borrow_mut().release();
    rig.settle();
    assert_eq!(guest.answers().len(), 5);
    rig.service.flush();
    rig.settle();
    assert!(rig.service.is_idle());
    let left = Queue::new(rig.disks.journal_of(&guest.back_dir), 0);
    let rsp_prod = left.req_cons().expect("a journal");
    assert_eq!(rsp_prod.get(), 5);
    assert_eq!(left.found(32).plan(rsp_prod), Ok(Plan::default()));
    let before = disk.borrow().seen.len();
    assert_eq!(rig.state(&guest), "4");

    let mut rig = rig.restarted();
    rig.settle();
    let again: Vec<_> = disk.borrow().seen[before..].to_vec();
    let wanted = (IoOp::Write(ringfence_core::Sector::new(80)), 4096);
    assert_eq!(again, [wanted], "only what was not taken");
    let ids: Vec<u64> = guest.answers().iter().map(|answer| answer.id).collect();
    assert_eq!(ids, [9]);
}

#[test]
fn a_disk_that_a_dead_process_still_uses_keeps_nobody_waiting() {
    let mut rig = rig();
    let mut waiting = in_flight(&mut rig, 7, 2);
    let mut other = in_flight(&mut rig, 8, 2);
    let mut rig = rig.restarted();
    rig.disks.withhold(&waiting.back_dir, true);
    rig.settle();
    assert!(rig.service.awaits_disks());
    assert_eq!(rig.state(&waiting), "4", "nobody sees it");
    assert_eq!(other.answers().len(), 2);
    other.round_trip(&mut rig, 5);
    for last in [false, true] {
        assert!(waiting.answers().is_empty());
        rig.disks.withhold(&waiting.back_dir, !last);
        rig.service.ask_again();
        rig.settle();
    }
    assert!(!rig.service.awaits_disks());
    assert_eq!(waiting.answers().len(), 2);
    waiting.round_trip(&mut rig, 6);
}

#[test]
fn a_journal_that_cannot_be_ends_its_device_and_no_other() {
    let mut rig = rig();
    let attacked = in_flight(&mut rig, 7, 3);
    let mut bystander = in_flight(&mut rig, 8, 3);
    let kept = rig.disks.journal_of(&attacked.back_dir);
    kept.store(REQ_CONS, kept.load(REQ_CONS) ^ 0x55);
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(rig.state(&attacked), "5");
    let error = rig.error(&attacked);
    assert!(error.contains("req_cons"), "{error}");
    assert_eq!(rig.state(&bystander), "4");
    assert_eq!(bystander.answers().len(), 3);
    rig.recovers(attacked, bystander);
}

#[test]
fn a_journal_of_another_connection_is_not_gone_on_with() {
    // The device, the image.
    for word in [3, 5] {
        let mut rig = rig();
        let mut guest = in_flight(&mut rig, 7, 2);
        let kept = rig.disks.journal_of(&guest.back_dir);
        kept.store(word, kept.load(word) ^ 1);
        let mut rig = rig.restarted();
        rig.settle();
        assert_eq!(rig.state(&guest), "5", "word {word}");
        let error = rig.error(&guest);
        assert!(error.contains("is not that of the nodes"), "{error}");
        assert!(guest.answers().is_empty());
    }
}

#[test]
fn a_journal_of_another_ring_is_dropped() {
    let mut rig = rig();
    let mut guest = in_flight(&mut rig, 7, 2);
    let disk = rig.disks.of(&guest.back_dir);
    // As a frontend does that is resumed, or bound again, while nobody is here: its state is 4 before anybody sees it.
    guest.publish();
    let mut rig = rig.restarted();
    let before = disk.borrow().seen.len();
    rig.settle();
    assert_eq!(
        (rig.state(&guest).as_str(), rig.error(&guest)),
        ("4", String::new())
    );
    assert_eq!(disk.borrow().seen.len(), before, "nothing is done again");
    assert!(guest.answers().is_empty());
    guest.round_trip(&mut rig, 5);
    // The journal is about the new ring now.
    disk.borrow_mut().hold = true;
    guest.push(&write(9, 80, guest.page.grant_ref()));
    guest.kick();
    rig.settle();
    disk.borrow_mut().hold = false;
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(guest.answers().len(), 1);
    guest.round_trip(&mut rig, 6);
}

#[test]
fn a_journal_of_another_ring_in_the_same_place_is_dropped() {
    let mut rig = rig();
    let mut guest = in_flight(&mut rig, 7, 2);
    let disk = rig.disks.of(&guest.back_dir);
    // As the next kernel does, whose first reference and port are those of the one before, and so are its first requests.
    let ring = guest.ring.take().expect("a ring").into_mem();
    guest.ring = Some(Front::init(ring).expect("a ring"));
    let gref = guest.page.grant_ref();
    guest.push(&read(0, 0, gref));
    guest.push(&read(1, 8, gref));
    guest.kick();
    let mut rig = rig.restarted();
    let before = disk.borrow().seen.len();
    rig.settle();
    assert_eq!(rig.error(&guest), "");
    let seen: Vec<_> = disk.borrow().seen[before..].to_vec();
    let wanted = [0, 8].map(|sector| (IoOp::Read(Sector::new(sector)), 4096));
    assert_eq!(seen, wanted, "what it asked for, and nothing else");
    let answers = guest.answers();
    assert!(answers.iter().all(|answer| answer.operation == Op::READ));
    assert_eq!(answers.len(), 2);
}

#[test]
fn a_journal_of_another_ring_of_several_is_dropped() {
    // Rings of two pages, both made again in their places, or only the last.
    for again in [0..2, 1..2] {
        let mut rig = rig();
        rig.disks
            .of(&backend_dir(DomId::new(7), 51712))
            .borrow_mut()
            .hold = true;
        let mut guest = rig.attach(7, 51712, "w");
        rig.settle();
        let mut rings = guest.publish_queues(2, 1);
        guest.set("state", "3");
        rig.settle();
        guest.set("state", "4");
        for (ring, id) in rings.iter_mut().zip(0..) {
            ring.push(&write(id, id * 8, guest.page.grant_ref()));
            ring.kick();
        }
        rig.settle();
        let disk = rig.disks.of(&guest.back_dir);
        assert_eq!(disk.borrow().held(), 2);
        for ring in &rings[again.clone()] {
            ring.pages().write(0, &[0; HEADER]);
        }
        let mut rig = rig.restarted();
        let before = disk.borrow().seen.len();
        rig.settle();
        assert_eq!(
            (rig.state(&guest).as_str(), rig.error(&guest)),
            ("4", String::new())
        );
        let seen: Vec<_> = disk.borrow().seen[before..].to_vec();
        // What is on the ring that nobody made again is taken from there, and from no journal.
        let left = (again.len() == 1).then_some((IoOp::Write(Sector::new(0)), 4096));
        assert_eq!(seen, Vec::from_iter(left));
    }
}

#[test]
fn without_a_journal_only_an_idle_ring_is_gone_on_with() {
    for open in [0, 2] {
        let mut rig = rig();
        let mut guest = in_flight(&mut rig, 7, open);
        let kept = rig.disks.journal_of(&guest.back_dir);
        (0..kept.len()).for_each(|word| kept.store(word, 0));
        let mut rig = rig.restarted();
        rig.settle();
        if open == 0 {
            guest.round_trip(&mut rig, 9);
        } else {
            assert_eq!(rig.state(&guest), "5");
            let error = rig.error(&guest);
            assert!(error.contains("nobody knows"), "{error}");
        }
    }
}

#[test]
fn a_ring_of_which_nobody_keeps_a_journal_is_gone_on_with_if_it_is_idle() {
    for open in [0, 2] {
        let mut rig = Rig::new();
        let mut guest = in_flight(&mut rig, 7, open);
        let seen = rig.disks.of(&guest.back_dir).borrow().seen.len();
        let mut rig = rig.restarted();
        rig.settle();
        if open == 0 {
            guest.round_trip(&mut rig, 9);
            continue;
        }
        assert_eq!(rig.state(&guest), "5");
        let error = rig.error(&guest);
        assert!(error.contains("nobody knows"), "{error}");
        assert_eq!(rig.disks.of(&guest.back_dir).borrow().seen.len(), seen);
        assert!(guest.answers().is_empty());
        guest.reset(&mut rig);
        guest.connect(&mut rig);
    }
}

/// As [`in_flight`], on a disk with sectors of 4096 bytes that this guest counts in its own way.
fn in_flight_counted(rig: &mut Rig, counted: Convention) -> Guest {
    let dir = backend_dir(DomId::new(7), 51712);
    let disk = rig.disks.of(&dir);
    disk.borrow_mut().logical = 4096;
    disk.borrow_mut().counted = counted;
    in_flight(rig, 7, 2)
}

#[test]
fn a_request_of_an_earlier_process_means_the_same_place() {
    for (counted, second) in [
        (Convention::Linux, 8),
        (Convention::FreeBsd, 64),
        (Convention::MiniOs, 8),
    ] {
        let mut rig = rig();
        let mut guest = in_flight_counted(&mut rig, counted);
        let disk = rig.disks.of(&guest.back_dir);
        let before = disk.borrow().seen.len();
        let mut rig = rig.restarted();
        rig.settle();
        assert_eq!(rig.error(&guest), "", "{counted}");
        assert_eq!(guest.answers().len(), 2);
        let again: Vec<_> = disk.borrow().seen[before..].to_vec();
        let place = |sector| (IoOp::Write(Sector::new(sector)), 4096);
        assert_eq!(again, [place(0), place(second)], "{counted}");
        guest.round_trip(&mut rig, 5);
    }
}

#[test]
fn a_journal_in_other_units_is_not_gone_on_with() {
    let linux = Convention::Linux;
    for (was, is) in [
        (linux, Convention::FreeBsd),
        (Convention::FreeBsd, linux),
        (linux, Convention::MiniOs),
        (Convention::MiniOs, Convention::FreeBsd),
        (Convention::FreeBsd, Convention::Qemu),
    ] {
        // In the middle of something, and with nothing to be done.
        for idle in [false, true] {
            let mut rig = rig();
            let mut guest = in_flight_counted(&mut rig, was);
            let disk = rig.disks.of(&guest.back_dir);
            if idle {
                disk.borrow_mut().release();
                rig.settle();
                assert_eq!(guest.answers().len(), 2);
            }
            let before = disk.borrow().seen.len();
            disk.borrow_mut().counted = is;
            let mut rig = rig.restarted();
            rig.settle();
            assert_eq!(rig.state(&guest), "5", "{was}, then {is}");
            let error = rig.error(&guest);
            assert!(error.contains("protocol"), "{error}");
            assert_eq!(disk.borrow().seen.len(), before, "nothing is done again");
            assert!(guest.answers().is_empty());
            // The next connection is told the new units.
            guest.reset(&mut rig);
            guest.connect(&mut rig);
        }
    }
}

#[test]
fn without_a_journal_only_units_that_must_be_the_same_are_gone_on_with() {
    let linux = Convention::Linux;
    for (was, is, goes_on) in [
        (linux, linux, true),
        (Convention::FreeBsd, linux, false),
        (Convention::MiniOs, linux, false),
        (linux, Convention::FreeBsd, false),
        (Convention::FreeBsd, Convention::FreeBsd, false),
    ] {
        let mut rig = rig();
        let mut guest = in_flight_counted(&mut rig, was);
        let disk = rig.disks.of(&guest.back_dir);
        disk.borrow_mut().release();
        rig.settle();
        let kept = rig.disks.journal_of(&guest.back_dir);
        (0..kept.len()).for_each(|word| kept.store(word, 0));
        disk.borrow_mut().counted = is;
        let mut rig = rig.restarted();
        rig.settle();
        assert_eq!(guest.answers().len(), 2);
        if goes_on {
            guest.round_trip(&mut rig, 9);
        } else {
            assert_eq!(rig.state(&guest), "5", "{was}, then {is}");
            let error = rig.error(&guest);
            assert!(error.contains("in which units"), "{error}");
        }
    }
}

#[test]
fn a_journal_of_another_ring_in_other_units_ends_its_device() {
    // It was told `sectors` in the units of before, and nothing says that it will ask again.
    let mut rig = rig();
    let mut guest = in_flight_counted(&mut rig, Convention::FreeBsd);
    let disk = rig.disks.of(&guest.back_dir);
    guest.publish();
    disk.borrow_mut().counted = Convention::Qemu;
    // The first of these dies before it says so, wherever that is.
    for step in 0..500 {
        rig = rig.restarted();
        rig.world.die_after(BACK, step);
        if Crash::catch(|| rig.settle()).is_some() {
            break;
        }
        assert_ne!(step, 499, "it does not come to rest");
    }
    rig.world.die_after(BACK, u64::MAX);
    assert_eq!(rig.state(&guest), "5");
    let error = rig.error(&guest);
    assert!(error.contains("in which units"), "{error}");
    // In the units that it was told it is.
    guest.reset(&mut rig);
    guest.connect(&mut rig);
    guest.publish();
    let mut rig = rig.restarted();
    rig.settle();
    assert_eq!(
        (rig.state(&guest).as_str(), rig.error(&guest)),
        ("4", String::new())
    );
}
