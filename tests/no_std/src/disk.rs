//! A frontend's whole life: connect, write, read back, flush, close.

use ringfence_blkfront::{Event, Frontend, Op};
use ringfence_core::Sector;
use ringfence_core::mem::SharedMem;
use ringfence_core::store::{StoreExt, Tx};
use ringfence_core::wire::blkif::{self, ResponseNative, Status};
use ringfence_ring::Back;
use zerocopy::FromZeros;

use crate::Blkif;
use crate::island::{Guest, Island};
use crate::nodes::Nodes;

const FRONT: &str = "/local/domain/1/device/vbd/51712";
const BACK: &str = "/local/domain/0/backend/vbd/1/51712";
const SECTORS: usize = 16;

/// The driver domain, honest and simple.
struct Driver<'i> {
    island: &'i Island,
    ring: Back<&'i crate::page::Page, Blkif>,
    disk: [u8; SECTORS * 512],
}

impl<'i> Driver<'i> {
    fn connect(island: &'i Island, store: &mut Nodes) -> Option<Self> {
        let gref: u32 = store.read_field(Tx::NONE, FRONT, "ring-ref").ok()?;
        let nodes = [
            ("sectors", "16"),
            ("sector-size", "512"),
            ("info", "0"),
            ("feature-flush-cache", "1"),
            ("state", "4"),
        ];
        for (name, value) in nodes {
            store.write_str(Tx::NONE, BACK, name, value).ok()?;
        }
        Some(Self {
            island,
            ring: Back::attach(island.page(gref)?).ok()?,
            disk: [0; SECTORS * 512],
        })
    }

    /// Serves all that is there; how many requests that was.
    fn serve(&mut self) -> Option<usize> {
        let mut served = 0;
        while let Some(taken) = self.ring.take().ok()? {
            let (request, slot) = taken.into_parts();
            let mut at = usize::try_from(request.sector_number).ok()? * 512;
            for segment in request.seg.get(..usize::from(request.nr_segments))? {
                let page = self.island.page(segment.gref)?;
                let offset = usize::from(segment.first_sect) * 512;
                let len = (usize::from(segment.last_sect) + 1) * 512 - offset;
                let bytes = self.disk.get_mut(at..at + len)?;
                match request.operation {
                    blkif::Op::READ => page.write(offset, bytes),
                    blkif::Op::WRITE => page.read(offset, bytes),
                    _ => return None,
                }
                at += len;
            }
            let mut response = ResponseNative::new_zeroed();
            response.id = request.id;
            response.operation = request.operation;
            response.status = Status::OKAY;
            self.ring.respond(slot, &response);
            served += 1;
        }
        let _ = self.ring.publish();
        let _ = self.ring.arm();
        Some(served)
    }
}

/// `None` where something is not as it should be.
pub fn life() -> Option<()> {
    let island = Island::new();
    let mut store = Nodes::new();
    let nodes = [
        (FRONT, "backend", BACK),
        (FRONT, "backend-id", "0"),
        (FRONT, "state", "1"),
        (BACK, "frontend", FRONT),
        (BACK, "frontend-id", "1"),
        (BACK, "online", "1"),
        (BACK, "state", "2"),
    ];
    for (dir, name, value) in nodes {
        store.write_str(Tx::NONE, dir, name, value).ok()?;
    }
    let mut front = Frontend::new(Guest(&island), "device/vbd/51712").ok()?;
    if front.step(&mut store).ok()?.is_some() {
        return None;
    }
    let mut driver = Driver::connect(&island, &mut store)?;
    match front.step(&mut store).ok()?? {
        Event::Connected(info) if info.flush && info.sectors.get() == SECTORS as u64 => {}
        _ => return None,
    }
    let mut buffer = front.buffer(1).ok()?;
    buffer.write_at(0, b"to be kept").ok()?;
    buffer.write_at(4090, b"is too").ok()?;
    front.submit(Op::Write, Sector::new(8), buffer).ok()?;
    turn(&mut front, &mut driver)?;
    let buffer = front.buffer(1).ok()?;
    front.submit(Op::Read, Sector::new(8), buffer).ok()?;
    let buffer = turn(&mut front, &mut driver)??;
    let (mut head, mut tail) = ([0; 10], [0; 6]);
    buffer.read_at(0, &mut head).ok()?;
    buffer.read_at(4090, &mut tail).ok()?;
    if &head != b"to be kept" || &tail != b"is too" || driver.disk[8 * 512..][..10] != head {
        return None;
    }
    drop(buffer);
    front.flush().ok()?;
    turn(&mut front, &mut driver)?;
    front.close();
    let closing = front.step(&mut store).ok()?? == Event::Closing;
    store.write_str(Tx::NONE, BACK, "state", "6").ok()?;
    let disconnected = front.step(&mut store).ok()?? == Event::Disconnected;
    let closed = front.step(&mut store).ok()?? == Event::Closed;
    (closing && disconnected && closed && island.is_bare() && island.rings() == 3).then_some(())
}

/// One request there and back; its buffer.
fn turn<'i>(
    front: &mut Frontend<Guest<'i>>,
    driver: &mut Driver<'i>,
) -> Option<Option<ringfence_blkfront::Buffer<Guest<'i>>>> {
    front.kick().ok()?;
    if driver.serve()? != 1 {
        return None;
    }
    let done = front.reap().ok()??;
    let _ = front.arm();
    done.result.ok()?;
    Some(done.buffer)
}
