//! A client's negotiation: which export, how large it is, what it can do. Simple replies are the only ones that are asked for.

use thiserror::Error;

use crate::wire::{
    EXPORT_HAS_FLAGS, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GREETING_BYTES, INFO_BLOCK_SIZE,
    INFO_EXPORT, INIT_MAGIC, NAME_MAX, OPTION_MAGIC, OptionCode, REPLY_MAGIC, ReplyType, be,
};

/// Bytes of an option reply before its data.
const REPLY_BYTES: usize = 20;
/// The most data of an option reply that is looked at.
const DATA_MAX: usize = 64 << 10;
/// Replies to one option, more than any server sends.
const REPLIES_MAX: u32 = 64;
/// `NBD_REP_FLAG_ERROR`.
const ERROR: u32 = 1 << 31;
/// Words of a server in a message.
const WORDS: usize = 200;

/// An export as its server describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Export {
    /// Size.
    pub bytes: u64,
    /// The `EXPORT_*` flags.
    pub flags: u16,
    /// What requests must be a multiple of, in bytes: a power of two.
    pub least: u32,
    /// What they had better be a multiple of.
    pub preferred: u32,
    /// The most bytes of a request with a payload.
    pub most: u32,
}

/// Why there is no export.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The other end is something else.
    #[error("no server of fixed newstyle NBD answers")]
    Greeting,
    /// An answer to no question of ours.
    #[error("the server breaks the protocol: {0}")]
    Protocol(&'static str),
    /// No such export.
    #[error("the server has no export {name:?}{}", said(words))]
    Unknown {
        /// Its name.
        name: String,
        /// What the server says.
        words: String,
    },
    /// It wants something else first, such as TLS.
    #[error(
        "the server refuses export {name:?} with error {code:#x}{}",
        said(words)
    )]
    Refused {
        /// Its name.
        name: String,
        /// The type of the answer.
        code: u32,
        /// What the server says.
        words: String,
    },
    /// A name that is too long.
    #[error("the export's name has {0} bytes, the protocol allows {NAME_MAX}")]
    Name(usize),
}

fn said(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    }
}

/// The client's side of one negotiation.
#[derive(Debug)]
pub struct Negotiation {
    name: String,
    greeted: bool,
    replies: u32,
    bytes_and_flags: Option<(u64, u16)>,
    sizes: (u32, u32, u32),
}

impl Negotiation {
    /// Wants this export; the empty name is the server's default.
    ///
    /// # Errors
    /// The name is too long.
    pub fn new(name: &str) -> Result<Self, ClientError> {
        if name.len() > NAME_MAX {
            return Err(ClientError::Name(name.len()));
        }
        Ok(Self {
            name: name.to_owned(),
            greeted: false,
            replies: 0,
            bytes_and_flags: None,
            // What the protocol lets a client assume.
            sizes: (1, 4096, 32 << 20),
        })
    }

    /// Takes one piece of `input`, appends to `out` what is to be sent. Returns how many bytes it took, none if the piece is not
    /// complete, and the export at the end; what follows are replies to requests.
    ///
    /// # Errors
    /// There is none.
    pub fn step(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<Export>), ClientError> {
        if !self.greeted {
            return self.greeting(input, out);
        }
        let Some(header) = input.first_chunk::<REPLY_BYTES>() else {
            return Ok((0, None));
        };
        if be!(header, 0, u64) != REPLY_MAGIC || be!(header, 8, u32) != OptionCode::GO.0 {
            return Err(ClientError::Protocol("an option reply to another question"));
        }
        let length = be!(header, 16, u32) as usize;
        if length > DATA_MAX {
            return Err(ClientError::Protocol("an option reply that is too long"));
        }
        let end = REPLY_BYTES.saturating_add(length);
        let Some(data) = input.get(REPLY_BYTES..end) else {
            return Ok((0, None));
        };
        self.replies = self.replies.saturating_add(1);
        if self.replies > REPLIES_MAX {
            return Err(ClientError::Protocol("too many option replies"));
        }
        let export = self.reply(ReplyType(be!(header, 12, u32)), data)?;
        Ok((end, export))
    }

