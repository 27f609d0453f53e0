//! The medium of a CD-ROM, which the toolstack changes by writing the node that names it, while the guest goes on.

use ringfence_core::platform::Platform;
use ringfence_core::store::{Store, StoreError, StoreExt, Tx};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::xenbus::paths;

use super::super::disks::{Asked, Disks};
use super::super::toolstack::{Hotplug, ImageError, is_lost, text};
use super::Device;
use super::hotplug::Opening;
use crate::sink::Tray;

/// A drive that a guest uses.
pub(super) struct Drive {
    pub(super) tray: Tray,
    /// What the node named when it was looked at last; nothing: the drive is empty.
    image: Option<String>,
    /// What `params` held then, where another node counts.
    params: Option<String>,
}

impl Drive {
    pub(super) const fn new(tray: Tray, image: Option<String>, params: Option<String>) -> Self {
        Self {
            tray,
            image,
            params,
        }
    }
}

impl<P: Platform> Device<'_, P> {
    /// What the device's nodes name now. Nothing when hosted, where the broker knows.
    pub(super) fn named<S: Store>(
        &self,
        store: &mut S,
    ) -> Result<(Option<String>, Option<String>), StoreError> {
        if self.toolstack.hotplug == Hotplug::AtOnce {
            return Ok((None, None));
        }
        let params = match text(store, &self.dir, "params") {
            Ok(params) => params,
            Err(error) => lost(&error).map_or(Ok(None), Err)?,
        };
        let image = match self.toolstack.image(store, &self.dir, self.id) {
            Ok(image) => image,
            Err(error) => lost(&error).map_or(Ok(None), Err)?,
        };
        Ok((image, params))
    }

    /// Changes the medium if the node names another one, or none. Not when hosted, where no node names it.
    pub(super) fn change_medium<S: Store, D: Disks>(
        &mut self,
        store: &mut S,
        disks: &mut D,
        own: XenbusState,
        online: bool,
    ) -> Result<(), StoreError> {
        if self.drive.is_none() || !self.is_connected() || !online {
            return Ok(());
        }
        if own != XenbusState::Connected || self.toolstack.hotplug == Hotplug::AtOnce {
            return Ok(());
        }
        let (mut image, params) = self.named(store)?;
        let Some(drive) = &mut self.drive else {
            return Ok(());
        };
        if self.toolstack.hotplug == Hotplug::Script && drive.params != params {
            // Nobody runs the script for it: what the toolstack wrote counts from now on.
            let name = params.as_deref().unwrap_or("");
            store.write_str(Tx::NONE, &self.dir, "physical-device-path", name)?;
            drive.params = params;
            image = drive.params.clone().filter(|name| !name.is_empty());
        }
        if drive.image == image {
            return Ok(());
        }
        drive.image.clone_from(&image);
        // The old one goes first: it may be the same file.
        let _ = drive.tray.change(None);
        let inserted = match image {
            None => Opening::Open,
            Some(_) => self.insert(disks),
        };
        match inserted {
            Opening::Open => self.clear_error(store)?,
            Opening::Later | Opening::Moving => {}
            Opening::Failed(reason) => {
                self.warn(format_args!("{reason}"));
                paths::report(store, &self.dir, &reason)?;
            }
        }
        self.resize(store).map(|_| ())
    }

    /// Opens what is named and puts it in.
    fn insert<D: Disks>(&mut self, disks: &mut D) -> Opening {
        let name = self.drive.as_ref().and_then(|drive| drive.image.clone());
        let opened = self.ask(disks, true, name.as_deref());
        let Some(drive) = &mut self.drive else {
            return Opening::Open;
        };
        match opened {
            Ok(Asked::Open(opened)) => match drive.tray.change(Some(opened.io)) {
                Ok(()) => Opening::Open,
                Err(io) => {
                    let bytes = io.geometry().logical;
                    Opening::Failed(format!("a medium with sectors of {bytes} bytes"))
                }
            },
            Ok(Asked::Later | Asked::Moving) => {
                // Empty it is, and so the next look finds that it should not be.
                drive.image = None;
                Opening::Later
            }
            Err(error) => Opening::Failed(error.to_string()),
        }
    }
}

/// Only a store that is of no further use ends a look at the nodes.
const fn lost(error: &ImageError) -> Option<StoreError> {
    match error {
        ImageError::Store { error, .. } if is_lost(*error) => Some(*error),
        _ => None,
    }
}
