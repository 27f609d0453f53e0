//! Requests and answers in nodes of XenStore.
//!
//! Everything is below `rpc` in the domain's own `data` directory, which the domain may write and so may dom0. `ready` holds the
//! incarnation of the agent's process. A message is a node with a header and the first bytes, and as many more nodes as it
//! needs; those are written first, the one with the header last: it is the one that is watched.
//!
//! The header says for which incarnation a request is and repeats its number in the answer, so neither a message of a dead
//! process nor one that is seen twice does anything.

use std::time::{Duration, Instant};

use ringfence_core::DomId;
use ringfence_core::store::{Store, StoreError, Tx, WatchEvent, domain_path};
use thiserror::Error;

/// Bytes of a message in one node: a guest's node may have 2048 with everything about it.
const CHUNK: usize = 1536;
/// Nodes of a message, at most.
const CHUNKS: usize = 32;
/// Bytes of the header.
const HEADER: usize = 12;

/// Why a message did not get through.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum NodesError {
    /// The store said so.
    #[error("{path}: {error}")]
    Store {
        /// The node.
        path: String,
        /// What.
        error: StoreError,
    },
    /// No answer in time.
    #[error("the agent at {dir} did not answer request {seq} in {seconds} s")]
    Silent {
        /// Where it should be.
        dir: String,
        /// Which request.
        seq: u32,
        /// How long.
        seconds: u64,
    },
    /// A message that cannot be expressed, or is none.
    #[error("a message of {len} bytes at {path}")]
    Message {
        /// The node.
        path: String,
        /// Bytes.
        len: usize,
    },
}

type Result<T> = std::result::Result<T, NodesError>;

/// What stands before a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    incarnation: u32,
    seq: u32,
    len: u32,
}

impl Header {
    fn bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = [self.incarnation, self.seq, self.len];
        for (room, word) in bytes.chunks_exact_mut(4).zip(words) {
            room.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let word = |at: usize| {
            let word = header.get(at..at + 4).unwrap_or_default();
            word.try_into().map_or(0, u32::from_le_bytes)
        };
        let header = Self {
            incarnation: word(0),
            seq: word(4),
            len: word(8),
        };
        Some((header, rest))
    }
}

/// One direction: a node for the header, and those beside it.
#[derive(Clone, Debug)]
struct Mailbox {
    dir: String,
}

impl Mailbox {
    fn node(&self, index: usize) -> String {
        format!("{}/{index}", self.dir)
    }

    fn post<S: Store>(&self, store: &mut S, header: Header, message: &[u8]) -> Result<()> {
        let whole = [&header.bytes()[..], message].concat();
        if whole.len() > CHUNK * CHUNKS {
            return Err(NodesError::Message {
                path: self.dir.clone(),
                len: message.len(),
            });
        }
        let chunks: Vec<_> = whole.chunks(CHUNK).enumerate().collect();
        for (index, chunk) in chunks.into_iter().rev() {
            let path = self.node(index);
            let written = store.write(Tx::NONE, &path, chunk);
            written.map_err(|error| NodesError::Store { path, error })?;
        }
        Ok(())
    }

    /// The message whose header `wanted` agrees with, if it is there.
    fn fetch<S: Store>(
        &self,
        store: &mut S,
        wanted: impl FnOnce(Header) -> bool,
    ) -> Result<Option<(Header, Vec<u8>)>> {
        let mut room = [0; CHUNK];
        let mut read = |index: usize| {
            let path = self.node(index);
            match store.read(Tx::NONE, &path, &mut room) {
                Ok(bytes) => Ok(bytes.to_vec()),
                Err(StoreError::Missing) => Ok(Vec::new()),
                Err(error) => Err(NodesError::Store { path, error }),
            }
        };
        let first = read(0)?;
        let Some((header, rest)) = Header::parse(&first) else {
            return Ok(None);
        };
        if !wanted(header) {
            return Ok(None);
        }
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let mut message = rest.to_vec();
        for index in 1..CHUNKS {
            if message.len() >= len {
                break;
            }
            message.extend(read(index)?);
        }
        if message.len() != len {
            let path = self.node(0);
            return Err(NodesError::Message { path, len });
        }
        Ok(Some((header, message)))
    }
}

/// The caller's end, in dom0.
#[derive(Debug)]
pub struct HostEnd<S> {
    store: S,
    dir: String,
    incarnation: u32,
    seq: u32,
}

impl<S: Store> HostEnd<S> {
    /// Waits until the agent of `domid` is there in an incarnation other than `before`, and connects to it.
    pub fn connect(
        mut store: S,
        domid: DomId,
        before: Option<u32>,
        patience: Duration,
    ) -> Result<Self> {
        let dir = format!("{}/data/rpc", domain_path(domid));
        let at = |path: &str| {
            let path = path.to_owned();
            move |error| NodesError::Store { path, error }
        };
        let ready = format!("{dir}/ready");
        store.watch(&ready, "ready").map_err(at(&ready))?;
        let answer = format!("{dir}/answer/0");
        store.watch(&answer, "answer").map_err(at(&answer))?;
        let mut end = Self {
            store,
            dir,
            incarnation: 0,
            seq: 0,
        };
        let deadline = Instant::now() + patience;
        loop {
            if let Some(incarnation) = incarnation(&mut end.store, &ready)?
                && Some(incarnation) != before
            {
                end.incarnation = incarnation;
                end.seq = end.last_seq()?;
                return Ok(end);
            }
            end.wait(deadline, patience)?;
        }
    }

