//! One connection: its bytes in, its replies out.

use super::REQUEST_MAX;
use super::blocks::Blocks;
use super::export::{ClientId, Export, Reply};
use super::handshake::{Handshake, OPTION_DATA_MAX, Offer, Step};
use super::session::{Event, Replies, Session, Span};
use super::wire::{OPTION_BYTES, ReplyHeader};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A client with this many requests not answered yet is not read from.
const REQUESTS_MAX: usize = 128;
/// The same for the bytes of its requests, so that two of the longest are in flight.
const BYTES_MAX: usize = 2 * REQUEST_MAX as usize;
/// Room for several requests, and for the longest option.
const INPUT_BYTES: usize = 64 << 10;
const _: () = assert!(INPUT_BYTES > OPTION_BYTES + OPTION_DATA_MAX);
/// Replies in one system call.
const GATHER: usize = 16;

#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Transmission(Session),
    /// Nothing more is read; what is queued is still sent.
    Closing,
}

#[derive(Debug)]
enum Out {
    /// Of the negotiation.
    Bytes(Vec<u8>),
    Reply {
        header: ReplyHeader,
        data: Option<Span>,
        length: usize,
    },
}

impl Out {
    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Self::Bytes(bytes) => [bytes, &[]],
            Self::Reply { header, data, .. } => {
                let data = data.as_ref().and_then(|span| span.blocks.get(span.range()));
                [header.bytes(), data.unwrap_or_default()]
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    id: ClientId,
    socket: UnixStream,
    phase: Phase,
    replies: Replies,
    input: Box<[u8]>,
    /// What of `input` is not parsed yet.
    pending: std::ops::Range<usize>,
    out: VecDeque<Out>,
    /// Bytes of the first of `out` that are sent.
    sent: usize,
    /// Requests taken and not yet answered in full, and their bytes.
    requests: usize,
    bytes: usize,
    readable: bool,
    broken: bool,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    pub(crate) fn new(id: ClientId, socket: UnixStream, offer: Offer) -> Self {
        let mut greeting = Vec::new();
        let handshake = Handshake::new(offer, &mut greeting);
        Self {
            id,
            socket,
            phase: Phase::Handshake(handshake),
            replies: Replies::Simple,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            pending: 0..0,
            out: VecDeque::from([Out::Bytes(greeting)]),
            sent: 0,
            requests: 0,
            bytes: 0,
            readable: false,
            broken: false,
        }
    }

    pub(crate) fn id(&self) -> ClientId {
        self.id
    }

    /// Whether to wait for more of its bytes.
    pub(crate) fn wants_input(&self) -> bool {
        match self.phase {
            // It negotiates in turns: no more questions before it took the answers.
            Phase::Handshake(_) => self.out.is_empty(),
            Phase::Transmission(_) => self.has_budget(),
            Phase::Closing => false,
        }
    }

    /// Whether to wait until it takes more of ours.
    pub(crate) fn wants_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Its socket has something to read, or its end.
    pub(crate) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Whether the connection is over: everything was sent that can be.
    pub(crate) fn is_done(&self) -> bool {
        self.broken
            || (matches!(self.phase, Phase::Closing) && self.requests == 0 && self.out.is_empty())
    }

    /// Stops reading.
    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closing;
    }

    fn has_budget(&self) -> bool {
        self.requests < REQUESTS_MAX && self.bytes < BYTES_MAX
    }

    /// Reads and parses as far as the budget goes; `true` if that led anywhere.
    pub(crate) fn take<B: Blocks>(&mut self, export: &mut Export<B>) -> bool {
        let mut progressed = false;
        loop {
            progressed |= self.parse(export);
            if !self.readable || !self.wants_input() || self.broken {
                return progressed;
            }
            match self.fill(export) {
                Ok(0) => {
                    // The peer closed without a word; what it asked for is done all the same.
                    self.close();
                    return true;
                }
                Ok(_) => progressed = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => self.broken = true,
            }
        }
    }

    /// One read: the rest of a long payload to where it belongs, everything else into `input`.
    fn fill<B: Blocks>(&mut self, export: &mut Export<B>) -> std::io::Result<usize> {
        if let Phase::Transmission(session) = &mut self.phase
            && self.pending.is_empty()
            && let Some(space) = session.payload()
            && space.len() >= INPUT_BYTES
        {
            let bytes = self.socket.read(space)?;
            let event = if bytes > 0 {
                session.payload_filled(bytes)
            } else {
                None
            };
            if let Some(event) = event {
                self.act(event, export);
            }
            return Ok(bytes);
        }
        self.input.copy_within(self.pending.clone(), 0);
        self.pending = 0..self.pending.len();
        let space = self.input.get_mut(self.pending.end..).unwrap_or_default();
        let bytes = self.socket.read(space)?;
        self.pending.end = self.pending.end.saturating_add(bytes);
        Ok(bytes)
    }

