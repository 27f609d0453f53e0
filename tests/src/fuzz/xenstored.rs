//! Requests to the store.

use ringfence_core::DomId;
use ringfence_core::wire::xs_wire::Op;
use ringfence_xenstored::Store;

use crate::xenstore::message;

/// Lets two guests and dom0 send what `data` says, then asks whether the store is sound.
///
/// The data is a sequence of frames: one byte for who sends and how, one for the operation, one for the transaction, one for
/// the payload's length, the payload. A frame with the high bit set goes out as raw bytes instead of a message.
///
/// # Panics
/// If the store is not sound afterwards, or keeps more than it may for a guest.
pub fn xenstored_requests(data: &[u8]) {
    let mut store = Store::new();
    let mut conns = Vec::new();
    for domid in [0, 1, 2] {
        store.introduce(DomId::new(domid));
        conns.push((DomId::new(domid), store.connect(DomId::new(domid))));
    }
    let setup = [
        (Op::WRITE, &b"/local/domain/1\0"[..]),
        (Op::SET_PERMS, b"/local/domain/1\0n1\0r2\0"),
        (Op::WRITE, b"/local/domain/2\0"),
        (Op::SET_PERMS, b"/local/domain/2\0b2\0"),
    ];
    for (op, payload) in setup {
        store.feed(conns[0].1, &message(op, 0, 0, payload));
    }
    let mut rest = data;
    while let [who, op, tx, len, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let slot = usize::from(who % 3);
        let (domid, mut conn) = conns[slot];
        if !store.is_connected(conn) {
            store.introduce(domid);
            conn = store.connect(domid);
            conns[slot].1 = conn;
        }
        if who & 0x80 != 0 {
            store.feed(conn, payload);
        } else {
            store.feed(
                conn,
                &message(Op::new(u32::from(*op)), 1, u32::from(*tx), payload),
            );
        }
        if who & 0x40 == 0 {
            loop {
                let len = store.outgoing(conn).len();
                if len == 0 {
                    break;
                }
                store.sent(conn, len);
            }
        }
        if who & 0x20 != 0 {
            store.disconnect(conn);
        }
    }
    store.check().expect("a sound tree");
    for (domid, conn) in &conns[1..] {
        let usage = store.usage(*domid);
        assert!(
            usage.nodes <= 1000 && usage.watches <= 128 && usage.transactions <= 10,
            "{usage:?}"
        );
        assert!(store.backlog(*conn) <= 20 + 1024 + 128, "a bounded queue");
    }
}