    fn greeting(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<Export>), ClientError> {
        let Some(greeting) = input.first_chunk::<GREETING_BYTES>() else {
            return Ok((0, None));
        };
        let flags = be!(greeting, 16, u16);
        let is_ours = be!(greeting, 0, u64) == INIT_MAGIC && be!(greeting, 8, u64) == OPTION_MAGIC;
        if !is_ours || flags & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(ClientError::Greeting);
        }
        let ours = FLAG_FIXED_NEWSTYLE | (flags & FLAG_NO_ZEROES);
        out.extend(u32::from(ours).to_be_bytes());
        let name = self.name.as_bytes();
        out.extend(OPTION_MAGIC.to_be_bytes());
        out.extend(OptionCode::GO.0.to_be_bytes());
        // The name's length, one request for information, and how many those are.
        out.extend((name.len() as u32 + 4 + 2 + 2).to_be_bytes());
        out.extend((name.len() as u32).to_be_bytes());
        out.extend(name);
        out.extend(1u16.to_be_bytes());
        out.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.greeted = true;
        Ok((GREETING_BYTES, None))
    }

    fn reply(&mut self, kind: ReplyType, data: &[u8]) -> Result<Option<Export>, ClientError> {
        match kind {
            ReplyType::INFO => {
                self.info(data)?;
                Ok(None)
            }
            ReplyType::ACK => {
                let Some((bytes, flags)) = self.bytes_and_flags else {
                    return Err(ClientError::Protocol("an export without a size"));
                };
                let (least, preferred, most) = self.sizes;
                if flags & EXPORT_HAS_FLAGS == 0 {
                    return Err(ClientError::Protocol("an export without flags"));
                }
                Ok(Some(Export {
                    bytes,
                    flags,
                    least,
                    preferred,
                    most,
                }))
            }
            ReplyType(code) if code & ERROR != 0 => {
                let (name, words) = (self.name.clone(), printable(data));
                Err(match kind {
                    ReplyType::ERR_UNKNOWN => ClientError::Unknown { name, words },
                    _ => ClientError::Refused { name, code, words },
                })
            }
            // Whatever it is, it is no error and nobody asked.
            _ => Ok(None),
        }
    }

    fn info(&mut self, data: &[u8]) -> Result<(), ClientError> {
        match (be!(data, 0, u16), data.len()) {
            (INFO_EXPORT, 12) => {
                self.bytes_and_flags = Some((be!(data, 2, u64), be!(data, 10, u16)))
            }
            (INFO_BLOCK_SIZE, 14) => {
                let sizes = (be!(data, 2, u32), be!(data, 6, u32), be!(data, 10, u32));
                let (least, preferred, most) = sizes;
                let fine = least.is_power_of_two() && preferred >= least && most >= least;
                if !fine {
                    return Err(ClientError::Protocol("block sizes that make no sense"));
                }
                self.sizes = sizes;
            }
            (INFO_EXPORT | INFO_BLOCK_SIZE, _) | (_, 0 | 1) => {
                return Err(ClientError::Protocol("information of a wrong length"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a server says, fit for a log.
fn printable(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::option_reply;

    fn greeting(flags: u16) -> Vec<u8> {
        let mut bytes = INIT_MAGIC.to_be_bytes().to_vec();
        bytes.extend(OPTION_MAGIC.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes
    }

    fn info(kind: u16, rest: &[&[u8]]) -> Vec<u8> {
        let mut data = kind.to_be_bytes().to_vec();
        data.extend(rest.concat());
        data
    }

    fn go(replies: &[(ReplyType, Vec<u8>)]) -> Result<Option<Export>, ClientError> {
        let mut stream = greeting(3);
        for (kind, data) in replies {
            option_reply(&mut stream, OptionCode::GO, *kind, data);
        }
        let mut negotiation = Negotiation::new("disk").unwrap();
        let mut out = Vec::new();
        let mut at = 0;
        loop {
            // However it is cut.
            let whole = &stream[at..];
            let half = &whole[..whole.len() / 2];
            let (taken, export) = match negotiation.step(half, &mut out)? {
                (0, None) => negotiation.step(whole, &mut out)?,
                done => done,
            };
            at += taken;
            if export.is_some() || taken == 0 {
                return Ok(export);
            }
        }
    }

    fn size() -> (ReplyType, Vec<u8>) {
        let data = info(INFO_EXPORT, &[&7168u64.to_be_bytes(), &5u16.to_be_bytes()]);
        (ReplyType::INFO, data)
    }

    fn blocks(least: u32, preferred: u32, most: u32) -> (ReplyType, Vec<u8>) {
        let sizes = [least, preferred, most].map(u32::to_be_bytes);
        let sizes: Vec<&[u8]> = sizes.iter().map(|size| &size[..]).collect();
        (ReplyType::INFO, info(INFO_BLOCK_SIZE, &sizes))
    }

    const ACK: (ReplyType, Vec<u8>) = (ReplyType::ACK, Vec::new());

    #[test]
    fn an_export_with_and_without_sizes() {
        let mut expected = Export {
            bytes: 7168,
            flags: 5,
            least: 1,
            preferred: 4096,
            most: 32 << 20,
        };
        assert_eq!(go(&[size(), ACK]), Ok(Some(expected)));
        (expected.least, expected.preferred, expected.most) = (512, 512, 1024);
        let unasked = (ReplyType::INFO, info(77, &[b"new"]));
        let replies = [blocks(512, 512, 1024), unasked, size(), ACK];
        assert_eq!(go(&replies), Ok(Some(expected)));
    }

    #[test]
    fn refusals_and_nonsense_say_why() {
        let unknown = go(&[(ReplyType::ERR_UNKNOWN, b"no\nsuch".to_vec())]).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "the server has no export \"disk\": no such"
        );
        let tls = go(&[(ReplyType(ERROR | 5), Vec::new())]).unwrap_err();
        assert!(tls.to_string().contains("error 0x80000005"), "{tls}");
        for replies in [
            vec![ACK],
            vec![blocks(3, 4096, 4096), size(), ACK],
            vec![blocks(512, 1, 4096), size(), ACK],
            vec![(ReplyType::INFO, vec![0])],
            vec![(ReplyType::INFO, info(INFO_EXPORT, &[b"short"]))],
            vec![(ReplyType(9), Vec::new()); 65],
        ] {
            let error = go(&replies).unwrap_err();
            assert!(matches!(error, ClientError::Protocol(_)), "{error}");
        }
        let mut negotiation = Negotiation::new("").unwrap();
        for not in [greeting(0), vec![0; 18]] {
            let error = negotiation.step(&not, &mut Vec::new()).unwrap_err();
            assert_eq!(error, ClientError::Greeting);
        }
        assert!(Negotiation::new(&"x".repeat(NAME_MAX + 1)).is_err());
    }
}
