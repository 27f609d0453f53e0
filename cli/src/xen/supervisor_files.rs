//! What a supervisor opens for the process it watches over: the devices of Xen, and what backend directories name.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;

use ringfence_blkback::service::{DeviceId, Toolstack};
use ringfence_core::DomId;
use ringfence_core::store::{Field, Store, StoreError, StoreExt as _, StorePath, Tx, domain_path};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_linux::DeviceFiles;
use ringfence_process::child::Exit;
use ringfence_process::images::{Asked, Images};
use ringfence_process::{Cache, ImageError, ImageSpec};

use super::supervisor_journals::Journals;
use super::supervisor_link::{Answer, Device};
use crate::image;

/// What is said when a device gives no number for its error.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// An answer with its descriptors, which are closed here once it is sent.
pub(super) type Given = (Answer, Vec<OwnedFd>);

/// Opens, and keeps no image or device open; of servers' disks a duplicate of the connection, by which its end is waited for.
#[derive(Debug)]
pub(super) struct Files<S, F> {
    domid: DomId,
    toolstack: Toolstack,
    store: S,
    devices: F,
    images: Images,
    /// Backend directories whose images the present process asked for.
    opened: BTreeSet<String>,
    journals: Option<Journals>,
}

impl<S: Store, F: DeviceFiles> Files<S, F> {
    /// For the backends of domain `domid`, which `toolstack` makes.
    pub(super) fn new(domid: DomId, toolstack: Toolstack, store: S, devices: F) -> Self {
        Self {
            domid,
            toolstack,
            store,
            devices,
            images: Images::of_kernel(),
            opened: BTreeSet::new(),
            journals: None,
        }
    }

    /// Keeps journals as files in this directory.
    pub(super) fn with_journals(self, journals: Journals) -> Self {
        let journals = Some(journals);
        Self { journals, ..self }
    }

    /// The process died: what it was doing to its images may go on for a while.
    pub(super) fn process_died(&mut self, exit: Exit) {
        self.images.process_died(|_| true);
        self.opened.clear();
        if let Some(journals) = &self.journals {
            journals.sweep(self.domid, &mut self.store);
            journals.note_end(exit);
        }
    }

    /// A fresh descriptor of a device.
    pub(super) fn device(&self, device: Device) -> Given {
        let opened = match device {
            Device::Evtchn => self.devices.evtchn(),
            Device::Gntdev => self.devices.gntdev(),
            Device::Xenbus => self.devices.xenbus(),
        };
        match opened {
            Ok(fd) => (Answer::Device, vec![fd]),
            Err(error) => refused(&error, error.raw_os_error().unwrap_or(EIO)),
        }
    }

    /// The image of the device with this backend directory, unless I/O of a dead process is still under way.
    pub(super) fn image(&mut self, backend_dir: &str) -> Given {
        match self.open(backend_dir) {
            Ok(answer) => answer,
            Err(words) => refused(&words, 0),
        }
    }

    /// The journal of the device with this backend directory, whose image the present process has open.
    pub(super) fn journal(&mut self, backend_dir: &str) -> Given {
        let id = self.id(backend_dir);
        let (Some(id), Some(image)) = (id, self.images.identity(backend_dir)) else {
            return refused(&format!("{backend_dir} has no open image"), 0);
        };
        match self.journals.as_ref().map(|journals| journals.open(id)) {
            None => (Answer::Journal { image }, Vec::new()),
            Some(Ok(fd)) => (Answer::Journal { image }, vec![fd]),
            Some(Err(error)) => refused(&error, error.raw_os_error().unwrap_or(EIO)),
        }
    }

    /// The process has let go of the device with this backend directory, which is gone: nothing of it is for the next one there.
    pub(super) fn gone(&mut self, backend_dir: &str) {
        self.opened.remove(backend_dir);
        self.images.part(|dir| dir == backend_dir);
        if let (Some(id), Some(journals)) = (self.id(backend_dir), &self.journals) {
            journals.remove(id);
        }
    }

    /// The device of this domain with this backend directory.
    fn id(&self, backend_dir: &str) -> Option<DeviceId> {
        DeviceId::from_backend_dir(self.domid, backend_dir)
            .filter(|id| self.toolstack.types.contains(&id.backend))
    }

