//! The sans-IO client: requests to bytes, bytes to events.

use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Tx;
use super::error::StoreError;
use crate::wire::xs_wire::{Errno, Op, PAYLOAD_MAX, SockMsg};

const HEADER: usize = size_of::<SockMsg>();

/// Why a request was not encoded. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The payload is longer than `XENSTORE_PAYLOAD_MAX`.
    #[error("payload of {len} bytes is longer than 4096")]
    TooLong {
        /// Bytes of payload.
        len: usize,
    },
    /// The caller's buffer is shorter than the message.
    #[error("message of {len} bytes does not fit a buffer of {room}")]
    NoRoom {
        /// Bytes of the message.
        len: usize,
        /// Bytes of the buffer.
        room: usize,
    },
    /// As many requests are unanswered as the client tracks.
    #[error("{outstanding} requests are unanswered")]
    Busy {
        /// How many.
        outstanding: usize,
    },
}

/// Why a request got no payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyError {
    /// `XS_ERROR` with a name of the header's.
    Errno(Errno),
    /// `XS_ERROR` with a name that the header does not have.
    UnknownErrno,
    /// The reply has another type than its request, or is an `XS_ERROR` without NUL.
    Malformed,
    /// The payload is longer than the client's buffer; it was skipped.
    TooLong {
        /// Bytes of payload.
        len: usize,
    },
}

impl ReplyError {
    pub(super) const fn of(self, req_id: u32, room: usize) -> StoreError {
        match self {
            Self::Errno(Errno::NoEnt) => StoreError::Missing,
            Self::Errno(Errno::Acces) => StoreError::Denied,
            Self::Errno(errno) => StoreError::Refused(errno),
            Self::UnknownErrno => StoreError::UnknownErrno,
            Self::Malformed => StoreError::Malformed { req_id },
            Self::TooLong { len } => StoreError::TooLong { len, room },
        }
    }
}

/// Something complete that the store sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// The answer to a request of ours.
    Reply {
        /// The request.
        req_id: u32,
        /// What it asked.
        op: Op,
        /// Its payload, or why there is none.
        result: Result<&'a [u8], ReplyError>,
    },
    /// A watch fired.
    Watch {
        /// The node.
        path: &'a str,
        /// The watch's token.
        token: &'a str,
    },
}

/// What the client survived.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClientStats {
    /// Replies to no request of ours.
    pub unknown_replies: u64,
    /// Replies of the wrong type, errors without NUL.
    pub malformed_replies: u64,
    /// Errors whose name the header does not have.
    pub unknown_errors: u64,
    /// Watch events without their NULs, not UTF-8, or too long.
    pub malformed_events: u64,
}

/// The client's side of the protocol. `IN` bounds the payload it can hand out (a longer one is skipped and reported),
/// `OUTSTANDING` the requests in flight.
#[derive(Debug)]
pub struct Client<const IN: usize = PAYLOAD_MAX, const OUTSTANDING: usize = 4> {
    header: [u8; HEADER],
    payload: [u8; IN],
    /// Bytes of the current message taken in, header included.
    taken: usize,
    outstanding: heapless::Vec<(u32, Op), OUTSTANDING>,
    next_id: u32,
    stats: ClientStats,
    desync: Option<u32>,
}

impl<const IN: usize, const OUTSTANDING: usize> Default for Client<IN, OUTSTANDING> {
    fn default() -> Self {
        Self::new()
    }
}

enum Kind {
    Reply {
        op: Op,
        result: Result<(), ReplyError>,
    },
    Watch {
        nul: usize,
        end: usize,
    },
}

impl<const IN: usize, const OUTSTANDING: usize> Client<IN, OUTSTANDING> {
    /// A client at the start of a stream.
    pub const fn new() -> Self {
        Self {
            header: [0; HEADER],
            payload: [0; IN],
            taken: 0,
            outstanding: heapless::Vec::new(),
            next_id: 1,
            stats: ClientStats {
                unknown_replies: 0,
                malformed_replies: 0,
                unknown_errors: 0,
                malformed_events: 0,
            },
            desync: None,
        }
    }

    /// What was survived so far.
    pub const fn stats(&self) -> ClientStats {
        self.stats
    }

    /// Encodes the header of a request whose payload is `len` bytes, and expects its answer. The caller sends the header and
    /// exactly `len` bytes. Returns the request's id and the header.
    pub fn begin(
        &mut self,
        op: Op,
        tx: Tx,
        len: usize,
    ) -> Result<(u32, [u8; HEADER]), EncodeError> {
        let wire_len = u32::try_from(len)
            .ok()
            .filter(|_| len <= PAYLOAD_MAX)
            .ok_or(EncodeError::TooLong { len })?;
        let req_id = self.next_id;
        self.outstanding
            .push((req_id, op))
            .map_err(|_| EncodeError::Busy {
                outstanding: OUTSTANDING,
            })?;
        // 0 is left to events.
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let header = SockMsg {
            op,
            req_id,
            tx_id: tx.get(),
            len: wire_len,
        };
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(header.as_bytes());
        Ok((req_id, bytes))
    }

