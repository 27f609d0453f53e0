//! Rings of other sizes, layouts and numbers than the plain one.

use ringfence_blkback::BlkifNative;
use ringfence_core::ids::GrantRef;
use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::store::{Store, StoreExt, Tx, join};
use ringfence_core::wire::blkif::{Abi, RequestNative, RequestX86_32, ResponseNative};
use ringfence_ring::blkif::BlkifX86_32;
use ringfence_ring::{Front, RingMem};
use ringfence_sim::{SimChannel, SimGranted};
use zerocopy::{FromBytes, IntoBytes};

use super::{BACK, Guest, Rig};

/// Pages of a ring that are granted one by one.
pub struct Pages(Vec<SimGranted>);

impl Pages {
    /// A ring of these.
    pub const fn new(pages: Vec<SimGranted>) -> Self {
        Self(pages)
    }

    /// Their references.
    pub fn refs(&self) -> Vec<GrantRef> {
        self.0.iter().map(Granted::grant_ref).collect()
    }

    fn split(
        &self,
        offset: usize,
        len: usize,
    ) -> impl Iterator<Item = (&SimGranted, usize, usize)> {
        let mut offset = offset;
        let end = offset + len;
        core::iter::from_fn(move || {
            let page = self.0.get(offset / 4096)?;
            let len = (end - offset).min(4096 - offset % 4096);
            let at = offset % 4096;
            offset += len;
            (len > 0).then_some((page, at, len))
        })
    }
}

impl RingMem for Pages {
    fn len(&self) -> usize {
        self.0.len() * 4096
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.0[offset / 4096].load_u32(offset % 4096)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.0[offset / 4096].store_u32(offset % 4096, value);
    }
    fn read(&self, offset: usize, dst: &mut [u8]) {
        let mut rest = dst;
        for (page, at, len) in self.split(offset, rest.len()) {
            let (now, after) = rest.split_at_mut(len);
            page.read(at, now);
            rest = after;
        }
    }
    fn write(&self, offset: usize, src: &[u8]) {
        let mut rest = src;
        for (page, at, len) in self.split(offset, rest.len()) {
            let (now, after) = rest.split_at(len);
            page.write(at, now);
            rest = after;
        }
    }
    fn fence(&self) {
        self.0[0].fence();
    }
}

/// A ring of any size and layout with its port.
pub struct OtherRing {
    ring: Either,
    /// Its end of the event channel.
    pub channel: SimChannel,
}

enum Either {
    Native(Front<Pages, BlkifNative>),
    X86_32(Front<Pages, BlkifX86_32>),
}

impl OtherRing {
    /// The pages.
    pub fn pages(&self) -> &Pages {
        match &self.ring {
            Either::Native(ring) => ring.mem(),
            Either::X86_32(ring) => ring.mem(),
        }
    }

    /// Entries.
    pub fn size(&self) -> u32 {
        match &self.ring {
            Either::Native(ring) => ring.size(),
            Either::X86_32(ring) => ring.size(),
        }
    }

    /// Puts a request on the ring, in its layout. `false` if it is full.
    pub fn push(&mut self, request: &RequestNative) -> bool {
        match &mut self.ring {
            Either::Native(ring) => ring.push(request).is_ok(),
            Either::X86_32(ring) => {
                // Without the padding after `handle`.
                let native = request.as_bytes();
                let bytes = [&native[..4], &native[8..]].concat();
                let request = RequestX86_32::read_from_bytes(&bytes).expect("108 bytes");
                ring.push(&request).is_ok()
            }
        }
    }

    /// Lets the backend see what was pushed, without ringing.
    pub fn show(&mut self) {
        match &mut self.ring {
            Either::Native(ring) => drop(ring.publish()),
            Either::X86_32(ring) => drop(ring.publish()),
        }
    }

    /// Shows the backend what was pushed, and rings.
    pub fn kick(&mut self) {
        self.show();
        self.channel.notify().expect("a bell");
    }

