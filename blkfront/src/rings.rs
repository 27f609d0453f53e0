//! What the control plane does with the rings of a device, be it one or many.

use ringfence_core::platform::Platform;
use ringfence_core::wire::blkif::Convention;
use ringfence_core::xenbus::Held;
use ringfence_core::{DomId, SectorCount};

use crate::connection::Connection;
use crate::events::Events;
use crate::{Error, Fault, Info, Queue};

/// What the frontend would use if it were offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wants {
    pub(crate) queues: usize,
    /// Requests in flight on each.
    pub(crate) depth: usize,
    /// Pages of a request.
    pub(crate) pages: usize,
    pub(crate) persistent: bool,
    /// How the backend counts sectors.
    pub(crate) sectors: Convention,
}

pub(crate) trait Rings<P: Platform> {
    fn platform(&self) -> &P;
    fn wants(&self) -> Wants;
    /// Why the device is disabled, if it is.
    fn fault(&mut self) -> Option<Fault>;
    /// Disables the device, unless it is. Returns why it is.
    fn disable(&mut self, fault: Fault) -> Fault;
    fn held(&self) -> Held;
    /// Makes the rings, as many as are asked for if there are pages and ports enough, and at least one.
    fn offer(&mut self, peer: DomId, order: u32, queues: usize) -> Result<(), Error>;
    /// The rings that were made, in order.
    fn offered(&self) -> &[Connection<P>];
    /// Takes back the rings that nobody was shown.
    fn withdraw(&mut self);
    /// Requests are taken from now on.
    fn open(&mut self, info: Info);
    /// The disk, while requests are taken.
    fn info(&self) -> Option<Info>;
    fn resize(&mut self, sectors: SectorCount);
    /// Takes no more requests. Returns whether any were taken before.
    fn refuse(&mut self) -> bool;
    /// The backend let go: what has no answer waits for the next connection if `again`, or is over.
    fn release(&mut self, again: bool);
    /// What waits is over.
    fn end(&mut self);
    /// The guest lives elsewhere.
    fn restored(&mut self);
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Rings<P> for Queue<P, DEPTH, PAGES> {
    fn platform(&self) -> &P {
        &self.platform
    }

    fn wants(&self) -> Wants {
        let connection = self.connection.as_ref();
        Wants {
            queues: 1,
            depth: DEPTH,
            pages: PAGES,
            persistent: connection.map_or(self.persistent, |c| c.persistent),
            sectors: self.sectors,
        }
    }

    fn fault(&mut self) -> Option<Fault> {
        self.fault.clone()
    }

    fn disable(&mut self, fault: Fault) -> Fault {
        self.fault.get_or_insert(fault).clone()
    }

    fn held(&self) -> Held {
        match self.connection {
            None => Held::Nothing,
            Some(_) if self.fault.is_none() && self.inflight.open() > 0 => Held::Busy,
            Some(_) => Held::Idle,
        }
    }

    fn offer(&mut self, peer: DomId, order: u32, _: usize) -> Result<(), Error> {
        let connection = Connection::new(&self.platform, peer, order, self.persistent)?;
        self.take(connection);
        Ok(())
    }

    fn offered(&self) -> &[Connection<P>] {
        self.connection.as_slice()
    }

    fn withdraw(&mut self) {
        self.let_go();
    }

    fn open(&mut self, info: Info) {
        if let Some(connection) = &mut self.connection {
            connection.open(info);
        }
        self.repeat();
    }

    fn info(&self) -> Option<Info> {
        self.connection.as_ref().and_then(|c| c.info)
    }

    fn resize(&mut self, sectors: SectorCount) {
        if let Some(info) = self.connection.as_mut().and_then(|c| c.info.as_mut()) {
            info.sectors = sectors;
        }
    }

    fn refuse(&mut self) -> bool {
        let connection = self.connection.as_mut();
        connection.is_some_and(|c| core::mem::take(&mut c.accepting))
    }

    fn release(&mut self, again: bool) {
        if again && self.replay {
            self.inflight.wait();
        } else {
            self.inflight.end();
        }
        self.let_go();
    }

    fn end(&mut self) {
        self.inflight.end();
    }

    fn restored(&mut self) {
        self.life = self.life.wrapping_add(1);
    }
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Queue<P, DEPTH, PAGES> {
    /// From now on this is the connection, whose disk is not known yet.
    pub(crate) fn take(&mut self, connection: Connection<P>) {
        self.events = Events::default();
        self.connection = Some(connection);
    }

    fn let_go(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.ring.into_mem().revoke();
        }
    }
}
