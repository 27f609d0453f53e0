//! Raw images through one io_uring: many disks, one submission call per batch.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::raw::{self, FlushLatch, Next, OpenError, Position};
use super::{DiskIo, Done, Geometry, Io, IoOp, discard};
use crate::stats::Stats;

/// The most requests of all disks together that are at the kernel at once.
const IN_FLIGHT_MAX: u32 = 4096;

/// A ring that the disks of one worker share. A handle; stays on its thread.
///
/// Uses the opcodes `IORING_OP_READ`, `_WRITE`, `_FSYNC` and `_FALLOCATE` on plain descriptors, no registered files or buffers: a ring that
/// is restricted to these will do.
#[derive(Clone)]
pub struct Uring(Rc<RefCell<Hub>>);

struct Hub {
    ring: IoUring,
    requests: Vec<Option<Request>>,
    free: Vec<u32>,
    /// Entries in the submission queue that the kernel has not been told of.
    unsubmitted: u32,
    /// How often [`Uring::moved`] was asked.
    asked: u64,
    /// Since then: for how many files others found something, for which they have not looked themselves.
    moved: u32,
    /// A request found no room, and none was made since.
    refused: bool,
}

/// What a request in flight keeps alive: its buffer, its descriptor, and where its end is told.
struct Request {
    io: Io,
    position: Position,
    file: Rc<Shared>,
}

struct Shared {
    fd: OwnedFd,
    done: RefCell<VecDeque<Done>>,
    /// Counted in the hub's `moved` if that is what the hub was asked last.
    moved: Cell<Option<u64>>,
    latch: RefCell<FlushLatch>,
}

impl Uring {
    /// Works on a ring that is set up, restricted and enabled by whoever sandboxes the process.
    pub fn new(ring: IoUring) -> Self {
        // Never more in flight than the completion queue holds, so that it cannot overflow.
        let room = ring.params().cq_entries().min(IN_FLIGHT_MAX);
        let mut requests = Vec::new();
        requests.resize_with(usize::try_from(room).unwrap_or(0), || None);
        let free = (0..room).rev().collect();
        Self(Rc::new(RefCell::new(Hub {
            ring,
            requests,
            free,
            unsubmitted: 0,
            asked: 0,
            moved: 0,
            refused: false,
        })))
    }

    /// The descriptor that is readable when a request of any disk has ended.
    pub fn fd(&self) -> i32 {
        self.0.borrow().ring.as_raw_fd()
    }

    /// The same, borrowed from `self`, to be waited on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the hub owns the descriptor and lives at least as long as this handle to it, which is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.fd()) }
    }

    /// Tells the kernel of everything that the disks have submitted: at most one system call, which is counted in `stats`.
    pub fn kick(&self, stats: &Stats) {
        self.0.borrow_mut().kick(stats);
    }

    /// Whether since this was last asked a look at one disk found something, or made room, for another one that has not been
    /// looked at since: the descriptor no longer tells of it.
    pub fn moved(&self) -> bool {
        let mut hub = self.0.borrow_mut();
        hub.asked = hub.asked.wrapping_add(1);
        core::mem::take(&mut hub.moved) > 0
    }

    /// The disk behind a descriptor, which nobody else may use meanwhile. With `O_DIRECT` on it, I/O is direct.
    pub fn disk(
        &self,
        fd: OwnedFd,
        read_only: bool,
        stats: Arc<Stats>,
    ) -> Result<UringFile, OpenError> {
        let geometry = raw::geometry(&fd, read_only)?;
        let shared = Shared {
            fd,
            done: RefCell::new(VecDeque::with_capacity(64)),
            moved: Cell::new(None),
            latch: RefCell::default(),
        };
        Ok(UringFile {
            uring: self.clone(),
            geometry,
            file: Rc::new(shared),
            stats,
        })
    }
}

impl Hub {
    fn submit(&mut self, file: &Rc<Shared>, io: Io, stats: &Stats) -> Result<(), Io> {
        let Some(number) = self.free.pop() else {
            self.refused = true;
            return Err(io);
        };
        let request = Request {
            io,
            position: Position::default(),
            file: file.clone(),
        };
        match self
            .requests
            .get_mut(usize::try_from(number).unwrap_or(usize::MAX))
        {
            Some(place) => *place = Some(request),
            None => return Err(request.io),
        }
        if self.push(number, stats) {
            return Ok(());
        }
        self.free.push(number);
        match self.take(number) {
            Some(request) => Err(request.io),
            None => Ok(()),
        }
    }

    fn take(&mut self, number: u32) -> Option<Request> {
        self.requests.get_mut(usize::try_from(number).ok()?)?.take()
    }

