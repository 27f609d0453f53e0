//! A disk that tells what it does.

use std::boxed::Box;
use std::collections::HashMap;
use std::string::String;
use std::time::Instant;

use super::{DiskIo, Done, Geometry, Io, IoOp, Tag};

/// The target of the events.
pub const TARGET: &str = "ringfence::disk";

/// Says of every request what it was, what became of it and how long it took, as an event of `tracing` at level `DEBUG` with
/// the target [`TARGET`].
pub struct Trace {
    below: Box<dyn DiskIo>,
    name: String,
    since: HashMap<Tag, Instant>,
}

impl Trace {
    /// Tells about `below`, under this name.
    pub fn new(below: Box<dyn DiskIo>, name: String) -> Self {
        Self {
            below,
            name,
            since: HashMap::new(),
        }
    }
}

impl DiskIo for Trace {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn touches_data(&self) -> bool {
        self.below.touches_data()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        let tag = io.tag;
        self.below.submit(io)?;
        self.since.insert(tag, Instant::now());
        Ok(())
    }

    fn kick(&mut self) {
        self.below.kick();
    }

    fn reap(&mut self) -> Option<Done> {
        let done = self.below.reap()?;
        let since = self.since.remove(&done.io.tag);
        let micros = since.map_or(0, |since| since.elapsed().as_micros());
        let bytes = u64::try_from(done.io.buffer.len()).unwrap_or(u64::MAX);
        let (op, sector, bytes) = match done.io.op {
            IoOp::Read(sector) => ("read", sector.get(), bytes),
            IoOp::Write(sector) => ("write", sector.get(), bytes),
            IoOp::Flush => ("flush", 0, 0),
            IoOp::Discard {
                sector,
                count,
                secure,
            } => {
                let op = if secure { "secure discard" } else { "discard" };
                (op, sector.get(), count.bytes().unwrap_or(u64::MAX))
            }
        };
        let disk = self.name.as_str();
        let tag = done.io.tag.get();
        match done.result {
            Ok(()) => {
                tracing::debug!(target: TARGET, disk, op, sector, bytes, micros, tag);
            }
            Err(error) => {
                tracing::debug!(target: TARGET, disk, op, sector, bytes, micros, tag, %error);
            }
        }
        Some(done)
    }

    fn wake(&self) -> Option<i32> {
        self.below.wake()
    }

    fn refresh(&mut self) -> Geometry {
        self.below.refresh()
    }
}
