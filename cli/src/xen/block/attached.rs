//! Which domains and disks there are, as the store has them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ringfence_blkback::service::{BackendType, DeviceId};
use ringfence_core::DomId;
use ringfence_core::store::{Store, StoreError, StorePath, Tx, domain_path, join};
use ringfence_core::xenbus::{Class, Peer, paths};
use thiserror::Error;

use super::nodes::{Place, printable};

/// Why a domain was not found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FindError {
    /// There is none of this name or number.
    #[error("no domain {name}")]
    None {
        /// What was given.
        name: String,
    },
    /// Several have this name.
    #[error("several domains are called {name}: {one} and {other}")]
    Several {
        /// What was given.
        name: String,
        /// One of them.
        one: DomId,
        /// Another.
        other: DomId,
    },
    /// It has no disk of this number.
    #[error("domain {guest} has no disk {vdev}")]
    NoDisk {
        /// The domain.
        guest: DomId,
        /// The number.
        vdev: u32,
    },
    /// Several driver domains claim to serve it, and libxl does not know which.
    #[error("several backends claim disk {vdev} of domain {guest}: {one} and {other}")]
    SeveralBackends {
        /// The domain.
        guest: DomId,
        /// The number.
        vdev: u32,
        /// A backend's directory.
        one: String,
        /// Another's.
        other: String,
    },
    /// The store refused.
    #[error("xenstore: {0}")]
    Store(#[from] StoreError),
}

/// The domains that have a home in the store, by number, with their names.
#[derive(Debug)]
pub struct Domains(BTreeMap<u16, String>);

impl Domains {
    /// Reads them.
    ///
    /// # Errors
    /// What the store says.
    pub fn read<S: Store>(store: &mut S) -> Result<Self, StoreError> {
        let mut domains = BTreeMap::new();
        for number in names(store, "/local/domain")? {
            let Ok(domid) = number.parse::<u16>() else {
                continue;
            };
            let home = domain_path(DomId::new(domid));
            let name = text(store, &home, "name")?.unwrap_or_default();
            domains.insert(domid, name);
        }
        Ok(Self(domains))
    }

    /// The domain of this number or, if there is none, of this name.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find(&self, text: &str) -> Result<DomId, FindError> {
        if let Ok(number) = text.parse::<u16>()
            && self.0.contains_key(&number)
        {
            return Ok(DomId::new(number));
        }
        let name = || text.to_owned();
        let mut of_name = self.0.iter().filter(|(_, other)| *other == text);
        match (of_name.next(), of_name.next()) {
            (None, _) => Err(FindError::None { name: name() }),
            (Some((number, _)), None) => Ok(DomId::new(*number)),
            (Some((one, _)), Some((other, _))) => Err(FindError::Several {
                name: name(),
                one: DomId::new(*one),
                other: DomId::new(*other),
            }),
        }
    }

    /// A domain's name, or its number if it has none.
    pub fn name(&self, domid: DomId) -> String {
        match self.0.get(&domid.get()) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => domid.to_string(),
        }
    }
}

/// The disk of this number that a domain has: where libxl's record says or, without one, where a backend's directory is. The
/// guest's own nodes, which it can write, are not asked.
///
/// # Errors
/// [`FindError`].
pub fn find<S: Store>(store: &mut S, guest: DomId, vdev: u32) -> Result<Place, FindError> {
    let record = format!("/libxl/{guest}/device/vbd/{vdev}");
    let record = text(store, &record, "backend")?;
    let disks = all(store, Some(guest))?;
    let mut found = disks.into_iter().filter(|disk| {
        disk.place.vdev == vdev
            && record
                .as_ref()
                .is_none_or(|path| *path == disk.backend_path)
    });
    match (found.next(), found.next()) {
        (None, _) => Err(FindError::NoDisk { guest, vdev }),
        (Some(disk), None) => Ok(disk.place),
        (Some(one), Some(other)) => Err(FindError::SeveralBackends {
            guest,
            vdev,
            one: one.backend_path,
            other: other.backend_path,
        }),
    }
}

/// A disk as the store has it.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Whose it is.
    pub place: Place,
    /// Its name.
    pub dev: String,
    /// What `params` says.
    pub target: String,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// The backend's state, a digit; empty if it has none.
    pub backend_state: &'static str,
    /// The frontend's state, a digit; empty if it has none.
    pub frontend_state: &'static str,
    /// The backend's directory.
    pub backend_path: String,
}

