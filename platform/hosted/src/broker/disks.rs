//! Attaching and detaching disks: the toolstack's part in the store.

use std::time::{Duration, Instant};

use ringfence_core::DomId;
use ringfence_core::store::{Perm, Store, StoreError, StoreExt as _, Tx, domain_path};

use super::Broker;
use super::admin::AdminId;
use super::store::OwnClient;
use crate::admin::{AdminError, AdminReply, DiskInfo, NewDisk};
use ringfence_process::ImageSpec;

/// How long a backend may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a frontend that does not stir is waited for once the backend offers the disk, and a backend that fails to close.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is tried whether a process has let go of an image: there is no event to wait for.
const RETRY: Duration = Duration::from_millis(5);

/// A disk in the store.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) guest: DomId,
    pub(super) backend: DomId,
    vdev: u32,
    dev: String,
    cdrom: bool,
    discard: bool,
    image: ImageSpec,
    frontend_path: String,
}

/// An answer that waits for the two ends.
#[derive(Debug)]
pub(super) struct PendingDisk {
    admin: AdminId,
    path: String,
    goal: Goal,
    deadline: Instant,
    /// The backend offers the disk, or fails, since then.
    stirred: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goal {
    Attached,
    Detached,
}

const INIT_WAIT: u32 = 2;
const CONNECTED: u32 = 4;
const CLOSING: u32 = 5;
const CLOSED: u32 = 6;

fn state(store: &mut OwnClient<'_>, dir: &str) -> u32 {
    store.read_state(Tx::NONE, dir).unwrap_or_default()
}

fn publish(store: &mut OwnClient<'_>, path: &str, disk: &Disk) -> Result<(), StoreError> {
    let (guest, backend) = (disk.guest, disk.backend);
    let frontend = disk.frontend_path.as_str();
    let target = disk.image.target.to_string_lossy();
    let mode = match (disk.image.read_only, disk.image.shared) {
        (true, _) => "r",
        (false, false) => "w",
        (false, true) => "w!",
    };
    let kind = if disk.cdrom { "cdrom" } else { "disk" };
    let digit = |yes| if yes { "1" } else { "0" };
    store.transaction(|store, tx| {
        // Order matters to a peer that watches already: the frontend without its state, the whole backend, then that state.
        store.mkdir(tx, frontend)?;
        store.set_perms(tx, frontend, &[Perm::owner(guest), Perm::read(backend)])?;
        store.write_str(tx, frontend, "backend", path)?;
        store.write_u32(tx, frontend, "backend-id", backend.get().into())?;
        store.write_u32(tx, frontend, "virtual-device", disk.vdev)?;
        store.write_str(tx, frontend, "device-type", kind)?;
        store.mkdir(tx, path)?;
        store.set_perms(tx, path, &[Perm::owner(backend), Perm::read(guest)])?;
        for (key, value) in [
            ("frontend", frontend),
            ("params", &target),
            ("type", "file"),
            ("online", "1"),
            ("removable", digit(disk.cdrom)),
            ("bootable", "0"),
            ("dev", &disk.dev),
            ("mode", mode),
            ("device-type", kind),
            ("discard-enable", digit(disk.discard)),
            ("format", disk.image.format.name()),
            ("hotplug-status", "connected"),
            ("state", "1"),
        ] {
            store.write_str(tx, path, key, value)?;
        }
        store.write_u32(tx, path, "frontend-id", guest.get().into())?;
        store.write_str(tx, frontend, "state", "1")
    })
}

impl Broker {
    /// Attaches a disk; the answer comes when the ends have met.
    pub(super) fn attach(&mut self, admin: AdminId, mut new: NewDisk) -> Result<(), AdminError> {
        new.image.read_only |= new.cdrom;
        let guest = self.find(&new.guest)?;
        let backend = self.find(&new.backend)?;
        let serves = self
            .domains
            .get(&backend.get())
            .map(|domain| domain.new.kind);
        if serves != Some(crate::control::DomainKind::DriverDomain) {
            return Err(AdminError::NotADriverDomain(new.backend));
        }
        if self
            .disks
            .values()
            .any(|disk| disk.guest == guest && disk.vdev == new.vdev)
        {
            return Err(AdminError::DiskExists {
                guest: new.guest,
                dev: new.dev,
            });
        }
        let path = format!("{}/backend/vbd/{guest}/{}", domain_path(backend), new.vdev);
        let name = format!("disk {} of domain {guest}", new.dev);
        if !self.images.configure(&path, new.image.clone(), name)? {
            self.waiting_disks.push((admin, new));
            return Ok(());
        }
        let disk = Disk {
            guest,
            backend,
            vdev: new.vdev,
            dev: new.dev,
            cdrom: new.cdrom,
            discard: new.discard,
            image: new.image,
            frontend_path: format!("{}/device/vbd/{}", domain_path(guest), new.vdev),
        };
        if let Err(error) = publish(&mut self.store.client(), &path, &disk) {
            self.images.forget(&path);
            let (backend, dev) = (backend.to_string(), disk.dev);
            return Err(AdminError::Backend {
                backend,
                dev,
                text: error.to_string(),
            });
        }
        self.disks.insert(path.clone(), disk);
        self.wait_for_disk(admin, path, Goal::Attached);
        Ok(())
    }

