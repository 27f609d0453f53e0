//! A raw image by plain system calls, for where there is no io_uring.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::raw::{self, FlushLatch, Next, OpenError, Position};
use super::{DiskIo, Done, Geometry, Io, IoOp, discard};
use crate::error::IoError;
use crate::stats::Stats;

/// Requests that may wait for [`DiskIo::kick`] or [`DiskIo::reap`].
const QUEUE: usize = 256;

/// A raw image or block device. Does its work in [`DiskIo::kick`], which blocks as long as the storage takes.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    geometry: Geometry,
    latch: FlushLatch,
    submitted: VecDeque<Io>,
    done: VecDeque<Done>,
    stats: Arc<Stats>,
}

impl File {
    /// The disk behind a descriptor, which nobody else may use meanwhile. With `O_DIRECT` on it, I/O is direct.
    pub fn new(fd: OwnedFd, read_only: bool, stats: Arc<Stats>) -> Result<Self, OpenError> {
        Ok(Self {
            geometry: raw::geometry(&fd, read_only)?,
            fd,
            latch: FlushLatch::default(),
            submitted: VecDeque::with_capacity(QUEUE),
            done: VecDeque::with_capacity(QUEUE),
            stats,
        })
    }

    fn run(&mut self, io: &mut Io) -> Result<(), IoError> {
        let mut position = Position::default();
        let len = io.buffer.len();
        loop {
            let result = self.call(io, position.done);
            let result = result.map_err(Errno::raw_os_error);
            if let Next::Ended(result) = position.advance(io.op, len, result) {
                return if io.op == IoOp::Flush {
                    self.latch.pass(result)
                } else {
                    result
                };
            }
        }
    }

    fn call(&self, io: &mut Io, done: usize) -> Result<usize, Errno> {
        let offset = |sector: ringfence_core::ids::Sector| {
            let done = u64::try_from(done).ok()?;
            sector.byte_offset()?.checked_add(done)
        };
        match io.op {
            IoOp::Read(sector) => {
                self.stats.sys_rw.add(1);
                let bytes = io.buffer.bytes_mut().get_mut(done..).ok_or(Errno::INVAL)?;
                rustix::io::pread(&self.fd, bytes, offset(sector).ok_or(Errno::INVAL)?)
            }
            IoOp::Write(sector) => {
                self.stats.sys_rw.add(1);
                let bytes = io.buffer.bytes().get(done..).ok_or(Errno::INVAL)?;
                rustix::io::pwrite(&self.fd, bytes, offset(sector).ok_or(Errno::INVAL)?)
            }
            IoOp::Flush => {
                self.stats.sys_sync.add(1);
                rustix::fs::fdatasync(&self.fd).map(|()| 0)
            }
            IoOp::Discard {
                sector,
                count,
                secure,
            } => {
                self.stats.sys_discard.add(1);
                discard::now(&self.fd, sector, count, secure).map(|()| 0)
            }
        }
    }
}

impl DiskIo for File {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn refresh(&mut self) -> Geometry {
        raw::refresh(&self.fd, &mut self.geometry);
        self.geometry
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.submitted.len().saturating_add(self.done.len()) >= QUEUE {
            return Err(io);
        }
        self.submitted.push_back(io);
        Ok(())
    }

    fn kick(&mut self) {
        while let Some(mut io) = self.submitted.pop_front() {
            let result = self.run(&mut io);
            self.done.push_back(Done { io, result });
        }
    }

    fn reap(&mut self) -> Option<Done> {
        self.done.pop_front()
    }
}
