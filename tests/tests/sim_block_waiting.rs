//! How rings are waited for: each disk in its own way, beside the others.

use std::time::Duration;

use ringfence_blkback::Snapshot;
use ringfence_blkback::service::{DeviceId, Waiting};
use ringfence_core::platform::Granted;
use ringfence_ring::Notify;
use ringfence_tests::blkback_rig::{BUDGET, Guest, Rig, read};

const SPIN: Duration = Duration::from_micros(50);

/// A connected guest whose disk is waited for like this.
fn connected(rig: &mut Rig, front: u16, waiting: Option<Waiting>) -> Guest {
    let mut guest = rig.guest(front, 51712);
    rig.disks.of(&guest.back_dir).borrow_mut().waiting = waiting;
    guest = rig.attach(front, 51712, "w");
    guest.connect(rig);
    guest
}

/// Posts a request; rings only if the backend asked for that, and says whether it had.
fn post(guest: &mut Guest, id: u64) -> bool {
    guest.push(&read(id, 0, guest.page.grant_ref()));
    let asked = guest.ring.as_mut().expect("a ring").publish() == Notify::Yes;
    if asked {
        guest.ring_bell();
    }
    asked
}

/// One turn without a look at the channels: what is not waited for by looking stays as it is.
fn look(rig: &mut Rig) -> bool {
    rig.service.serve(BUDGET, rig.now).spins
}

fn counters(rig: &Rig, front: u16) -> Snapshot {
    let all = rig.service.statistics().snapshot();
    let of = |(id, counters): &(DeviceId, Snapshot)| (id.front.get() == front).then_some(*counters);
    all.iter().find_map(of).expect("a device")
}

#[test]
fn a_polled_disk_needs_no_bell() {
    let mut rig = Rig::new();
    let mut polled = connected(&mut rig, 7, Some(Waiting::Poll));
    let mut other = connected(&mut rig, 8, None);
    let before = counters(&rig, 7).notifications_received;
    assert!(look(&mut rig));
    for id in 0..20 {
        if id > 0 {
            assert!(!post(&mut polled, id), "nobody asked to be rung");
        } else {
            // Since before the first look that was for polling the ring may be armed.
            let _ = post(&mut polled, id);
        }
        rig.now += Duration::from_secs(1);
        assert!(look(&mut rig), "it never sleeps");
        assert_eq!(polled.answers().len(), 1);
    }
    assert_eq!(counters(&rig, 7).notifications_received, before);
    // The other one is not looked at until it rings.
    assert!(post(&mut other, 1));
    assert!(look(&mut rig));
    assert_eq!(other.answers().len(), 0);
    rig.settle();
    assert_eq!(other.answers().len(), 1);
    // Nobody uses it any more: nobody looks.
    polled.close(&mut rig);
    assert!(!look(&mut rig));
}

#[test]
fn a_disk_that_spins_asks_to_be_rung_before_anybody_sleeps() {
    let mut rig = Rig::new();
    let mut guest = connected(&mut rig, 7, Some(Waiting::Spin(SPIN)));
    assert!(!look(&mut rig), "nothing happened yet");
    assert!(post(&mut guest, 1), "asleep");
    rig.settle();
    assert_eq!(guest.answers().len(), 1);
    // It was armed when it was rung, so one more bell may come.
    let _ = post(&mut guest, 2);
    assert!(look(&mut rig));
    assert_eq!(guest.answers().len(), 1);
    for id in 3..10 {
        rig.now += SPIN / 2;
        assert!(!post(&mut guest, id), "awake");
        assert!(look(&mut rig));
        assert_eq!(guest.answers().len(), 1);
    }
    // What comes between the last look that spins and the one that arms is not lost.
    rig.now += SPIN;
    assert!(!post(&mut guest, 10));
    assert!(look(&mut rig), "it was work, so it goes on for a while");
    assert_eq!(guest.answers().len(), 1);
    rig.now += SPIN;
    assert!(!look(&mut rig), "asleep again");
    assert!(post(&mut guest, 11), "and armed");
    rig.settle();
    assert_eq!(guest.answers().len(), 1);
}

#[test]
fn a_disk_may_differ_from_its_service() {
    let mut rig = Rig::new();
    rig.service.wait_by(Waiting::Poll);
    let mut sleeps = connected(&mut rig, 7, Some(Waiting::Block));
    assert!(!look(&mut rig));
    assert!(post(&mut sleeps, 1));
    rig.settle();
    assert_eq!(sleeps.answers().len(), 1);
    let mut polled = connected(&mut rig, 8, None);
    assert!(look(&mut rig));
    let _ = post(&mut polled, 1);
    assert!(look(&mut rig));
    assert_eq!(polled.answers().len(), 1);
    // It ends all the same when the process is told to.
    rig.service.stop();
    assert!(!look(&mut rig));
    assert!(rig.service.is_idle());
}

#[test]
fn the_next_connection_is_waited_for_in_the_same_way() {
    let mut rig = Rig::new();
    let mut guest = connected(&mut rig, 7, Some(Waiting::Poll));
    assert!(look(&mut rig));
    guest.reset(&mut rig);
    assert!(!look(&mut rig));
    guest.connect(&mut rig);
    assert!(look(&mut rig));
}