    fn open(&mut self, backend_dir: &str) -> Result<Given, String> {
        // Nothing else is read on behalf of the process, whatever it asks for.
        let id = self
            .id(backend_dir)
            .ok_or_else(|| format!("{backend_dir} is no backend directory of this domain"))?;
        let image = self.toolstack.named(&mut self.store, backend_dir, id);
        let image = image.map_err(|error| error.to_string())?;
        let image = image.ok_or_else(|| format!("{backend_dir} names no image"))?;
        let mode = self.store.read_opt::<Mode>(Tx::NONE, backend_dir, "mode");
        let mode = mode.map_err(|error| error.to_string())?;
        let mode = mode.unwrap_or(Mode::Read);
        let mut spec = image::parse(&image, mode == Mode::Read, mode == Mode::Share)
            .map_err(|error| error.to_string())?;
        let safe = self
            .store
            .read_opt::<bool>(Tx::NONE, backend_dir, "direct-io-safe");
        if spec.cache == Cache::Usual {
            // A driver domain may die as a whole, and its page cache with it.
            let safe = self.domid != DomId::DOM0 || matches!(safe, Ok(Some(true)));
            spec.cache = usual_cache(&spec, safe);
        }
        let again = self.opened.contains(backend_dir);
        let state = self.store.read_state(Tx::NONE, backend_dir);
        let connected = !again && state == Ok(XenbusState::Connected.number());
        if again {
            // The present process has let go of what it had: nothing is left to wait for.
            self.images.forget(backend_dir);
        }
        let known = self.images.set(backend_dir, spec, id.to_string());
        let begun = |journals: &Journals| journals.is_begun(id);
        if !known && self.journals.as_ref().is_some_and(begun) {
            // A process of an earlier supervisor used it, maybe until just now.
            self.images.was_served(backend_dir);
        }
        let machine = self.machine(id.front);
        self.images.is_of(backend_dir, machine);
        let mut asked = self.images.open(backend_dir, connected);
        if let Err(ImageError::InUse { .. }) | Ok(Asked::Moving) = asked {
            // Maybe by a disk that the toolstack has taken away, which the process has yet to notice.
            let store = &mut self.store;
            let is_gone = |dir: &str| {
                let mut room = [0; 4096];
                let found = store.directory(Tx::NONE, dir, &mut room);
                matches!(found, Err(StoreError::Missing))
            };
            self.images.part(is_gone);
            asked = self.images.open(backend_dir, connected);
        }
        Ok(match asked.map_err(|error| error.to_string())? {
            Asked::Open(spec, opened) => {
                self.opened.insert(backend_dir.to_owned());
                let files = core::iter::once(opened.file).chain(opened.backing);
                (Answer::Image { spec }, files.map(OwnedFd::from).collect())
            }
            Asked::Later => (Answer::Later, Vec::new()),
            Asked::Moving => (Answer::Moving, Vec::new()),
        })
    }

    /// Which machine a domain is, as the toolstack has it (`/local/domain/<domid>/vm`): the same before and after it is migrated.
    /// `None` if we may not know.
    fn machine(&mut self, domid: DomId) -> Option<String> {
        let dir = domain_path(domid);
        let vm = self.store.read_opt::<StorePath>(Tx::NONE, &dir, "vm");
        vm.ok().flatten().map(|vm| vm.as_str().to_owned())
    }
}

/// The `mode` node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `r`.
    Read,
    /// `w`.
    Write,
    /// `w!`: others write too.
    Share,
}

impl Field for Mode {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"w!" => Some(Self::Share),
            [b'w', ..] => Some(Self::Write),
            [b'r', ..] => Some(Self::Read),
            _ => None,
        }
    }
}

fn refused(words: &impl ToString, errno: i32) -> Given {
    let words = words.to_string();
    (Answer::Refused { words, errno }, Vec::new())
}

/// Takes the page cache out of the way, so that what a guest was told is written survives this domain: of block devices always,
/// as kernels' backends do, of files in driver domains and where the toolstack asks for it (`direct-io-safe`). Flushes are
/// honoured either way.
fn usual_cache(spec: &ImageSpec, safe: bool) -> Cache {
    let meta = std::fs::metadata(&spec.target);
    let device = meta.is_ok_and(|meta| meta.file_type().is_block_device());
    if device || safe {
        Cache::Direct
    } else {
        Cache::Usual
    }
}

#[cfg(test)]
pub(super) mod tests;
