//! Dom0 of a real Xen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use ringfence_core::mem::SharedMem;
use ringfence_core::platform::Access;
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_linux::domains::{DomainInfo, Domains, DomainsError};
use ringfence_linux::evtchn::{Evtchn, VIRQ_DOM_EXC};
use ringfence_linux::files::{ByPath, DeviceFiles};
use ringfence_linux::gntdev::{Gntdev, Mapping};
use ringfence_linux::privcmd::Privcmd;
use ringfence_linux::xsd::{KernelPage, kernel_port};

use super::daemon::{Event, Events};
use super::host::{Health, Host};

/// `GNTTAB_RESERVED_XENSTORE` of `xen/grant_table.h`.
const STORE_PAGE: GrantRef = GrantRef::new(1);

/// The devices of `/dev/xen`.
pub(super) struct XenHost {
    evtchn: Evtchn,
    gntdev: Gntdev,
    domains: Arc<Mutex<Domains>>,
    dom_exc: EvtchnPort,
}

impl XenHost {
    /// Opens them, and listens for changes of domains from now on.
    pub(super) fn open() -> Result<Self> {
        let evtchn = Evtchn::new(ByPath.evtchn()?)?;
        let dom_exc = evtchn
            .bind_virq(VIRQ_DOM_EXC)
            .context("cannot hear of domains that end: is there another store?")?;
        Ok(Self {
            evtchn,
            gntdev: Gntdev::new(ByPath.gntdev()?),
            domains: Arc::new(Mutex::new(Domains::new(Privcmd::open()?))),
            dom_exc,
        })
    }
}

impl AsFd for XenHost {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}

impl Events for XenHost {
    fn take(&mut self, rang: &mut Vec<Event>) -> io::Result<()> {
        for port in self.evtchn.pending()? {
            if port == self.dom_exc {
                // Before anybody looks: what changes after that rings again.
                self.evtchn.unmask(port)?;
                rang.push(Event::Domains);
            } else {
                rang.push(Event::Port(port));
            }
        }
        Ok(())
    }
}

impl Host for XenHost {
    type Page = StorePage;

    fn own(&mut self) -> io::Result<(StorePage, EvtchnPort)> {
        let page = KernelPage::map()?;
        let port = self.bind(DomId::DOM0, kernel_port()?)?;
        Ok((StorePage::Kernel(Rc::new(page)), port))
    }

    fn map(&mut self, domid: DomId) -> io::Result<StorePage> {
        let mapping = self.gntdev.map(&[(domid, STORE_PAGE)], Access::ReadWrite)?;
        Ok(StorePage::Granted(Rc::new(mapping)))
    }

    fn bind(&mut self, domid: DomId, remote: EvtchnPort) -> io::Result<EvtchnPort> {
        Ok(self.evtchn.bind_interdomain(domid, remote)?)
    }

    fn unbind(&mut self, port: EvtchnPort) {
        let _ = self.evtchn.unbind(port);
    }

    fn notify(&mut self, port: EvtchnPort) {
        // Fails only for a port that is none of ours; that the other end is gone is no failure.
        let _ = self.evtchn.notify(port);
    }

    fn unmask(&mut self, port: EvtchnPort) {
        // Fails only for a port that is none of ours: one that was closed since it rang.
        let _ = self.evtchn.unmask(port);
    }

    fn health(&mut self, domid: DomId) -> io::Result<Health> {
        let info = info(&self.domains, domid).map_err(|error| match error {
            DomainsError::Refused { errno } => io::Error::from_raw_os_error(errno),
            other => io::Error::other(other),
        })?;
        Ok(match info {
            None => Health::Gone,
            Some(info) if info.dying => Health::Gone,
            Some(info) if info.shutdown.is_some() => Health::ShutDown,
            Some(_) => Health::Alive,
        })
    }

    fn witness(&self) -> Box<dyn Fn(DomId) -> bool + Send> {
        let domains = Arc::clone(&self.domains);
        // If the hypervisor does not say, dom0 is believed.
        Box::new(move |domid| {
            info(&domains, domid).map_or(true, |info| info.is_some_and(|info| !info.dying))
        })
    }
}

fn info(domains: &Mutex<Domains>, domid: DomId) -> Result<Option<DomainInfo>, DomainsError> {
    let mut domains = domains.lock().unwrap_or_else(PoisonError::into_inner);
    domains.get(domid)
}

/// A ring page.
#[derive(Clone, Debug)]
pub(super) enum StorePage {
    /// Of dom0's own kernel.
    Kernel(Rc<KernelPage>),
    /// Of another domain.
    Granted(Rc<Mapping>),
}

impl StorePage {
    fn mem(&self) -> &dyn SharedMem {
        match self {
            Self::Kernel(page) => &**page,
            Self::Granted(page) => &**page,
        }
    }
}

impl SharedMem for StorePage {
    fn len(&self) -> usize {
        self.mem().len()
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.mem().load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.mem().store_u32(offset, value);
    }
    fn read(&self, offset: usize, dst: &mut [u8]) {
        self.mem().read(offset, dst);
    }
    fn write(&self, offset: usize, src: &[u8]) {
        self.mem().write(offset, src);
    }
    fn fence(&self) {
        self.mem().fence();
    }
}
