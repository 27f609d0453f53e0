//! Requests and answers in pages that an agent grants to dom0.
//!
//! The agent says in the node `data/rpc` of its domain where they are: the incarnation of its process, a port, and references.
//! The first half of the pages takes a request, the second half its answer: a number, a length, and bytes. The number is written
//! last. Each process of an agent has pages of its own, so nothing of a dead one is ever taken for an answer.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use ringfence_core::platform::{
    Access, Channel, EvtchnError, GrantError, Granted, Platform, PlatformError,
};
use ringfence_core::store::{Store, StoreError, Tx, domain_path};
use ringfence_core::{DomId, EvtchnPort, GrantRef, PAGE, SharedMem};
use thiserror::Error;

/// Pages of both halves.
const PAGES: usize = 8;
/// Bytes of a half.
pub(crate) const HALF: usize = PAGES / 2 * PAGE;
/// Bytes before a message: its number and its length.
const HEADER: usize = 8;

/// Why a message did not get through.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PagesError {
    /// The store said so.
    #[error("{path}: {error}")]
    Store {
        /// The node.
        path: String,
        /// What.
        error: StoreError,
    },
    /// The node does not say where the pages are.
    #[error("{path}: {value:?} names no pages")]
    Garbage {
        /// The node.
        path: String,
        /// What it says.
        value: String,
    },
    /// Nobody is there, or does not answer in time.
    #[error("the agent of domain {domid} did not answer in {seconds} s")]
    Silent {
        /// The agent's domain.
        domid: DomId,
        /// How long.
        seconds: u64,
    },
    /// A message that is longer than the pages, or says so.
    #[error("a message of {len} bytes, and {HALF} is the limit")]
    TooLong {
        /// Bytes.
        len: usize,
    },
    /// The pages could not be granted or mapped.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The port could not be allocated or bound.
    #[error(transparent)]
    Evtchn(#[from] EvtchnError),
    /// It could not be rung.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

pub(crate) type Result<T> = core::result::Result<T, PagesError>;

/// Where an agent says that it is there.
pub(crate) fn node(domid: DomId) -> String {
    format!("{}/data/rpc", domain_path(domid))
}

/// Pages one behind the other, as one mapping or each for itself.
pub(crate) trait Region {
    fn page(&self, at: usize) -> (&impl SharedMem, usize);

    fn load(&self, at: usize) -> u32 {
        let (page, at) = self.page(at);
        page.load_u32(at)
    }

    fn store(&self, at: usize, value: u32) {
        let (page, at) = self.page(at);
        page.store_u32(at, value);
    }

    fn read(&self, mut at: usize, mut to: &mut [u8]) {
        while !to.is_empty() {
            let here = (PAGE - at % PAGE).min(to.len());
            let (now, later) = to.split_at_mut(here);
            let (page, offset) = self.page(at);
            page.read(offset, now);
            (to, at) = (later, at + here);
        }
    }

    fn write(&self, mut at: usize, mut from: &[u8]) {
        while !from.is_empty() {
            let here = (PAGE - at % PAGE).min(from.len());
            let (now, later) = from.split_at(here);
            let (page, offset) = self.page(at);
            page.write(offset, now);
            (from, at) = (later, at + here);
        }
    }

    /// Puts a message into the half that begins at `base`.
    fn post(&self, base: usize, seq: u32, message: &[u8]) -> Result<()> {
        let len = message.len();
        if len > HALF - HEADER {
            return Err(PagesError::TooLong { len });
        }
        self.write(base + HEADER, message);
        self.store(base + 4, u32::try_from(len).unwrap_or(u32::MAX));
        self.store(base, seq);
        Ok(())
    }

    /// The message of the half that begins at `base`.
    fn take(&self, base: usize) -> Result<Vec<u8>> {
        let len = usize::try_from(self.load(base + 4)).unwrap_or(usize::MAX);
        if len > HALF - HEADER {
            return Err(PagesError::TooLong { len });
        }
        let mut message = vec![0; len];
        self.read(base + HEADER, &mut message);
        Ok(message)
    }
}

/// All pages in one mapping.
#[cfg(any(test, feature = "std"))]
pub(crate) struct Whole<'m, M>(pub(crate) &'m M);

#[cfg(any(test, feature = "std"))]
impl<M: SharedMem> Region for Whole<'_, M> {
    fn page(&self, at: usize) -> (&impl SharedMem, usize) {
        (self.0, at)
    }
}

