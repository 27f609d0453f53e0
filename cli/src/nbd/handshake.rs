//! The negotiation before the first request: fixed newstyle, without input or output of its own.

use super::session::Replies;
use super::wire::{
    self, EXPORT_CAN_MULTI_CONN, EXPORT_HAS_FLAGS, EXPORT_READ_ONLY, EXPORT_SEND_DF,
    EXPORT_SEND_FLUSH, EXPORT_SEND_FUA, EXPORT_SEND_TRIM, EXPORT_SEND_WRITE_ZEROES,
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INFO_BLOCK_SIZE, INFO_EXPORT, NAME_MAX, OPTION_BYTES,
    OPTION_MAGIC, OptionCode, ReplyType, be,
};
use super::{Geometry, REQUEST_MAX};

/// The most data of an option that is looked at: a name and some information requests. The rest is skipped and refused.
pub const OPTION_DATA_MAX: usize = NAME_MAX + 512;

/// What is offered.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The name of the export; clients may also ask for the empty name.
    pub name: String,
    /// The disk behind it.
    pub geometry: Geometry,
}

impl Offer {
    /// Transmission flags of the export.
    fn flags(&self, replies: Replies) -> u16 {
        let mut flags = EXPORT_HAS_FLAGS | EXPORT_CAN_MULTI_CONN;
        if self.geometry.read_only {
            flags |= EXPORT_READ_ONLY;
        }
        if self.geometry.flush {
            flags |= EXPORT_SEND_FLUSH;
        }
        let offers = self.geometry.offers;
        for (offered, flag) in [
            (offers.durable, EXPORT_SEND_FUA),
            (offers.trim, EXPORT_SEND_TRIM),
            (offers.zeroes, EXPORT_SEND_WRITE_ZEROES),
            (replies == Replies::Structured, EXPORT_SEND_DF),
        ] {
            if offered {
                flags |= flag;
            }
        }
        flags
    }

    fn bytes(&self) -> u64 {
        self.geometry.sectors.saturating_mul(512)
    }

    fn is_named(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}

/// What the client's bytes led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// More bytes are needed, after the ones consumed.
    More,
    /// The export was chosen: what follows are requests.
    Transmission,
    /// Send what is queued, then close: the client left, or does not speak the protocol.
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Flags,
    Option,
    /// The rest of an option that is too long to be looked at.
    Skip(OptionCode, u32),
    Done(Step),
}

/// The server's side of one negotiation.
#[derive(Debug)]
pub struct Handshake {
    offer: Offer,
    no_zeroes: bool,
    replies: Replies,
    state: State,
}

impl Handshake {
    /// Starts a negotiation by greeting.
    pub fn new(offer: Offer, out: &mut Vec<u8>) -> Self {
        out.extend(wire::INIT_MAGIC.to_be_bytes());
        out.extend(OPTION_MAGIC.to_be_bytes());
        out.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        Self {
            offer,
            no_zeroes: false,
            replies: Replies::Simple,
            state: State::Flags,
        }
    }

    /// What the client wants its replies to be.
    pub fn replies(&self) -> Replies {
        self.replies
    }

