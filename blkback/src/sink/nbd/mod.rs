//! A disk that a server of the NBD protocol has: one connection, many requests in flight, answered in any order.
//!
//! A connection that is lost, or that says what makes no sense, is not made again: everything fails from then on.

mod connect;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::vec::Vec;

use ringfence_core::ids::SectorCount;
use ringfence_nbd::client::Export;
use ringfence_nbd::wire::{
    Command, EXPORT_READ_ONLY, EXPORT_SEND_FLUSH, EXPORT_SEND_TRIM, REQUEST_BYTES, Request,
    SIMPLE_REPLY_BYTES, parse_simple_reply,
};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

pub use connect::{NbdError, NbdLook, NbdOpening};

use super::raw::FlushLatch;
use super::{Discard, DiskIo, Done, Geometry, Io, IoOp};
use crate::error::IoError;

/// Requests in flight.
const QUEUE: usize = 256;
/// The longest request with a payload that an engine makes.
const REQUEST_MAX: u32 = 1 << 20;
/// The longest discard in one request, a multiple of every sector.
const TRIM_MAX: u64 = 1 << 30;
/// Requests in one system call.
const GATHER: usize = 16;

/// A request on its way.
struct Flight {
    io: Io,
    header: [u8; REQUEST_BYTES],
    /// Bytes of a discard that later requests will have asked for, and how many this one does.
    done: u64,
    piece: u64,
}

/// What the next bytes from the server are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inbox {
    /// A reply, of which so many bytes are there.
    Header([u8; SIMPLE_REPLY_BYTES], usize),
    /// The data of the read in this slot, of which so many bytes are there.
    Data(usize, usize),
}

/// A server's disk.
pub struct Nbd {
    socket: OwnedFd,
    /// The socket, while anything is in flight: one that the server closes meanwhile would be readable for ever.
    set: OwnedFd,
    interest: epoll::EventFlags,
    geometry: Geometry,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Slots whose requests are not sent yet, and how much of the first is.
    outbox: VecDeque<usize>,
    sent: usize,
    inbox: Inbox,
    done: VecDeque<Done>,
    latch: FlushLatch,
    lost: Option<IoError>,
}

impl Nbd {
    /// Asks the server at the other end of `socket` for an export; blocks as long as that takes, within limits. For those with
    /// nothing else to do, see [`NbdOpening`].
    ///
    /// # Errors
    /// [`NbdError`], in words for the `error` node.
    pub fn new(socket: OwnedFd, export: &str, read_only: bool) -> Result<Self, NbdError> {
        let mut opening = NbdOpening::new(socket, export, read_only)?;
        loop {
            opening = match opening.look()? {
                NbdLook::Disk(disk) => return Ok(disk),
                NbdLook::Later(opening) => opening,
            };
            opening.wait()?;
        }
    }

    fn over(socket: OwnedFd, export: Export, read_only: bool) -> Result<Self, NbdError> {
        let has = |flag| export.flags & flag != 0;
        let unit = export.least.max(512);
        if unit > 4096 || export.most < REQUEST_MAX {
            return Err(NbdError::Sizes {
                least: export.least,
                most: export.most,
            });
        }
        if has(EXPORT_READ_ONLY) && !read_only {
            return Err(NbdError::ReadOnly);
        }
        if export.bytes == 0 || !export.bytes.is_multiple_of(u64::from(unit)) {
            return Err(NbdError::Size {
                bytes: export.bytes,
                unit,
            });
        }
        let granularity = export.preferred.max(unit);
        let geometry = Geometry {
            logical: unit,
            physical: unit,
            read_only,
            flush: has(EXPORT_SEND_FLUSH),
            discard: (has(EXPORT_SEND_TRIM) && !read_only).then(|| Discard::new(granularity)),
            ..Geometry::new(SectorCount::new(export.bytes.checked_div(512).unwrap_or(0)))
        };
        let mut flights = Vec::new();
        flights.resize_with(QUEUE, || None);
        Ok(Self {
            socket,
            set: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            interest: epoll::EventFlags::empty(),
            geometry,
            flights,
            free: (0..QUEUE).rev().collect(),
            outbox: VecDeque::new(),
            sent: 0,
            inbox: Inbox::Header([0; SIMPLE_REPLY_BYTES], 0),
            done: VecDeque::new(),
            latch: FlushLatch::default(),
            lost: None,
        })
    }

