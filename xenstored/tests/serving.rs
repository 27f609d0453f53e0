//! What only those see who serve the store: introductions that wait, shutdowns, and turns at a ring.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringfence_core::DomId;
use ringfence_core::store::{Connection, Store as _, StoreError, Tx};
use ringfence_core::wire::xs_wire::{Errno, Op, SockMsg};
use ringfence_xenstored::fairness::{CONFLICTS, HOLD};
use ringfence_xenstored::{ConnId, Effect, MemoryTransport, Store};
use zerocopy::{FromBytes, IntoBytes};

fn message(op: Op, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    let header = SockMsg {
        op,
        req_id: 7,
        tx_id,
        len: u32::try_from(payload.len()).unwrap(),
    };
    [header.as_bytes(), payload].concat()
}

/// The oldest message that waits for the connection.
fn answer(store: &mut Store, conn: ConnId) -> Option<(Op, Vec<u8>)> {
    let bytes = store.outgoing(conn).to_vec();
    let (header, payload) = SockMsg::read_from_prefix(&bytes).ok()?;
    assert_eq!(payload.len(), header.len as usize);
    store.sent(conn, bytes.len());
    Some((header.op, payload.to_vec()))
}

fn client(store: &mut Store, conn: ConnId) -> Connection<MemoryTransport<&mut Store>> {
    Connection::new(MemoryTransport::new(store, conn))
}

#[test]
fn an_introduction_is_answered_when_its_outcome_is_known() {
    let mut store = Store::new();
    store.ask_before_introducing();
    let tool = store.connect(DomId::DOM0);
    let other = store.connect(DomId::DOM0);
    for (answered, introduced) in [(Err(Errno::Inval), false), (Ok(()), true)] {
        let request = message(Op::INTRODUCE, 0, b"3\x0010\x002\0");
        let next = message(Op::IS_DOMAIN_INTRODUCED, 0, b"3\0");
        let both = [request, next].concat();
        let mut taken = store.feed(tool, &both);
        assert_eq!(
            store.next_effect(),
            Some(Effect::Introducing {
                conn: tool,
                domid: DomId::new(3),
                frame: 10,
                port: 2,
            })
        );
        assert_eq!(store.next_effect(), None);
        assert!(!store.is_introduced(DomId::new(3)));
        // The next request of the same client waits with it; others do not.
        taken += store.feed(tool, &both[taken..]);
        assert!(store.outgoing(tool).is_empty());
        assert!(
            client(&mut store, other)
                .directory(Tx::NONE, "/", &mut [0; 64])
                .is_ok()
        );
        store.admit(tool, answered);
        assert_eq!(store.is_introduced(DomId::new(3)), introduced);
        store.feed(tool, &both[taken..]);
        let first = match answered {
            Ok(()) => (Op::INTRODUCE, b"OK\0".to_vec()),
            Err(_) => (Op::ERROR, b"EINVAL\0".to_vec()),
        };
        assert_eq!(answer(&mut store, tool), Some(first));
        let second = if introduced { b"T\0" } else { b"F\0" };
        assert_eq!(
            answer(&mut store, tool),
            Some((Op::IS_DOMAIN_INTRODUCED, second.to_vec()))
        );
        // Nothing waits any more.
        store.admit(tool, Err(Errno::Io));
        assert_eq!(answer(&mut store, tool), None);
    }
}

#[test]
fn an_asker_that_leaves_gets_no_answer() {
    let mut store = Store::new();
    store.ask_before_introducing();
    let tool = store.connect(DomId::DOM0);
    store.feed(tool, &message(Op::INTRODUCE, 0, b"3\x0010\x002\0"));
    store.disconnect(tool);
    store.admit(tool, Ok(()));
    assert!(!store.is_introduced(DomId::new(3)));
}

