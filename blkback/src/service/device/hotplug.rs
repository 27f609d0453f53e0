//! Opens a device's disk: before state 2 when hosted, else when the toolstack has said where it is, which is told how that went.

use ringfence_core::platform::Platform;
use ringfence_core::store::{FieldError, Store, StoreError, StoreExt, StorePath, Tx};
use ringfence_core::weakened;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::xenbus::{BackWish, paths};

use super::super::disks::{Asked, DiskError, Disks, OpenDisk};
use super::super::toolstack::{Hotplug, ImageError, is_lost, text};
use super::Device;
use super::medium::Drive;
use super::waits::Waits;
use crate::sink::{Disk, Tray};

/// The longest `hotplug-error`, in bytes: paths are in it, and a node and its name fit one message.
const WORDS: usize = 1024;

/// What came of asking for a disk.
pub(super) enum Opening {
    /// It is open.
    Open,
    /// It is not to be had yet: it is asked for again in a moment.
    Later,
    /// The same machine has it in another domain, which will end: it is asked for again until then.
    Moving,
    /// Why there is none, in words for the `error` node.
    Failed(String),
}

impl<P: Platform> Device<'_, P> {
    /// Opens the disk if the device waits for its frontend without one: a script may have named it by now, or an earlier process
    /// had it. What a script names and cannot be opened is told and tried again when it names another.
    pub(super) fn plug<S: Store, D: Disks>(
        &mut self,
        store: &mut S,
        disks: &mut D,
        own: XenbusState,
        online: bool,
    ) -> Result<(), StoreError> {
        if self.disk.is_some() || !self.queues.is_empty() {
            return Ok(());
        }
        if own != XenbusState::InitWait || !online || self.wish != BackWish::Run {
            return Ok(());
        }
        if self.toolstack.hotplug != Hotplug::Script {
            return self.open(store, disks).map(|_| ());
        }
        let Some(image) = self.image(store)? else {
            return Ok(());
        };
        if self
            .refused
            .as_ref()
            .is_some_and(|refused| *refused == image)
        {
            return Ok(());
        }
        let opened = match &image {
            Ok(_) => self.try_open(store, disks)?,
            Err(error) => Opening::Failed(error.clone()),
        };
        match opened {
            Opening::Open => {
                self.refused = None;
                self.plugged(store).map(drop)
            }
            Opening::Later => Ok(()),
            Opening::Moving => {
                if self.plugged(store)? {
                    tracing::info!(
                        "{}: another domain of the same machine has the disk, and is waited for",
                        self.id
                    );
                }
                Ok(())
            }
            Opening::Failed(reason) => {
                self.refused = Some(image);
                self.warn(format_args!("{reason}"));
                self.unplugged(store, &reason)?;
                paths::report(store, &self.dir, &reason)
            }
        }
    }

    /// What the toolstack's nodes name, which is nothing for an empty drive, or why they name no image; `None` while they are not
    /// there.
    fn image<S: Store>(&self, store: &mut S) -> Result<Option<Result<String, String>>, StoreError> {
        match self.toolstack.named(store, &self.dir, self.id) {
            Ok(image) => Ok(image.map(Ok)),
            Err(ImageError::Store { error, .. }) if is_lost(error) => Err(error),
            Err(error) => Ok(Some(Err(error.to_string()))),
        }
    }

    /// Whether state 2 must wait for nodes that whoever writes them one by one has yet to write.
    pub(super) fn is_unnamed<S: Store>(&self, store: &mut S) -> Result<bool, StoreError> {
        Ok(self.toolstack.hotplug == Hotplug::Daemon && self.image(store)?.is_none())
    }

    /// Says that the disk is there, unless that is what the node says: each write is an event for ourselves too. Whether it was
    /// said. Not when hosted.
    fn plugged<S: Store>(&self, store: &mut S) -> Result<bool, StoreError> {
        if self.toolstack.hotplug == Hotplug::AtOnce {
            return Ok(false);
        }
        match text(store, &self.dir, "hotplug-status") {
            Ok(Some(status)) if status == "connected" => Ok(false),
            Err(ImageError::Store { error, .. }) if is_lost(error) => Err(error),
            _ => {
                store.write_str(Tx::NONE, &self.dir, "hotplug-status", "connected")?;
                Ok(true)
            }
        }
    }

    /// Says why there is no disk; who waits for `hotplug-status` reads `hotplug-error` then. Not when hosted.
    fn unplugged<S: Store>(&self, store: &mut S, reason: &str) -> Result<(), StoreError> {
        if self.toolstack.hotplug == Hotplug::AtOnce {
            return Ok(());
        }
        let (cut, _) = reason.split_at(reason.floor_char_boundary(WORDS));
        store.transaction(|store, tx| {
            store.write_str(tx, &self.dir, "hotplug-error", cut)?;
            store.write_str(tx, &self.dir, "hotplug-status", "error")
        })
    }

    /// Opens the disk, unless it is open. `false` if that failed, and the device is retired, or if it is to be asked for
    /// [`later`](Self::later).
    pub(super) fn open<S: Store, D: Disks>(
        &mut self,
        store: &mut S,
        disks: &mut D,
    ) -> Result<bool, StoreError> {
        if self.disk.is_some() {
            return Ok(true);
        }
        let opened = match self.toolstack.hotplug {
            Hotplug::AtOnce => self.try_open(store, disks)?,
            Hotplug::Script | Hotplug::Daemon => match self.image(store)? {
                Some(Ok(_)) => self.try_open(store, disks)?,
                Some(Err(reason)) => Opening::Failed(reason),
                None => Opening::Failed(format!("{} names no image", self.dir)),
            },
        };
        match opened {
            Opening::Open => {
                self.plugged(store)?;
                Ok(true)
            }
            Opening::Later | Opening::Moving => Ok(false),
            Opening::Failed(reason) => {
                self.unplugged(store, &reason)?;
                self.retire(false, reason);
                Ok(false)
            }
        }
    }

    /// Asks for the disk.
    fn try_open<S: Store, D: Disks>(
        &mut self,
        store: &mut S,
        disks: &mut D,
    ) -> Result<Opening, StoreError> {
        let read_only = match self.read_only(store) {
            Ok(read_only) => read_only,
            Err(FieldError::Store { error, .. }) => return Err(error),
            Err(error) => return Ok(Opening::Failed(error.to_string())),
        };
        let kind = store.read_opt::<heapless::String<16>>(Tx::NONE, &self.dir, "device-type");
        self.cdrom = match kind {
            Ok(kind) => kind.as_deref() == Some("cdrom"),
            Err(FieldError::Store { error, .. }) => return Err(error),
            Err(error) => return Ok(Opening::Failed(error.to_string())),
        };
        // Whatever its mode says: nothing writes to a medium.
        let read_only = read_only || self.cdrom;
        // As Linux has it: a toolstack that means to forbid it says 0.
        let discard = match store.read_opt::<bool>(Tx::NONE, &self.dir, "discard-enable") {
            Ok(enabled) => enabled.unwrap_or(true),
            Err(FieldError::Store { error, .. }) => return Err(error),
            Err(error) => return Ok(Opening::Failed(error.to_string())),
        };
        let (name, params) = self.named(store)?;
        Ok(match self.ask(disks, read_only, name.as_deref()) {
            Ok(Asked::Later) => Opening::Later,
            Ok(Asked::Moving) => Opening::Moving,
            Ok(Asked::Open(mut opened)) => {
                self.drive = None;
                if self.cdrom {
                    let (tray, io) = Tray::new(opened.io);
                    opened.io = io;
                    self.drive = Some(Drive::new(tray, name, params));
                }
                self.waits = Waits::new(opened.waiting.unwrap_or(self.waiting));
                let disk = Disk::with_stats(opened.io, self.stats.clone());
                let mut disk = disk.counted(opened.sectors);
                if read_only {
                    disk = disk.read_only();
                }
                if !discard {
                    disk = disk.without_discard();
                }
                self.disk = Some(disk);
                Opening::Open
            }
            Err(error) => Opening::Failed(error.to_string()),
        })
    }

    /// Asks for the disk of this name: the one that is awaited, unless it was named otherwise.
    pub(super) fn ask<D: Disks>(
        &mut self,
        disks: &mut D,
        read_only: bool,
        name: Option<&str>,
    ) -> Result<Asked<OpenDisk>, DiskError> {
        let name = name.unwrap_or_default();
        if self.awaited.as_deref() != Some(name) {
            self.abandon(disks);
        }
        self.awaited = None;
        let opened = disks.open(&self.dir, read_only, &self.stats);
        if matches!(opened, Ok(Asked::Later | Asked::Moving)) {
            self.later = true;
            self.awaited = Some(name.to_owned());
        }
        opened
    }

    /// Nobody asks again for the disk that was awaited.
    pub(in crate::service) fn abandon<D: Disks>(&mut self, disks: &mut D) {
        if self.awaited.take().is_some() {
            disks.abandon(&self.dir);
        }
    }

    /// The `mode` node; whoever forgot it does not mean to be written to. Also checks that the device is whose it claims.
    fn read_only<S: Store>(&self, store: &mut S) -> Result<bool, FieldError> {
        let front = store.read_opt::<StorePath>(Tx::NONE, &self.dir, "frontend")?;
        if let Some(front) = front.filter(|front| *front != self.front_dir) {
            // The directory's name says whose device it is; nobody else's nodes are read (XSA-178).
            return Err(FieldError::garbage("frontend", front.as_bytes()));
        }
        match store.read_opt::<heapless::String<8>>(Tx::NONE, &self.dir, "mode")? {
            None => Ok(true),
            Some(mode) => match mode.as_str() {
                "r" => Ok(!weakened!("blk_mode")),
                "w" | "w!" => Ok(false),
                other => Err(FieldError::garbage("mode", other.as_bytes())),
            },
        }
    }

    /// Takes away what an earlier connection failed of. Where no broker does, the empty directories above go as well: none may
    /// be left of a guest that is gone.
    pub(super) fn clear_error<S: Store>(&self, store: &mut S) -> Result<(), StoreError> {
        let path = paths::error_path(&self.dir)?;
        let dir = path.strip_suffix("/error").unwrap_or(&path);
        let removed = match self.toolstack.hotplug {
            Hotplug::AtOnce => store.rm(Tx::NONE, &path),
            Hotplug::Script | Hotplug::Daemon => paths::erase(store, dir, self.error_dirs),
        };
        match removed {
            Err(error) if is_lost(error) => Err(error),
            _ => Ok(()),
        }
    }
}
