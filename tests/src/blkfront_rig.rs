// A frontend in a simulated world, and a backend that does exactly as it is told. No inner doc comment: the examples of
// `ringfence-blkfront` include this file.

use ringfence_blkfront::{Event, Frontend};
use ringfence_core::platform::{Access, Channel, Direction, GrantCopy, Platform};
use ringfence_core::store::{Perm, Store, StoreError, Tx, join};
use ringfence_core::wire::blkif::{Op, RequestNative, ResponseNative, Segment, Status};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{DomId, EvtchnPort, GrantRef, PAGE, SharedMem};
use ringfence_sim::{Sim, SimChannel, SimMapping, SimPage, SimStore, World};
use zerocopy::{FromZeros, IntoBytes};

/// The guest.
pub const FRONT: DomId = DomId::new(1);
/// The driver domain.
pub const BACK: DomId = DomId::new(2);
/// The frontend's directory.
pub const FRONT_DIR: &str = "/local/domain/1/device/vbd/51712";
/// The backend's directory.
pub const BACK_DIR: &str = "/local/domain/2/backend/vbd/1/51712";
/// Where the frontend says why it gave up.
pub const ERROR: &str = "/local/domain/1/error/device/vbd/51712/error";
/// Sectors of the disk.
pub const SECTORS: u64 = 2048;

/// Both domains of one disk.
pub struct Rig<const DEPTH: usize = 32, const PAGES: usize = 11> {
    /// Where it all happens.
    pub world: World,
    /// Dom0's connection.
    pub toolstack: SimStore,
    /// The frontend.
    pub front: Frontend<Sim, DEPTH, PAGES>,
    /// The guest's connection.
    pub store: SimStore,
    /// The driver domain.
    pub back: Sim,
    /// Its connection.
    pub back_store: SimStore,
    /// Its end of the present connection.
    pub peer: Option<Peer>,
    /// Its disk.
    pub disk: Vec<u8>,
    /// Every request it saw.
    pub seen: Vec<RequestNative>,
}

/// The backend's end: raw pages, no rules.
pub struct Peer {
    /// The first page of the ring.
    pub page: SimPage,
    /// The others.
    more: Vec<SimPage>,
    /// Their mapping, which makes the pages busy.
    pub mapping: Option<SimMapping>,
    /// The port.
    pub channel: SimChannel,
    req_cons: u32,
    rsp_prod: u32,
}

impl Peer {
    /// Entries of the ring.
    pub fn slots(&self) -> u32 {
        32 * (1 + self.more.len() as u32)
    }

    /// Where byte `at` of the ring is.
    fn place(&self, at: usize) -> (&SimPage, usize) {
        let page = match at / PAGE {
            0 => &self.page,
            n => &self.more[n - 1],
        };
        (page, at % PAGE)
    }

    /// Writes a response, whatever it says, and publishes it.
    pub fn answer(&mut self, response: ResponseNative) {
        let slot = (self.rsp_prod % self.slots()) as usize;
        for (n, byte) in response.as_bytes().iter().enumerate() {
            let (page, at) = self.place(64 + slot * 112 + n);
            page.write(at, &[*byte]);
        }
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
        self.publish(self.rsp_prod);
    }

    /// Writes `rsp_prod`.
    pub fn publish(&self, rsp_prod: u32) {
        self.page.store_u32(8, rsp_prod);
    }

    /// The responses so far.
    pub const fn rsp_prod(&self) -> u32 {
        self.rsp_prod
    }

    /// The next request.
    pub fn take(&mut self) -> Option<RequestNative> {
        if self.page.load_u32(0) == self.req_cons {
            return None;
        }
        let slot = (self.req_cons % self.slots()) as usize;
        let mut request = RequestNative::new_zeroed();
        for (n, byte) in request.as_mut_bytes().iter_mut().enumerate() {
            let (page, at) = self.place(64 + slot * 112 + n);
            page.read(at, std::slice::from_mut(byte));
        }
        self.req_cons = self.req_cons.wrapping_add(1);
        // To be woken by the next one.
        self.page.store_u32(4, self.req_cons.wrapping_add(1));
        Some(request)
    }
}

/// An honest response.
pub fn response(id: u64, operation: Op, status: Status) -> ResponseNative {
    ResponseNative {
        id,
        operation,
        pad: 0,
        status,
        pad2: [0; 4],
    }
}