#[test]
fn a_shutdown_is_told_once_until_resume() {
    let mut store = Store::new();
    let tool = store.connect(DomId::DOM0);
    assert!(!store.shut_down(DomId::new(4)), "nobody has that number");
    store.introduce(DomId::new(4));
    client(&mut store, tool)
        .watch("@releaseDomain", "t")
        .unwrap();
    while answer(&mut store, tool).is_some() {}
    for _ in 0..2 {
        assert!(store.shut_down(DomId::new(4)));
        assert!(!store.shut_down(DomId::new(4)));
        let event = (Op::WATCH_EVENT, b"@releaseDomain\0t\0".to_vec());
        assert_eq!(answer(&mut store, tool), Some(event));
        assert_eq!(answer(&mut store, tool), None);
        assert!(store.is_introduced(DomId::new(4)));
        store.feed(tool, &message(Op::RESUME, 0, b"4\0"));
        assert_eq!(
            answer(&mut store, tool),
            Some((Op::RESUME, b"OK\0".to_vec()))
        );
    }
    // The number's next life has not shut down.
    store.shut_down(DomId::new(4));
    store.release(DomId::new(4));
    store.introduce(DomId::new(4));
    assert!(store.shut_down(DomId::new(4)));
}

#[test]
fn a_request_that_waited_for_a_hold_is_done_when_its_time_is_over() {
    let mut store = Store::new();
    let dom0 = store.connect(DomId::DOM0);
    for domid in [1, 2] {
        store.introduce(DomId::new(domid));
    }
    client(&mut store, dom0)
        .write(Tx::NONE, "/n", b"0")
        .unwrap();
    store.feed(dom0, &message(Op::SET_PERMS, 0, b"/n\0b0\0"));
    assert_eq!(answer(&mut store, dom0).unwrap().1, b"OK\0");
    let (one, two) = (store.connect(DomId::new(1)), store.connect(DomId::new(2)));
    for n in 0..CONFLICTS {
        let tx = client(&mut store, one).transaction_start().unwrap();
        client(&mut store, one).write(tx, "/n", b"1").unwrap();
        let value = format!("2{n}");
        client(&mut store, two)
            .write(Tx::NONE, "/n", value.as_bytes())
            .unwrap();
        let lost = client(&mut store, one).transaction_end(tx, true);
        assert_eq!(lost, Err(StoreError::Refused(Errno::Again)));
    }
    let tx = client(&mut store, one).transaction_start().unwrap();
    client(&mut store, one).write(tx, "/n", b"1").unwrap();
    // The whole request is with the store already: nobody will offer it again.
    let request = message(Op::WRITE, 0, b"/n\x003");
    assert_eq!(store.feed(two, &request), request.len());
    assert_eq!(answer(&mut store, two), None);
    assert_eq!(store.next_deadline(), Some(HOLD));
    store.advance(HOLD - Duration::from_millis(1));
    assert_eq!(answer(&mut store, two), None);
    store.advance(HOLD);
    assert_eq!(answer(&mut store, two), Some((Op::WRITE, b"OK\0".to_vec())));
}

fn chmod(store: &mut Store, conn: ConnId, payload: &[u8]) -> (Op, Vec<u8>) {
    store.feed(conn, &message(Op::SET_PERMS, 0, payload));
    answer(store, conn).unwrap()
}

