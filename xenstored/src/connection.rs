//! One client: bytes in become requests, answers wait to go out.

use std::collections::BTreeMap;

use ringfence_core::wire::xs_wire::{PAYLOAD_MAX, SockMsg};
use zerocopy::FromBytes;

use crate::outgoing::Outgoing;
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
                    if len > PAYLOAD_MAX && !cfg!(ringfence_weaken = "xsa_420") {
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

    /// The request was answered.
    pub(crate) fn done(&mut self) {
        self.input.clear();
    }
}
