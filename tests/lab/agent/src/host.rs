//! The caller's end of an agent's pages, in dom0.

use std::time::{Duration, Instant};

use ringfence_core::DomId;
use ringfence_core::platform::{Access, Channel, Platform};
use ringfence_core::store::Store;

use crate::pages::{HALF, PagesError, Ready, Region as _, Result, Wait, Whole, node};

/// The caller's end, in dom0.
#[derive(Debug)]
pub struct HostEnd<P: Platform> {
    mapping: P::Mapping,
    channel: P::Channel,
    domid: DomId,
    incarnation: u32,
    seq: u32,
}

impl<P: Platform> HostEnd<P> {
    /// Waits until the agent of `domid` is there in an incarnation other than `before`, and connects to it.
    pub fn connect<S: Store>(
        platform: &P,
        store: &mut S,
        domid: DomId,
        before: Option<u32>,
        patience: Duration,
    ) -> Result<Self> {
        let path = node(domid);
        let failed = |error| PagesError::Store {
            path: path.clone(),
            error,
        };
        store.watch(&path, "agent").map_err(failed)?;
        let end = Instant::now() + patience;
        let ready = loop {
            if let Some(ready) = Ready::read(store, domid)?
                && Some(ready.incarnation) != before
            {
                break ready;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(silent(domid, patience));
            }
            store.wait(Some(left)).map_err(failed)?;
            while store.next_watch().map_err(failed)?.is_some() {}
        };
        store.unwatch(&path, "agent").map_err(failed)?;
        let mapping = platform.map(domid, &ready.refs, Access::ReadWrite)?;
        let channel = platform.bind(domid, ready.port)?;
        Ok(Self {
            seq: Whole(&mapping).load(0),
            mapping,
            channel,
            domid,
            incarnation: ready.incarnation,
        })
    }

    /// Which process of the agent this is connected to.
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Sends a request.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        self.seq = self.seq.wrapping_add(1);
        Whole(&self.mapping).post(0, self.seq, request)?;
        Ok(self.channel.notify()?)
    }

    /// The answer to the last request, if it is there.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let pages = Whole(&self.mapping);
        if pages.load(HALF) != self.seq {
            return Ok(None);
        }
        pages.take(HALF).map(Some)
    }

    /// Sends a request and waits for its answer.
    pub fn call(
        &mut self,
        request: &[u8],
        patience: Duration,
        wait: Wait<'_, P::Channel>,
    ) -> Result<Vec<u8>> {
        self.send(request)?;
        let end = Instant::now() + patience;
        loop {
            self.channel.take_pending()?;
            self.channel.unmask()?;
            if let Some(answer) = self.receive()? {
                return Ok(answer);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(silent(self.domid, patience));
            }
            wait(&self.channel, left);
        }
    }
}

fn silent(domid: DomId, patience: Duration) -> PagesError {
    PagesError::Silent {
        domid,
        seconds: patience.as_secs(),
    }
}