    fn parse<B: Blocks>(&mut self, export: &mut Export<B>) -> bool {
        let mut progressed = false;
        while self.wants_input() {
            let input = self.input.get(self.pending.clone()).unwrap_or_default();
            let (taken, event) = match &mut self.phase {
                Phase::Closing => return progressed,
                Phase::Handshake(handshake) => {
                    let mut out = Vec::new();
                    let (taken, step) = handshake.step(input, &mut out);
                    self.replies = handshake.replies();
                    if !out.is_empty() {
                        self.out.push_back(Out::Bytes(out));
                    }
                    match step {
                        Step::More => {}
                        Step::Transmission => {
                            let session = Session::new(export.geometry(), self.replies);
                            self.phase = Phase::Transmission(session);
                        }
                        Step::Close => self.phase = Phase::Closing,
                    }
                    // Answers are queued without a request that counts: one round per read bounds them.
                    self.pending.start = self.pending.start.saturating_add(taken);
                    if step == Step::More {
                        return progressed || taken > 0;
                    }
                    (0, None)
                }
                Phase::Transmission(session) => {
                    let (taken, event) = session.step(input);
                    if taken == 0 && event.is_none() {
                        return progressed;
                    }
                    (taken, event)
                }
            };
            progressed = true;
            self.pending.start = self.pending.start.saturating_add(taken);
            if let Some(event) = event {
                self.act(event, export);
            }
        }
        progressed
    }

    fn act<B: Blocks>(&mut self, event: Event, export: &mut Export<B>) {
        let length = match &event {
            Event::Close => return self.close(),
            Event::Read { length, .. } => *length as usize,
            Event::Write { span, .. } => span.length,
            Event::Flush { .. } | Event::Trim { .. } | Event::Refuse { .. } => 0,
        };
        self.requests = self.requests.saturating_add(1);
        self.bytes = self.bytes.saturating_add(length);
        match event {
            Event::Read {
                cookie,
                offset,
                length,
            } => export.read(self.id, cookie, offset, length),
            Event::Write {
                cookie,
                offset,
                span,
            } => export.write(self.id, cookie, offset, span),
            Event::Flush { cookie } => export.flush(self.id, cookie),
            Event::Trim {
                cookie,
                offset,
                length,
                durable,
            } => export.trim(
                self.id,
                cookie,
                offset..offset.saturating_add(length.into()),
                durable,
            ),
            Event::Refuse { cookie, error } => {
                let client = self.id;
                self.reply(Reply {
                    client,
                    cookie,
                    offset: 0,
                    length,
                    result: Err(error),
                });
            }
            Event::Close => {}
        }
    }

    /// Queues the answer to a request.
    pub(crate) fn reply(&mut self, reply: Reply) {
        let Reply {
            cookie,
            offset,
            length,
            ..
        } = reply;
        // No request is longer.
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        let (header, data) = match (self.replies, reply.result) {
            (Replies::Structured, Ok(Some(data))) if is_zero(&data) => {
                (ReplyHeader::hole(cookie, offset, bytes), None)
            }
            (Replies::Structured, Ok(Some(data))) => {
                (ReplyHeader::data(cookie, offset, bytes), Some(data))
            }
            (Replies::Structured, Err(error)) => (ReplyHeader::error(cookie, error), None),
            (_, Ok(data)) => (ReplyHeader::simple(cookie, None), data),
            (Replies::Simple, Err(error)) => (ReplyHeader::simple(cookie, Some(error)), None),
        };
        self.out.push_back(Out::Reply {
            header,
            data,
            length,
        });
    }

    /// Sends what the socket takes.
    pub(crate) fn send(&mut self) -> bool {
        let mut progressed = false;
        while !self.out.is_empty() && !self.broken {
            match (&self.socket).write_vectored(&self.gather()) {
                Ok(0) => self.broken = true,
                Ok(bytes) => {
                    progressed = true;
                    self.advance(bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.broken = true,
            }
        }
        progressed
    }

    fn gather(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.sent;
        let mut slices = Vec::with_capacity(2 * GATHER);
        for part in self.out.iter().take(GATHER).flat_map(Out::parts) {
            let rest = part.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(part.len());
            if !rest.is_empty() {
                slices.push(IoSlice::new(rest));
            }
        }
        slices
    }

    fn advance(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        while let Some(first) = self.out.front() {
            let length: usize = first.parts().iter().map(|part| part.len()).sum();
            if self.sent < length {
                return;
            }
            self.sent = self.sent.saturating_sub(length);
            if let Some(Out::Reply { length, .. }) = self.out.pop_front() {
                self.requests = self.requests.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(length);
            }
        }
    }
}

/// Whether there are only zeros, which are told rather than sent. Most data says at its start that it is something else.
fn is_zero(span: &Span) -> bool {
    let bytes = span.blocks.get(span.range()).unwrap_or_default();
    let nothing = |piece: &[u8]| piece.iter().fold(0, |any, byte| any | byte) == 0;
    bytes.chunks(64).all(nothing)
}
