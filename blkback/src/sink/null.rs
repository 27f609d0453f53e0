//! A disk that does nothing, for measuring everything else.

use alloc::collections::VecDeque;

use ringfence_core::ids::SectorCount;

use super::{Discard, DiskIo, Done, Geometry, Io};

/// Requests that may wait for [`DiskIo::reap`].
const QUEUE: usize = 256;

/// Says that everything went well and touches no data: reads leave the guest's pages as they were.
#[derive(Debug)]
pub struct Null {
    geometry: Geometry,
    done: VecDeque<Done>,
}

impl Null {
    /// A disk of this size.
    pub fn new(sectors: SectorCount) -> Self {
        Self {
            geometry: Geometry {
                discard: Some(Discard::new(512)),
                ..Geometry::new(sectors)
            },
            done: VecDeque::with_capacity(QUEUE),
        }
    }
}

impl DiskIo for Null {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn touches_data(&self) -> bool {
        false
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.done.len() >= QUEUE {
            return Err(io);
        }
        self.done.push_back(Done { io, result: Ok(()) });
        Ok(())
    }

    fn kick(&mut self) {}

    fn reap(&mut self) -> Option<Done> {
        self.done.pop_front()
    }
}
