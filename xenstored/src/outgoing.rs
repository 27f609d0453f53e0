//! What waits to be read by a client: answers and watch events, in order and bounded.

use std::collections::{BTreeSet, VecDeque};

use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::{Op, PAYLOAD_MAX, SockMsg};
use zerocopy::IntoBytes;

use crate::watch::WatchId;

#[derive(Debug)]
enum Message {
    Reply(Vec<u8>),
    Event {
        bytes: Vec<u8>,
        watch: WatchId,
        path: Box<str>,
    },
}

impl Message {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Reply(bytes) | Self::Event { bytes, .. } => bytes,
        }
    }
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: VecDeque<Message>,
    /// Bytes of the first message that were taken.
    sent: usize,
    /// The events of the queue that nobody has seen a byte of.
    pending: BTreeSet<(WatchId, Box<str>)>,
    replies: usize,
}

pub(crate) fn message(op: Op, req_id: u32, tx_id: u32, payload: &[&[u8]]) -> Vec<u8> {
    let len = payload.iter().map(|part| part.len()).sum::<usize>();
    let header = SockMsg {
        op,
        req_id,
        tx_id,
        len: u32::try_from(len).unwrap_or(u32::MAX),
    };
    let mut bytes = Vec::with_capacity(16 + len);
    bytes.extend_from_slice(header.as_bytes());
    for part in payload {
        bytes.extend_from_slice(part);
    }
    bytes
}

impl Outgoing {
    pub(crate) const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            sent: 0,
            pending: BTreeSet::new(),
            replies: 0,
        }
    }

    /// Answers whose last byte was not taken yet.
    pub(crate) const fn replies(&self) -> usize {
        self.replies
    }

    /// Messages in the queue.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn reply(&mut self, bytes: Vec<u8>) {
        self.replies = self.replies.saturating_add(1);
        self.queue.push_back(Message::Reply(bytes));
    }

    /// Queues an event: `path` as reported. Events like one that waits are dropped; when more than `limit` wait, those of
    /// this watch are replaced by one for the watched node itself (`root`). An event longer than a message can be is dropped
    /// (XSA-324).
    pub(crate) fn event(
        &mut self,
        watch: WatchId,
        path: &str,
        root: &str,
        token: &[u8],
        limit: usize,
    ) {
        let full = self.pending.len() >= limit && !weakened!("xsa_326_events");
        let path = if full { root } else { path };
        if full {
            self.forget(watch);
        }
        let repeated = !self.pending.insert((watch, path.into()));
        if repeated && !weakened!("xsa_326_coalescing") {
            return;
        }
        let bytes = message(
            Op::WATCH_EVENT,
            0,
            0,
            &[path.as_bytes(), b"\0", token, b"\0"],
        );
        if bytes.len() > 16 + PAYLOAD_MAX && !weakened!("xsa_324") {
            self.pending.remove(&(watch, path.into()));
            return;
        }
        self.queue.push_back(Message::Event {
            bytes,
            watch,
            path: path.into(),
        });
    }

    /// Drops the events of a watch, except one that was begun.
    pub(crate) fn forget(&mut self, gone: WatchId) {
        let range = (gone, Box::from(""))..(gone.saturating_add(1), Box::from(""));
        if self.pending.range(range).next().is_none() {
            return;
        }
        let begun = self.sent > 0;
        let mut first = true;
        self.queue.retain(|message| {
            (std::mem::take(&mut first) && begun)
                || !matches!(message, Message::Event { watch, .. } if *watch == gone)
        });
        self.pending.retain(|(watch, _)| *watch != gone);
    }

    /// What to send next; empty when there is nothing.
    pub(crate) fn bytes(&self) -> &[u8] {
        let first = self.queue.front().map(Message::bytes).unwrap_or_default();
        first.get(self.sent..).unwrap_or_default()
    }

    /// `count` of [`bytes`](Self::bytes) were taken.
    pub(crate) fn advance(&mut self, count: usize) {
        let Some(first) = self.queue.front() else {
            return;
        };
        if let Message::Event { watch, path, .. } = first {
            self.pending.remove(&(*watch, path.clone()));
        }
        self.sent = self.sent.saturating_add(count);
        if self.sent >= first.bytes().len() {
            self.sent = 0;
            if matches!(self.queue.pop_front(), Some(Message::Reply(_))) {
                self.replies = self.replies.saturating_sub(1);
            }
        }
    }
}
