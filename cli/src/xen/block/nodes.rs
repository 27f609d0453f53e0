//! The nodes of one disk, as libxl writes and removes them: both directories, and libxl's own record under `/libxl`, by which
//! `xl block-list`, `xl block-detach` and `xl destroy` know the disk.

use std::fmt;
use std::time::Duration;

use ringfence_blkback::service::{BackendType, DeviceId, SCRIPT};
use ringfence_core::DomId;
use ringfence_core::store::{Perm, Store, StoreError, StoreExt, StorePath, Tx, domain_path, join};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::xenbus::{Class, Peer, paths};
use thiserror::Error;

use crate::disk::DiskAccess;

/// Where the hotplug scripts of Xen are.
const SCRIPTS: &str = "/etc/xen/scripts";

/// Why a disk's nodes were not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It has a disk of this number.
    #[error("{dir} is there already")]
    Attached {
        /// A directory of the other disk.
        dir: String,
    },
    /// The store refused.
    #[error("xenstore: {0}")]
    Store(#[from] StoreError),
}

/// Which disk, and between whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The kind of its backend's directory.
    pub kind: BackendType,
    /// Who uses it.
    pub guest: DomId,
    /// Who serves it.
    pub backend: DomId,
    /// Its number.
    pub vdev: u32,
}

impl Place {
    /// The frontend's directory, which is the guest's.
    pub fn frontend_dir(&self) -> StorePath {
        paths::frontend_dir(Class::Vbd, self.guest, self.vdev)
    }

    /// The backend's directory.
    pub fn backend_dir(&self) -> StorePath {
        self.id().backend_dir(self.backend)
    }

    fn id(&self) -> DeviceId {
        DeviceId {
            backend: self.kind,
            front: self.guest,
            vdev: self.vdev,
        }
    }

    /// libxl's record of the disk, which only the control domain can write.
    pub fn libxl_dir(&self) -> String {
        format!("/libxl/{}/device/vbd/{}", self.guest, self.vdev)
    }
}

/// What the disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disk<'a> {
    /// The absolute path of the image, where the backend is; or in [words](crate::image::words).
    pub params: &'a str,
    /// Its name, such as `xvdb`.
    pub dev: &'a str,
    /// What the guest may do.
    pub access: DiskAccess,
    /// Whether it is a CD-ROM.
    pub cdrom: bool,
    /// Whether the guest may discard what it does not need.
    pub discard: bool,
    /// The backend is in this domain: we have looked at the path, as its hotplug script would.
    pub local: bool,
}

