//! A guest that does by hand what a frontend does, and may do anything else.

use ringfence_blkback::BlkifNative;
use ringfence_core::ids::{DomId, GrantRef};
use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::store::{StoreExt, Tx};
use ringfence_core::wire::blkif::{
    Op, RequestDiscardNative, RequestIndirectNative, RequestNative, ResponseNative, Segment, Status,
};
use ringfence_core::xenbus::{Class, paths};
use ringfence_core::{PAGE, SharedMem};
use ringfence_ring::Front;
use ringfence_sim::{Sim, SimChannel, SimGranted, SimStore, World};
use zerocopy::{FromZeros, IntoBytes};

use super::{BACK, Rig, backend_dir};

/// One guest with one disk.
pub struct Guest {
    /// The domain.
    pub sim: Sim,
    /// Its connection to the store.
    pub store: SimStore,
    /// The frontend's directory.
    pub dir: String,
    /// The backend's directory.
    pub back_dir: String,
    /// The ring, while there is one.
    pub ring: Option<Front<SimGranted, BlkifNative>>,
    /// Its end of the event channel.
    pub channel: Option<SimChannel>,
    /// A page for data that the backend may write.
    pub page: SimGranted,
}

impl Guest {
    pub(super) fn new(world: &World, front: DomId, vdev: u32) -> Self {
        let sim = world.domain(front);
        let page = sim.alloc(BACK, Access::ReadWrite).expect("a page");
        Self {
            store: sim.store(),
            dir: paths::frontend_dir(Class::Vbd, front, vdev).to_string(),
            back_dir: backend_dir(front, vdev),
            sim,
            ring: None,
            channel: None,
            page,
        }
    }

    /// Writes one of its own nodes.
    pub fn set(&mut self, node: &str, value: &str) {
        self.store
            .write_str(Tx::NONE, &self.dir, node, value)
            .expect("its own node");
    }

    /// Makes a fresh ring and port and writes their numbers, but no state.
    pub fn publish(&mut self) {
        let ring = self.sim.alloc(BACK, Access::ReadWrite).expect("a page");
        let channel = self.sim.alloc_unbound(BACK).expect("a port");
        self.set("ring-ref", &ring.grant_ref().to_string());
        self.set("event-channel", &channel.port().to_string());
        self.set("protocol", "x86_64-abi");
        self.ring = Some(Front::init(ring).expect("a ring"));
        self.channel = Some(channel);
    }

    /// The handshake, from 1 to 4 and 4.
    ///
    /// # Panics
    /// If the backend does not follow.
    pub fn connect(&mut self, rig: &mut Rig) {
        rig.settle();
        assert_eq!(rig.state(self), "2", "{}", rig.error(self));
        self.publish();
        self.set("state", "3");
        rig.settle();
        assert_eq!(rig.state(self), "4", "{}", rig.error(self));
        self.set("state", "4");
        rig.settle();
    }

    /// Back to 1, by way of 5 and 6, whatever happened before.
    ///
    /// # Panics
    /// If the backend does not come along to 2.
    pub fn reset(&mut self, rig: &mut Rig) {
        for state in ["5", "6", "1"] {
            self.set("state", state);
            rig.settle();
        }
        self.ring = None;
        self.channel = None;
        assert_eq!(rig.state(self), "2", "{}", rig.error(self));
    }

    /// Closes for good.
    ///
    /// # Panics
    /// If the backend does not close as well.
    pub fn close(&mut self, rig: &mut Rig) {
        self.set("state", "5");
        rig.settle();
        self.set("state", "6");
        rig.settle();
        assert_eq!(rig.state(self), "6", "{}", rig.error(self));
    }

    /// Puts a request on the ring.
    pub fn push(&mut self, request: &RequestNative) {
        let ring = self.ring.as_mut().expect("a ring");
        ring.push(request).expect("room");
    }

    /// Shows the backend what was pushed, and rings whether it asked for that or not.
    pub fn kick(&mut self) {
        let _ = self.ring.as_mut().expect("a ring").publish();
        self.ring_bell();
    }

    /// Rings.
    pub fn ring_bell(&mut self) {
        self.channel
            .as_ref()
            .expect("a port")
            .notify()
            .expect("a bell");
    }

