//! Where the descriptors of the devices come from.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ringfence_core::platform::PlatformError;
use thiserror::Error;

/// Gives out descriptors of the devices, each call a fresh open file description, for reading and writing.
///
/// A process in a sandbox implements it by asking its supervisor; [`ByPath`] opens them itself.
pub trait DeviceFiles: Send + Sync {
    /// `/dev/xen/evtchn`: one for each event channel.
    ///
    /// # Errors
    /// Why there is none.
    fn evtchn(&self) -> io::Result<OwnedFd>;

    /// `/dev/xen/gntdev`: for mapping and copying what others granted.
    ///
    /// # Errors
    /// Why there is none.
    fn gntdev(&self) -> io::Result<OwnedFd>;

    /// `/dev/xen/gntalloc`: for granting pages.
    ///
    /// # Errors
    /// Why there is none.
    fn gntalloc(&self) -> io::Result<OwnedFd>;

    /// A connection to XenStore: `/dev/xen/xenbus`, or a stream socket of xenstored's.
    ///
    /// # Errors
    /// Why there is none.
    fn xenbus(&self) -> io::Result<OwnedFd>;
}

/// Why a device could not be opened.
#[derive(Debug, Error)]
#[error("{}: {source} ({needs})", path.display())]
pub struct DeviceError {
    /// The device.
    pub path: PathBuf,
    /// What it needs to be there.
    pub needs: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// What is to be there for a device, by its file name.
const NEEDS: &[(&str, &str)] = &[
    ("evtchn", "needs Linux on Xen and the module xen-evtchn"),
    ("gntdev", "needs Linux on Xen and the module xen-gntdev"),
    ("gntalloc", "needs Linux on Xen and the module xen-gntalloc"),
    ("privcmd", "needs Linux on Xen and the module xen-privcmd"),
    (
        "hypercall",
        "needs Linux 4.18 on Xen and the module xen-privcmd",
    ),
    ("xenbus", "needs Linux on Xen, and xenstored running"),
];

/// Opens a device for reading and writing, not blocking.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    opened.map(OwnedFd::from).map_err(|source| {
        let needs = NEEDS
            .iter()
            .find(|(name, _)| path.file_name().is_some_and(|file| file == *name))
            .map_or("needs Linux on Xen", |(_, needs)| needs);
        io::Error::new(
            source.kind(),
            DeviceError {
                path: path.to_owned(),
                needs,
                source,
            },
        )
    })
}

/// The error number in what [`DeviceFiles`] answered.
pub(crate) fn failed(op: &'static str, error: &io::Error) -> PlatformError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let errno = match inner {
        Some(DeviceError { source, .. }) => source.raw_os_error(),
        None => error.raw_os_error(),
    };
    PlatformError {
        op,
        errno: errno.unwrap_or(libc::EIO),
    }
}

/// The devices where Linux has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByPath;

impl DeviceFiles for ByPath {
    fn evtchn(&self) -> io::Result<OwnedFd> {
        open(Path::new("/dev/xen/evtchn"))
    }

    fn gntdev(&self) -> io::Result<OwnedFd> {
        open(Path::new("/dev/xen/gntdev"))
    }

    fn gntalloc(&self) -> io::Result<OwnedFd> {
        open(Path::new("/dev/xen/gntalloc"))
    }

    fn xenbus(&self) -> io::Result<OwnedFd> {
        crate::store::open_connection()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_named_with_what_it_needs() {
        let error = open(Path::new("/dev/xen-of-nobody/gntdev")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("/dev/xen-of-nobody/gntdev: "), "{text}");
        assert!(text.contains("module xen-gntdev"), "{text}");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let failed = failed("open gntdev", &error);
        assert_eq!((failed.op, failed.errno), ("open gntdev", libc::ENOENT));
    }
}
