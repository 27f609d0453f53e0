//! Rings of several pages, of 32-bit guests, and several of them for one disk.

use ringfence_core::SharedMem;
use ringfence_core::platform::Granted;
use ringfence_core::wire::blkif::{Abi, Status};
use ringfence_tests::blkback_rig::{BUDGET, Guest, OtherRing, Rig, read, write};

/// A page written and read back through a ring.
fn round_trip(rig: &mut Rig, ring: &mut OtherRing, page: &ringfence_sim::SimGranted, seed: u8) {
    let gref = page.grant_ref();
    page.write(0, &[seed; 4096]);
    assert!(ring.push(&write(u64::MAX, 40, gref)));
    ring.kick();
    rig.settle();
    page.write(0, &[!seed; 4096]);
    assert!(ring.push(&read(2, 40, gref)));
    ring.kick();
    rig.settle();
    let answers = ring.answers();
    let answers: Vec<_> = answers.iter().map(|a| (a.id, a.status)).collect();
    assert_eq!(answers, [(u64::MAX, Status::OKAY), (2, Status::OKAY)]);
    let mut back = [0; 4096];
    page.read(0, &mut back);
    assert_eq!(back, [seed; 4096]);
}

#[test]
fn a_ring_of_any_order_is_filled_and_answered() {
    for abi in [Abi::Native, Abi::X86_32] {
        for order in 0..=4 {
            let mut rig = Rig::new();
            let mut guest = rig.attach(7, 51712, "w");
            rig.settle();
            let mut ring = guest.publish_ring(order, abi);
            guest.set("state", "3");
            rig.settle();
            assert_eq!(rig.state(&guest), "4", "{}", rig.error(&guest));
            assert_eq!(ring.size(), 32 << order);
            assert_eq!(rig.usage().mapped, ring.pages().len() / 4096);
            let disk = rig.disks.of(&guest.back_dir);
            disk.borrow_mut().hold = true;
            let gref = guest.page.grant_ref();
            let mut pushed = 0;
            while ring.push(&read(pushed, pushed % 992, gref)) {
                pushed += 1;
            }
            assert_eq!(pushed, u64::from(ring.size()));
            ring.kick();
            rig.settle();
            assert_eq!(
                disk.borrow().held() as u64,
                pushed,
                "all of them at the disk"
            );
            disk.borrow_mut().hold = false;
            disk.borrow_mut().release();
            rig.settle();
            let mut ids: Vec<_> = ring.answers().iter().map(|answer| answer.id).collect();
            ids.sort_unstable();
            assert!(ids.into_iter().eq(0..pushed));
            // Every entry of the ring, and beyond its end.
            for seed in 0..ring.size() {
                round_trip(&mut rig, &mut ring, &guest.page, seed as u8);
            }
            guest.close(&mut rig);
            assert_eq!((rig.usage().mapped, rig.usage().ports), (0, 0));
        }
    }
}

#[test]
fn the_older_name_of_a_rings_order_counts_pages() {
    let mut rig = Rig::new();
    let mut guest = rig.attach(7, 51712, "w");
    rig.settle();
    let mut ring = guest.publish_ring(2, Abi::Native);
    let path = format!("{}/ring-page-order", guest.dir);
    ringfence_core::store::Store::rm(&mut guest.store, ringfence_core::store::Tx::NONE, &path)
        .expect("its own node");
    guest.set("num-ring-pages", "4");
    guest.set("state", "3");
    rig.settle();
    assert_eq!(rig.state(&guest), "4", "{}", rig.error(&guest));
    assert_eq!(rig.usage().mapped, 4);
    round_trip(&mut rig, &mut ring, &guest.page, 3);
}

