//! Which device: by the names of its directories.

use core::fmt;

use ringfence_core::ids::DomId;
use ringfence_core::store::StorePath;
use ringfence_core::xenbus::paths;

/// The kinds of backend directory that a block service may serve. All of them are `device/vbd` for the frontend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BackendType {
    /// `backend/vbd`: what kernels serve otherwise, xl's `backendtype=phy`.
    Vbd,
    /// `backend/qdisk`: what QEMU serves otherwise, xl's `backendtype=qdisk`.
    Qdisk,
}

impl BackendType {
    /// The name of the directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Qdisk => "qdisk",
        }
    }

    /// The type with directories of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Vbd, Self::Qdisk]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

impl fmt::Display for BackendType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which device of a driver domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId {
    /// The kind of its backend directory.
    pub backend: BackendType,
    /// The domain of the frontend.
    pub front: DomId,
    /// The device's number, the last part of its directories.
    pub vdev: u32,
}

/// Which ring of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RingId {
    /// The device.
    pub device: DeviceId,
    /// The queue, from 0.
    pub queue: u16,
}

impl DeviceId {
    /// A device by the names of its directories. Only the one spelling that the toolstack writes.
    pub fn from_names(backend: BackendType, front: &str, vdev: &str) -> Option<Self> {
        let front_number: u16 = front.parse().ok()?;
        let vdev_number: u32 = vdev.parse().ok()?;
        let id = Self {
            backend,
            front: DomId::new(front_number),
            vdev: vdev_number,
        };
        (front_number.to_string() == front && vdev_number.to_string() == vdev).then_some(id)
    }

    /// The device whose backend directory in domain `back` this is: `/local/domain/<back>/backend/<type>/<front>/<vdev>`,
    /// in that one spelling. `None` for anything else, also for what is above or below such a directory.
    pub fn from_backend_dir(back: DomId, dir: &str) -> Option<Self> {
        let mut names = dir.rsplitn(4, '/');
        let (vdev, front, kind) = (names.next()?, names.next()?, names.next()?);
        let id = Self::from_names(BackendType::from_name(kind)?, front, vdev)?;
        (id.backend_dir(back) == dir).then_some(id)
    }

    /// Which of so many threads serves it: the disks of one guest one after the other, and so those of different guests.
    pub(super) fn thread(self, threads: u16) -> u16 {
        // Numbers of whole disks are 16 apart, those of the extended scheme 256 (`xen/io/blkif.h`).
        let disk = (self.vdev >> 4).wrapping_add(self.vdev >> 8);
        let sum = disk.wrapping_add(self.front.get().into());
        let thread = sum.checked_rem(threads.into()).unwrap_or(0);
        u16::try_from(thread).unwrap_or(0)
    }

    /// Its directory in the store, in domain `back`.
    pub fn backend_dir(self, back: DomId) -> StorePath {
        paths::typed_backend_dir(self.backend.name(), back, self.front, self.vdev)
    }
}

/// `<type> <front>/<vdev>`, for messages.
impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.backend, self.front, self.vdev)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_one_spelling_of_its_directory() {
        let back = DomId::new(3);
        for backend in [BackendType::Vbd, BackendType::Qdisk] {
            let id = DeviceId {
                backend,
                front: DomId::new(7),
                vdev: 51712,
            };
            let dir = id.backend_dir(back);
            assert_eq!(
                dir.as_str(),
                format!("/local/domain/3/backend/{backend}/7/51712")
            );
            assert_eq!(DeviceId::from_backend_dir(back, &dir), Some(id));
        }
        for dir in [
            "",
            "/",
            "7/51712",
            "vbd/7/51712",
            "/local/domain/4/backend/vbd/7/51712",
            "/local/domain/3/backend/vif/7/0",
            "/local/domain/3/backend/vbd/7",
            "/local/domain/3/backend/vbd/7/51712/",
            "/local/domain/3/backend/vbd/7/51712/state",
            "/local/domain/3/backend/vbd/07/51712",
            "/local/domain/3/backend/vbd/7/+51712",
            "/local/domain/3/backend/vbd/65536/51712",
            "/local/domain/3/backend/vbd/7/4294967296",
            "/local/domain/3/../3/backend/vbd/7/51712",
            "/local/domain/3/backend//vbd/7/51712",
        ] {
            assert_eq!(DeviceId::from_backend_dir(back, dir), None, "{dir}");
        }
    }
}