/// Writes a new disk's nodes, all or none. The guest sees its `state`, and goes on, when everything else is there.
///
/// # Errors
/// [`AttachError`]; then nothing is written.
pub fn write<S: Store>(store: &mut S, place: &Place, disk: &Disk<'_>) -> Result<(), AttachError> {
    let (front, back, record) = (place.frontend_dir(), place.backend_dir(), place.libxl_dir());
    let script = format!("{SCRIPTS}/{SCRIPT}");
    let kind = if disk.cdrom { "cdrom" } else { "disk" };
    let digit = |yes| if yes { "1" } else { "0" };
    let [guest, server, vdev] = [
        place.guest.to_string(),
        place.backend.to_string(),
        place.vdev.to_string(),
    ];
    let backend_nodes = [
        ("frontend", front.as_str()),
        ("params", disk.params),
        ("script", &script),
        ("frontend-id", &guest),
        ("online", "1"),
        ("removable", digit(disk.cdrom)),
        ("bootable", "0"),
        ("state", XenbusState::Initialising.digit()),
        ("dev", disk.dev),
        ("type", "phy"),
        ("mode", disk.access.mode()),
        ("device-type", kind),
        ("discard-enable", digit(disk.discard)),
        ("specification", "xen"),
    ];
    store.transaction(|store, tx| {
        for dir in [front.as_str(), back.as_str()] {
            if exists(store, tx, dir)? {
                let dir = dir.to_owned();
                return Err(AttachError::Attached { dir });
            }
        }
        // What is below inherits it.
        let place_of_backends = join(&domain_path(place.backend), "backend")?;
        if place.backend != DomId::DOM0 && !exists(store, tx, &place_of_backends)? {
            store.mkdir(tx, &place_of_backends)?;
            store.set_perms(tx, &place_of_backends, &[Perm::owner(place.backend)])?;
        }
        store.mkdir(tx, &back)?;
        let perms = [Perm::owner(place.backend), Perm::read(place.guest)];
        store.set_perms(tx, &back, &perms)?;
        for (node, value) in backend_nodes {
            store.write_str(tx, &back, node, value)?;
        }
        if disk.local {
            store.write_str(tx, &back, "physical-device-path", disk.params)?;
        }
        if exists(store, tx, &format!("/libxl/{}", place.guest))? {
            store.write_str(tx, &record, "frontend", &front)?;
            store.write_str(tx, &record, "backend", &back)?;
            for (node, value) in backend_nodes.into_iter().skip(1) {
                store.write_str(tx, &record, node, value)?;
            }
        }
        store.mkdir(tx, &front)?;
        let perms = [Perm::owner(place.guest), Perm::read(place.backend)];
        store.set_perms(tx, &front, &perms)?;
        for (node, value) in [
            ("backend", back.as_str()),
            ("backend-id", &server),
            ("virtual-device", &vdev),
            ("device-type", kind),
            ("state", XenbusState::Initialising.digit()),
        ] {
            store.write_str(tx, &front, node, value)?;
        }
        Ok(())
    })
}

