//! X: XenStore. The store itself has suites of its own; this is what drivers rely on through a platform's connection.

use ringfence_core::store::{Store, StoreError, Tx, WatchEvent};
use ringfence_core::wire::xs_wire::PAYLOAD_MAX;

use super::world::{Who, World, domids, next_event};

pub(super) fn x1<W: World>(world: &mut W) {
    let path = format!("{}/value", world.home(Who::A));
    let (mut a, mut dom0) = (world.store(Who::A), world.dom0_store());
    let mut room = vec![0; PAYLOAD_MAX];
    let all: Vec<u8> = (0..=255).collect();
    for value in [&b""[..], b"0", &all] {
        a.write(Tx::NONE, &path, value).expect("its own");
        assert_eq!(a.read(Tx::NONE, &path, &mut room), Ok(value));
    }
    // A guest's quota ends before the payload does; dom0 has none.
    let longest = all.repeat(16)[..PAYLOAD_MAX - path.len() - 1].to_vec();
    dom0.write(Tx::NONE, &path, &longest).expect("it fits");
    assert_eq!(a.read(Tx::NONE, &path, &mut room), Ok(&longest[..]));
    let longer = [&longest[..], b"x"].concat();
    dom0.write(Tx::NONE, &path, &longer)
        .expect_err("it does not fit");
    assert_eq!(a.read(Tx::NONE, &path, &mut room), Ok(&longest[..]));
}

pub(super) fn x2<W: World>(world: &mut W) {
    let dir = world.home(Who::A);
    let path = format!("{dir}/watched/state");
    let (mut a, mut dom0) = (world.store(Who::A), world.dom0_store());
    a.watch(&format!("{dir}/watched"), "token")
        .expect("watched");
    match next_event(&mut a) {
        Some(WatchEvent::Changed(event)) => {
            assert_eq!(event.path.as_str(), format!("{dir}/watched"));
            assert_eq!(event.token.as_str(), "token");
        }
        other => panic!("{other:?} when it was set"),
    }
    assert_eq!(a.next_watch(), Ok(None), "once");
    for round in 0..4 {
        dom0.write(Tx::NONE, &path, b"4").expect("dom0 may");
        let event = next_event(&mut a);
        assert!(event.is_some(), "no event for change {round}");
        while a.next_watch().expect("the store works").is_some() {}
    }
    dom0.rm(Tx::NONE, &path).expect("dom0 may");
    assert!(next_event(&mut a).is_some(), "no event for the removal");
    a.write(Tx::NONE, &format!("{dir}/other"), b"1")
        .expect("its own");
    a.unwatch(&format!("{dir}/watched"), "token").expect("set");
}

pub(super) fn x3<W: World>(world: &mut W) {
    let (dir, mut room) = (world.home(Who::A), [0; 16]);
    let (seen, own) = (format!("{dir}/seen"), format!("{dir}/own"));
    let (mut a, mut dom0) = (world.store(Who::A), world.dom0_store());
    a.write(Tx::NONE, &seen, b"1").expect("its own");
    let tx = a.transaction_start().expect("started");
    assert_eq!(a.read(tx, &seen, &mut room), Ok(&b"1"[..]));
    a.write(tx, &own, b"based on 1").expect("its own");
    dom0.write(Tx::NONE, &seen, b"2").expect("dom0 may");
    let error = a.transaction_end(tx, true).expect_err("a conflict");
    assert!(error.is_conflict(), "{error}");
    let own_now = a.read(Tx::NONE, &own, &mut room);
    assert_eq!(own_now, Err(StoreError::Missing));
    // The next try goes through, and all at once.
    a.transaction(|a, tx| {
        let value = a.read(tx, &seen, &mut room)?.to_vec();
        a.write(tx, &own, &value)
    })
    .expect("nobody interferes");
    assert_eq!(dom0.read(Tx::NONE, &own, &mut room), Ok(&b"2"[..]));
}

pub(super) fn x4<W: World>(world: &mut W) {
    let [_, b_id, _] = domids(world);
    let (of_a, of_b) = (world.home(Who::A), world.home(Who::B));
    let (mut a, mut b, mut room) = (world.store(Who::A), world.store(Who::B), [0; 16]);
    let node = format!("{of_a}/node");
    a.write(Tx::NONE, &node, b"mine").expect("its own");
    let denied = Err(StoreError::Denied);
    assert_eq!(b.write(Tx::NONE, &node, b"yours"), denied, "domain {b_id}");
    assert_eq!(b.write(Tx::NONE, &format!("{of_a}/new"), b""), denied);
    assert_eq!(b.rm(Tx::NONE, &node), denied);
    assert_eq!(b.read(Tx::NONE, &node, &mut room), Err(StoreError::Denied));
    let missing = b.read(Tx::NONE, &format!("{of_b}/node"), &mut room);
    assert_eq!(missing, Err(StoreError::Missing));
    assert_eq!(a.read(Tx::NONE, &node, &mut room), Ok(&b"mine"[..]));
}