    /// Detaches a disk; the answer comes when the backend has closed.
    pub(super) fn detach(
        &mut self,
        admin: AdminId,
        guest: String,
        vdev: u32,
    ) -> Result<(), AdminError> {
        let domid = self.find(&guest)?;
        let found = self
            .disks
            .iter()
            .find(|(_, disk)| disk.guest == domid && disk.vdev == vdev);
        let Some((path, _)) = found else {
            return Err(AdminError::NoDisk { guest, vdev });
        };
        let path = path.clone();
        let mut store = self.store.client();
        // A backend that is closing, or gone, needs no telling.
        let _ = store.transaction(|store, tx| {
            store.write_str(tx, &path, "online", "0")?;
            match store.read_state(tx, &path) {
                Ok(CLOSED) => Ok(()),
                _ => store.write_u32(tx, &path, "state", CLOSING),
            }
        });
        self.wait_for_disk(admin, path, Goal::Detached);
        Ok(())
    }

    fn wait_for_disk(&mut self, admin: AdminId, path: String, goal: Goal) {
        let deadline = Instant::now() + PATIENCE;
        self.pending_disks.push(PendingDisk {
            admin,
            path,
            goal,
            deadline,
            stirred: None,
        });
    }

    /// Looks whether the ends have met or parted.
    pub(super) fn check_disks(&mut self) {
        for (admin, new) in std::mem::take(&mut self.waiting_disks) {
            if let Err(error) = self.attach(admin, new) {
                self.admin_answer(admin, Err(error));
            }
        }
        for mut pending in std::mem::take(&mut self.pending_disks) {
            match self.judge(&mut pending) {
                None => self.pending_disks.push(pending),
                Some(answer) => {
                    let failed = answer.is_err() && pending.goal == Goal::Attached;
                    if failed || (answer.is_ok() && pending.goal == Goal::Detached) {
                        self.remove_disk(&pending.path);
                    }
                    self.admin_answer(pending.admin, answer.map(|()| AdminReply::Done));
                }
            }
        }
    }