    /// The connection is over, for this reason: everything in flight fails.
    fn lose(&mut self, op: &'static str, errno: Errno) {
        if self.lost.is_some() {
            return;
        }
        let error = IoError::System {
            op,
            errno: errno.raw_os_error(),
        };
        tracing::error!(%error, "the connection to an nbd server is lost");
        self.lost = Some(error);
        self.outbox.clear();
        for slot in 0..self.flights.len() {
            self.end(slot, Err(error));
        }
    }

    fn end(&mut self, slot: usize, result: Result<(), IoError>) {
        let Some(flight) = self.flights.get_mut(slot).and_then(Option::take) else {
            return;
        };
        self.free.push(slot);
        let io = flight.io;
        let result = match io.op {
            IoOp::Flush => self.latch.pass(result),
            _ => result,
        };
        self.done.push_back(Done { io, result });
    }

    /// Fills in what is to be asked for next.
    fn header(&mut self, slot: usize) {
        let Some(Some(flight)) = self.flights.get_mut(slot) else {
            return;
        };
        let length = u64::try_from(flight.io.buffer.len()).unwrap_or(u64::MAX);
        let (command, sector, length) = match flight.io.op {
            IoOp::Read(sector) => (Command::READ, Some(sector), length),
            IoOp::Write(sector) => (Command::WRITE, Some(sector), length),
            IoOp::Flush => (Command::FLUSH, None, 0),
            IoOp::Discard { sector, count, .. } => {
                let left = count.bytes().unwrap_or(0).saturating_sub(flight.done);
                (Command::TRIM, Some(sector), left.min(TRIM_MAX))
            }
        };
        let start = sector.and_then(|sector| sector.byte_offset()).unwrap_or(0);
        flight.piece = length;
        flight.header = Request {
            flags: 0,
            command,
            cookie: u64::try_from(slot).unwrap_or(u64::MAX),
            offset: start.saturating_add(flight.done),
            length: u32::try_from(length).unwrap_or(u32::MAX),
        }
        .to_bytes();
    }