    /// All answers that are there.
    pub fn answers(&mut self) -> Vec<ResponseNative> {
        let mut all = Vec::new();
        loop {
            let next = match &mut self.ring {
                Either::Native(ring) => ring.take_response().expect("honest"),
                Either::X86_32(ring) => {
                    let response = ring.take_response().expect("honest");
                    response.map(|response| ResponseNative {
                        id: response.id.get(),
                        operation: response.operation,
                        pad: 0,
                        status: response.status,
                        pad2: [0; 4],
                    })
                }
            };
            match next {
                Some(response) => all.push(response),
                None => return all,
            }
        }
    }
}

impl Rig {
    /// A guest that is connected with so many rings of a page.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn with_rings(&mut self, front: u16, queues: u32) -> (Guest, Vec<OtherRing>) {
        let mut guest = self.attach(front, 51712, "w");
        self.settle();
        let rings = guest.publish_queues(queues, 0);
        guest.set("state", "3");
        self.settle();
        assert_eq!(self.state(&guest), "4", "{}", self.error(&guest));
        (guest, rings)
    }
}

impl Guest {
    fn make_ring(&self, order: u32, abi: Abi) -> OtherRing {
        let page = || self.sim.alloc(BACK, Access::ReadWrite).expect("a page");
        let pages = Pages((0..1 << order).map(|_| page()).collect());
        let channel = self.sim.alloc_unbound(BACK).expect("a port");
        let ring = match abi {
            Abi::Native => Either::Native(Front::init(pages).expect("a ring")),
            Abi::X86_32 => Either::X86_32(Front::init(pages).expect("a ring")),
        };
        OtherRing { ring, channel }
    }

    fn write_ring(&mut self, dir: &str, ring: &OtherRing, named: bool) {
        for (index, gref) in ring.pages().refs().iter().enumerate() {
            let node = if named {
                format!("ring-ref{index}")
            } else {
                "ring-ref".to_owned()
            };
            let written = self.store.write_u32(Tx::NONE, dir, &node, gref.get());
            written.expect("its own node");
        }
        let port = ring.channel.port().get();
        let written = self.store.write_u32(Tx::NONE, dir, "event-channel", port);
        written.expect("its own node");
    }

    /// Makes a ring of 2^`order` pages in this layout and writes its nodes, but no state.
    pub fn publish_ring(&mut self, order: u32, abi: Abi) -> OtherRing {
        let ring = self.make_ring(order, abi);
        self.set("ring-page-order", &order.to_string());
        self.set(
            "protocol",
            match abi {
                Abi::Native => "x86_64-abi",
                Abi::X86_32 => "x86_32-abi",
            },
        );
        let dir = self.dir.clone();
        self.write_ring(&dir, &ring, true);
        ring
    }

    /// Makes queues with rings of 2^`order` pages and writes their nodes, but no state.
    pub fn publish_queues(&mut self, queues: u32, order: u32) -> Vec<OtherRing> {
        self.set("multi-queue-num-queues", &queues.to_string());
        self.set("protocol", "x86_64-abi");
        if order > 0 {
            self.set("ring-page-order", &order.to_string());
        }
        let rings: Vec<_> = (0..queues)
            .map(|_| self.make_ring(order, Abi::Native))
            .collect();
        for (queue, ring) in rings.iter().enumerate() {
            let dir = match queues {
                1 => self.dir.clone(),
                _ => format!("{}/queue-{queue}", self.dir),
            };
            self.write_ring(&dir, ring, order > 0);
        }
        rings
    }

    /// Takes away the nodes that a plain ring does not have.
    pub fn unpublish(&mut self) {
        let mut nodes: Vec<String> = [
            "ring-page-order",
            "num-ring-pages",
            "multi-queue-num-queues",
            "protocol",
            "feature-persistent",
        ]
        .map(str::to_owned)
        .to_vec();
        nodes.extend((0..16).map(|index| format!("ring-ref{index}")));
        nodes.extend((0..16).map(|queue| format!("queue-{queue}")));
        for node in nodes {
            let path = join(&self.dir, &node).expect("a short path");
            let _ = self.store.rm(Tx::NONE, &path);
        }
    }
}