#[test]
fn queues_share_one_disk_and_each_answers_its_own() {
    for order in [0, 2] {
        let mut rig = Rig::new();
        let mut guest = rig.attach(7, 51712, "w");
        rig.settle();
        let mut queues = guest.publish_queues(4, order);
        guest.set("state", "3");
        rig.settle();
        assert_eq!(rig.state(&guest), "4", "{}", rig.error(&guest));
        assert_eq!((rig.usage().mapped, rig.usage().ports), (4 << order, 4));
        for round in 0..40u8 {
            for queue in &mut queues {
                round_trip(&mut rig, queue, &guest.page, round);
            }
        }
        let disk = rig.disks.of(&guest.back_dir);
        assert_eq!(disk.borrow().opened, 1);
        // All at once, finished in the opposite order.
        disk.borrow_mut().hold = true;
        let gref = guest.page.grant_ref();
        for (number, queue) in (0u64..).zip(&mut queues) {
            for id in 0..20 {
                assert!(queue.push(&read(100 * number + id, 8 * id, gref)));
            }
            queue.kick();
        }
        rig.settle();
        assert_eq!(disk.borrow().held(), 80);
        disk.borrow_mut().hold = false;
        disk.borrow_mut().release();
        rig.settle();
        for (number, queue) in (0u64..).zip(&mut queues) {
            let mut ids: Vec<_> = queue.answers().iter().map(|answer| answer.id).collect();
            ids.sort_unstable();
            assert!(ids.into_iter().eq(100 * number..100 * number + 20));
        }
        // The next connection has one queue, on the same opening of the disk.
        for state in ["5", "6", "1"] {
            guest.set("state", state);
            rig.settle();
        }
        assert_eq!((rig.usage().mapped, rig.usage().ports), (0, 0));
        guest.unpublish();
        guest.connect(&mut rig);
        guest.round_trip(&mut rig, 9);
        assert_eq!(disk.borrow().opened, 1);
    }
}

/// A guest with two queues on a disk that keeps what it is given, and the device's rings.
fn two_queues(rig: &mut Rig) -> (Guest, Vec<OtherRing>) {
    let mut guest = rig.attach(7, 51712, "w");
    rig.settle();
    let queues = guest.publish_queues(2, 0);
    guest.set("state", "3");
    rig.settle();
    assert_eq!(rig.state(&guest), "4", "{}", rig.error(&guest));
    rig.disks.of(&guest.back_dir).borrow_mut().hold = true;
    (guest, queues)
}

fn answered(queues: &mut [OtherRing]) -> Vec<usize> {
    let queues = queues.iter_mut();
    queues.map(|queue| queue.answers().len()).collect()
}

/// Serves for as long as the service says that there is more to do.
fn serve(rig: &mut Rig) {
    while rig.service.serve(BUDGET, rig.now).again {}
}

#[test]
fn what_one_queue_finds_for_another_is_answered_before_anybody_sleeps() {
    let mut rig = Rig::new();
    let (guest, mut queues) = two_queues(&mut rig);
    let gref = guest.page.grant_ref();
    for queue in &mut queues {
        assert!(queue.push(&read(1, 0, gref)));
        queue.kick();
        rig.settle();
    }
    let disk = rig.disks.of(&guest.back_dir);
    assert_eq!(disk.borrow().held(), 2);
    // The first one's request ends when it has looked: the second one finds it.
    disk.borrow_mut().blind = 2;
    disk.borrow_mut().release_first();
    serve(&mut rig);
    assert_eq!(answered(&mut queues), [1, 0]);
}

#[test]
fn what_one_disk_finds_for_another_is_looked_at_before_anybody_sleeps() {
    let mut rig = Rig::new();
    let _guest = rig.connected(7, "w");
    rig.settle();
    rig.disks.move_one();
    let again = [0; 2].map(|_| rig.service.serve(BUDGET, rig.now).again);
    assert_eq!(again, [true, false]);
}

#[test]
fn a_queue_that_found_no_room_goes_on_when_another_makes_some() {
    let mut rig = Rig::new();
    let (guest, mut queues) = two_queues(&mut rig);
    let gref = guest.page.grant_ref();
    let disk = rig.disks.of(&guest.back_dir);
    disk.borrow_mut().room = 1;
    for queue in queues.iter_mut().rev() {
        assert!(queue.push(&read(1, 0, gref)));
        queue.kick();
        rig.settle();
    }
    assert_eq!(disk.borrow().held(), 1);
    disk.borrow_mut().blind = 2;
    disk.borrow_mut().hold = false;
    disk.borrow_mut().release();
    serve(&mut rig);
    assert_eq!(answered(&mut queues), [1, 1]);
}

#[test]
fn a_lie_in_one_queue_ends_all() {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let mut guest = rig.attach(7, 51712, "w");
    rig.settle();
    let mut queues = guest.publish_queues(3, 0);
    guest.set("state", "3");
    rig.settle();
    assert!(queues[0].push(&read(1, 0, guest.page.grant_ref())));
    queues[1]
        .pages()
        .store_u32(ringfence_ring::layout::REQ_PROD, 1 << 31);
    queues[0].kick();
    ringfence_core::platform::Channel::notify(&queues[1].channel).expect("a bell");
    rig.settle();
    assert_eq!(rig.state(&guest), "5");
    assert!(
        rig.error(&guest).contains("req_prod"),
        "{}",
        rig.error(&guest)
    );
    assert_eq!(queues[0].answers().len(), 1, "what was taken is answered");
    guest.unpublish();
    rig.recovers(guest, bystander);
}
