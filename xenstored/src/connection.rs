//! One client: bytes in become requests, answers wait to go out.

use std::collections::BTreeMap;

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::{Errno, Op, PAYLOAD_MAX, SockMsg};
use zerocopy::FromBytes;

use crate::outgoing::{Outgoing, message};
use crate::perms::Identity;
use crate::transaction::Transaction;

/// A connection's number, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) who: Identity,
    pub(crate) out: Outgoing,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    pub(crate) next_tx: u32,
    input: Vec<u8>,
    /// The request that waits for `Store::admit`, and whom it is about.
    pub(crate) introducing: Option<(SockMsg, DomId)>,
    /// The client violated the framing; nothing more is read.
    pub(crate) broken: bool,
}

impl Connection {
    pub(crate) const fn new(who: Identity) -> Self {
        Self {
            who,
            out: Outgoing::new(),
            transactions: BTreeMap::new(),
            next_tx: 1,
            input: Vec::new(),
            introducing: None,
            broken: false,
        }
    }

    /// The header of the request being taken in, as soon as it is complete.
    fn header(&self) -> Option<SockMsg> {
        SockMsg::read_from_prefix(&self.input)
            .ok()
            .map(|(header, _)| header)
    }

    /// Takes bytes from the front of `bytes` until one request is complete. Returns how many.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while !self.broken {
            let wanted = match self.header() {
                None => size_of::<SockMsg>(),
                Some(header) => {
                    let len = header.len as usize;
                    if len > PAYLOAD_MAX && !weakened!("xsa_420") {
                        self.broken = true;
                        self.input = Vec::new();
                        break;
                    }
                    size_of::<SockMsg>() + len
                }
            };
            let missing = wanted.saturating_sub(self.input.len());
            let rest = bytes.get(taken..).unwrap_or_default();
            let now = rest.get(..missing.min(rest.len())).unwrap_or_default();
            if now.is_empty() {
                break;
            }
            self.input.extend_from_slice(now);
            taken += now.len();
        }
        taken
    }

    /// The complete request, if there is one; it stays until [`done`](Self::done).
    pub(crate) fn request(&self) -> Option<(SockMsg, &[u8])> {
        let header = self.header()?;
        let payload = self.input.get(size_of::<SockMsg>()..)?;
        (payload.len() == header.len as usize && !self.broken).then_some((header, payload))
    }

    /// Queues the answer to a request.
    pub(crate) fn answer(&mut self, header: SockMsg, answer: Result<Vec<u8>, Errno>) {
        let to = |op, payload: &[&[u8]]| message(op, header.req_id, header.tx_id, payload);
        self.out.reply(match answer {
            Ok(payload) if payload.len() <= PAYLOAD_MAX || weakened!("xsa_72") => {
                to(header.op, &[&payload])
            }
            Ok(_) => to(Op::ERROR, &[b"E2BIG\0"]),
            Err(errno) => to(Op::ERROR, &[errno.name().as_bytes(), b"\0"]),
        });
    }

    /// The request was answered.
    pub(crate) fn done(&mut self) {
        self.input.clear();
    }
}