    /// Puts what is left of a request into the submission queue.
    fn push(&mut self, number: u32, stats: &Stats) -> bool {
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(Some(request)) = self.requests.get_mut(place) else {
            return false;
        };
        let Some(entry) = request.entry() else {
            return false;
        };
        let entry = entry.user_data(u64::from(number));
        for _ in 0..2 {
            // SAFETY: the entry points into the request's buffer and names its descriptor. Both are owned by
            // `self.requests[number]`, which is emptied only when the kernel has completed this entry (`reap`), or when
            // pushing failed and the kernel has not seen it; and when the hub is dropped before, they are leaked. The
            // buffer's pages do not move with the request: they are boxed.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.unsubmitted = self.unsubmitted.saturating_add(1);
                return true;
            }
            self.kick(stats);
        }
        false
    }

    fn kick(&mut self, stats: &Stats) {
        for _ in 0..8 {
            if self.unsubmitted == 0 {
                return;
            }
            stats.sys_io_uring_enter.add(1);
            match self.ring.submit() {
                Ok(taken) => {
                    let taken = u32::try_from(taken).unwrap_or(u32::MAX);
                    self.unsubmitted = self.unsubmitted.saturating_sub(taken);
                }
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                // Out of kernel memory, or completions to be reaped first: the next kick tries again.
                Err(_) => return,
            }
        }
    }

    /// Takes in all completions, each into the queue of its disk, for this one, whose queue is empty.
    fn reap(&mut self, own: &Rc<Shared>, stats: &Stats) {
        if own.moved.take() == Some(self.asked) {
            self.moved = self.moved.saturating_sub(1);
        }
        let mut repeated = false;
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { break };
            let Ok(number) = u32::try_from(entry.user_data()) else {
                continue;
            };
            let Some(mut request) = self.take(number) else {
                continue;
            };
            let result = match usize::try_from(entry.result()) {
                Ok(bytes) => Ok(bytes),
                Err(_) => Err(entry.result().saturating_neg()),
            };
            let len = request.io.buffer.len();
            let mut ended = match request.position.advance(request.io.op, len, result) {
                Next::Ended(result) => Some(result),
                Next::Again => None,
            };
            if ended.is_none() {
                // A completion was taken, hence there is room; else the request would be lost.
                if let Some(place) = self.requests.get_mut(number as usize) {
                    *place = Some(request);
                }
                if self.push(number, stats) {
                    repeated = true;
                    continue;
                }
                let Some(unsent) = self.take(number) else {
                    continue;
                };
                request = unsent;
                let errno = Errno::AGAIN.raw_os_error();
                ended = Some(Err(crate::error::IoError::System {
                    op: "io_uring_enter",
                    errno,
                }));
            }
            self.free.push(number);
            if core::mem::take(&mut self.refused) {
                self.moved = self.moved.saturating_add(1);
            }
            let asked = Some(self.asked);
            if !Rc::ptr_eq(&request.file, own) && request.file.moved.replace(asked) != asked {
                self.moved = self.moved.saturating_add(1);
            }
            request.end(ended.unwrap_or(Ok(())));
        }
        if repeated {
            self.kick(stats);
        }
    }
}

impl Request {
    /// The entry for what is left; `None` for an offset past what a file can have, which no geometry allows.
    fn entry(&mut self) -> Option<squeue::Entry> {
        let fd = types::Fd(self.file.fd.as_raw_fd());
        let done = self.position.done;
        let offset = |sector: ringfence_core::ids::Sector| {
            sector.byte_offset()?.checked_add(u64::try_from(done).ok()?)
        };
        Some(match self.io.op {
            IoOp::Read(sector) => {
                let rest = self.io.buffer.bytes_mut().get_mut(done..)?;
                let len = u32::try_from(rest.len()).ok()?;
                opcode::Read::new(fd, rest.as_mut_ptr(), len)
                    .offset(offset(sector)?)
                    .build()
            }
            IoOp::Write(sector) => {
                let rest = self.io.buffer.bytes().get(done..)?;
                let len = u32::try_from(rest.len()).ok()?;
                opcode::Write::new(fd, rest.as_ptr(), len)
                    .offset(offset(sector)?)
                    .build()
            }
            IoOp::Flush => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            IoOp::Discard { sector, count, .. } => {
                let (start, len) = discard::range(sector, count)?;
                opcode::Fallocate::new(fd, len)
                    .offset(start)
                    .mode(i32::try_from(discard::HOLE.bits()).ok()?)
                    .build()
            }
        })
    }

    fn end(self, result: Result<(), crate::error::IoError>) {
        let result = match self.io.op {
            IoOp::Flush => self.file.latch.borrow_mut().pass(result),
            // Storage that cannot make holes may still know a plain discard, which the ring has no word for.
            IoOp::Discard { sector, count, .. }
                if result == Err(crate::error::IoError::Unsupported) =>
            {
                discard::run(&self.file.fd, sector, count, false)
            }
            _ => result,
        };
        self.file.done.borrow_mut().push_back(Done {
            io: self.io,
            result,
        });
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // What the kernel may still write to must not be freed, and Drop does not wait.
        for request in self.requests.drain(..).flatten() {
            std::mem::forget(request);
        }
    }
}

/// A raw image or block device on a shared ring.
pub struct UringFile {
    uring: Uring,
    geometry: Geometry,
    file: Rc<Shared>,
    stats: Arc<Stats>,
}

impl DiskIo for UringFile {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn refresh(&mut self) -> Geometry {
        raw::refresh(&self.file.fd, &mut self.geometry);
        self.geometry
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if let IoOp::Discard {
            sector,
            count,
            secure: true,
        } = io.op
        {
            // Rare, and nothing that a ring can do.
            self.stats.sys_discard.add(1);
            let result = discard::run(&self.file.fd, sector, count, true);
            self.file.done.borrow_mut().push_back(Done { io, result });
            return Ok(());
        }
        self.uring
            .0
            .borrow_mut()
            .submit(&self.file, io, &self.stats)
    }

    fn kick(&mut self) {
        self.uring.kick(&self.stats);
    }

    fn reap(&mut self) -> Option<Done> {
        if let Some(done) = self.file.done.borrow_mut().pop_front() {
            return Some(done);
        }
        self.uring.0.borrow_mut().reap(&self.file, &self.stats);
        self.file.done.borrow_mut().pop_front()
    }

    fn wake(&self) -> Option<i32> {
        Some(self.uring.fd())
    }
}