    fn judge(&mut self, pending: &mut PendingDisk) -> Option<Result<(), AdminError>> {
        let now = Instant::now();
        let Some(disk) = self.disks.get(&pending.path).cloned() else {
            // One of the domains was destroyed meanwhile.
            return Some(match pending.goal {
                Goal::Attached => Err(AdminError::NoDomain(pending.path.clone())),
                Goal::Detached => Ok(()),
            });
        };
        let mut store = self.store.client();
        let (backend, frontend) = (
            state(&mut store, &pending.path),
            state(&mut store, &disk.frontend_path),
        );
        let error = (backend != CONNECTED)
            .then(|| error_text(&mut store, &disk, &pending.path))
            .flatten();
        let running = |domid: DomId| {
            self.domains
                .get(&domid.get())
                .is_some_and(|domain| domain.process.is_some())
        };
        let timeout = || AdminError::Timeout {
            who: format!("domain {}", disk.backend),
            dev: disk.dev.clone(),
            seconds: PATIENCE.as_secs(),
            backend_state: backend,
            frontend_state: frontend,
        };
        match pending.goal {
            Goal::Detached if backend == CLOSED || backend == 0 || !running(disk.backend) => {
                Some(Ok(()))
            }
            Goal::Attached if backend == CONNECTED => Some(Ok(())),
            // A backend that still has something to write would bring the nodes back: let it close first.
            Goal::Attached if backend >= CLOSING || error.is_some() => {
                let failing = *pending.stirred.get_or_insert(now);
                (backend == CLOSED || now >= failing + GRACE).then(|| {
                    Err(AdminError::Backend {
                        backend: format!("domain {}", disk.backend),
                        dev: disk.dev.clone(),
                        text: error.unwrap_or_else(|| format!("it went to state {backend}")),
                    })
                })
            }
            Goal::Attached if backend == INIT_WAIT && frontend <= 1 => {
                let offered = *pending.stirred.get_or_insert(now);
                let enough = !running(disk.guest) || now >= offered + GRACE;
                enough.then_some(Ok(()))
            }
            _ => (now >= pending.deadline).then(|| Err(timeout())),
        }
    }

    /// Whether the backend of a disk, or an earlier process of it, says that its guest uses it.
    pub(super) fn is_connected(&mut self, path: &str) -> bool {
        state(&mut self.store.client(), path) == CONNECTED
    }

    /// Takes a disk's nodes away and forgets its image.
    pub(super) fn remove_disk(&mut self, path: &str) {
        self.images.part(|gone| gone == path);
        self.records.forget(path);
        let Some(disk) = self.disks.remove(path) else {
            return;
        };
        let mut store = self.store.client();
        for dir in [disk.frontend_path.as_str(), path, &error_dir(&disk, path)] {
            // Gone with its domain, perhaps.
            let _ = store.rm(Tx::NONE, dir);
        }
    }

    /// The disks that a domain has or serves go with it.
    pub(super) fn remove_disks_of(&mut self, domid: DomId) {
        let of = |disk: &Disk| disk.guest == domid || disk.backend == domid;
        let gone: Vec<String> = self
            .disks
            .iter()
            .filter(|(_, disk)| of(disk))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.remove_disk(&path);
        }
    }

    pub(super) fn list_disks(&mut self) -> Vec<DiskInfo> {
        let mut store = self.store.client();
        let info = |(path, disk): (&String, &Disk)| DiskInfo {
            guest: disk.guest.get(),
            backend: disk.backend.get(),
            vdev: disk.vdev,
            dev: disk.dev.clone(),
            image: disk.image.clone(),
            backend_state: state(&mut store, path),
            frontend_state: state(&mut store, &disk.frontend_path),
            backend_path: path.clone(),
        };
        self.disks.iter().map(info).collect()
    }

    /// When to look again although nothing happened.
    pub(super) fn disk_deadline(&self) -> Option<Instant> {
        let each = |pending: &PendingDisk| match pending.stirred {
            Some(since) => pending.deadline.min(since + GRACE),
            None => pending.deadline,
        };
        let pending = self.pending_disks.iter().map(each);
        let waiting = self.waiting_disks.first();
        pending.chain(waiting.map(|_| Instant::now() + RETRY)).min()
    }
}

/// Where a backend says what is wrong: `<home>/error/<device's directory>`.
fn error_dir(disk: &Disk, path: &str) -> String {
    let home = domain_path(disk.backend);
    let device = path.strip_prefix(home.as_str()).unwrap_or(path);
    format!("{home}/error{device}")
}

fn error_text(store: &mut OwnClient<'_>, disk: &Disk, path: &str) -> Option<String> {
    let mut buf = [0u8; 4096];
    let node = format!("{}/error", error_dir(disk, path));
    let text = store
        .read(Tx::NONE, &node, &mut buf)
        .ok()
        .filter(|text| !text.is_empty())?;
    Some(String::from_utf8_lossy(text).into_owned())
}
