//! The stream of requests after the negotiation: cut into requests with their payloads, without input or output of its own.

use super::wire::{
    COMMAND_DF, COMMAND_FUA, COMMAND_NO_HOLE, Command, Errno, REQUEST_BYTES, Request,
};
use super::{Geometry, REQUEST_MAX, ZEROES_MAX};

/// What a client wants its replies to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replies {
    /// Each one header, and the data of a read.
    Simple,
    /// Those of reads are chunks, and those of failed requests too.
    Structured,
}

/// One thing to do for a client.
#[derive(PartialEq, Eq, Debug)]
pub enum Event {
    /// Read `length` bytes at `offset`: checked against the disk, `length` not 0 and at most [`REQUEST_MAX`].
    Read {
        /// What the reply repeats.
        cookie: u64,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        length: u32,
    },
    /// Write `data` at `offset`: checked against the disk and its access, not empty and at most [`REQUEST_MAX`].
    Write {
        /// What the reply repeats.
        cookie: u64,
        /// Where, in bytes.
        offset: u64,
        /// The span: whole blocks, with the payload at its place within them.
        span: Span,
    },
    /// A range that is no longer needed: checked against the disk and its access, not empty.
    Trim {
        /// What the reply repeats.
        cookie: u64,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        length: u32,
        /// Whether the answer waits until it is durable.
        durable: bool,
    },
    /// Make durable what was answered.
    Flush {
        /// What the reply repeats.
        cookie: u64,
    },
    /// Answer with an error.
    Refuse {
        /// What the reply repeats.
        cookie: u64,
        /// Why.
        error: Errno,
    },
    /// The client leaves, or its bytes make no sense: no more of them count.
    Close,
}

/// Whole blocks that cover a range of bytes.
#[derive(PartialEq, Eq, Debug)]
pub struct Span {
    /// The blocks.
    pub blocks: Vec<u8>,
    /// Bytes before the range.
    pub head: usize,
    /// Bytes of the range.
    pub length: usize,
    /// Whether the answer waits until they are durable.
    pub durable: bool,
}

impl Span {
    /// A zeroed span for `length` bytes at `offset`, blocks being `block_bytes` long.
    pub fn new(offset: u64, length: u32, block_bytes: u32) -> Self {
        let block = u64::from(block_bytes.max(1));
        let head = (offset % block) as usize;
        let length = length as usize;
        let blocks = (head + length).next_multiple_of(block as usize);
        Self {
            blocks: vec![0; blocks],
            head,
            length,
            durable: false,
        }
    }

    /// The range within the blocks.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.head..self.head + self.length
    }

    /// Bytes after the range.
    pub fn tail(&self) -> usize {
        self.blocks.len() - self.head - self.length
    }
}

#[derive(Debug)]
enum State {
    Request,
    Payload {
        cookie: u64,
        offset: u64,
        span: Span,
        filled: usize,
    },
    /// The payload of a write that is refused.
    Skip {
        cookie: u64,
        error: Errno,
        left: u32,
    },
    Closed,
}

/// One client's stream of requests.
#[derive(Debug)]
pub struct Session {
    geometry: Geometry,
    replies: Replies,
    state: State,
}

impl Session {
    /// Starts to cut a stream.
    pub fn new(geometry: Geometry, replies: Replies) -> Self {
        Self {
            geometry,
            replies,
            state: State::Request,
        }
    }

    /// Takes bytes of `input`: how many, and what they completed. Without an event and with everything taken, or with less than
    /// a request left over, more bytes are needed.
    pub fn step(&mut self, input: &[u8]) -> (usize, Option<Event>) {
        match &mut self.state {
            State::Closed => (input.len(), None),
            State::Request => match input.first_chunk() {
                Some(header) => (REQUEST_BYTES, self.request(header)),
                None => (0, None),
            },
            State::Payload { .. } => {
                let taken = match self.payload() {
                    Some(space) => {
                        let bytes = space.len().min(input.len());
                        if let (Some(space), Some(input)) =
                            (space.get_mut(..bytes), input.get(..bytes))
                        {
                            space.copy_from_slice(input);
                        }
                        bytes
                    }
                    None => 0,
                };
                (taken, self.payload_filled(taken))
            }
            State::Skip {
                cookie,
                error,
                left,
            } => {
                let bytes = input.len().min(*left as usize);
                *left = left.saturating_sub(bytes as u32);
                let event = (*left == 0).then_some(Event::Refuse {
                    cookie: *cookie,
                    error: *error,
                });
                if event.is_some() {
                    self.state = State::Request;
                }
                (bytes, event)
            }
        }
    }

