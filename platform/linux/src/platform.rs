//! The platform.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ringfence_core::platform::{
    Access, Capabilities, EvtchnError, GrantCopy, GrantError, Platform, PlatformError,
};
use ringfence_core::store::StoreError;
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use thiserror::Error;

use crate::evtchn::Channel;
use crate::files::{ByPath, DeviceFiles, failed};
use crate::gntalloc::{Gntalloc, Granted};
use crate::gntdev::{Gntdev, Mapping};
use crate::store::{self, LinuxStore};

/// Why this process speaks for no domain of Xen's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No way to XenStore, which knows who we are.
    #[error("no xenstore: {0}")]
    Store(#[from] io::Error),
    /// XenStore does not say who we are.
    #[error("the store does not tell our domain's number: node domid: {0}")]
    Domid(#[from] StoreError),
    /// What XenStore says is no domain's number.
    #[error("the store does not tell our domain's number: node domid is {0:?}")]
    Garbage(String),
}

struct Inner {
    domid: DomId,
    files: Arc<dyn DeviceFiles>,
    // Opened when they are first needed: a backend has no use for gntalloc, a frontend none for gntdev.
    gntdev: OnceLock<Gntdev>,
    gntalloc: OnceLock<Gntalloc>,
    opening: Mutex<()>,
}

/// The platform of a process on Linux on Xen. A handle: clones are the same, and may be used in any thread.
#[derive(Clone)]
pub struct Linux(Arc<Inner>);

impl fmt::Debug for Linux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux(domain {})", self.0.domid)
    }
}

impl Linux {
    /// With the devices of `/dev/xen`, as the domain that XenStore says we are.
    ///
    /// # Errors
    /// [`OpenError`] if XenStore does not say.
    pub fn open() -> Result<Self, OpenError> {
        let mut store = store::open_store()?;
        let domid = store::own_domid(&mut store)?;
        Ok(Self::with_files(domid, Arc::new(ByPath)))
    }

    /// With devices that `files` gives out, as domain `domid`, which is ours. Opens nothing yet.
    pub fn with_files(domid: DomId, files: Arc<dyn DeviceFiles>) -> Self {
        Self(Arc::new(Inner {
            domid,
            files,
            gntdev: OnceLock::new(),
            gntalloc: OnceLock::new(),
            opening: Mutex::new(()),
        }))
    }

    /// A connection to XenStore, another one each time.
    ///
    /// # Errors
    /// Why there is none.
    pub fn store(&self) -> io::Result<LinuxStore> {
        store::from_fd(self.0.files.xenbus()?)
    }

    /// The device for mapping and copying, opened at the first use.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn gntdev(&self) -> Result<&Gntdev, PlatformError> {
        let open = || Ok(Gntdev::new(self.0.files.gntdev()?));
        self.once(&self.0.gntdev, "open gntdev", open)
    }

    fn gntalloc(&self) -> Result<&Gntalloc, PlatformError> {
        let open = || Ok(Gntalloc::new(self.0.files.gntalloc()?));
        self.once(&self.0.gntalloc, "open gntalloc", open)
    }

    fn once<'a, T>(
        &self,
        cell: &'a OnceLock<T>,
        op: &'static str,
        open: impl FnOnce() -> io::Result<T>,
    ) -> Result<&'a T, PlatformError> {
        if let Some(device) = cell.get() {
            return Ok(device);
        }
        let _one = self
            .0
            .opening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = cell.get() {
            return Ok(device);
        }
        let device = open().map_err(|error| failed(op, &error))?;
        Ok(cell.get_or_init(|| device))
    }
}

impl Platform for Linux {
    type Granted = Granted;
    type Mapping = Mapping;
    type Channel = Channel;
    type Store = LinuxStore;

    fn domid(&self) -> DomId {
        self.0.domid
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            grant_in_place: false,
            revocable: false,
            observes_mappings: false,
            outlives_process: false,
            keeps_mappings: true,
        }
    }

    fn alloc(&self, peer: DomId, access: Access) -> Result<Granted, GrantError> {
        self.gntalloc()?.alloc(peer, access)
    }

    fn map(&self, peer: DomId, refs: &[GrantRef], access: Access) -> Result<Mapping, GrantError> {
        self.gntdev()?.map_of(peer, refs, access)
    }

    fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        self.gntdev()?.copy(peer, ops)
    }

    fn alloc_unbound(&self, peer: DomId) -> Result<Channel, EvtchnError> {
        let device = self.0.files.evtchn();
        Channel::alloc(device.map_err(|error| failed("open evtchn", &error))?, peer)
    }

    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<Channel, EvtchnError> {
        let device = self.0.files.evtchn();
        let device = device.map_err(|error| failed("open evtchn", &error))?;
        Channel::bind(device, peer, port)
    }
}
