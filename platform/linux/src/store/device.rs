//! The kernel's connection to XenStore, and where it differs from xenstored's own.
//!
//! * A request and its header must fit 4096 bytes; xenstored takes 4096 behind the header.
//! * The kernel keeps watches itself, and answers those requests with a request id of 0.
//! * A watch that it could not set is an error of `write(2)`, not a reply.
//!
//! Here all of that becomes what xenstored would have answered.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ringfence_core::wire::xs_wire::{self, Op, SockMsg};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

const HEADER: usize = size_of::<SockMsg>();

/// The longest request, header included.
const REQUEST_MAX: usize = 4096;

/// A message of which so many bytes are there, or were given on.
#[derive(Debug)]
struct Incoming {
    header: SockMsg,
    /// Bytes of the header that have come.
    come: usize,
    /// Bytes of the header that were given on; only once it is complete.
    given: usize,
    /// Bytes of the payload that are to come.
    rest: usize,
}

/// An open `/dev/xen/xenbus`.
#[derive(Debug)]
pub(super) struct Device {
    file: OwnedFd,
    /// The request that is being put together.
    request: Vec<u8>,
    /// Whose answer the kernel gives without its number.
    unnumbered: Option<(Op, u32)>,
    /// An answer of our own, and how much of it was given on.
    answer: Vec<u8>,
    answered: usize,
    incoming: Incoming,
}

impl Incoming {
    fn new() -> Self {
        Self {
            header: SockMsg::new_zeroed(),
            come: 0,
            given: 0,
            rest: 0,
        }
    }
}

/// What a request says about itself.
fn header_of(request: &[u8]) -> Option<SockMsg> {
    let mut header = SockMsg::new_zeroed();
    let bytes = request.get(..HEADER)?;
    header.as_mut_bytes().copy_from_slice(bytes);
    Some(header)
}

impl Device {
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            file,
            request: Vec::with_capacity(REQUEST_MAX),
            unnumbered: None,
            answer: Vec::new(),
            answered: 0,
            incoming: Incoming::new(),
        })
    }

    /// Takes bytes of a request up to its end, and hands it over as a whole.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let whole = |header: SockMsg| HEADER.saturating_add(header.len as usize);
        let end = header_of(&self.request).map_or(HEADER, whole);
        let want = end.saturating_sub(self.request.len()).min(bytes.len());
        self.request
            .extend_from_slice(bytes.get(..want).unwrap_or_default());
        if let Some(header) = header_of(&self.request)
            && self.request.len() == whole(header)
        {
            let handed = self.hand_over(header);
            self.request.clear();
            handed?;
        }
        Ok(want)
    }

    fn hand_over(&mut self, header: SockMsg) -> Result<(), Errno> {
        if self.request.len() > REQUEST_MAX {
            self.refuse(header, xs_wire::Errno::TooBig);
            return Ok(());
        }
        if matches!(header.op, Op::WATCH | Op::UNWATCH) {
            self.unnumbered = Some((header.op, header.req_id));
        }
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.file, &self.request));
        match written {
            Ok(count) if count == self.request.len() => Ok(()),
            Ok(_) => Err(Errno::IO),
            Err(errno) => {
                let number = errno.raw_os_error();
                let known = xs_wire::Errno::ALL.iter().copied();
                match known.into_iter().find(|known| known.number() == number) {
                    Some(known) if matches!(header.op, Op::WATCH | Op::UNWATCH) => {
                        self.refuse(header, known);
                        Ok(())
                    }
                    _ => Err(errno),
                }
            }
        }
    }

    /// Answers a request in the kernel's place.
    fn refuse(&mut self, request: SockMsg, errno: xs_wire::Errno) {
        self.unnumbered = None;
        let name = errno.name().as_bytes();
        let header = SockMsg {
            op: Op::ERROR,
            len: u32::try_from(name.len().saturating_add(1)).unwrap_or(0),
            ..request
        };
        self.answer.extend_from_slice(header.as_bytes());
        self.answer.extend_from_slice(name);
        self.answer.push(0);
    }

    /// Gives on what is there: nothing, or a piece of one message.
    pub(super) fn recv(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        if room.is_empty() {
            return Ok(0);
        }
        if self.incoming.come == 0 && !self.answer.is_empty() {
            return Ok(self.give_answer(room));
        }
        if self.incoming.come < HEADER {
            let head = self.incoming.header.as_mut_bytes();
            let head = head.get_mut(self.incoming.come..).unwrap_or_default();
            let count = read(&self.file, head)?;
            self.incoming.come = self.incoming.come.saturating_add(count);
            if self.incoming.come < HEADER {
                return Ok(0);
            }
            let header = &mut self.incoming.header;
            self.incoming.rest = header.len as usize;
            if let Some((op, req_id)) = self.unnumbered
                && header.op == op
                && header.req_id == 0
            {
                header.req_id = req_id;
                self.unnumbered = None;
            }
        }
        if self.incoming.given < HEADER {
            let head = self.incoming.header.as_bytes();
            let head = head.get(self.incoming.given..).unwrap_or_default();
            let count = copy(head, room);
            self.incoming.given = self.incoming.given.saturating_add(count);
            self.end_of_message();
            return Ok(count);
        }
        let want = self.incoming.rest.min(room.len());
        let count = read(&self.file, room.get_mut(..want).unwrap_or_default())?;
        self.incoming.rest = self.incoming.rest.saturating_sub(count);
        self.end_of_message();
        Ok(count)
    }

    fn end_of_message(&mut self) {
        if self.incoming.given == HEADER && self.incoming.rest == 0 {
            self.incoming = Incoming::new();
        }
    }

    fn give_answer(&mut self, room: &mut [u8]) -> usize {
        let count = copy(self.answer.get(self.answered..).unwrap_or_default(), room);
        self.answered = self.answered.saturating_add(count);
        if self.answered == self.answer.len() {
            self.answer.clear();
            self.answered = 0;
        }
        count
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
    count
}

