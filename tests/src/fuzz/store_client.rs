//! What a store sends to its client.

use std::time::Duration;

use ringfence_core::store::{
    Client, Connection, Interest, Store as _, StoreExt as _, Transport, Tx,
};
use ringfence_core::wire::xs_wire::Op;

/// A peer that says `data` whatever it is told, and then is gone.
struct Peer<'a>(&'a [u8]);

impl Transport for Peer<'_> {
    type Error = ();

    fn send(&mut self, bytes: &[u8]) -> Result<usize, ()> {
        Ok(bytes.len())
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, ()> {
        let len = self.0.len().min(room.len()).min(37);
        let (now, later) = self.0.split_at(len);
        room[..len].copy_from_slice(now);
        self.0 = later;
        Ok(len)
    }

    fn wait(&mut self, _: Interest, _: Option<Duration>) -> Result<(), ()> {
        if self.0.is_empty() { Err(()) } else { Ok(()) }
    }
}

/// Feeds `data` to a client, whole and in pieces, and lets a connection work against it.
///
/// # Panics
/// If the client sees something else in pieces than it sees in the whole.
pub fn store_client(data: &[u8]) {
    let all = |piece: usize| {
        let mut client = Client::<256, 4>::new();
        for op in [Op::READ, Op::DIRECTORY, Op::WATCH, Op::READ] {
            client.begin(op, Tx::NONE, 0).expect("room for four");
        }
        let mut seen = Vec::new();
        for mut input in data.chunks(piece) {
            loop {
                match client.receive(&mut input) {
                    Ok(Some(event)) => seen.push(format!("{event:?}")),
                    Ok(None) => break,
                    Err(error) => return (seen, Some(error), client.stats()),
                }
            }
        }
        (seen, None, client.stats())
    };
    assert_eq!(
        all(1),
        all(data.len().max(1)),
        "a stream has no message boundaries"
    );

    let mut connection = Connection::<_, 4>::new(Peer(data));
    let mut buf = [0; 128];
    let _ = connection.read_u32(Tx::NONE, "dir", "field");
    let _ = connection
        .directory(Tx::NONE, "dir", &mut buf)
        .map(Iterator::count);
    let _ = connection.get_perms(Tx::NONE, "dir");
    let _ = connection.transaction(|store, tx| store.write_u32(tx, "dir", "field", 1));
    while let Ok(Some(_)) = connection.next_watch() {}
}
