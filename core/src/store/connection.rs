//! A blocking connection: the client on a transport.

use core::time::Duration;

use super::client::{Client, ClientStats, EncodeError, Event};
use super::error::StoreError;
use super::list::Names;
use super::perm::{Perm, Perms};
use super::queue::{EventQueue, WatchEvent};
use super::{Store, Tx, number};
use crate::wire::xs_wire::{ABS_PATH_MAX, Errno, Op, PAYLOAD_MAX};

/// What [`Transport::wait`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    /// Room to send.
    pub send: bool,
    /// Bytes to receive.
    pub recv: bool,
}

/// A byte stream to the store: a socket, or the ring page. The peer's closing it is an error of the transport's.
pub trait Transport {
    /// Why the stream is of no further use.
    type Error;

    /// Sends some bytes from the front of `bytes` without blocking; 0 when there is no room now.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Self::Error>;

    /// Receives some bytes without blocking; 0 when there are none now.
    fn recv(&mut self, room: &mut [u8]) -> Result<usize, Self::Error>;

    /// Blocks until any of `interest` may be possible or `timeout` has passed. May return early.
    fn wait(&mut self, interest: Interest, timeout: Option<Duration>) -> Result<(), Self::Error>;
}

/// A connection to the store over `T`, keeping at most `QUEUE` distinct pending watch events.
#[derive(Debug)]
pub struct Connection<T: Transport, const QUEUE: usize = 32> {
    client: Client<PAYLOAD_MAX, 1>,
    events: EventQueue<QUEUE>,
    transport: T,
    transport_error: Option<T::Error>,
    /// Once the stream failed, nothing more is tried.
    failed: Option<StoreError>,
}

/// The request whose answer is awaited, and where the answer goes.
struct Pending<'b> {
    req_id: u32,
    answer: &'b mut [u8],
    result: Option<Result<usize, StoreError>>,
}

const RECV: Interest = Interest {
    send: false,
    recv: true,
};

impl<T: Transport, const QUEUE: usize> Connection<T, QUEUE> {
    /// A connection at the start of `transport`'s stream.
    pub const fn new(transport: T) -> Self {
        Self {
            client: Client::new(),
            events: EventQueue::new(),
            transport,
            transport_error: None,
            failed: None,
        }
    }

    /// The transport, for whoever waits on its descriptor together with others.
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// Why the transport failed, if it did.
    pub const fn transport_error(&self) -> Option<&T::Error> {
        self.transport_error.as_ref()
    }

    /// What was survived so far.
    pub const fn stats(&self) -> ClientStats {
        self.client.stats()
    }

    /// Whether [`next_watch`](Store::next_watch) has an event that is here already. Nobody rings for it again: whoever waits for
    /// the transport together with others waits only while this is false, or right after `next_watch` had nothing.
    pub fn has_watch(&self) -> bool {
        !self.events.is_empty()
    }

    fn fail(&mut self, error: T::Error) -> StoreError {
        self.transport_error = Some(error);
        self.failed = Some(StoreError::Transport);
        StoreError::Transport
    }

