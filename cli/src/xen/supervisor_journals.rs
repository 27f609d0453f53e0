//! The journals of a driver domain's devices: files in the run directory, which ends with the running system as rings and ports do.
//! So they outlive the supervisor as well, which is followed by another when the program is replaced.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ringfence_blkback::journal;
use ringfence_blkback::service::{BackendType, DeviceId};
use ringfence_core::DomId;
use ringfence_core::store::{Store, StoreExt as _, Tx};
use ringfence_process::child::Exit;
use ringfence_process::records;
use thiserror::Error;

/// A journal of another version.
#[derive(Debug, Error)]
#[error(
    "{} has version {version}, and this program knows {}: start the one that wrote it; guests wait meanwhile",
    path.display(), journal::VERSION
)]
pub(super) struct Unknown {
    path: PathBuf,
    version: u64,
}

const _: () = assert!(journal::AT_KILLED == records::KILLED);

/// Where they are.
#[derive(Debug)]
pub(super) struct Journals(PathBuf);

impl Journals {
    /// In this directory, made if it is missing.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(dir.to_owned())),
        }
    }

    /// The journal of a device, made if it is missing.
    ///
    /// # Errors
    /// As `open(2)`.
    pub(super) fn open(&self, id: DeviceId) -> io::Result<OwnedFd> {
        records::open(&self.0.join(name(id)), journal::BYTES)
    }

    /// Looks whether all of them are such as this program knows, which is to be done before any process begins: of a device whose
    /// journal it does not know it could only end the connection.
    ///
    /// # Errors
    /// Says which one it does not know.
    pub(super) fn check(&self) -> Result<(), Unknown> {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            let named = entry.file_name().to_str().and_then(device).is_some();
            let stamp = |path| records::stamp(std::fs::File::open(path)?);
            if let (true, Ok(stamp)) = (named, stamp(&path))
                && !records::is_known(stamp, journal::STAMP)
            {
                let [_, version] = stamp;
                return Err(Unknown { path, version });
            }
        }
        Ok(())
    }

    /// Whether an earlier process left something about this device, and may have been at work on its image.
    pub(super) fn is_begun(&self, id: DeviceId) -> bool {
        let file = std::fs::File::open(self.0.join(name(id)));
        let stamp = file.and_then(records::stamp);
        stamp.is_ok_and(|stamp| stamp != records::Stamp::default())
    }

    /// Notes in all of them how the process ended.
    pub(super) fn note_end(&self, exit: Exit) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_name().to_str().and_then(device).is_none() {
                continue;
            }
            let file = std::fs::File::options().write(true).open(entry.path());
            if let Err(error) = file.and_then(|file| records::note_end(file, exit)) {
                tracing::warn!(journal = %entry.path().display(), %error, "cannot note how the process ended");
            }
        }
    }

    /// Removes that of a device that is gone.
    pub(super) fn remove(&self, id: DeviceId) {
        let _ = std::fs::remove_file(self.0.join(name(id)));
    }

    /// Removes those of all devices that are gone. What cannot be removed is in nobody's way: a journal counts only for the
    /// connection that it was written for.
    pub(super) fn sweep<S: Store>(&self, domid: DomId, store: &mut S) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let gone = entry
                .file_name()
                .to_str()
                .and_then(device)
                .is_some_and(|id| {
                    let state = store.read_opt::<u32>(Tx::NONE, &id.backend_dir(domid), "state");
                    matches!(state, Ok(None))
                });
            if gone {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn name(id: DeviceId) -> String {
    format!("{}-{}-{}.journal", id.backend, id.front, id.vdev)
}

fn device(name: &str) -> Option<DeviceId> {
    let (kind, rest) = name.strip_suffix(".journal")?.split_once('-')?;
    let (front, vdev) = rest.split_once('-')?;
    DeviceId::from_names(BackendType::from_name(kind)?, front, vdev)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::Words as _;
    use ringfence_process::records::Record;
    use ringfence_sim::World;

    use crate::xen::supervisor_files::tests::Dir;

    #[test]
    fn a_journal_outlives_its_supervisor_and_goes_with_its_device() {
        let dir = Dir::new("journals");
        let back = DomId::new(3);
        let id = DeviceId {
            backend: BackendType::Vbd,
            front: DomId::new(7),
            vdev: 51712,
        };
        let world = World::new();
        world.create(back);
        let mut store = world.store(DomId::DOM0);
        let set = |store: &mut ringfence_sim::SimStore| {
            store.write_str(Tx::NONE, &id.backend_dir(back), "state", "4")
        };
        set(&mut store).unwrap();
        let open = || {
            Journals::new(&dir.path("journal"))
                .unwrap()
                .open(id)
                .unwrap()
        };
        let record = Record::map(open()).unwrap();
        assert_eq!(record.len() * 8, journal::BYTES);
        record.store(5, 6);

        let next = Journals::new(&dir.path("journal")).unwrap();
        next.sweep(back, &mut store);
        assert_eq!(Record::map(next.open(id).unwrap()).unwrap().load(5), 6);

        assert!(!next.is_begun(id) && next.check().is_ok());
        record.fill(0, &journal::STAMP);
        assert!(next.is_begun(id) && next.check().is_ok());
        record.store(1, journal::VERSION + 1);
        let error = next.check().unwrap_err().to_string();
        let says = format!("vbd-7-51712.journal has version {}", journal::VERSION + 1);
        assert!(error.contains(&says), "{error}");

        next.note_end(Exit::Signal(9));
        assert_eq!(record.load(journal::AT_KILLED), 1);
        next.note_end(Exit::Signal(6));
        assert_eq!(record.load(journal::AT_KILLED), 0);

        store.rm(Tx::NONE, &id.backend_dir(back)).unwrap();
        next.sweep(back, &mut store);
        let left = std::fs::read_dir(dir.path("journal")).unwrap().count();
        assert_eq!(left, 0);
        assert_eq!(device("vbd-7-51712.journal"), Some(id));
        assert_eq!(device("vbd-07-51712.journal"), None);
    }
}
