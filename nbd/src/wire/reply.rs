//! What goes before the payload of a reply: simple, or a chunk of a structured one.

use super::{CHUNK_MAGIC, Errno, SIMPLE_REPLY_MAGIC};
use std::fmt;

/// Bytes of a simple reply without its payload.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a chunk without its payload.
pub const CHUNK_HEADER_BYTES: usize = 20;
/// `NBD_REPLY_FLAG_DONE`: the last chunk of a reply.
pub const CHUNK_DONE: u16 = 1 << 0;

open_enum! {
    /// What a chunk of a structured reply carries.
    ChunkType(u16) {
        /// `NBD_REPLY_TYPE_NONE`: nothing.
        NONE = 0,
        /// `NBD_REPLY_TYPE_OFFSET_DATA`: an offset, and data from there on.
        OFFSET_DATA = 1,
        /// `NBD_REPLY_TYPE_OFFSET_HOLE`: an offset, and how many zeros there are.
        OFFSET_HOLE = 2,
        /// `NBD_REPLY_TYPE_ERROR`: an error, and a message.
        ERROR = 1 << 15 | 1,
    }
}

/// What a simple reply says: whose it is, and the error or 0; `None` if the magic is wrong, after which nothing in the stream can
/// be trusted.
pub fn parse_simple_reply(bytes: &[u8; SIMPLE_REPLY_BYTES]) -> Option<(u64, u32)> {
    (be!(bytes, 0, u32) == SIMPLE_REPLY_MAGIC).then(|| (be!(bytes, 8, u64), be!(bytes, 4, u32)))
}

/// The header of a simple reply.
pub fn simple_reply(cookie: u64, error: Option<Errno>) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut bytes = [0; SIMPLE_REPLY_BYTES];
    let (magic, rest) = bytes.split_at_mut(4);
    let (code, tag) = rest.split_at_mut(4);
    magic.copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    code.copy_from_slice(&error.map_or(0, |error| error as u32).to_be_bytes());
    tag.copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// The longest header there is: of a chunk, with the offset and the length of a hole.
const HEADER_MAX: usize = CHUNK_HEADER_BYTES + 12;

/// Everything of a reply but the data of a read.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHeader {
    bytes: [u8; HEADER_MAX],
    length: usize,
}

impl ReplyHeader {
    /// A simple reply, which says how it went.
    pub fn simple(cookie: u64, error: Option<Errno>) -> Self {
        Self::of(&[&simple_reply(cookie, error)])
    }

    /// The only chunk of the reply to a read: `length` bytes of data from `offset` on follow it.
    pub fn data(cookie: u64, offset: u64, length: u32) -> Self {
        let payload = u32::saturating_add(8, length);
        Self::chunk(
            ChunkType::OFFSET_DATA,
            cookie,
            payload,
            &[&offset.to_be_bytes()],
        )
    }

    /// The only chunk of the reply to a read that found `length` zeros at `offset`; no data follows.
    pub fn hole(cookie: u64, offset: u64, length: u32) -> Self {
        let payload: [&[u8]; 2] = [&offset.to_be_bytes(), &length.to_be_bytes()];
        Self::chunk(ChunkType::OFFSET_HOLE, cookie, 12, &payload)
    }

    /// The only chunk of a reply that says what went wrong, with an empty message.
    pub fn error(cookie: u64, error: Errno) -> Self {
        let payload: [&[u8]; 2] = [&(error as u32).to_be_bytes(), &[0; 2]];
        Self::chunk(ChunkType::ERROR, cookie, 6, &payload)
    }

    fn chunk(kind: ChunkType, cookie: u64, length: u32, payload: &[&[u8]]) -> Self {
        let header: [&[u8]; 5] = [
            &CHUNK_MAGIC.to_be_bytes(),
            &CHUNK_DONE.to_be_bytes(),
            &kind.0.to_be_bytes(),
            &cookie.to_be_bytes(),
            &length.to_be_bytes(),
        ];
        let mut chunk = Self::of(&header);
        chunk.append(payload);
        chunk
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut header = Self {
            bytes: [0; HEADER_MAX],
            length: 0,
        };
        header.append(parts);
        header
    }

    fn append(&mut self, parts: &[&[u8]]) {
        let rest = self.bytes.iter_mut().skip(self.length);
        let mut length = 0;
        for (to, from) in rest.zip(parts.iter().copied().flatten()) {
            *to = *from;
            length += 1;
        }
        self.length += length;
    }

    /// The bytes to send.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simple_reply_is_magic_error_cookie() {
        assert_eq!(
            simple_reply(0x0102, Some(Errno::NoSpace)),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 1, 2]
        );
        let mut bytes = simple_reply(0x0102, Some(Errno::NoSpace));
        assert_eq!(parse_simple_reply(&bytes), Some((0x0102, 28)));
        bytes[0] = 0;
        assert_eq!(parse_simple_reply(&bytes), None);
    }

    #[test]
    fn a_chunk_is_magic_flags_type_cookie_length() {
        let start = |kind: [u8; 2], length| {
            let mut bytes = vec![0x66, 0x8e, 0x33, 0xef, 0, 1, kind[0], kind[1]];
            bytes.extend([0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, length]);
            bytes
        };
        let mut data = start([0, 1], 8 + 5);
        data.extend([0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(ReplyHeader::data(0x0102, 0x0304, 5).bytes(), data);
        let mut hole = start([0, 2], 12);
        hole.extend([0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 5]);
        assert_eq!(ReplyHeader::hole(0x0102, 0x0304, 5).bytes(), hole);
        let mut error = start([0x80, 1], 6);
        error.extend([0, 0, 0, 28, 0, 0]);
        let said = ReplyHeader::error(0x0102, Errno::NoSpace);
        assert_eq!(said.bytes(), error);
        let simple = simple_reply(0x0102, None);
        assert_eq!(ReplyHeader::simple(0x0102, None).bytes(), simple);
    }
}
