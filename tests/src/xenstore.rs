//! A store with clients that speak the wire by hand.

use std::collections::BTreeMap;

use ringfence_core::DomId;
use ringfence_core::wire::xs_wire::{Op, SockMsg};
use ringfence_xenstored::{ConnId, Store};
use zerocopy::{FromBytes, IntoBytes};

/// An answer: its payload, or the name of the error.
pub type Answer = Result<Vec<u8>, String>;

/// A watch event: path and token.
pub type Heard = (String, Vec<u8>);

/// One whole message.
#[must_use]
pub fn message(op: Op, req_id: u32, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a payload of the test's own");
    let header = SockMsg {
        op,
        req_id,
        tx_id,
        len,
    };
    [header.as_bytes(), payload].concat()
}

/// Splits what a store sent into messages.
///
/// # Panics
/// If it is not a whole number of them.
#[must_use]
pub fn messages(mut bytes: &[u8]) -> Vec<(SockMsg, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = SockMsg::read_from_prefix(bytes).expect("a whole header");
        let (payload, rest) = rest.split_at(header.len as usize);
        all.push((header, payload.to_vec()));
        bytes = rest;
    }
    all
}

/// A store, dom0's connection to it, and whatever guests a test adds.
pub struct World {
    /// The store.
    pub store: Store,
    /// Dom0's connection.
    pub dom0: ConnId,
    events: BTreeMap<ConnId, Vec<Heard>>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A new store with dom0 connected.
    #[must_use]
    pub fn new() -> Self {
        let mut store = Store::new();
        let dom0 = store.connect(DomId::DOM0);
        Self {
            store,
            dom0,
            events: BTreeMap::new(),
        }
    }

    /// What a toolstack does for a new guest: its home, readable, and `data` in it, its own; then it is introduced and
    /// connects.
    pub fn guest(&mut self, domid: u16) -> ConnId {
        let home = format!("/local/domain/{domid}");
        self.write(self.dom0, 0, &home, b"").expect("dom0 may");
        self.chmod(self.dom0, 0, &home, &["n0", &format!("r{domid}")])
            .expect("dom0 may");
        self.write(self.dom0, 0, &format!("{home}/name"), b"guest")
            .expect("dom0 may");
        self.write(self.dom0, 0, &format!("{home}/data"), b"")
            .expect("dom0 may");
        self.chmod(
            self.dom0,
            0,
            &format!("{home}/data"),
            &[&format!("n{domid}")],
        )
        .expect("dom0 may");
        self.store.introduce(DomId::new(domid));
        self.store.connect(DomId::new(domid))
    }

    /// Sends one request and reads everything that the store has for that client.
    ///
    /// # Panics
    /// If the store does not take the request or does not answer it.
    pub fn ask(&mut self, conn: ConnId, op: Op, tx: u32, payload: &[u8]) -> Answer {
        let bytes = message(op, 77, tx, payload);
        assert_eq!(self.store.feed(conn, &bytes), bytes.len(), "taken");
        let mut answers = self.drain(conn);
        let answer = answers.pop().expect("an answer");
        assert!(answers.is_empty(), "more than one answer");
        answer
    }

    /// Reads everything that the store has for that client; events go where [`events`](Self::events) finds them.
    pub fn drain(&mut self, conn: ConnId) -> Vec<Answer> {
        let mut bytes = Vec::new();
        loop {
            let now = self.store.outgoing(conn).to_vec();
            if now.is_empty() {
                break;
            }
            self.store.sent(conn, now.len());
            bytes.extend(now);
        }
        let mut answers = Vec::new();
        for (header, payload) in messages(&bytes) {
            assert!(
                payload.len() <= 4096,
                "a payload of {} bytes",
                payload.len()
            );
            match header.op {
                Op::WATCH_EVENT => {
                    let parts: Vec<_> = payload.split(|byte| *byte == 0).collect();
                    let path = String::from_utf8(parts[0].to_vec()).expect("a path");
                    self.events
                        .entry(conn)
                        .or_default()
                        .push((path, parts[1].to_vec()));
                }
                Op::ERROR => {
                    let name = payload.strip_suffix(b"\0").expect("a NUL after the error");
                    answers.push(Err(String::from_utf8(name.to_vec()).expect("a name")));
                }
                _ => answers.push(Ok(payload)),
            }
        }
        answers
    }

    /// The events that a client got since the last call.
    pub fn events(&mut self, conn: ConnId) -> Vec<Heard> {
        assert!(self.drain(conn).is_empty(), "an answer to no request");
        self.events.remove(&conn).unwrap_or_default()
    }

    /// `XS_READ`.
    pub fn read(&mut self, conn: ConnId, tx: u32, path: &str) -> Answer {
        self.ask(conn, Op::READ, tx, &[path.as_bytes(), b"\0"].concat())
    }

    /// `XS_WRITE`.
    pub fn write(&mut self, conn: ConnId, tx: u32, path: &str, value: &[u8]) -> Answer {
        self.ask(
            conn,
            Op::WRITE,
            tx,
            &[path.as_bytes(), b"\0", value].concat(),
        )
    }

    /// `XS_RM`.
    pub fn rm(&mut self, conn: ConnId, tx: u32, path: &str) -> Answer {
        self.ask(conn, Op::RM, tx, &[path.as_bytes(), b"\0"].concat())
    }

    /// `XS_SET_PERMS`.
    pub fn chmod(&mut self, conn: ConnId, tx: u32, path: &str, perms: &[&str]) -> Answer {
        let mut payload = [path.as_bytes(), b"\0"].concat();
        for perm in perms {
            payload.extend_from_slice(perm.as_bytes());
            payload.push(0);
        }
        self.ask(conn, Op::SET_PERMS, tx, &payload)
    }

    /// `XS_WATCH`.
    pub fn watch(&mut self, conn: ConnId, path: &str, token: &[u8]) -> Answer {
        self.ask(
            conn,
            Op::WATCH,
            0,
            &[path.as_bytes(), b"\0", token, b"\0"].concat(),
        )
    }

    /// `XS_TRANSACTION_START`.
    pub fn start(&mut self, conn: ConnId) -> Result<u32, String> {
        let answer = self.ask(conn, Op::TRANSACTION_START, 0, b"\0")?;
        let text = String::from_utf8(answer).expect("digits");
        Ok(text.trim_end_matches('\0').parse().expect("a number"))
    }

    /// `XS_TRANSACTION_END`, committing.
    pub fn commit(&mut self, conn: ConnId, tx: u32) -> Answer {
        self.ask(conn, Op::TRANSACTION_END, tx, b"T\0")
    }

    /// What holds after every attack: the tree is sound, and an uninvolved guest is served.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn alive(&mut self) {
        self.store.check().expect("a sound tree");
        let neighbour = self.guest(4000);
        self.write(neighbour, 0, "data/x", b"1")
            .expect("a neighbour writes");
        assert_eq!(
            self.read(neighbour, 0, "data/x")
                .expect("a neighbour reads"),
            b"1"
        );
        assert!(self.store.release(DomId::new(4000)));
        self.rm(self.dom0, 0, "/local/domain/4000")
            .expect("dom0 removes");
        self.drain(self.dom0);
    }
}
