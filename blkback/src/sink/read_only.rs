//! A disk that nobody can change.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use super::{DiskIo, Done, Geometry, Io, IoOp};
use crate::error::IoError;

/// Refused requests that may wait to be reaped.
const QUEUE: usize = 256;

/// Refuses writes and discards, whatever the disk below can do.
pub struct ReadOnly {
    below: Box<dyn DiskIo>,
    refused: VecDeque<Done>,
}

impl ReadOnly {
    /// Protects `below`.
    pub const fn new(below: Box<dyn DiskIo>) -> Self {
        Self {
            below,
            refused: VecDeque::new(),
        }
    }
}

const fn protect(below: Geometry) -> Geometry {
    Geometry {
        read_only: true,
        discard: None,
        ..below
    }
}

impl DiskIo for ReadOnly {
    fn geometry(&self) -> Geometry {
        protect(self.below.geometry())
    }

    fn touches_data(&self) -> bool {
        self.below.touches_data()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        // Who keeps to the geometry never gets here.
        match io.op {
            IoOp::Read(_) | IoOp::Flush => self.below.submit(io),
            IoOp::Write(_) | IoOp::Discard { .. } if self.refused.len() >= QUEUE => Err(io),
            IoOp::Write(_) | IoOp::Discard { .. } => {
                let result = Err(IoError::ReadOnly);
                self.refused.push_back(Done { io, result });
                Ok(())
            }
        }
    }

    fn kick(&mut self) {
        self.below.kick();
    }

    fn reap(&mut self) -> Option<Done> {
        self.refused.pop_front().or_else(|| self.below.reap())
    }

    fn wake(&self) -> Option<i32> {
        self.below.wake()
    }

    fn refresh(&mut self) -> Geometry {
        protect(self.below.refresh())
    }
}