    /// Sends what the socket takes.
    fn send(&mut self) {
        while self.lost.is_none() && !self.outbox.is_empty() {
            let mut skip = self.sent;
            let mut slices = Vec::with_capacity(2 * GATHER);
            for slot in self.outbox.iter().take(GATHER) {
                for part in parts(&self.flights, *slot) {
                    let rest = part.get(skip..).unwrap_or_default();
                    skip = skip.saturating_sub(part.len());
                    if !rest.is_empty() {
                        slices.push(IoSlice::new(rest));
                    }
                }
            }
            let mut nothing = SendAncillaryBuffer::default();
            match sendmsg(&self.socket, &slices, &mut nothing, SendFlags::NOSIGNAL) {
                Ok(bytes) => self.advance(bytes),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(errno) => self.lose("nbd send", errno),
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        while let Some(slot) = self.outbox.front() {
            let length = parts(&self.flights, *slot)
                .iter()
                .fold(0usize, |sum, part| sum.saturating_add(part.len()));
            let Some(left) = self.sent.checked_sub(length) else {
                return;
            };
            self.sent = left;
            self.outbox.pop_front();
        }
    }

    /// Takes in what the server has sent.
    fn receive(&mut self) {
        while self.lost.is_none() && self.in_flight() > 0 {
            let space = match &mut self.inbox {
                Inbox::Header(bytes, have) => bytes.get_mut(*have..),
                Inbox::Data(slot, have) => match self.flights.get_mut(*slot) {
                    Some(Some(flight)) => flight.io.buffer.bytes_mut().get_mut(*have..),
                    _ => None,
                },
            };
            match recv(&self.socket, space.unwrap_or_default(), RecvFlags::empty()) {
                Ok((0, _)) => self.lose("nbd receive", Errno::CONNRESET),
                Ok((bytes, _)) => self.received(bytes),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(errno) => self.lose("nbd receive", errno),
            }
        }
    }

    fn received(&mut self, bytes: usize) {
        match self.inbox {
            Inbox::Header(header, have) => {
                let have = have.saturating_add(bytes);
                self.inbox = Inbox::Header(header, have);
                if have >= SIMPLE_REPLY_BYTES {
                    self.inbox = Inbox::Header([0; SIMPLE_REPLY_BYTES], 0);
                    self.reply(&header);
                }
            }
            Inbox::Data(slot, have) => {
                let have = have.saturating_add(bytes);
                self.inbox = Inbox::Data(slot, have);
                let length = match self.flights.get(slot) {
                    Some(Some(flight)) => flight.io.buffer.len(),
                    _ => 0,
                };
                if have >= length {
                    self.inbox = Inbox::Header([0; SIMPLE_REPLY_BYTES], 0);
                    self.end(slot, Ok(()));
                }
            }
        }
    }

    fn reply(&mut self, header: &[u8; SIMPLE_REPLY_BYTES]) {
        let Some((cookie, error)) = parse_simple_reply(header) else {
            return self.lose("nbd reply", Errno::BADMSG);
        };
        let slot = usize::try_from(cookie).unwrap_or(usize::MAX);
        // What was not sent in full cannot have been answered.
        let unsent = self.outbox.contains(&slot);
        let flight = match self.flights.get_mut(slot) {
            Some(Some(flight)) if !unsent => flight,
            _ => return self.lose("nbd reply", Errno::BADMSG),
        };
        if error != 0 {
            return self.end(slot, Err(of_server(error)));
        }
        match flight.io.op {
            IoOp::Read(_) => self.inbox = Inbox::Data(slot, 0),
            IoOp::Discard { count, .. } => {
                flight.done = flight.done.saturating_add(flight.piece);
                if flight.done < count.bytes().unwrap_or(0) {
                    self.header(slot);
                    self.outbox.push_back(slot);
                } else {
                    self.end(slot, Ok(()));
                }
            }
            IoOp::Write(_) | IoOp::Flush => self.end(slot, Ok(())),
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.len().saturating_sub(self.free.len())
    }

    /// Waits for what there is to wait for, and for nothing else.
    fn watch(&mut self) {
        let mut want = epoll::EventFlags::empty();
        if self.lost.is_none() && self.in_flight() > 0 {
            want |= epoll::EventFlags::IN;
            if !self.outbox.is_empty() {
                want |= epoll::EventFlags::OUT;
            }
        }
        if want == self.interest {
            return;
        }
        let (socket, data) = (self.socket.as_fd(), epoll::EventData::new_u64(0));
        // A hang-up is told whatever is asked for, unless the socket is not in the set.
        let changed = match (self.interest.is_empty(), want.is_empty()) {
            (true, _) => epoll::add(&self.set, socket, data, want),
            (false, true) => epoll::delete(&self.set, socket),
            (false, false) => epoll::modify(&self.set, socket, data, want),
        };
        match changed {
            Ok(()) => self.interest = want,
            // Nobody would be woken by an answer.
            Err(errno) => self.lose("epoll_ctl", errno),
        }
    }
}

/// The bytes of a request, and those of its payload.
fn parts(flights: &[Option<Flight>], slot: usize) -> [&[u8]; 2] {
    match flights.get(slot) {
        Some(Some(flight)) => {
            let payload: &[u8] = match flight.io.op {
                IoOp::Write(_) => flight.io.buffer.bytes(),
                _ => &[],
            };
            [&flight.header, payload]
        }
        _ => [&[], &[]],
    }
}

/// An error number of the protocol, which are Linux's.
fn of_server(error: u32) -> IoError {
    match i32::try_from(error) {
        Ok(95) => IoError::Unsupported,
        Ok(errno) => IoError::System {
            op: "nbd server",
            errno,
        },
        Err(_) => IoError::System {
            op: "nbd server",
            errno: Errno::IO.raw_os_error(),
        },
    }
}

impl DiskIo for Nbd {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if let Some(error) = self.lost {
            let result = Err(error);
            self.done.push_back(Done { io, result });
            return Ok(());
        }
        let Some(slot) = self.free.pop() else {
            return Err(io);
        };
        if let Some(place) = self.flights.get_mut(slot) {
            *place = Some(Flight {
                io,
                header: [0; REQUEST_BYTES],
                done: 0,
                piece: 0,
            });
        }
        self.header(slot);
        self.outbox.push_back(slot);
        Ok(())
    }

    fn kick(&mut self) {
        self.send();
        self.watch();
    }

    fn reap(&mut self) -> Option<Done> {
        if self.done.is_empty() {
            self.receive();
            self.send();
            self.watch();
        }
        self.done.pop_front()
    }

    fn wake(&self) -> Option<i32> {
        Some(self.set.as_raw_fd())
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        // A request that is sent in part makes everything after it part of itself.
        if self.lost.is_none() && self.sent == 0 {
            let goodbye = Request {
                flags: 0,
                command: Command::DISC,
                cookie: 0,
                offset: 0,
                length: 0,
            };
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = send(&self.socket, &goodbye.to_bytes(), flags);
        }
    }
}
