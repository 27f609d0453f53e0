//! The numbers and structs of the NBD protocol (`doc/proto.md` of the NBD project), as far as fixed newstyle with simple and
//! structured replies needs them. Everything is big-endian.

use std::fmt;

/// `NBDMAGIC`, the first word of the server's greeting.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the second word, and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The start of every option reply.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// `NBD_REQUEST_MAGIC`.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// `NBD_SIMPLE_REPLY_MAGIC`.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// `NBD_STRUCTURED_REPLY_MAGIC`, the start of every chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// `NBD_FLAG_FIXED_NEWSTYLE`, the same bit from both sides.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// `NBD_FLAG_NO_ZEROES`, the same bit from both sides: no padding after the answer to `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// `NBD_FLAG_HAS_FLAGS` of an export.
pub const EXPORT_HAS_FLAGS: u16 = 1 << 0;
/// `NBD_FLAG_READ_ONLY` of an export.
pub const EXPORT_READ_ONLY: u16 = 1 << 1;
/// `NBD_FLAG_SEND_FLUSH` of an export.
pub const EXPORT_SEND_FLUSH: u16 = 1 << 2;
/// `NBD_FLAG_SEND_FUA` of an export: [`COMMAND_FUA`] is served.
pub const EXPORT_SEND_FUA: u16 = 1 << 3;
/// `NBD_FLAG_SEND_TRIM` of an export.
pub const EXPORT_SEND_TRIM: u16 = 1 << 5;
/// `NBD_FLAG_SEND_WRITE_ZEROES` of an export.
pub const EXPORT_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// `NBD_FLAG_SEND_DF` of an export: [`COMMAND_DF`] is served. Only with structured replies.
pub const EXPORT_SEND_DF: u16 = 1 << 7;
/// `NBD_FLAG_CAN_MULTI_CONN` of an export: a flush on one connection covers what any of them wrote.
pub const EXPORT_CAN_MULTI_CONN: u16 = 1 << 8;

/// `NBD_CMD_FLAG_FUA`: the answer comes when the data is durable.
pub const COMMAND_FUA: u16 = 1 << 0;
/// `NBD_CMD_FLAG_NO_HOLE` of a write of zeros: they take up room.
pub const COMMAND_NO_HOLE: u16 = 1 << 1;
/// `NBD_CMD_FLAG_DF` of a read: its data comes in one piece.
pub const COMMAND_DF: u16 = 1 << 2;
/// `NBD_CMD_FLAG_FAST_ZERO` of a write of zeros: fail rather than write them one by one.
pub const COMMAND_FAST_ZERO: u16 = 1 << 4;

/// `NBD_INFO_EXPORT`: size and flags.
pub const INFO_EXPORT: u16 = 0;
/// `NBD_INFO_BLOCK_SIZE`: minimum, preferred and maximum size of a request.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Bytes of the server's greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes before the data of an option.
pub const OPTION_BYTES: usize = 16;
/// Bytes of a request without its payload.
pub const REQUEST_BYTES: usize = 28;
/// The longest name of an export, in bytes.
pub const NAME_MAX: usize = 4096;

macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident($inner:ty) { $($(#[$vdoc:meta])* $variant:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name(pub $inner);

        impl $name {
            $($(#[$vdoc])* pub const $variant: Self = Self($value);)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

open_enum! {
    /// What a client asks for while it negotiates. A number that is not listed is answered, not an error.
    OptionCode(u32) {
        /// `NBD_OPT_EXPORT_NAME`: choose an export and go, with no way to refuse.
        EXPORT_NAME = 1,
        /// `NBD_OPT_ABORT`: the client leaves.
        ABORT = 2,
        /// `NBD_OPT_LIST`: which exports there are.
        LIST = 3,
        /// `NBD_OPT_INFO`: about an export.
        INFO = 6,
        /// `NBD_OPT_GO`: choose an export and go.
        GO = 7,
        /// `NBD_OPT_STRUCTURED_REPLY`: reads are answered in chunks.
        STRUCTURED_REPLY = 8,
        /// `NBD_OPT_SET_META_CONTEXT`: what block status is to tell.
        SET_META_CONTEXT = 10,
    }
}

open_enum! {
    /// The type of an option reply.
    ReplyType(u32) {
        /// `NBD_REP_ACK`: done.
        ACK = 1,
        /// `NBD_REP_SERVER`: one export of a list.
        SERVER = 2,
        /// `NBD_REP_INFO`: one piece of information.
        INFO = 3,
        /// `NBD_REP_ERR_UNSUP`: no such option here.
        ERR_UNSUP = 1 << 31 | 1,
        /// `NBD_REP_ERR_INVALID`: the data of the option is malformed.
        ERR_INVALID = 1 << 31 | 3,
        /// `NBD_REP_ERR_UNKNOWN`: no such export.
        ERR_UNKNOWN = 1 << 31 | 6,
        /// `NBD_REP_ERR_TOO_BIG`: the data of the option is longer than the server takes.
        ERR_TOO_BIG = 1 << 31 | 9,
    }
}

open_enum! {
    /// What a request asks for. A number that is not listed is answered, not an error.
    Command(u16) {
        /// `NBD_CMD_READ`.
        READ = 0,
        /// `NBD_CMD_WRITE`, the only one with a payload.
        WRITE = 1,
        /// `NBD_CMD_DISC`: the client leaves; no reply.
        DISC = 2,
        /// `NBD_CMD_FLUSH`.
        FLUSH = 3,
        /// `NBD_CMD_TRIM`: the range is no longer needed.
        TRIM = 4,
        /// `NBD_CMD_WRITE_ZEROES`.
        WRITE_ZEROES = 6,
    }
}

/// The error of a simple reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Errno {
    /// `NBD_EPERM`: a write to a read-only export.
    Perm = 1,
    /// `NBD_EIO`: the disk failed.
    Io = 5,
    /// `NBD_EINVAL`: a command, flag, range or length that is not served.
    Inval = 22,
    /// `NBD_ENOSPC`: a write beyond the end.
    NoSpace = 28,
    /// `NBD_ESHUTDOWN`: the disk is gone.
    Shutdown = 108,
}

/// Reads a big-endian number at `offset`; zero beyond the end, which callers rule out by length first.
#[macro_export]
macro_rules! be {
    ($bytes:expr, $offset:expr, $type:ty) => {
        $bytes
            .get($offset..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |word| <$type>::from_be_bytes(*word))
    };
}
pub use be;

/// The fixed part of a request, with `NBD_REQUEST_MAGIC` checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Command flags: the `COMMAND_*` that go with the command.
    pub flags: u16,
    /// What to do.
    pub command: Command,
    /// What the reply repeats.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub length: u32,
}

impl Request {
    /// Parses the fixed part; `None` if the magic is wrong, after which nothing in the stream can be trusted.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        (be!(bytes, 0, u32) == REQUEST_MAGIC).then(|| Self {
            flags: be!(bytes, 4, u16),
            command: Command(be!(bytes, 6, u16)),
            cookie: be!(bytes, 8, u64),
            offset: be!(bytes, 16, u64),
            length: be!(bytes, 24, u32),
        })
    }

    /// The bytes that [`parse`](Self::parse) reads.
    pub fn to_bytes(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let fields: [&[u8]; 6] = [
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.command.0.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length.to_be_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

/// Appends an option reply.
pub fn option_reply(out: &mut Vec<u8>, option: OptionCode, reply: ReplyType, data: &[u8]) {
    out.extend(REPLY_MAGIC.to_be_bytes());
    out.extend(option.0.to_be_bytes());
    out.extend(reply.0.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
}

mod reply;
pub use reply::{
    CHUNK_DONE, CHUNK_HEADER_BYTES, ChunkType, ReplyHeader, SIMPLE_REPLY_BYTES, parse_simple_reply,
    simple_reply,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_from_its_28_bytes() {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[5] = 1;
        bytes[7] = 3;
        bytes[15] = 7;
        bytes[16] = 0x80;
        bytes[27] = 9;
        let request = Request::parse(&bytes).expect("the magic is right");
        assert_eq!(request.flags, 1);
        assert_eq!(request.command, Command::FLUSH);
        assert_eq!(request.cookie, 7);
        assert_eq!(request.offset, 1 << 63);
        assert_eq!(request.length, 9);
        assert_eq!(request.to_bytes(), bytes);
        bytes[3] ^= 1;
        assert_eq!(Request::parse(&bytes), None);
    }
}