#[test]
fn permissions_are_for_domains_that_exist() {
    let there = Arc::new(Mutex::new(vec![5]));
    let mut store = Store::new();
    let witnessed = Arc::clone(&there);
    store.ask_who_exists(move |domid| witnessed.lock().unwrap().contains(&domid.get()));
    let tool = store.connect(DomId::DOM0);
    client(&mut store, tool)
        .write(Tx::NONE, "/a", b"1")
        .unwrap();
    client(&mut store, tool)
        .write(Tx::NONE, "/b", b"1")
        .unwrap();
    let fine = (Op::SET_PERMS, b"OK\0".to_vec());
    let nobody = (Op::ERROR, b"ENOENT\0".to_vec());
    assert_eq!(chmod(&mut store, tool, b"/a\0n6\0"), nobody);
    assert_eq!(chmod(&mut store, tool, b"/a\0n0\0r5\0r6\0"), fine);
    assert_eq!(chmod(&mut store, tool, b"/b\0n5\0"), fine);
    assert_eq!(store.known().collect::<Vec<_>>(), [0, 5].map(DomId::new));
    // What dom0 prepared for the one counts, what it prepared for nobody does not.
    for (domid, may) in [(5, true), (6, false)] {
        store.introduce(DomId::new(domid));
        let guest = store.connect(DomId::new(domid));
        let read = client(&mut store, guest)
            .read(Tx::NONE, "/a", &mut [0; 8])
            .is_ok();
        assert_eq!(read, may, "{domid}");
    }
}

#[test]
fn who_was_named_and_never_introduced_leaves_nothing_behind() {
    let mut store = Store::new();
    let tool = store.connect(DomId::DOM0);
    client(&mut store, tool)
        .watch("@releaseDomain", "t")
        .unwrap();
    for path in ["/a", "/b"] {
        client(&mut store, tool)
            .write(Tx::NONE, path, b"1")
            .unwrap();
    }
    chmod(&mut store, tool, b"/a\0n0\0r5\0");
    chmod(&mut store, tool, b"/b\0n5\0");
    while answer(&mut store, tool).is_some() {}
    assert!(!store.release(DomId::new(5)), "it was not introduced");
    assert_eq!(answer(&mut store, tool), None, "and nobody is told");
    assert_eq!(store.known().collect::<Vec<_>>(), [DomId::DOM0]);
    let names = client(&mut store, tool)
        .directory(Tx::NONE, "/", &mut [0; 64])
        .map(|names| names.count());
    assert_eq!(names, Ok(1));
    // The next one of that number is somebody else.
    store.introduce(DomId::new(5));
    let guest = store.connect(DomId::new(5));
    let read = client(&mut store, guest)
        .read(Tx::NONE, "/a", &mut [0; 8])
        .map(<[u8]>::len);
    assert_eq!(read, Err(StoreError::Denied));
}

#[test]
fn special_names_are_for_watches_and_permissions() {
    let mut store = Store::new();
    let tool = store.connect(DomId::DOM0);
    for op in [
        Op::READ,
        Op::WRITE,
        Op::MKDIR,
        Op::RM,
        Op::DIRECTORY,
        Op::GET_PERMS,
    ] {
        store.feed(tool, &message(op, 0, b"@releaseDomain\0"));
        assert_eq!(
            answer(&mut store, tool),
            Some((Op::ERROR, b"EINVAL\0".to_vec())),
            "{op:?}"
        );
    }
    client(&mut store, tool).watch("@aLaterOne", "t").unwrap();
    assert_eq!(
        chmod(&mut store, tool, b"@aLaterOne\0n0\0").0,
        Op::WATCH_EVENT
    );
    assert_eq!(
        answer(&mut store, tool),
        Some((Op::ERROR, b"ENOENT\0".to_vec()))
    );
    assert_eq!(
        chmod(&mut store, tool, b"@releaseDomain\0n0\0r0\0").1,
        b"OK\0"
    );
}

#[test]
fn whoever_changes_what_they_watch_hears_of_it_before_the_answer() {
    let mut store = Store::new();
    let tool = store.connect(DomId::DOM0);
    store.feed(tool, &message(Op::WATCH, 0, b"/a\0t\0"));
    store.feed(tool, &message(Op::WRITE, 0, b"/a/b\x001"));
    let heard: Vec<_> = std::iter::from_fn(|| answer(&mut store, tool))
        .map(|(op, _)| op)
        .collect();
    // Only the event of a new watch comes after its answer: before it the client does not know the watch.
    assert_eq!(
        heard,
        [Op::WATCH, Op::WATCH_EVENT, Op::WATCH_EVENT, Op::WRITE]
    );
}
