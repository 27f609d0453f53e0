//! The backend of a disk that is honest for a few requests, and then lies. It is the only one that its disk has: its nodes lie
//! where no other backend looks for disks.

use ringfence_core::platform::{Access, Channel, Platform};
use ringfence_core::store::{NodeAccess, Perm, Store, StoreError, StoreExt, Tx};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::xenbus::{Class, paths};
use ringfence_core::{DomId, EvtchnPort, GrantRef, PAGE, SharedMem};
use ringfence_ring::layout::{HEADER, REQ_PROD, RSP_PROD};

use super::lies::Lie;

/// Its directories are `backend/lab/...`.
const KIND: &str = "lab";
/// A slot of a ring of native requests, and how many there are on a page.
const STRIDE: usize = 112;
const SLOTS: u32 = 32;
/// Sectors of the disk: 8 MiB.
const SECTORS: u32 = 1 << 14;

/// The backend of one disk.
pub struct Liar<P: Platform> {
    platform: P,
    front: DomId,
    lie: Lie,
    /// The frontend's directory.
    dir: String,
    /// Its own.
    back: String,
    connection: Option<Connection<P>>,
    lied: bool,
    word: u32,
}

struct Connection<P: Platform> {
    ring: P::Mapping,
    channel: P::Channel,
    taken: u32,
    answered: u32,
}

impl<P: Platform> std::fmt::Debug for Liar<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} about {}", self.lie, self.dir)
    }
}

impl<P: Platform> Connection<P> {
    /// The number and the operation of the next request.
    fn take(&mut self) -> Option<(u64, Op)> {
        if self.ring.load_u32(REQ_PROD) == self.taken {
            return None;
        }
        let at = slot(self.taken);
        self.taken = self.taken.wrapping_add(1);
        let (mut op, mut id) = ([0], [0; 8]);
        self.ring.read(at, &mut op);
        self.ring.read(at + 8, &mut id);
        let [op] = op;
        Some((u64::from_le_bytes(id), Op(op)))
    }

    /// Writes the next answer, and publishes it.
    fn answer(&mut self, id: u64, op: Op, status: Status) {
        let at = slot(self.answered);
        self.ring.write(at, &id.to_le_bytes());
        self.ring.write(at + 8, &[op.0, 0]);
        self.ring.write(at + 10, &status.0.to_le_bytes());
        self.answered = self.answered.wrapping_add(1);
        self.publish(self.answered);
    }

    fn publish(&self, rsp_prod: u32) {
        self.ring.fence();
        self.ring.store_u32(RSP_PROD, rsp_prod);
    }

    fn notify(&self) {
        self.channel.notify().expect("the platform works");
    }
}

/// Where a slot is on the page.
const fn slot(index: u32) -> usize {
    HEADER + (index % SLOTS) as usize * STRIDE
}

impl<P: Platform> Liar<P> {
    /// Makes the nodes of a disk of `front` about which this lie is told.
    ///
    /// # Panics
    /// If the store does not let this domain do that.
    pub fn new<S: Store>(platform: P, store: &mut S, front: DomId, lie: Lie) -> Self {
        let (own, vdev) = (platform.domid(), lie.vdev());
        let liar = Self {
            platform,
            front,
            lie,
            dir: paths::frontend_dir(Class::Vbd, front, vdev).to_string(),
            back: paths::typed_backend_dir(KIND, own, front, vdev).to_string(),
            connection: None,
            lied: false,
            word: 0x2545_F491,
        };
        for (dir, owner, reader) in [(&liar.back, own, front), (&liar.dir, front, own)] {
            store.mkdir(Tx::NONE, dir).expect("may make it");
            let access = NodeAccess::Read;
            let reader = Perm {
                domid: reader,
                access,
            };
            let set = store.set_perms(Tx::NONE, dir, &[Perm::owner(owner), reader]);
            set.expect("may say whose it is");
        }
        let (front_id, own_id) = (front.to_string(), own.to_string());
        for (node, value) in [
            ("frontend", liar.dir.as_str()),
            ("frontend-id", &front_id),
            ("online", "1"),
            ("state", XenbusState::InitWait.digit()),
        ] {
            liar.write(store, node, value);
        }
        if let Some((node, Some(value))) = lie.node() {
            liar.write(store, node, value);
        }
        for (node, value) in [
            ("backend", liar.back.as_str()),
            ("backend-id", &own_id),
            ("virtual-device", &vdev.to_string()),
            ("device-type", "disk"),
            ("state", XenbusState::Initialising.digit()),
        ] {
            let written = store.write_str(Tx::NONE, &liar.dir, node, value);
            written.expect("may write it");
        }
        liar
    }

    fn write<S: Store>(&self, store: &mut S, node: &str, value: &str) {
        let written = store.write_str(Tx::NONE, &self.back, node, value);
        written.unwrap_or_else(|error| panic!("{}/{node}: {error}", self.back));
    }

