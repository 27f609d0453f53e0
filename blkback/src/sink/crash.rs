//! A disk that ends its process as it is told to: what a request looks like that no process survives.

use alloc::boxed::Box;

use super::fault::{Fault, Faults};
use super::{DiskIo, Done, Geometry, Io};

/// Aborts the process when it is given certain requests, before the disk below sees them.
pub struct Crash(Fault);

impl Crash {
    /// Dies of the requests of `below` that `faults` applies to; a new process counts them anew.
    pub fn new(below: Box<dyn DiskIo>, faults: Faults) -> Self {
        Self(Fault::new(below, faults))
    }
}

impl DiskIo for Crash {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn touches_data(&self) -> bool {
        self.0.touches_data()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.0.fails(&io) {
            std::process::abort();
        }
        self.0.pass(io)
    }

    fn kick(&mut self) {
        self.0.kick();
    }

    fn reap(&mut self) -> Option<Done> {
        self.0.reap()
    }

    fn wake(&self) -> Option<i32> {
        self.0.wake()
    }

    fn refresh(&mut self) -> Geometry {
        self.0.refresh()
    }
}
