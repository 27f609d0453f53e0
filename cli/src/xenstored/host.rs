//! What the store needs of the machine it runs on.

use std::io;

use ringfence_core::mem::SharedMem;
use ringfence_core::{DomId, EvtchnPort};

/// How a domain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It runs, or is paused.
    Alive,
    /// It has shut down, crashed or suspended, and still exists.
    ShutDown,
    /// It is being destroyed, or is no more.
    Gone,
}

/// The other domains, as dom0 reaches them.
pub trait Host {
    /// The ring page of a domain. The page is unmapped with the last clone.
    type Page: SharedMem + Clone;

    /// The ring page of dom0's own kernel, and our end of its doorbell.
    ///
    /// # Errors
    /// This is not dom0, or somebody else serves its kernel.
    fn own(&mut self) -> io::Result<(Self::Page, EvtchnPort)>;

    /// Maps the page that `domid` reserved for us: grant reference 1, `GNTTAB_RESERVED_XENSTORE`.
    ///
    /// # Errors
    /// There is no such domain, or it grants nothing.
    fn map(&mut self, domid: DomId) -> io::Result<Self::Page>;

    /// Binds a port of `domid` to one of ours, which is returned.
    ///
    /// # Errors
    /// There is no such domain, or the port is none of those it keeps for us.
    fn bind(&mut self, domid: DomId, remote: EvtchnPort) -> io::Result<EvtchnPort>;

    /// Closes a port of ours. That it is closed already is no matter.
    fn unbind(&mut self, port: EvtchnPort);

    /// Rings a doorbell.
    fn notify(&mut self, port: EvtchnPort);

    /// Lets a port that rang ring again.
    fn unmask(&mut self, port: EvtchnPort);

    /// How a domain is.
    ///
    /// # Errors
    /// The hypervisor does not say.
    fn health(&mut self, domid: DomId) -> io::Result<Health>;

    /// Something that says whether a domain exists, and may be asked at any time.
    fn witness(&self) -> Box<dyn Fn(DomId) -> bool + Send>;
}