    /// Takes in what has arrived. Returns whether anything had.
    fn pump(&mut self, pending: Option<&mut Pending<'_>>) -> Result<bool, StoreError> {
        let mut chunk = [0u8; 512];
        let received = match self.transport.recv(&mut chunk) {
            Ok(received) => received,
            Err(error) => return Err(self.fail(error)),
        };
        let mut input = chunk.get(..received).unwrap_or_default();
        let mut pending = pending;
        loop {
            let event = match self.client.receive(&mut input) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(received > 0),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error);
                }
            };
            match event {
                Event::Watch { path, token } => self.events.push(path, token),
                Event::Reply { req_id, result, .. } => {
                    let Some(pending) = pending
                        .as_deref_mut()
                        .filter(|pending| pending.req_id == req_id)
                    else {
                        continue;
                    };
                    let room = pending.answer.len();
                    pending.result = Some(match result {
                        Err(error) => Err(error.of(req_id, room)),
                        Ok(payload) => match pending.answer.get_mut(..payload.len()) {
                            Some(answer) => {
                                answer.copy_from_slice(payload);
                                Ok(payload.len())
                            }
                            None => Err(StoreError::TooLong {
                                len: payload.len(),
                                room,
                            }),
                        },
                    });
                }
            }
        }
    }

    fn wait_for(
        &mut self,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> Result<(), StoreError> {
        self.transport
            .wait(interest, timeout)
            .map_err(|error| self.fail(error))
    }

    /// Sends a request and waits for its answer, which goes into `answer`; returns its length.
    fn call(
        &mut self,
        op: Op,
        tx: Tx,
        parts: &[&[u8]],
        answer: &mut [u8],
    ) -> Result<usize, StoreError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let len = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let (req_id, header) = self
            .client
            .begin(op, tx, len)
            .map_err(|error| match error {
                EncodeError::Busy { .. } => StoreError::Transport,
                _ => StoreError::Unsendable { len },
            })?;
        let mut pending = Pending {
            req_id,
            answer,
            result: None,
        };
        for part in core::iter::once(header.as_slice()).chain(parts.iter().copied()) {
            let mut rest = part;
            while !rest.is_empty() {
                let sent = self
                    .transport
                    .send(rest)
                    .map_err(|error| self.fail(error))?;
                rest = rest.get(sent..).unwrap_or_default();
                // The store reads nothing more from a client that does not take its events.
                if sent == 0 && !self.pump(Some(&mut pending))? {
                    self.wait_for(
                        Interest {
                            send: true,
                            recv: true,
                        },
                        None,
                    )?;
                }
            }
        }
        loop {
            if let Some(result) = pending.result.take() {
                return result;
            }
            if !self.pump(Some(&mut pending))? {
                self.wait_for(RECV, None)?;
            }
        }
    }

    /// A request about one node.
    fn node(
        &mut self,
        op: Op,
        tx: Tx,
        path: &str,
        more: &[u8],
        answer: &mut [u8],
    ) -> Result<usize, StoreError> {
        sendable(path)?;
        self.call(op, tx, &[path.as_bytes(), b"\0", more], answer)
    }

    /// A request whose answer is `OK`.
    fn acknowledged(&mut self, op: Op, tx: Tx, parts: &[&[u8]]) -> Result<(), StoreError> {
        let mut answer = [0u8; 16];
        self.call(op, tx, parts, &mut answer).map(|_| ())
    }

    /// A listing too long for one message, piece by piece; starts again when the node changes on the way.
    fn directory_part(&mut self, tx: Tx, path: &str, buf: &mut [u8]) -> Result<usize, StoreError> {
        let mut piece = [0u8; PAYLOAD_MAX];
        let mut generation = heapless::Vec::<u8, 24>::new();
        let mut filled = 0usize;
        loop {
            let mut offset = heapless::String::<24>::new();
            let _ = core::fmt::write(&mut offset, format_args!("{filled}\0"));
            let len = self.node(Op::DIRECTORY_PART, tx, path, offset.as_bytes(), &mut piece)?;
            let malformed = StoreError::Malformed { req_id: 0 };
            let mut halves = piece
                .get(..len)
                .unwrap_or_default()
                .splitn(2, |byte| *byte == 0);
            let (Some(now), Some(names)) = (halves.next(), halves.next()) else {
                return Err(malformed);
            };
            if filled > 0 && generation != now {
                filled = 0;
                generation.clear();
                continue;
            }
            generation = heapless::Vec::from_slice(now).map_err(|_| malformed)?;
            // An empty name ends the list.
            let last = names.len() < 2 || names.ends_with(b"\0\0") || names == b"\0";
            let names = if last {
                names.strip_suffix(b"\0").unwrap_or(names)
            } else {
                names
            };
            let room = buf.len();
            let end = filled.saturating_add(names.len());
            let to = buf
                .get_mut(filled..end)
                .ok_or(StoreError::TooLong { len: end, room })?;
            to.copy_from_slice(names);
            filled = end;
            if last {
                return Ok(filled);
            }
        }
    }
}

