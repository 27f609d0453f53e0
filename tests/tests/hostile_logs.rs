//! THREATS I, XSA-180 (and XSA-43): what a guest can make the backend say is said so often and no more, in so many bytes.

mod logs;

use logs::logged;
use ringfence_core::platform::{Granted as _, Platform as _};
use ringfence_core::store::{Perm, Store as _, Tx};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_tests::blkback_rig::{BACK, Guest, Rig, request};

/// Messages that one device is good for.
const MESSAGES: usize = 16;
/// Bytes of one of them.
const BYTES: usize = 512;

/// Lets a guest do something again and again. What is said about it has an end, and says that it has.
fn again_and_again(times: u32, mut attack: impl FnMut(&mut Rig, &mut Guest, u32)) {
    let (log, (mut rig, bystander, attacker)) = logged(|| {
        let mut rig = Rig::new();
        let bystander = rig.connected(8, "w");
        let mut attacker = rig.connected(7, "w");
        for time in 0..times {
            attack(&mut rig, &mut attacker, time);
        }
        rig.settle();
        (rig, bystander, attacker)
    });
    rig.recovers(attacker, bystander);
    assert!(!log.is_empty(), "nothing was said at all");
    assert!(log.len() <= MESSAGES, "{} messages: {log:#?}", log.len());
    for line in &log {
        assert!(line.len() <= BYTES, "{} bytes: {line}", line.len());
        let shown = line.chars().all(|c| !c.is_control());
        assert!(shown, "what a guest wrote is shown as it is: {line:?}");
    }
    if let Some(last) = log.get(MESSAGES - 1) {
        assert!(last.contains("further messages are dropped"), "{last}");
    }
}

#[test]
fn xsa_180_requests_that_are_refused() {
    again_and_again(2000, |rig, attacker, time| {
        let gref = attacker.page.grant_ref();
        let id = u64::from(time);
        let bad = match time % 3 {
            0 => request(id, Op(200), 0, &[(gref, 0, 7)]),
            1 => request(id, Op::READ, 1 << 60, &[(gref, 0, 7)]),
            _ => request(id, Op::WRITE, 0, &[(gref, 7, 0)]),
        };
        assert_ne!(attacker.ask(rig, &bad), Status::OKAY);
    });
}

#[test]
fn xsa_180_handshakes_that_fail() {
    // As long as a node can be, and made to look like lines of somebody else's.
    let long = format!("{}\n\x1b[2Jroot logged in\r\0", "9".repeat(1500));
    again_and_again(150, |rig, attacker, time| {
        attacker.reset(rig);
        attacker.publish();
        let nodes = ["ring-ref", "event-channel", "protocol", "ring-page-order"];
        let node = nodes[time as usize % nodes.len()];
        let before = rig.node(&attacker.dir.clone(), node);
        attacker.set(node, &long);
        attacker.set("state", "3");
        rig.settle();
        match before {
            Some(before) => attacker.set(node, &before),
            None => {
                let path = format!("{}/{node}", attacker.dir);
                attacker.store.rm(Tx::NONE, &path).expect("its own node");
            }
        }
    });
}

#[test]
fn xsa_180_states_that_are_none() {
    again_and_again(150, |rig, attacker, time| {
        let garbage = ["\n\n\n", "9", "-1", "4294967298", "\u{7f}"];
        attacker.set("state", garbage[time as usize % garbage.len()]);
        rig.settle();
        attacker.reset(rig);
    });
}

#[test]
fn xsa_180_nodes_that_may_not_be_read() {
    again_and_again(150, |rig, attacker, _| {
        attacker.reset(rig);
        attacker.publish();
        let owner = Perm::owner(attacker.sim.domid());
        let nodes = ["ring-ref", "event-channel"].map(|node| format!("{}/{node}", attacker.dir));
        let permit = |attacker: &mut Guest, perms: &[Perm]| {
            for path in &nodes {
                let set = attacker.store.set_perms(Tx::NONE, path, perms);
                set.expect("its own node");
            }
        };
        permit(attacker, &[owner]);
        attacker.set("state", "3");
        rig.settle();
        permit(attacker, &[owner, Perm::read(BACK)]);
    });
}