fn read(file: &OwnedFd, room: &mut [u8]) -> Result<usize, Errno> {
    match rustix::io::retry_on_intr(|| rustix::io::read(file, &mut *room)) {
        Err(Errno::AGAIN) => Ok(0),
        other => other,
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn message(op: Op, req_id: u32, payload: &[u8]) -> Vec<u8> {
        let header = SockMsg {
            op,
            req_id,
            tx_id: 3,
            len: payload.len().try_into().unwrap(),
        };
        [header.as_bytes(), payload].concat()
    }

    fn pair() -> (UnixStream, Device) {
        let (kernel, ours) = UnixStream::pair().unwrap();
        kernel.set_nonblocking(true).unwrap();
        (kernel, Device::new(ours.into()).unwrap())
    }

    fn send_all(device: &mut Device, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = device.send(bytes).unwrap();
            assert_ne!(sent, 0);
            bytes = &bytes[sent..];
        }
    }

    /// What comes in pieces of at most `piece` bytes, until nothing does.
    fn recv_all(device: &mut Device, piece: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut room = vec![0; piece];
        loop {
            match device.recv(&mut room).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&room[..count]),
            }
        }
    }

    #[test]
    fn a_request_is_handed_over_whole_however_it_comes() {
        let (mut kernel, mut device) = pair();
        let request = message(Op::READ, 7, b"some/path\0");
        let mut got = [0; 64];
        for end in 1..request.len() {
            send_all(&mut device, &request[..end]);
            assert!(kernel.read(&mut got).is_err(), "{end} bytes were enough");
            send_all(&mut device, &request[end..]);
            assert_eq!(kernel.read(&mut got).unwrap(), request.len());
            assert_eq!(got[..request.len()], request);
        }
        // Two at once do not mix.
        send_all(&mut device, &request.repeat(2));
        let mut both = Vec::new();
        while let Ok(count) = kernel.read(&mut got) {
            both.extend_from_slice(&got[..count]);
        }
        assert_eq!(both, request.repeat(2));
    }

    #[test]
    fn the_answer_to_a_watch_gets_its_number_back() {
        for piece in [1, 5, 16, 100] {
            let (mut kernel, mut device) = pair();
            for (op, req_id) in [(Op::WATCH, 9), (Op::UNWATCH, 10)] {
                send_all(&mut device, &message(op, req_id, b"a\0b\0"));
                let event = message(Op::WATCH_EVENT, 0, b"a\0b\0");
                kernel.write_all(&event).unwrap();
                kernel.write_all(&message(op, 0, b"OK\0")).unwrap();
                kernel.write_all(&event).unwrap();
                let expected = [&event[..], &message(op, req_id, b"OK\0"), &event].concat();
                assert_eq!(recv_all(&mut device, piece), expected);
            }
            // Others have theirs.
            let reply = message(Op::READ, 0, b"");
            kernel.write_all(&reply).unwrap();
            assert_eq!(recv_all(&mut device, piece), reply);
        }
    }

    #[test]
    fn a_reply_that_comes_in_pieces_is_given_on_as_it_comes() {
        let (mut kernel, mut device) = pair();
        let reply = message(Op::READ, 4, b"value");
        let mut all = Vec::new();
        for byte in &reply {
            kernel.write_all(&[*byte]).unwrap();
            all.extend(recv_all(&mut device, 64));
        }
        assert_eq!(all, reply);
    }

    #[test]
    fn what_does_not_fit_is_answered_in_the_kernels_place_between_messages() {
        let (mut kernel, mut device) = pair();
        let reply = message(Op::READ, 1, b"value");
        kernel.write_all(&reply[..18]).unwrap();
        let mut all = recv_all(&mut device, 64);
        send_all(&mut device, &message(Op::WRITE, 2, &[0; 4081]));
        kernel.write_all(&reply[18..]).unwrap();
        all.extend(recv_all(&mut device, 3));
        let refused = message(Op::ERROR, 2, b"E2BIG\0");
        assert_eq!(all, [&reply[..], &refused].concat());
        let mut got = [0; 5000];
        assert!(kernel.read(&mut got).is_err(), "the kernel saw it");
        send_all(&mut device, &message(Op::WRITE, 3, &[0; 4080]));
        assert_eq!(kernel.read(&mut got).unwrap(), 4096);
    }

    #[test]
    fn a_watch_that_the_kernel_refuses_is_answered_and_any_other_failure_ends_the_stream() {
        // What cannot be written to answers EBADF, which is no error of the store's.
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut device = Device::new(null.into()).unwrap();
        let watch = message(Op::WATCH, 5, b"a\0b\0");
        send_all(&mut device, &watch[..16]);
        assert_eq!(device.send(&watch[16..]), Err(Errno::BADF));
        // A device that is full has no space, and that is one.
        let full = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/full");
        let mut device = Device::new(full.unwrap().into()).unwrap();
        send_all(&mut device, &watch);
        let mut room = [0; 64];
        let count = device.recv(&mut room).unwrap();
        assert_eq!(room[..count], message(Op::ERROR, 5, b"ENOSPC\0"));
        let read = message(Op::READ, 6, b"a\0");
        send_all(&mut device, &read[..16]);
        assert_eq!(device.send(&read[16..]), Err(Errno::NOSPC));
    }
}
