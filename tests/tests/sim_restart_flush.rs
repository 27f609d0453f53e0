//! A flush that failed: what was written before it may be lost, so none of the same image succeeds again.

use ringfence_core::platform::Granted as _;
use ringfence_core::wire::blkif::{Op, RequestNative, Status};
use ringfence_tests::blkback_rig::{Guest, Rig, read, request};

fn rig() -> Rig {
    let rig = Rig::new();
    rig.disks.keep_journals();
    rig
}

fn flush() -> RequestNative {
    request(3, Op::FLUSH_DISKCACHE, 0, &[])
}

/// A guest of which one flush has failed. Its disk fails none from now on.
fn failed(rig: &mut Rig) -> Guest {
    let mut guest = rig.connected(7, "w");
    let disk = rig.disks.of(&guest.back_dir);
    assert_eq!(guest.ask(rig, &flush()), Status::OKAY);
    disk.borrow_mut().fail_flush = true;
    assert_eq!(guest.ask(rig, &flush()), Status::ERROR);
    disk.borrow_mut().fail_flush = false;
    guest
}

#[test]
fn it_is_not_forgotten_with_its_process_or_connection() {
    let mut rig = rig();
    let mut guest = failed(&mut rig);
    let mut rig = rig.restarted();
    assert_eq!(guest.ask(&mut rig, &flush()), Status::ERROR);
    guest.reset(&mut rig);
    guest.connect(&mut rig);
    assert_eq!(guest.ask(&mut rig, &flush()), Status::ERROR);
    let read = read(4, 0, guest.page.grant_ref());
    assert_eq!(guest.ask(&mut rig, &read), Status::OKAY);
}

#[test]
fn it_is_not_forgotten_with_a_connection_that_could_not_be_made() {
    let mut rig = rig();
    let mut guest = failed(&mut rig);
    guest.reset(&mut rig);
    guest.publish();
    guest.set("ring-ref", "99999");
    guest.set("state", "3");
    rig.settle();
    let error = rig.error(&guest);
    assert!(error.contains("ring-ref 99999"), "{error}");
    let mut rig = rig.restarted();
    guest.reset(&mut rig);
    guest.connect(&mut rig);
    assert_eq!(guest.ask(&mut rig, &flush()), Status::ERROR);
}

#[test]
fn it_is_forgotten_with_its_device() {
    let mut rig = rig();
    let mut guest = failed(&mut rig);
    guest.close(&mut rig);
    rig.remove(&guest);
    rig.settle();
    let mut guest = rig.connected(7, "w");
    assert_eq!(guest.ask(&mut rig, &flush()), Status::OKAY);
}

#[test]
fn what_nobody_writes_to_has_nothing_to_lose() {
    let mut rig = rig();
    let mut guest = rig.connected(7, "r");
    let disk = rig.disks.of(&guest.back_dir);
    for fail in [true, false] {
        disk.borrow_mut().fail_flush = fail;
        assert_eq!(guest.ask(&mut rig, &flush()), Status::OKAY);
    }
}