    /// Does what is to be done now; `false` once the frontend's directory is gone.
    ///
    /// # Panics
    /// If the store fails.
    pub fn step<S: Store>(&mut self, store: &mut S) -> bool {
        let Ok(state) = store.read_state(Tx::NONE, &self.dir) else {
            self.connection = None;
            return false;
        };
        // What a frontend of ours never writes is none of them.
        match XenbusState::from_number(state).unwrap_or(XenbusState::Unknown) {
            XenbusState::Initialised if self.connection.is_none() => self.connect(store),
            XenbusState::Initialised | XenbusState::Connected => self.serve(store),
            XenbusState::Closing | XenbusState::Closed => match self.lie {
                Lie::Holds => {}
                Lie::Flaps => self.let_go(store, XenbusState::InitWait),
                _ => self.let_go(store, XenbusState::Closed),
            },
            _ => {}
        }
        true
    }

    /// Removes its nodes.
    ///
    /// # Panics
    /// If the store fails.
    pub fn end<S: Store>(self, store: &mut S) {
        // With those above it, up to `backend`, which the toolstack left as they were not empty.
        match paths::erase(store, &self.back, 3) {
            Ok(()) | Err(StoreError::Missing) => {}
            Err(error) => panic!("{}: {error}", self.back),
        }
    }

    /// Unmaps what is mapped, and writes this state unless it is there.
    fn let_go<S: Store>(&mut self, store: &mut S, state: XenbusState) {
        self.connection = None;
        let there = store.read_state(Tx::NONE, &self.back);
        if there
            .ok()
            .and_then(|there| XenbusState::from_number(there).ok())
            != Some(state)
        {
            self.write(store, "state", state.digit());
        }
    }

    fn connect<S: Store>(&mut self, store: &mut S) {
        let number = |store: &mut S, node| store.read_u32(Tx::NONE, &self.dir, node);
        // The frontend may take them back at any time.
        let (Ok(gref), Ok(port)) = (number(store, "ring-ref"), number(store, "event-channel"))
        else {
            return;
        };
        let refs = [GrantRef::new(gref)];
        let ring = self.platform.map(self.front, &refs, Access::ReadWrite);
        let channel = self.platform.bind(self.front, EvtchnPort::new(port));
        let (Ok(ring), Ok(channel)) = (ring, channel) else {
            return;
        };
        let answered = ring.load_u32(RSP_PROD);
        self.connection = Some(Connection {
            ring,
            channel,
            taken: answered,
            answered,
        });
        let false_node = self.lie.node();
        let sectors = SECTORS.to_string();
        for (node, value) in [
            ("sector-size", "512"),
            ("sectors", sectors.as_str()),
            ("info", "0"),
        ] {
            if false_node.is_none_or(|(lie, _)| lie != node) {
                self.write(store, node, value);
            }
        }
        let state = match self.lie {
            Lie::State => "99",
            _ => XenbusState::Connected.digit(),
        };
        self.write(store, "state", state);
    }

    fn serve<S: Store>(&mut self, store: &mut S) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let before = connection.answered;
        while !self.lied {
            let Some((id, op)) = connection.take() else {
                break;
            };
            if connection.taken > self.lie.honest() {
                self.lied = true;
                lie(connection, self.lie, id, op);
            } else {
                connection.answer(id, op, Status::OKAY);
            }
        }
        if self.lied || connection.answered != before {
            connection.notify();
        }
        if self.lied {
            self.go_on(store);
        }
    }

    /// What is done again and again after the lie, or takes the store.
    fn go_on<S: Store>(&mut self, store: &mut S) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        match self.lie {
            Lie::Noise => {
                for _ in 0..PAGE {
                    // xorshift: words that look random
                    self.word ^= self.word << 13;
                    self.word ^= self.word >> 17;
                    self.word ^= self.word << 5;
                    let at = self.word as usize % (PAGE / 4) * 4;
                    connection.ring.store_u32(at, self.word);
                }
            }
            Lie::Errors => {
                while let Some((id, op)) = connection.take() {
                    connection.answer(id, op, Status::ERROR);
                }
            }
            Lie::Storm => (0..100).for_each(|_| connection.notify()),
            Lie::Resized => {
                self.write(store, "sectors", "many");
                self.write(store, "state", "99");
            }
            Lie::Gone => self.let_go(store, XenbusState::Closed),
            Lie::Flaps => self.let_go(store, XenbusState::InitWait),
            _ => {}
        }
    }
}

/// Tells it about this request.
fn lie<P: Platform>(connection: &mut Connection<P>, lie: Lie, id: u64, op: Op) {
    let answered = connection.answered;
    match lie {
        Lie::Ahead => connection.publish(answered.wrapping_add(1 << 20)),
        // Before the first of all: whatever the frontend has taken.
        Lie::Behind => connection.publish(answered.wrapping_sub(2 * SLOTS)),
        Lie::UnknownId | Lie::Holds => connection.answer(u64::MAX, op, Status::OKAY),
        Lie::Twice => {
            connection.answer(id, op, Status::OKAY);
            connection.answer(id, op, Status::OKAY);
        }
        Lie::Operation => connection.answer(id, Op(0x5A), Status::OKAY),
        Lie::Status => connection.answer(id, op, Status(-77)),
        Lie::Errors => connection.answer(id, op, Status::ERROR),
        _ => {}
    }
}