fn sendable(path: &str) -> Result<(), StoreError> {
    if path.len() > ABS_PATH_MAX || path.contains('\0') {
        return Err(StoreError::Unsendable { len: path.len() });
    }
    Ok(())
}

impl<T: Transport, const QUEUE: usize> Store for Connection<T, QUEUE> {
    fn read<'b>(&mut self, tx: Tx, path: &str, buf: &'b mut [u8]) -> Result<&'b [u8], StoreError> {
        let len = self.node(Op::READ, tx, path, b"", buf)?;
        Ok(buf.get(..len).unwrap_or_default())
    }

    fn write(&mut self, tx: Tx, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.node(Op::WRITE, tx, path, value, &mut [0; 16])
            .map(|_| ())
    }

    fn mkdir(&mut self, tx: Tx, path: &str) -> Result<(), StoreError> {
        self.node(Op::MKDIR, tx, path, b"", &mut [0; 16])
            .map(|_| ())
    }

    fn rm(&mut self, tx: Tx, path: &str) -> Result<(), StoreError> {
        self.node(Op::RM, tx, path, b"", &mut [0; 16]).map(|_| ())
    }

    fn directory<'b>(
        &mut self,
        tx: Tx,
        path: &str,
        buf: &'b mut [u8],
    ) -> Result<Names<'b>, StoreError> {
        let len = match self.node(Op::DIRECTORY, tx, path, b"", buf) {
            Err(StoreError::Refused(Errno::TooBig)) => self.directory_part(tx, path, buf)?,
            other => other?,
        };
        Ok(Names::new(buf.get(..len).unwrap_or_default()))
    }

    fn get_perms(&mut self, tx: Tx, path: &str) -> Result<Perms, StoreError> {
        let mut buf = [0u8; 256];
        let len = self.node(Op::GET_PERMS, tx, path, b"", &mut buf)?;
        let malformed = StoreError::Malformed { req_id: 0 };
        Names::new(buf.get(..len).unwrap_or_default()).try_fold(Perms::new(), |mut perms, text| {
            let perm = Perm::parse(text.as_bytes()).ok_or(malformed)?;
            perms.push(perm).map_err(|_| malformed)?;
            Ok(perms)
        })
    }

    fn set_perms(&mut self, tx: Tx, path: &str, perms: &[Perm]) -> Result<(), StoreError> {
        let mut list = heapless::String::<256>::new();
        for perm in perms {
            let pushed = list.push_str(&perm.text()).and_then(|()| list.push('\0'));
            pushed.map_err(|_| StoreError::Unsendable { len: list.len() })?;
        }
        self.node(Op::SET_PERMS, tx, path, list.as_bytes(), &mut [0; 16])
            .map(|_| ())
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        sendable(path)?;
        sendable(token)?;
        self.acknowledged(
            Op::WATCH,
            Tx::NONE,
            &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"],
        )
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        sendable(path)?;
        sendable(token)?;
        self.acknowledged(
            Op::UNWATCH,
            Tx::NONE,
            &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"],
        )
    }

    fn next_watch(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        if self.failed.is_none() {
            while self.events.is_empty() && self.pump(None)? {}
        }
        match (self.events.pop(), self.failed) {
            (None, Some(error)) => Err(error),
            (event, _) => Ok(event),
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), StoreError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.events.is_empty() => self.wait_for(RECV, timeout),
            None => Ok(()),
        }
    }

    fn transaction_start(&mut self) -> Result<Tx, StoreError> {
        let mut answer = [0u8; 16];
        let len = self.call(Op::TRANSACTION_START, Tx::NONE, &[b"\0"], &mut answer)?;
        let text = answer.get(..len).unwrap_or_default();
        let id = number::unsigned(text.strip_suffix(b"\0").unwrap_or(text));
        let id = id
            .and_then(|id| u32::try_from(id).ok())
            .filter(|id| *id != 0);
        id.map(Tx::new).ok_or(StoreError::Malformed { req_id: 0 })
    }

    fn transaction_end(&mut self, tx: Tx, commit: bool) -> Result<(), StoreError> {
        let end: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.acknowledged(Op::TRANSACTION_END, tx, &[end])
    }
}