    /// Which process of the agent this is connected to.
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Sends a request.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        self.seq += 1;
        let header = self.header(request);
        let mailbox = self.mailbox("request");
        mailbox.post(&mut self.store, header, request)
    }

    /// The answer to the last request, if it is there.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let (incarnation, seq) = (self.incarnation, self.seq);
        let mailbox = self.mailbox("answer");
        let wanted = |header: Header| header.incarnation == incarnation && header.seq == seq;
        let found = mailbox.fetch(&mut self.store, wanted)?;
        Ok(found.map(|(_, message)| message))
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, request: &[u8], patience: Duration) -> Result<Vec<u8>> {
        self.send(request)?;
        let deadline = Instant::now() + patience;
        loop {
            self.wait(deadline, patience)?;
            if let Some(answer) = self.receive()? {
                return Ok(answer);
            }
        }
    }

    /// The number of the last request that anybody sent to this incarnation.
    fn last_seq(&mut self) -> Result<u32> {
        let mut last = None;
        self.mailbox("request").fetch(&mut self.store, |header| {
            last = Some(header);
            false
        })?;
        let ours = last.filter(|header| header.incarnation == self.incarnation);
        Ok(ours.map_or(0, |header| header.seq))
    }

    fn header(&self, message: &[u8]) -> Header {
        Header {
            incarnation: self.incarnation,
            seq: self.seq,
            len: u32::try_from(message.len()).unwrap_or(u32::MAX),
        }
    }

    fn mailbox(&self, name: &str) -> Mailbox {
        let dir = format!("{}/{name}", self.dir);
        Mailbox { dir }
    }

    /// Waits for a watch event, and takes all that are there.
    fn wait(&mut self, deadline: Instant, patience: Duration) -> Result<()> {
        loop {
            if next(&mut self.store, &self.dir)? {
                while next(&mut self.store, &self.dir)? {}
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NodesError::Silent {
                    dir: self.dir.clone(),
                    seq: self.seq,
                    seconds: patience.as_secs(),
                });
            }
            let waited = self.store.wait(Some(left));
            waited.map_err(|error| NodesError::Store {
                path: self.dir.clone(),
                error,
            })?;
        }
    }
}

fn next<S: Store>(store: &mut S, dir: &str) -> Result<bool> {
    let event: Option<WatchEvent> = store.next_watch().map_err(|error| NodesError::Store {
        path: dir.to_owned(),
        error,
    })?;
    Ok(event.is_some())
}

fn incarnation<S: Store>(store: &mut S, ready: &str) -> Result<Option<u32>> {
    match store.read(Tx::NONE, ready, &mut [0; 16]) {
        Ok(text) => Ok(std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())),
        // A guest that is being built has no directory of its own yet.
        Err(StoreError::Missing) => Ok(None),
        Err(error) => Err(NodesError::Store {
            path: ready.to_owned(),
            error,
        }),
    }
}

/// The agent's end, in its domain.
#[derive(Debug)]
pub struct GuestEnd<S> {
    store: S,
    dir: String,
    incarnation: u32,
    seq: u32,
}

impl<S: Store> GuestEnd<S> {
    /// Begins the next incarnation of the agent of `domid`, and says that it is ready.
    pub fn start(mut store: S, domid: DomId) -> Result<Self> {
        let dir = format!("{}/data/rpc", domain_path(domid));
        let ready = format!("{dir}/ready");
        let before = incarnation(&mut store, &ready)?.unwrap_or(0);
        let incarnation = before.wrapping_add(1);
        let request = format!("{dir}/request/0");
        let watched = store.watch(&request, "request");
        watched.map_err(|error| NodesError::Store {
            path: request,
            error,
        })?;
        let written = store.write(Tx::NONE, &ready, incarnation.to_string().as_bytes());
        written.map_err(|error| NodesError::Store { path: ready, error })?;
        Ok(Self {
            store,
            dir,
            incarnation,
            seq: 0,
        })
    }

    /// A request that was not seen yet.
    pub fn poll(&mut self) -> Result<Option<Vec<u8>>> {
        let (incarnation, last) = (self.incarnation, self.seq);
        let mailbox = Mailbox {
            dir: format!("{}/request", self.dir),
        };
        let wanted = |header: Header| header.incarnation == incarnation && header.seq > last;
        let found = mailbox.fetch(&mut self.store, wanted)?;
        Ok(found.map(|(header, message)| {
            self.seq = header.seq;
            message
        }))
    }

    /// Answers the request that was seen last.
    pub fn answer(&mut self, answer: &[u8]) -> Result<()> {
        let header = Header {
            incarnation: self.incarnation,
            seq: self.seq,
            len: u32::try_from(answer.len()).unwrap_or(u32::MAX),
        };
        let mailbox = Mailbox {
            dir: format!("{}/answer", self.dir),
        };
        mailbox.post(&mut self.store, header, answer)
    }

    /// Waits for the next request.
    pub fn next_request(&mut self) -> Result<Vec<u8>> {
        loop {
            while next(&mut self.store, &self.dir)? {}
            if let Some(request) = self.poll()? {
                return Ok(request);
            }
            let waited = self.store.wait(None);
            waited.map_err(|error| NodesError::Store {
                path: self.dir.clone(),
                error,
            })?;
        }
    }
}