    /// Encodes a whole request into `out`: its payload is `parts` one after the other. Returns the request's id and the
    /// message's length.
    pub fn encode(
        &mut self,
        op: Op,
        tx: Tx,
        parts: &[&[u8]],
        out: &mut [u8],
    ) -> Result<(u32, usize), EncodeError> {
        let payload = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let len = payload.saturating_add(HEADER);
        let room = out.len();
        let Some(out) = out.get_mut(..len) else {
            return Err(EncodeError::NoRoom { len, room });
        };
        let (req_id, header) = self.begin(op, tx, payload)?;
        let bytes = parts.iter().copied().flatten();
        for (to, from) in out.iter_mut().zip(header.iter().chain(bytes)) {
            *to = *from;
        }
        Ok((req_id, len))
    }

    /// Takes bytes from the front of `input` until an event is complete, and returns it; `None` when `input` is used up.
    /// Call again until `None`. An impossible length is latched: every later call fails the same way.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Event<'_>>, StoreError> {
        loop {
            let Some(header) = self.assemble(input)? else {
                return Ok(None);
            };
            if let Some(kind) = self.classify(header) {
                return Ok(self.event(header, kind));
            }
        }
    }

    /// Takes in one message, and returns its header when it is complete.
    fn assemble(&mut self, input: &mut &[u8]) -> Result<Option<SockMsg>, StoreError> {
        loop {
            if let Some(len) = self.desync {
                return Err(StoreError::Desynchronised { len });
            }
            if let Some(rest) = self
                .header
                .get_mut(self.taken..)
                .filter(|rest| !rest.is_empty())
            {
                let Some(taken) = take(input, rest) else {
                    return Ok(None);
                };
                self.taken = self.taken.saturating_add(taken);
                continue;
            }
            let header =
                SockMsg::read_from_bytes(&self.header).unwrap_or_else(|_| SockMsg::new_zeroed());
            let len = header.len as usize;
            if len > PAYLOAD_MAX {
                self.desync = Some(header.len);
                continue;
            }
            let done = self.taken.saturating_sub(HEADER);
            let missing = len.saturating_sub(done);
            if missing == 0 {
                self.taken = 0;
                return Ok(Some(header));
            }
            let taken = match self
                .payload
                .get_mut(done..len.min(IN))
                .filter(|rest| !rest.is_empty())
            {
                Some(rest) => take(input, rest),
                None => skip(input, missing),
            };
            let Some(taken) = taken else {
                return Ok(None);
            };
            self.taken = self.taken.saturating_add(taken);
        }
    }

    /// What a complete message is; `None` when it is dropped. Retires the request it answers.
    fn classify(&mut self, header: SockMsg) -> Option<Kind> {
        let payload = self.payload.get(..header.len as usize);
        if header.op == Op::WATCH_EVENT {
            let kind = payload.and_then(split_event);
            if kind.is_none() {
                self.stats.malformed_events = self.stats.malformed_events.saturating_add(1);
            }
            return kind;
        }
        let Some(at) = self
            .outstanding
            .iter()
            .position(|(id, _)| *id == header.req_id)
        else {
            self.stats.unknown_replies = self.stats.unknown_replies.saturating_add(1);
            return None;
        };
        let (_, op) = self.outstanding.swap_remove(at);
        let result = match payload {
            None => Err(ReplyError::TooLong {
                len: header.len as usize,
            }),
            Some(_) if header.op == op => Ok(()),
            Some(payload) if header.op == Op::ERROR => Err(match payload.split_last() {
                Some((0, name)) => match Errno::from_name(name) {
                    Some(errno) => ReplyError::Errno(errno),
                    None => {
                        self.stats.unknown_errors = self.stats.unknown_errors.saturating_add(1);
                        ReplyError::UnknownErrno
                    }
                },
                _ => ReplyError::Malformed,
            }),
            Some(_) => Err(ReplyError::Malformed),
        };
        if result == Err(ReplyError::Malformed) {
            self.stats.malformed_replies = self.stats.malformed_replies.saturating_add(1);
        }
        Some(Kind::Reply { op, result })
    }

    fn event(&self, header: SockMsg, kind: Kind) -> Option<Event<'_>> {
        let payload = self.payload.get(..header.len as usize).unwrap_or_default();
        Some(match kind {
            Kind::Reply { op, result } => Event::Reply {
                req_id: header.req_id,
                op,
                result: result.map(|()| payload),
            },
            Kind::Watch { nul, end } => {
                let path = core::str::from_utf8(payload.get(..nul)?).ok()?;
                let token = core::str::from_utf8(payload.get(nul.checked_add(1)?..end)?).ok()?;
                Event::Watch { path, token }
            }
        })
    }
}

/// Where path and token of a watch event end; `None` when a NUL is missing or either is not UTF-8.
fn split_event(payload: &[u8]) -> Option<Kind> {
    let nul = payload.iter().position(|byte| *byte == 0)?;
    let start = nul.checked_add(1)?;
    let token = payload.get(start..)?.iter().position(|byte| *byte == 0)?;
    let end = start.checked_add(token)?;
    core::str::from_utf8(payload.get(..end)?).ok()?;
    Some(Kind::Watch { nul, end })
}

/// Copies as much as there is and fits; `None` when there is nothing.
fn take(input: &mut &[u8], room: &mut [u8]) -> Option<usize> {
    let len = input.len().min(room.len());
    let (now, later) = input.split_at_checked(len)?;
    room.get_mut(..len)?.copy_from_slice(now);
    *input = later;
    (len > 0).then_some(len)
}

fn skip(input: &mut &[u8], missing: usize) -> Option<usize> {
    let len = input.len().min(missing);
    let (_, later) = input.split_at_checked(len)?;
    *input = later;
    (len > 0).then_some(len)
}