    /// The ring's page.
    pub fn shared(&self) -> &SimGranted {
        self.ring.as_ref().expect("a ring").mem()
    }

    /// All answers that are there.
    pub fn answers(&mut self) -> Vec<ResponseNative> {
        let ring = self.ring.as_mut().expect("a ring");
        let mut all = Vec::new();
        while let Some(response) = ring.take_response().expect("an honest backend") {
            all.push(response);
        }
        all
    }

    /// Sends one request and returns its answer.
    ///
    /// # Panics
    /// If there is none, or it echoes something else.
    pub fn ask(&mut self, rig: &mut Rig, request: &RequestNative) -> Status {
        self.push(request);
        self.kick();
        rig.settle();
        let answers = self.answers();
        assert_eq!(answers.len(), 1, "one answer");
        // Of an indirect request the operation inside is repeated.
        let operation = match request.operation {
            Op::INDIRECT => Op(request.nr_segments),
            operation => operation,
        };
        assert_eq!(
            (answers[0].id, answers[0].operation),
            (request.id, operation)
        );
        answers[0].status
    }

    /// Writes a sector that is made from `seed` and reads it back.
    ///
    /// # Panics
    /// If that does not work.
    pub fn round_trip(&mut self, rig: &mut Rig, seed: u8) {
        let gref = self.page.grant_ref();
        self.page.write(0, &[seed; PAGE]);
        assert_eq!(self.ask(rig, &write(1, 40, gref)), Status::OKAY);
        self.page.write(0, &[!seed; PAGE]);
        assert_eq!(self.ask(rig, &read(2, 40, gref)), Status::OKAY);
        let mut back = [0; PAGE];
        self.page.read(0, &mut back);
        assert_eq!(back, [seed; PAGE]);
    }
}

/// A request with these segments: page, first sector, last sector.
pub fn request(id: u64, op: Op, sector: u64, segments: &[(GrantRef, u8, u8)]) -> RequestNative {
    let mut request = RequestNative::new_zeroed();
    request.operation = op;
    request.id = id;
    request.sector_number = sector;
    request.nr_segments = segments.len() as u8;
    for (to, (gref, first, last)) in request.seg.iter_mut().zip(segments) {
        let gref = gref.get();
        *to = Segment {
            gref,
            first_sect: *first,
            last_sect: *last,
            pad: [0; 2],
        };
    }
    request
}

/// A read of a whole page.
pub fn read(id: u64, sector: u64, gref: GrantRef) -> RequestNative {
    request(id, Op::READ, sector, &[(gref, 0, 7)])
}

/// A write of a whole page.
pub fn write(id: u64, sector: u64, gref: GrantRef) -> RequestNative {
    request(id, Op::WRITE, sector, &[(gref, 0, 7)])
}

/// A discard.
pub fn discard(id: u64, sector: u64, sectors: u64, flag: u8) -> RequestNative {
    let mut discard = RequestDiscardNative::new_zeroed();
    discard.operation = Op::DISCARD;
    discard.flag = flag;
    discard.id = id;
    discard.sector_number = sector;
    discard.nr_sectors = sectors;
    discard.into()
}

/// An indirect request whose segments are in these pages already.
pub fn indirect(id: u64, op: Op, sector: u64, segments: u16, pages: &[GrantRef]) -> RequestNative {
    let mut indirect = RequestIndirectNative::new_zeroed();
    indirect.operation = Op::INDIRECT;
    indirect.indirect_op = op;
    indirect.nr_segments = segments;
    indirect.id = id;
    indirect.sector_number = sector;
    for (to, gref) in indirect.indirect_grefs.iter_mut().zip(pages) {
        *to = gref.get();
    }
    indirect.into()
}

/// Writes segments into a page, from this one on: page, first sector, last sector.
pub fn write_segments(page: &SimGranted, from: usize, segments: &[(GrantRef, u8, u8)]) {
    for (index, (gref, first, last)) in segments.iter().enumerate() {
        let gref = gref.get();
        let segment = Segment {
            gref,
            first_sect: *first,
            last_sect: *last,
            pad: [0; 2],
        };
        page.write((from + index) * 8, segment.as_bytes());
    }
}