/// All disks in the backend directories of all domains, or those of one guest, in the order of their guests and numbers.
///
/// # Errors
/// What the store says.
pub fn all<S: Store>(store: &mut S, only: Option<DomId>) -> Result<Vec<Attached>, StoreError> {
    let mut disks = Vec::new();
    for server in names(store, "/local/domain")? {
        let Ok(server) = server.parse::<u16>().map(DomId::new) else {
            continue;
        };
        for kind in [BackendType::Vbd, BackendType::Qdisk] {
            let root = join(&join(&domain_path(server), "backend")?, kind.name())?;
            for front in names(store, &root)? {
                for vdev in names(store, &join(&root, &front)?)? {
                    let Some(id) = DeviceId::from_names(kind, &front, &vdev) else {
                        continue;
                    };
                    if only.is_none_or(|only| only == id.front) {
                        disks.push(read(store, server, id)?);
                    }
                }
            }
        }
    }
    disks.sort_by_key(|disk| (disk.place.guest.get(), disk.place.vdev));
    Ok(disks)
}

fn read<S: Store>(store: &mut S, backend: DomId, id: DeviceId) -> Result<Attached, StoreError> {
    let back = id.backend_dir(backend);
    let front = paths::frontend_dir(Class::Vbd, id.front, id.vdev);
    let digit = |peer| match peer {
        Peer::State(state) => state.digit(),
        _ => "",
    };
    Ok(Attached {
        place: Place {
            kind: id.backend,
            guest: id.front,
            backend,
            vdev: id.vdev,
        },
        dev: text(store, &back, "dev")?.unwrap_or_default(),
        target: text(store, &back, "params")?.unwrap_or_default(),
        read_only: text(store, &back, "mode")?.is_none_or(|mode| !mode.starts_with('w')),
        backend_state: digit(Peer::read(store, &back)?),
        frontend_state: digit(Peer::read(store, &front)?),
        backend_path: back.to_string(),
    })
}

/// The disks as one object, with the names that the hosted list has.
pub fn json(disks: &[Attached], domains: &Domains) -> serde_json::Value {
    let state = |digit: &str| digit.parse::<u32>().ok();
    let disks: Vec<_> = disks
        .iter()
        .map(|disk| {
            serde_json::json!({
                "vdev": disk.place.vdev, "dev": disk.dev,
                "guest": domains.name(disk.place.guest), "backend": domains.name(disk.place.backend),
                "target": disk.target, "read_only": disk.read_only,
                "backend_state": state(disk.backend_state), "frontend_state": state(disk.frontend_state),
                "backend_path": disk.backend_path,
            })
        })
        .collect();
    serde_json::json!({ "disks": disks })
}

/// The disks as lines for people.
pub fn table(disks: &[Attached], domains: &Domains) -> String {
    let mut out = format!(
        "{:<6} {:<6} {:<12} {:<12} {:<6} {:<5} target\n",
        "vdev", "dev", "guest", "backend", "mode", "state"
    );
    for disk in disks {
        let shown = |digit: &'static str| if digit.is_empty() { "-" } else { digit };
        let _ = writeln!(
            out,
            "{:<6} {:<6} {:<12} {:<12} {:<6} {}/{}   {}",
            disk.place.vdev,
            disk.dev,
            domains.name(disk.place.guest),
            domains.name(disk.place.backend),
            if disk.read_only { "r" } else { "w" },
            shown(disk.frontend_state),
            shown(disk.backend_state),
            disk.target
        );
    }
    out
}

/// The names below a node; none if it is not there, or not for us to see.
fn names<S: Store>(store: &mut S, path: &str) -> Result<Vec<String>, StoreError> {
    let mut buf = vec![0; 1 << 16];
    match store.directory(Tx::NONE, path, &mut buf) {
        Ok(names) => Ok(names.map(str::to_owned).collect()),
        Err(StoreError::Missing | StoreError::Denied) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn text<S: Store>(store: &mut S, dir: &str, node: &str) -> Result<Option<String>, StoreError> {
    let path: StorePath = join(dir, node)?;
    let mut buf = [0; 4096];
    match store.read(Tx::NONE, &path, &mut buf) {
        Ok(bytes) => Ok(Some(printable(bytes))),
        Err(StoreError::Missing | StoreError::Denied) => Ok(None),
        Err(error) => Err(error),
    }
}
