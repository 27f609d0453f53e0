//! `/proc/xen`, for xenstored in dom0: the ring page and the port that dom0's own kernel keeps for it.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::ptr::NonNull;

use ringfence_core::{EvtchnPort, PAGE};
use ringfence_mem::RawPages;
use rustix::mm::{MapFlags, ProtFlags};

/// The store ring page of dom0's kernel, `/proc/xen/xsd_kva`. Dropping it unmaps it.
#[derive(Debug)]
pub struct KernelPage {
    pages: RawPages,
}

impl KernelPage {
    /// Maps the page.
    ///
    /// # Errors
    /// The path is named: xenfs is not mounted on `/proc/xen`, or this is not dom0, or the user not root.
    pub fn map() -> Result<Self> {
        Self::map_at(Path::new("/proc/xen/xsd_kva"))
    }

    fn map_at(path: &Path) -> Result<Self> {
        let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(named)?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), PAGE, both, MapFlags::SHARED, &file, 0)
        }
        .map_err(|errno| named(errno.into()))?;
        let base = NonNull::new(base.cast()).ok_or(ErrorKind::InvalidData)?;
        // SAFETY: just mapped, and unmapped by our drop only.
        let pages = unsafe { RawPages::new(base, PAGE) };
        Ok(Self { pages })
    }
}

impl Drop for KernelPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map_at` at this place and length; nobody uses it after us.
        let unmapped = unsafe { rustix::mm::munmap(self.pages.as_ptr().cast(), PAGE) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

ringfence_mem::shared_by_pages!(KernelPage);

/// The port of dom0's kernel that xenstored is to bind, `/proc/xen/xsd_port`.
///
/// # Errors
/// As [`KernelPage::map`]; also when there is no number in the file.
pub fn kernel_port() -> Result<EvtchnPort> {
    port_at(Path::new("/proc/xen/xsd_port"))
}

fn port_at(path: &Path) -> Result<EvtchnPort> {
    let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(named)?;
    match text.trim().parse() {
        Ok(port) => Ok(EvtchnPort::new(port)),
        Err(_) => Err(named(ErrorKind::InvalidData.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::SharedMem as _;

    #[test]
    fn both_are_read_and_what_is_wrong_is_named() {
        let dir = std::env::temp_dir().join(format!("ringfence-xsd-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (kva, port) = (dir.join("xsd_kva"), dir.join("xsd_port"));
        fs::write(&kva, [7; PAGE]).unwrap();
        fs::write(&port, "23").unwrap();
        assert_eq!(port_at(&port).unwrap(), EvtchnPort::new(23));
        let page = KernelPage::map_at(&kva).unwrap();
        assert_eq!((page.len(), page.load_u32(8)), (PAGE, 0x0707_0707));
        page.write(4, b"shared");
        drop(page);
        assert_eq!(fs::read(&kva).unwrap()[4..10], *b"shared");
        fs::write(&port, "no port").unwrap();
        for text in [
            port_at(&port).unwrap_err().to_string(),
            port_at(&dir.join("gone")).unwrap_err().to_string(),
            KernelPage::map_at(&dir.join("gone"))
                .unwrap_err()
                .to_string(),
        ] {
            assert!(text.starts_with(dir.to_str().unwrap()), "{text}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
