//! One connection: whole messages, written and read by hand.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;

const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// The payload of the answer, or the error's name.
pub(crate) type Answer = Result<Vec<u8>, String>;

/// The payloads of the watch events that came before the answer, and the answer.
pub(crate) type Asked = (Vec<Vec<u8>>, Answer);

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    next: u32,
    /// Events that `hear` will show; `None` where they come in order with the answers.
    events: Option<VecDeque<Vec<u8>>>,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Wire {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let is_socket = std::fs::metadata(path)?.file_type().is_socket();
        let stream: Box<dyn Stream> = if is_socket {
            Box::new(UnixStream::connect(path)?)
        } else {
            Box::new(File::options().read(true).write(true).open(path)?)
        };
        Ok(Self {
            stream,
            next: 1,
            events: (!is_socket).then(VecDeque::new),
        })
    }

    /// Sends a request and reads up to its answer.
    pub(crate) fn ask(
        &mut self,
        op: u32,
        tx: u32,
        payload: &[u8],
    ) -> Result<Asked, Box<dyn Error>> {
        let id = self.next;
        self.next += 1;
        let mut message = Vec::new();
        for word in [op, id, tx, u32::try_from(payload.len())?] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(payload);
        match self.stream.write_all(&message) {
            // The kernel looks at some requests itself.
            Err(error) if self.events.is_some() => {
                return Ok((Vec::new(), Err(format!("the device: {error}"))));
            }
            other => other?,
        }
        let mut events = Vec::new();
        loop {
            let (kind, answered, payload) = self.message()?;
            match kind {
                WATCH_EVENT => match &mut self.events {
                    Some(queue) => queue.push_back(payload),
                    None => events.push(payload),
                },
                ERROR => {
                    let name = String::from_utf8_lossy(&payload);
                    return Ok((events, Err(name.trim_end_matches('\0').to_owned())));
                }
                kind if kind == op && answered == id => return Ok((events, Ok(payload))),
                _ => return Err(format!("answer {answered} of type {kind} to {id}").into()),
            }
        }
    }

    /// Waits for events.
    pub(crate) fn hear(&mut self, count: usize) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
        let mut events = Vec::new();
        while events.len() < count {
            let waiting = self.events.as_mut().and_then(VecDeque::pop_front);
            events.push(match waiting {
                Some(event) => event,
                None => match self.message()? {
                    (WATCH_EVENT, _, payload) => payload,
                    (kind, ..) => return Err(format!("type {kind}, not an event").into()),
                },
            });
        }
        Ok(events)
    }

    /// Reads one: its type, the request that it answers, its payload.
    fn message(&mut self) -> Result<(u32, u32, Vec<u8>), Box<dyn Error>> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let word = |at: usize| {
            let bytes = header.get(4 * at..4 * at + 4).unwrap_or_default();
            bytes.try_into().map(u32::from_ne_bytes)
        };
        let mut payload = vec![0; word(3)? as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((word(0)?, word(1)?, payload))
    }
}

/// Bytes as one line; what is long is only counted.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text: String = match bytes.get(..200) {
        Some(start) if bytes.len() > 300 => {
            format!("{}... {} bytes", start.escape_ascii(), bytes.len())
        }
        _ => bytes.escape_ascii().to_string(),
    };
    text.replace("\\x00", "\\0")
}

/// The bytes that an argument means.
pub(crate) fn unescaped(argument: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    let mut rest = argument.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (byte, after) = match rest {
            [b'0', after @ ..] => (0, after),
            [b'n', after @ ..] => (b'\n', after),
            [b's', after @ ..] => (b' ', after),
            [b'\\', after @ ..] => (b'\\', after),
            [b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                (
                    u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?,
                    after,
                )
            }
            _ => return Err(format!("what is \\ in {argument}?").into()),
        };
        bytes.push(byte);
        rest = after;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_said() {
        for bytes in [&b"a b\\\n\0\x80"[..], b"", b"/local/domain/0\0"] {
            let said = shown(bytes).replace(' ', "\\s");
            assert_eq!(unescaped(&said).unwrap(), bytes);
        }
        assert!(unescaped("\\q").is_err());
        assert!(unescaped("\\x1").is_err());
        assert!(shown(&[b'x'; 4000]).ends_with("... 4000 bytes"));
    }
}