/// What Linux says an answer is to: of an indirect request, what it was for.
pub fn echo(request: &RequestNative) -> Op {
    match request.operation {
        Op::INDIRECT => request.indirect().indirect_op,
        operation => operation,
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Rig {
    /// Both directories as a toolstack makes them, and a frontend that has not looked yet.
    pub fn new() -> Self {
        Self::with_limits()
    }

    /// A rig that is connected.
    pub fn connected() -> Self {
        let mut rig = Self::new();
        rig.connect();
        rig
    }
}

impl<const DEPTH: usize, const PAGES: usize> Rig<DEPTH, PAGES> {
    /// The same for a frontend with other limits.
    pub fn with_limits() -> Self {
        let world = World::new();
        let guest = world.create(FRONT);
        let back = world.create(BACK);
        let front = Frontend::with_limits(guest.clone(), "device/vbd/51712").expect("a short path");
        let mut rig = Self {
            toolstack: world.store(DomId::DOM0),
            front,
            store: guest.store(),
            back_store: back.store(),
            back,
            world,
            peer: None,
            disk: vec![0; SECTORS as usize * 512],
            seen: Vec::new(),
        };
        rig.attach().expect("dom0 may write anywhere");
        rig
    }

    /// The toolstack's part.
    fn attach(&mut self) -> Result<(), StoreError> {
        let places = [
            (FRONT_DIR, FRONT, Some(BACK)),
            (BACK_DIR, BACK, Some(FRONT)),
            ("/local/domain/1/error", FRONT, None),
        ];
        for (dir, owner, reader) in places {
            let mut perms = vec![Perm::owner(owner)];
            perms.extend(reader.map(Perm::read));
            self.toolstack.mkdir(Tx::NONE, dir)?;
            self.toolstack.set_perms(Tx::NONE, dir, &perms)?;
        }
        let nodes = [
            (BACK_DIR, "frontend", FRONT_DIR),
            (BACK_DIR, "frontend-id", "1"),
            (BACK_DIR, "online", "1"),
            (BACK_DIR, "state", "1"),
            (FRONT_DIR, "backend", BACK_DIR),
            (FRONT_DIR, "backend-id", "2"),
            (FRONT_DIR, "state", "1"),
        ];
        for (dir, name, value) in nodes {
            self.set(dir, name, value);
        }
        Ok(())
    }

    /// Dom0 writes a node.
    pub fn set(&mut self, dir: &str, name: &str, value: &str) {
        let path = join(dir, name).expect("a short path");
        let written = self.toolstack.write(Tx::NONE, &path, value.as_bytes());
        written.expect("dom0 may write anywhere");
    }

    /// Dom0 removes a node.
    pub fn unset(&mut self, path: &str) {
        let removed = self.toolstack.rm(Tx::NONE, path);
        removed.expect("dom0 may remove anything");
    }

    /// Dom0 reads a node; empty when there is none.
    pub fn get(&mut self, path: &str) -> String {
        let mut buf = [0; 512];
        match self.toolstack.read(Tx::NONE, path, &mut buf) {
            Ok(text) => String::from_utf8_lossy(text).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// The state in the frontend's node.
    pub fn front_state(&mut self) -> String {
        self.get("/local/domain/1/device/vbd/51712/state")
    }

    /// The backend writes a node of its own.
    pub fn node(&mut self, name: &str, value: &str) {
        let path = join(BACK_DIR, name).expect("a short path");
        let written = self.back_store.write(Tx::NONE, &path, value.as_bytes());
        written.expect("the backend may write its own nodes");
    }

    /// The backend changes its state.
    pub fn state(&mut self, state: XenbusState) {
        self.node("state", state.digit());
    }

    /// The frontend looks once.
    ///
    /// # Panics
    /// If store or platform fail.
    pub fn step(&mut self) -> Option<Event> {
        self.front.step(&mut self.store).expect("the world works")
    }

    /// Every event until the frontend has nothing more to do.
    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.step()).collect()
    }

    /// What an honest backend says of its disk.
    pub fn describe(&mut self) {
        self.node("sectors", &SECTORS.to_string());
        self.node("sector-size", "512");
        self.node("info", "0");
        for feature in ["flush-cache", "barrier", "discard"] {
            self.node(&format!("feature-{feature}"), "1");
        }
        self.node("discard-granularity", "4096");
        self.node("discard-secure", "1");
        self.node("feature-persistent", "1");
    }

    /// Lets the frontend publish a ring, and takes the backend's end of it.
    pub fn published(&mut self) {
        self.state(XenbusState::InitWait);
        assert_eq!(self.events(), []);
        assert_eq!(self.front_state(), "3");
        self.peer = Some(self.attach_to(FRONT_DIR));
    }

    /// Takes the backend's end of the ring that is published in this directory.
    pub fn attach_to(&mut self, dir: &str) -> Peer {
        let mut number = |dir: &str, name: &str| {
            let text = self.get(&format!("{dir}/{name}"));
            text.parse::<u32>().ok()
        };
        let port = EvtchnPort::new(number(dir, "event-channel").expect("a port"));
        let refs: Vec<_> = match number(FRONT_DIR, "ring-page-order") {
            None => vec![number(dir, "ring-ref").expect("a reference")],
            Some(order) => (0..1 << order)
                .map(|n| number(dir, &format!("ring-ref{n}")).expect("a reference"))
                .collect(),
        };
        let refs: Vec<_> = refs.into_iter().map(GrantRef::new).collect();
        let mapping = self.back.map(FRONT, &refs, Access::ReadWrite);
        let mut pages = refs
            .iter()
            .map(|gref| self.world.page(FRONT, *gref).expect("a granted page"));
        Peer {
            page: pages.next().expect("at least one"),
            more: pages.collect(),
            mapping: Some(mapping.expect("ring pages")),
            channel: self.back.bind(FRONT, port).expect("a port"),
            req_cons: 0,
            rsp_prod: 0,
        }
    }

    /// Goes all the way to 4 and 4.
    pub fn connect(&mut self) {
        self.published();
        self.describe();
        self.state(XenbusState::Connected);
        let events = self.events();
        assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
    }

    /// The backend's end.
    ///
    /// # Panics
    /// Before [`published`](Self::published).
    pub fn peer(&mut self) -> &mut Peer {
        self.peer.as_mut().expect("published")
    }

    /// The backend takes what is on the ring, without an answer. Returns the last request.
    pub fn take_all(&mut self) -> RequestNative {
        while let Some(request) = self.peer().take() {
            self.seen.push(request);
        }
        *self.seen.last().expect("a request")
    }

    /// The backend answers everything on the ring, honestly, and rings.
    pub fn serve(&mut self) {
        let mut peer = self.peer.take().expect("published");
        self.serve_on(&mut peer);
        self.peer = Some(peer);
    }

    /// The same for a ring of several.
    pub fn serve_on(&mut self, peer: &mut Peer) {
        while let Some(request) = peer.take() {
            self.seen.push(request);
            self.transfer(&request);
            peer.answer(response(request.id, echo(&request), Status::OKAY));
        }
        peer.channel.notify().expect("a live world");
    }

    /// The segments of a request, wherever they are.
    pub fn segments(&self, request: &RequestNative) -> Vec<Segment> {
        if request.operation != Op::INDIRECT {
            return request.seg[..usize::from(request.nr_segments)].to_vec();
        }
        let request = request.indirect();
        let segment = |n: usize| {
            let gref = GrantRef::new(request.indirect_grefs[n / 512]);
            let page = self.world.page(FRONT, gref).expect("a granted page");
            let mut segment = Segment::default();
            page.read(n % 512 * 8, segment.as_mut_bytes());
            segment
        };
        (0..usize::from(request.nr_segments)).map(segment).collect()
    }

    /// Moves the data of a request.
    pub fn transfer(&mut self, request: &RequestNative) {
        let direction = match echo(request) {
            Op::READ => Direction::ToPeer,
            Op::WRITE | Op::WRITE_BARRIER => Direction::FromPeer,
            Op::DISCARD => {
                let discard = request.discard();
                let at = discard.sector_number as usize * 512;
                self.disk[at..][..discard.nr_sectors as usize * 512].fill(0);
                return;
            }
            _ => return,
        };
        let mut at = request.sector_number as usize * 512;
        for segment in &self.segments(request) {
            let bytes = (usize::from(segment.last_sect - segment.first_sect) + 1) * 512;
            self.copy(segment, direction, at..at + bytes);
            at += bytes;
        }
    }

    fn copy(&mut self, segment: &Segment, direction: Direction, range: std::ops::Range<usize>) {
        let gref = GrantRef::new(segment.gref);
        let offset = u16::from(segment.first_sect) * 512;
        let bytes = &mut self.disk[range];
        let mut op = match direction {
            Direction::ToPeer => [GrantCopy::to_peer(gref, offset, bytes)],
            Direction::FromPeer => [GrantCopy::from_peer(gref, offset, bytes)],
        };
        self.back.copy(FRONT, &mut op).expect("a live world");
        assert!(op[0].status.is_okay(), "{}", op[0].status);
    }

    /// The guest was saved and restored: its nodes are as a toolstack makes them, its backend and its watches are new.
    pub fn restored(&mut self) {
        self.peer = None;
        for name in ["ring-ref", "event-channel"] {
            self.unset(&format!("{FRONT_DIR}/{name}"));
        }
        self.set(FRONT_DIR, "state", "1");
        self.state(XenbusState::Initialising);
        self.store = self.world.store(FRONT);
    }

    /// Closes the backend's side: unmapped, port closed, state 6.
    pub fn close_back(&mut self) {
        self.peer = None;
        self.state(XenbusState::Closed);
    }
}