/// Whether a node is there.
fn exists<S: Store>(store: &mut S, tx: Tx, path: &str) -> Result<bool, StoreError> {
    let mut buf = [0; 4096];
    match store.read(tx, path, &mut buf) {
        Ok(_) => Ok(true),
        Err(StoreError::Missing) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is seen of a disk that is to connect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attaching {
    front: Option<XenbusState>,
    back: Option<XenbusState>,
    /// The driver domain has said that the disk is open.
    plugged: bool,
    failure: Option<String>,
}

impl Attaching {
    /// Both ends say so.
    pub fn is_connected(&self) -> bool {
        (self.front, self.back) == (Some(XenbusState::Connected), Some(XenbusState::Connected))
    }

    /// Why it never will, as the driver domain or the guest says.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether somebody took it on, and has to let go of it.
    pub fn was_seen(&self) -> bool {
        !matches!(self.back, None | Some(XenbusState::Initialising))
    }

    /// Why it is not connected after `waited`.
    pub fn reason(&self, place: &Place, waited: Duration) -> String {
        if let Some(failure) = &self.failure {
            return failure.clone();
        }
        let seconds = waited.as_secs();
        if !self.was_seen() {
            return format!(
                "no ringfence driver domain is running in domain {}",
                place.backend
            );
        }
        if !self.plugged {
            return format!(
                "domain {} has not opened the disk in {seconds} s",
                place.backend
            );
        }
        format!(
            "the guest has not connected in {seconds} s (frontend {}, backend {})",
            state(self.front),
            state(self.back)
        )
    }
}

fn state(state: Option<XenbusState>) -> String {
    state.map_or_else(
        || "gone".into(),
        |state| format!("in state {}", state.digit()),
    )
}

/// Looks how far a new disk is.
///
/// # Errors
/// What the store says to reading.
pub fn attaching<S: Store>(store: &mut S, place: &Place) -> Result<Attaching, StoreError> {
    let (front, back) = (place.frontend_dir(), place.backend_dir());
    let seen = |peer| match peer {
        Peer::State(state) => Some(state),
        _ => None,
    };
    let mut look = Attaching {
        front: seen(Peer::read(store, &front)?),
        back: seen(Peer::read(store, &back)?),
        ..Attaching::default()
    };
    let status = text(store, &back, "hotplug-status")?;
    look.plugged = status.as_deref() == Some("connected");
    look.failure = if status.as_deref() == Some("error") {
        let words = text(store, &back, "hotplug-error")?;
        Some(words.unwrap_or_else(|| "the disk cannot be opened".into()))
    } else if matches!(
        look.back,
        None | Some(XenbusState::Closing | XenbusState::Closed)
    ) {
        let words = error_node(store, &back)?;
        Some(words.unwrap_or_else(|| format!("the backend is {}", state(look.back))))
    } else if matches!(
        look.front,
        None | Some(XenbusState::Closing | XenbusState::Closed)
    ) {
        let words = error_node(store, &front)?;
        Some(words.unwrap_or_else(|| format!("the frontend is {}", state(look.front))))
    } else {
        None
    };
    Ok(look)
}

/// What another domain wrote, fit for a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.replace(char::is_control, "\u{fffd}")
}

fn text<S: Store>(
    store: &mut S,
    dir: &str,
    node: &'static str,
) -> Result<Option<String>, StoreError> {
    let mut buf = [0; 4096];
    match store.read(Tx::NONE, &join(dir, node)?, &mut buf) {
        Ok(bytes) => Ok(Some(printable(bytes))),
        Err(StoreError::Missing) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an end's `error` node says, without the number in front.
fn error_node<S: Store>(store: &mut S, dir: &str) -> Result<Option<String>, StoreError> {
    let path = paths::error_path(dir)?;
    let dir = path.strip_suffix("/error").unwrap_or(&path);
    let words = text(store, dir, "error")?;
    Ok(words.map(|words| match words.split_once(' ') {
        Some((number, rest)) if number.parse::<i32>().is_ok() => rest.to_owned(),
        _ => words,
    }))
}

/// Tells both ends that the disk goes: at once, so that neither waits for the other to come back.
///
/// # Errors
/// What the store says.
pub fn begin_detach<S: Store>(store: &mut S, place: &Place) -> Result<(), StoreError> {
    let back = place.backend_dir();
    store.transaction(|store, tx| {
        let mut buf = [0; 4096];
        let closed = match store.read(tx, &join(&back, "state")?, &mut buf) {
            Ok(state) => state == XenbusState::Closed.digit().as_bytes(),
            Err(StoreError::Missing) => return Ok(()),
            Err(error) => return Err(error),
        };
        store.write_str(tx, &back, "online", "0")?;
        if closed {
            return Ok(());
        }
        store.write_str(tx, &back, "state", XenbusState::Closing.digit())
    })
}

/// What is seen of a disk that is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Detaching {
    front: Option<XenbusState>,
    back: Option<XenbusState>,
}

impl Detaching {
    /// The backend has let go, or removed its directory.
    pub fn is_over(&self) -> bool {
        matches!(self.back, None | Some(XenbusState::Closed))
    }

    /// The backend has removed its directory.
    pub const fn is_removed(&self) -> bool {
        self.back.is_none()
    }
}

impl fmt::Display for Detaching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "frontend {}, backend {}",
            state(self.front),
            state(self.back)
        )
    }
}

/// Looks how far a disk is on its way out.
///
/// # Errors
/// What the store says to reading.
pub fn detaching<S: Store>(store: &mut S, place: &Place) -> Result<Detaching, StoreError> {
    let seen = |peer| match peer {
        Peer::State(state) => Some(state),
        _ => None,
    };
    Ok(Detaching {
        front: seen(Peer::read(store, &place.frontend_dir())?),
        back: seen(Peer::read(store, &place.backend_dir())?),
    })
}

/// Removes all nodes of a disk that is closed, and the directories above them that are empty then.
///
/// # Errors
/// What the store says.
pub fn remove<S: Store>(store: &mut S, place: &Place) -> Result<(), StoreError> {
    // A driver domain keeps the place that its toolstack made for its backends.
    let backends = match place.backend {
        DomId::DOM0 => 3,
        _ => 2,
    };
    paths::erase(store, &place.frontend_dir(), 1)?;
    paths::erase(store, &place.backend_dir(), backends)?;
    paths::erase(store, &place.libxl_dir(), 2)
}