    /// Takes what it can of `input` and appends answers to `out`. Returns how many bytes it took; called with at least
    /// [`OPTION_BYTES`] + [`OPTION_DATA_MAX`] bytes it always takes some.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut taken = 0;
        loop {
            let rest = input.get(taken..).unwrap_or_default();
            match self.advance(rest, out) {
                Some(bytes) => taken += bytes,
                None => {
                    return match self.state {
                        State::Done(step) => (taken, step),
                        _ => (taken, Step::More),
                    };
                }
            }
        }
    }

    /// One piece of the stream, or `None` if it is not complete or nothing more is expected.
    fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        match self.state {
            State::Done(_) => None,
            State::Flags => {
                let flags = u32::from_be_bytes(*input.first_chunk()?);
                self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
                let unknown = flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
                self.state = if unknown == 0 {
                    State::Option
                } else {
                    State::Done(Step::Close)
                };
                Some(4)
            }
            State::Skip(option, left) => {
                let bytes = input.len().min(left as usize);
                let left = left.saturating_sub(bytes as u32);
                if left == 0 {
                    wire::option_reply(out, option, ReplyType::ERR_TOO_BIG, &[]);
                    self.state = State::Option;
                    return Some(bytes);
                }
                self.state = State::Skip(option, left);
                (bytes > 0).then_some(bytes)
            }
            State::Option => {
                let header: &[u8; OPTION_BYTES] = input.first_chunk()?;
                let option = OptionCode(be!(header, 8, u32));
                let length = be!(header, 12, u32);
                if be!(header, 0, u64) != OPTION_MAGIC {
                    self.state = State::Done(Step::Close);
                    return None;
                }
                if length as usize > OPTION_DATA_MAX {
                    self.state = match option {
                        // It has no reply that could say so.
                        OptionCode::EXPORT_NAME => State::Done(Step::Close),
                        _ => State::Skip(option, length),
                    };
                    return Some(OPTION_BYTES);
                }
                let end = OPTION_BYTES.checked_add(length as usize)?;
                let data = input.get(OPTION_BYTES..end)?;
                self.option(option, data, out);
                Some(end)
            }
        }
    }

    fn option(&mut self, option: OptionCode, data: &[u8], out: &mut Vec<u8>) {
        match option {
            OptionCode::EXPORT_NAME => {
                let known = self.offer.is_named(data);
                self.state = State::Done(if known {
                    Step::Transmission
                } else {
                    Step::Close
                });
                if known {
                    out.extend(self.offer.bytes().to_be_bytes());
                    out.extend(self.offer.flags(self.replies).to_be_bytes());
                    if !self.no_zeroes {
                        out.extend([0; 124]);
                    }
                }
            }
            OptionCode::ABORT => {
                wire::option_reply(out, option, ReplyType::ACK, &[]);
                self.state = State::Done(Step::Close);
            }
            OptionCode::LIST if data.is_empty() => {
                let mut server = (self.offer.name.len() as u32).to_be_bytes().to_vec();
                server.extend(self.offer.name.as_bytes());
                wire::option_reply(out, option, ReplyType::SERVER, &server);
                wire::option_reply(out, option, ReplyType::ACK, &[]);
            }
            OptionCode::INFO | OptionCode::GO => match info_name(data) {
                None => wire::option_reply(out, option, ReplyType::ERR_INVALID, &[]),
                Some(name) if !self.offer.is_named(name) => {
                    wire::option_reply(out, option, ReplyType::ERR_UNKNOWN, &[])
                }
                Some(_) => {
                    self.info(option, out);
                    if option == OptionCode::GO {
                        self.state = State::Done(Step::Transmission);
                    }
                }
            },
            OptionCode::STRUCTURED_REPLY if data.is_empty() => {
                self.replies = Replies::Structured;
                wire::option_reply(out, option, ReplyType::ACK, &[]);
            }
            OptionCode::LIST | OptionCode::STRUCTURED_REPLY => {
                wire::option_reply(out, option, ReplyType::ERR_INVALID, &[]);
            }
            // Among them block status: no request of the ring asks a backend what is a hole.
            _ => wire::option_reply(out, option, ReplyType::ERR_UNSUP, &[]),
        }
    }

    /// Both pieces of information, asked for or not: the block size is what tells a client that any offset is served.
    fn info(&self, option: OptionCode, out: &mut Vec<u8>) {
        let mut export = INFO_EXPORT.to_be_bytes().to_vec();
        export.extend(self.offer.bytes().to_be_bytes());
        export.extend(self.offer.flags(self.replies).to_be_bytes());
        wire::option_reply(out, option, ReplyType::INFO, &export);
        let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, self.offer.geometry.block_bytes.max(4096), REQUEST_MAX] {
            sizes.extend(size.to_be_bytes());
        }
        wire::option_reply(out, option, ReplyType::INFO, &sizes);
        wire::option_reply(out, option, ReplyType::ACK, &[]);
    }
}

/// The name in the data of `NBD_OPT_INFO` and `NBD_OPT_GO`, if all lengths in it add up.
fn info_name(data: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(*data.first_chunk()?) as usize;
    let name_end = length.checked_add(4)?;
    let name = data.get(4..name_end)?;
    let requests = data.get(name_end..)?;
    let count = u16::from_be_bytes(*requests.first_chunk()?);
    (requests.len() == 2 + 2 * usize::from(count)).then_some(name)
}

#[cfg(test)]
mod tests;