impl<M: SharedMem> Region for Vec<M> {
    fn page(&self, at: usize) -> (&impl SharedMem, usize) {
        (&self[at / PAGE], at % PAGE)
    }
}

/// What an agent says about itself.
pub(crate) struct Ready {
    pub(crate) incarnation: u32,
    pub(crate) port: EvtchnPort,
    pub(crate) refs: Vec<GrantRef>,
}

impl Ready {
    fn text(&self) -> String {
        let numbers = [self.incarnation, self.port.get()].into_iter();
        let numbers = numbers.chain(self.refs.iter().map(|gref| gref.get()));
        numbers
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<u32>> = text.split(' ').map(|word| word.parse().ok()).collect();
        match numbers?.as_slice() {
            [incarnation, port, refs @ ..] if refs.len() == PAGES => Some(Self {
                incarnation: *incarnation,
                port: EvtchnPort::new(*port),
                refs: refs.iter().copied().map(GrantRef::new).collect(),
            }),
            _ => None,
        }
    }

    pub(crate) fn read<S: Store>(store: &mut S, domid: DomId) -> Result<Option<Self>> {
        let path = node(domid);
        match store.read(Tx::NONE, &path, &mut [0; 256]) {
            Ok(text) => {
                let value = String::from_utf8_lossy(text).into_owned();
                let ready = Self::parse(&value);
                ready.map(Some).ok_or(PagesError::Garbage { path, value })
            }
            Err(StoreError::Missing) => Ok(None),
            Err(error) => Err(PagesError::Store { path, error }),
        }
    }
}

/// Waits on a channel until it was rung or the time is over. Returning early does no harm.
pub type Wait<'w, C> = &'w mut dyn FnMut(&C, Duration);

/// The agent's end, in its domain.
#[derive(Debug)]
pub struct GuestEnd<P: Platform> {
    pages: Vec<P::Granted>,
    channel: P::Channel,
    seq: u32,
}

impl<P: Platform> GuestEnd<P> {
    /// Begins the next incarnation of the agent of this domain, and says that it is there.
    pub fn start<S: Store>(platform: &P, store: &mut S) -> Result<Self> {
        let domid = platform.domid();
        let pages = (0..PAGES).map(|_| platform.alloc(DomId::DOM0, Access::ReadWrite));
        let pages = pages.collect::<core::result::Result<Vec<_>, _>>()?;
        let channel = platform.alloc_unbound(DomId::DOM0)?;
        let before = Ready::read(store, domid)?.map_or(0, |ready| ready.incarnation);
        let ready = Ready {
            incarnation: before.wrapping_add(1),
            port: channel.port(),
            refs: pages.iter().map(Granted::grant_ref).collect(),
        };
        let path = node(domid);
        let written = store.write(Tx::NONE, &path, ready.text().as_bytes());
        written.map_err(|error| PagesError::Store { path, error })?;
        let seq = 0;
        Ok(Self {
            pages,
            channel,
            seq,
        })
    }

    /// A request that was not seen yet.
    pub fn poll(&mut self) -> Result<Option<Vec<u8>>> {
        let seq = self.pages.load(0);
        if seq == self.seq {
            return Ok(None);
        }
        self.seq = seq;
        self.pages.take(0).map(Some)
    }

    /// Answers the request that was seen last.
    pub fn answer(&mut self, answer: &[u8]) -> Result<()> {
        self.pages.post(HALF, self.seq, answer)?;
        Ok(self.channel.notify()?)
    }

    /// Waits for the next request.
    pub fn next_request(&mut self, wait: Wait<'_, P::Channel>) -> Result<Vec<u8>> {
        loop {
            self.channel.take_pending()?;
            self.channel.unmask()?;
            if let Some(request) = self.poll()? {
                return Ok(request);
            }
            wait(&self.channel, Duration::from_secs(60));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_survives_the_way() {
        let ready = Ready {
            incarnation: 3,
            port: EvtchnPort::new(9),
            refs: (8..16).map(GrantRef::new).collect(),
        };
        let text = ready.text();
        assert_eq!(text, "3 9 8 9 10 11 12 13 14 15");
        assert_eq!(Ready::parse(&text).map(|same| same.text()), Some(text));
        for garbage in [
            "",
            "1",
            "1 2 3",
            "1 2 8 9 10 11 12 13 14",
            "1 2 8 9 10 11 12 13 14 x",
        ] {
            assert!(Ready::parse(garbage).is_none(), "{garbage:?}");
        }
    }
}