    /// Where the rest of the current payload goes, if there is one: a reader may fill it without a copy in between.
    pub fn payload(&mut self) -> Option<&mut [u8]> {
        match &mut self.state {
            State::Payload { span, filled, .. } => {
                let range = span.range();
                span.blocks.get_mut(range.start + *filled..range.end)
            }
            _ => None,
        }
    }

    /// Says that `bytes` of [`payload`](Self::payload) were filled.
    pub fn payload_filled(&mut self, bytes: usize) -> Option<Event> {
        match std::mem::replace(&mut self.state, State::Request) {
            State::Payload {
                cookie,
                offset,
                span,
                filled,
            } if filled + bytes < span.length => {
                self.state = State::Payload {
                    cookie,
                    offset,
                    span,
                    filled: filled + bytes,
                };
                None
            }
            State::Payload {
                cookie,
                offset,
                span,
                ..
            } => Some(Event::Write {
                cookie,
                offset,
                span,
            }),
            other => {
                self.state = other;
                None
            }
        }
    }

    fn request(&mut self, header: &[u8; REQUEST_BYTES]) -> Option<Event> {
        let Some(request) = Request::parse(header) else {
            self.state = State::Closed;
            return Some(Event::Close);
        };
        let Request {
            cookie,
            offset,
            length,
            ..
        } = request;
        match request.command {
            Command::DISC => {
                self.state = State::Closed;
                Some(Event::Close)
            }
            Command::WRITE => {
                self.state = match self.check(&request) {
                    Ok(()) => State::Payload {
                        cookie,
                        offset,
                        span: self.span(&request),
                        filled: 0,
                    },
                    Err(error) if length == 0 => return Some(Event::Refuse { cookie, error }),
                    // The payload comes all the same; it takes no memory.
                    Err(error) => State::Skip {
                        cookie,
                        error,
                        left: length,
                    },
                };
                None
            }
            Command::READ => Some(match self.check(&request) {
                Ok(()) => Event::Read {
                    cookie,
                    offset,
                    length,
                },
                Err(error) => Event::Refuse { cookie, error },
            }),
            Command::WRITE_ZEROES if self.geometry.offers.zeroes => {
                Some(match self.check(&request) {
                    // Memory of zeros that nobody writes to is none.
                    Ok(()) => Event::Write {
                        cookie,
                        offset,
                        span: self.span(&request),
                    },
                    Err(error) => Event::Refuse { cookie, error },
                })
            }
            Command::TRIM if self.geometry.offers.trim => Some(match self.check(&request) {
                Ok(()) => Event::Trim {
                    cookie,
                    offset,
                    length,
                    durable: request.flags & COMMAND_FUA != 0,
                },
                Err(error) => Event::Refuse { cookie, error },
            }),
            Command::FLUSH if self.geometry.flush && request.flags == 0 => {
                Some(Event::Flush { cookie })
            }
            _ => Some(Event::Refuse {
                cookie,
                error: Errno::Inval,
            }),
        }
    }

    fn span(&self, request: &Request) -> Span {
        let block = self.geometry.block_bytes;
        Span {
            durable: request.flags & COMMAND_FUA != 0,
            ..Span::new(request.offset, request.length, block)
        }
    }

    fn check(&self, request: &Request) -> Result<(), Errno> {
        let is_write = request.command != Command::READ;
        if is_write && self.geometry.read_only {
            return Err(Errno::Perm);
        }
        let fua = match self.geometry.offers.durable {
            true => COMMAND_FUA,
            false => 0,
        };
        let (flags, most) = match request.command {
            // A read is one piece anyhow.
            Command::READ if self.replies == Replies::Structured => (COMMAND_DF, REQUEST_MAX),
            Command::READ => (0, REQUEST_MAX),
            Command::WRITE_ZEROES => (fua | COMMAND_NO_HOLE, ZEROES_MAX),
            Command::TRIM => (fua, u32::MAX),
            _ => (fua, REQUEST_MAX),
        };
        if request.flags & !flags != 0 || request.length == 0 || request.length > most {
            return Err(Errno::Inval);
        }
        let end = request.offset.checked_add(u64::from(request.length));
        match end {
            Some(end) if end <= self.geometry.sectors.saturating_mul(512) => Ok(()),
            _ if is_write => Err(Errno::NoSpace),
            _ => Err(Errno::Inval),
        }
    }
}

#[cfg(test)]
mod tests;
