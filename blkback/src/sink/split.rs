//! One disk for several rings of one thread.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::disk::Manner;
use super::{Disk, DiskIo, Done, Geometry, Io, Tag};

/// Requests of one ring that may be at the disk: what the largest has, and a flush of our own.
const PER_RING: usize = 513;
/// The most requests of all rings together; the others wait in their engines.
const IN_FLIGHT_MAX: usize = 4096;

/// What the parts have in common.
struct Hub {
    io: Box<dyn DiskIo>,
    /// By the tag that the disk sees: whose request it is, and its own tag.
    owners: Vec<Option<(usize, Tag)>>,
    free: Vec<u16>,
    /// Finished and not yet reaped, by part.
    done: Vec<VecDeque<Done>>,
    /// How many those are.
    waiting: usize,
    /// A request found no room, and none was made since.
    refused: bool,
    /// Room was made for such a request.
    room: bool,
}

impl Hub {
    fn submit(&mut self, part: usize, mut io: Io) -> Result<(), Io> {
        let own = io.tag;
        let Some(number) = self.free.pop() else {
            self.refused = true;
            return Err(io);
        };
        io.tag = Tag::new(number);
        match self.io.submit(io) {
            Ok(()) => {
                if let Some(owner) = self.owners.get_mut(usize::from(number)) {
                    *owner = Some((part, own));
                }
                Ok(())
            }
            Err(mut io) => {
                self.free.push(number);
                self.refused = true;
                io.tag = own;
                Err(io)
            }
        }
    }

    /// Hands out what is finished until there is something for `part`, or nothing left.
    fn reap(&mut self, part: usize) -> Option<Done> {
        loop {
            if let Some(done) = self.done.get_mut(part)?.pop_front() {
                self.waiting = self.waiting.saturating_sub(1);
                return Some(done);
            }
            let mut done = self.io.reap()?;
            self.room |= core::mem::take(&mut self.refused);
            let number = done.io.tag.get();
            let owner = self.owners.get_mut(usize::from(number));
            // A disk that finishes what it was not given is not believed.
            let Some((part, own)) = owner.and_then(Option::take) else {
                continue;
            };
            self.free.push(number);
            done.io.tag = own;
            if let Some(queue) = self.done.get_mut(part) {
                queue.push_back(done);
                self.waiting = self.waiting.saturating_add(1);
            }
        }
    }
}

/// What makes the disk one again.
pub struct Split {
    hub: Rc<RefCell<Hub>>,
    manner: Manner,
}

impl Split {
    /// Divides a disk among `parts` rings. Every part has the whole disk; what one submits only that one reaps.
    pub fn new(disk: Disk, parts: u16) -> (Self, Vec<Disk>) {
        let (io, manner) = disk.into_parts();
        let parts = usize::from(parts);
        let room = parts.saturating_mul(PER_RING).min(IN_FLIGHT_MAX);
        let mut owners = Vec::new();
        owners.resize_with(room, || None);
        let mut done = Vec::new();
        done.resize_with(parts, VecDeque::new);
        let hub = Rc::new(RefCell::new(Hub {
            io,
            owners,
            free: (0..u16::try_from(room).unwrap_or(u16::MAX)).rev().collect(),
            done,
            waiting: 0,
            refused: false,
            room: false,
        }));
        let disks = (0..parts)
            .map(|part| {
                let hub = Rc::clone(&hub);
                Disk::from_parts(Box::new(Part { hub, part }), manner.clone())
            })
            .collect();
        (Self { hub, manner }, disks)
    }

    /// Whether one part's look found something for another one that has not been looked at since, or since this was last asked
    /// made room for it: the descriptor no longer tells of it.
    pub fn moved(&self) -> bool {
        let mut hub = self.hub.borrow_mut();
        core::mem::take(&mut hub.room) || hub.waiting > 0
    }

    /// The disk as it was, once all its parts are dropped. What they left at it is nobody's.
    pub fn join(self) -> Disk {
        let io: Box<dyn DiskIo> = match Rc::try_unwrap(self.hub) {
            Ok(hub) => hub.into_inner().io,
            Err(hub) => Box::new(Part { hub, part: 0 }),
        };
        // It may have another size by now.
        let mut manner = self.manner;
        manner.geometry.sectors = io.geometry().sectors;
        Disk::from_parts(io, manner)
    }
}

struct Part {
    hub: Rc<RefCell<Hub>>,
    part: usize,
}

impl DiskIo for Part {
    fn geometry(&self) -> Geometry {
        self.hub.borrow().io.geometry()
    }

    fn refresh(&mut self) -> Geometry {
        self.hub.borrow_mut().io.refresh()
    }

    fn touches_data(&self) -> bool {
        self.hub.borrow().io.touches_data()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        self.hub.borrow_mut().submit(self.part, io)
    }

    fn kick(&mut self) {
        self.hub.borrow_mut().io.kick();
    }

    fn reap(&mut self) -> Option<Done> {
        self.hub.borrow_mut().reap(self.part)
    }

    fn wake(&self) -> Option<i32> {
        self.hub.borrow().io.wake()
    }
}

#[cfg(test)]
mod tests {
    use ringfence_core::ids::{Sector, SectorCount};

    use super::*;
    use crate::buffer::Buffer;
    use crate::sink::{IoOp, Memory};

    fn write(tag: u16, sector: u64, byte: u8) -> Io {
        let mut buffer = Buffer::with_pages(1);
        buffer.set_len(512);
        buffer.bytes_mut().fill(byte);
        Io {
            tag: Tag::new(tag),
            op: IoOp::Write(Sector::new(sector)),
            buffer,
        }
    }

    #[test]
    fn each_part_reaps_its_own_with_its_own_tags() {
        let disk = Disk::new(Box::new(Memory::new(SectorCount::new(64)).unwrap()));
        let (split, mut parts) = Split::new(disk, 2);
        for round in 0..1000u64 {
            for (part, disk) in parts.iter_mut().enumerate() {
                let sector = 2 * (round % 8) + u64::try_from(part).unwrap();
                disk.submit(write(7, sector, u8::try_from(part).unwrap() + 1))
                    .unwrap();
            }
            // The second looks first, and does not get what the first submitted.
            for part in [1, 0] {
                let done = parts[part].reap().unwrap();
                assert_eq!(done.io.tag, Tag::new(7));
                assert_eq!(usize::from(done.io.buffer.bytes()[0]), part + 1);
                assert!(parts[part].reap().is_none());
            }
        }
        assert_eq!(parts[0].stats().snapshot().writes, 2000);
        drop(parts);
        let mut disk = split.join();
        disk.submit(Io {
            tag: Tag::new(1),
            op: IoOp::Read(Sector::new(1)),
            buffer: write(0, 0, 0).buffer,
        })
        .unwrap();
        assert_eq!(disk.reap().unwrap().io.buffer.bytes(), [2; 512]);
    }
}
