//! Who makes the devices of a service, and what passes between them in the nodes of a backend's directory.
//!
//! The nodes are those of `xen/io/blkif.h` and what libxl and its hotplug scripts do with them (`xl-disk-configuration(5)`,
//! `docs/misc/block-scripts.txt` of Xen):
//!
//! | | the image is in | opened | a failure is told in |
//! |---|---|---|---|
//! | [`Hotplug::AtOnce`] | known to whoever opens | before state 2 | `error`, and state 5 |
//! | [`Hotplug::Script`] | `physical-device-path` | when it appears, after state 2 | `hotplug-error`, `hotplug-status`, `error` |
//! | [`Hotplug::Daemon`] | `params` | before state 2 | the same, and state 5 |
//!
//! libxl waits for state 2 before it runs a script, so nothing may wait for the disk before that; a disk that fails then leaves
//! the state at 2, since the script is asked for the reason. Of a driver domain libxl 4.17 sees nothing but state 2: a disk that
//! fails must not come so far.

use ringfence_core::store::{Store, StoreError, StorePath, Tx, join};
use thiserror::Error;

use super::id::{BackendType, DeviceId};

/// The file name of the hotplug script whose devices are ours.
pub const SCRIPT: &str = "block-ringfence";

/// Why a device's nodes name no image that can be served.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No absolute path, no address of a server, and no words with a `target=`.
    #[error("{node} {value:?} is no absolute path")]
    NotAbsolute {
        /// The node.
        node: &'static str,
        /// What it holds.
        value: String,
    },
    /// An image of another format.
    #[error("params {value:?}: format {format} is not supported, only aio, raw and qcow2 are")]
    Format {
        /// What `params` holds.
        value: String,
        /// The format it names.
        format: String,
    },
    /// The node holds bytes that are no text.
    #[error("{node} is not UTF-8")]
    NotText {
        /// The node.
        node: &'static str,
    },
    /// The store failed; [`StoreError::Denied`] is said like this too.
    #[error("{node}: {error}")]
    Store {
        /// The node.
        node: &'static str,
        /// Why.
        error: StoreError,
    },
}

/// How a device's disk comes to be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hotplug {
    /// Whoever makes the directory knows the disk already.
    AtOnce,
    /// A toolstack in this domain runs a hotplug script; only devices with [`SCRIPT`] as their `script` are ours.
    Script,
    /// The toolstack is in another domain: we do what its daemon would do here (`xl devd`), also removing what is over.
    Daemon,
}

/// Where a service's devices are, and who makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Toolstack {
    /// The kinds of directory to serve: `/local/domain/<own>/backend/<type>/<front>/<vdev>`.
    pub types: &'static [BackendType],
    /// How their disks come to be known.
    pub hotplug: Hotplug,
}

impl Default for Toolstack {
    fn default() -> Self {
        Self::HOSTED
    }
}

impl Toolstack {
    /// The broker of `platform/hosted`.
    pub const HOSTED: Self = Self {
        types: &[BackendType::Vbd],
        hotplug: Hotplug::AtOnce,
    };
    /// xl in this domain, with our hotplug script.
    pub const DOM0: Self = Self {
        types: &[BackendType::Vbd],
        hotplug: Hotplug::Script,
    };
    /// xl in another domain.
    pub const DRIVER_DOMAIN: Self = Self {
        types: &[BackendType::Vbd, BackendType::Qdisk],
        hotplug: Hotplug::Daemon,
    };

    /// Whether the device with this directory is for us. What cannot be read is not.
    ///
    /// # Errors
    /// Only if the store is of no further use.
    pub fn owns<S: Store>(&self, store: &mut S, backend_dir: &str) -> Result<bool, StoreError> {
        if self.hotplug != Hotplug::Script {
            return Ok(true);
        }
        match text(store, backend_dir, "script") {
            Ok(script) => Ok(script.is_some_and(|script| file_name(&script) == SCRIPT)),
            Err(ImageError::Store { error, .. }) if is_lost(error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// What names the image of device `id` in `backend_dir`: an absolute path, a server's address, or several words of which
    /// the last is `target=` with one of these; `None` while nobody has written it. Not asked when hosted.
    ///
    /// # Errors
    /// The nodes name no image of ours, or cannot be read.
    pub fn image<S: Store>(
        &self,
        store: &mut S,
        backend_dir: &str,
        id: DeviceId,
    ) -> Result<Option<String>, ImageError> {
        let node = self.node();
        let Some(value) = text(store, backend_dir, node)?.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let named = match (self.hotplug, id.backend) {
            (Hotplug::AtOnce | Hotplug::Daemon, BackendType::Qdisk) => of_qemu(&value)?,
            _ => value.clone(),
        };
        let is_server = ["nbd:", "nbd+unix:"].iter().any(|it| named.starts_with(it));
        if !(named.starts_with('/') || is_server || named.contains(TARGET)) {
            return Err(ImageError::NotAbsolute { node, value });
        }
        Ok(Some(named))
    }

    /// The same, and an empty text where the nodes say that the device is a drive without a medium.
    ///
    /// # Errors
    /// As of [`image`](Self::image).
    pub fn named<S: Store>(
        &self,
        store: &mut S,
        backend_dir: &str,
        id: DeviceId,
    ) -> Result<Option<String>, ImageError> {
        match self.image(store, backend_dir, id)? {
            None if self.is_empty_drive(store, backend_dir)? => Ok(Some(String::new())),
            image => Ok(image),
        }
    }

    /// Which node names the image.
    const fn node(&self) -> &'static str {
        match self.hotplug {
            Hotplug::Script => "physical-device-path",
            Hotplug::AtOnce | Hotplug::Daemon => "params",
        }
    }

    /// Whether the device is a CD-ROM whose node was written and names nothing: a drive without a medium.
    fn is_empty_drive<S: Store>(
        &self,
        store: &mut S,
        backend_dir: &str,
    ) -> Result<bool, ImageError> {
        for (node, wanted) in [("device-type", "cdrom"), (self.node(), "")] {
            match text(store, backend_dir, node) {
                Ok(Some(value)) if value == wanted => {}
                Err(ImageError::Store { node, error }) if is_lost(error) => {
                    return Err(ImageError::Store { node, error });
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// In a text of several words the one that comes last.
const TARGET: &str = "target=";

/// `<format>:<path>` as toolstacks write it for QEMU.
fn of_qemu(params: &str) -> Result<String, ImageError> {
    match params.split_once(':') {
        Some(("aio" | "raw", path)) => Ok(path.to_owned()),
        Some(("qcow2", path)) => Ok(format!("format=qcow2,{TARGET}{path}")),
        Some((format, _)) if !format.contains('/') => Err(ImageError::Format {
            value: params.to_owned(),
            format: format.to_owned(),
        }),
        _ => Ok(params.to_owned()),
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A node's value; `None` if it is not there.
pub(super) fn text<S: Store>(
    store: &mut S,
    dir: &str,
    node: &'static str,
) -> Result<Option<String>, ImageError> {
    let failed = |error| ImageError::Store { node, error };
    let path: StorePath = join(dir, node).map_err(failed)?;
    // The most that a node can hold.
    let mut buf = vec![0; 4096];
    match store.read(Tx::NONE, &path, &mut buf) {
        Ok(bytes) => {
            let text = core::str::from_utf8(bytes).map_err(|_| ImageError::NotText { node })?;
            Ok(Some(text.to_owned()))
        }
        Err(StoreError::Missing) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Whether the store will not answer anything any more.
pub(super) const fn is_lost(error: StoreError) -> bool {
    matches!(
        error,
        StoreError::Transport | StoreError::Desynchronised { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_qemu_are_served_in_the_formats_that_we_know() {
        for (params, path) in [
            ("aio:/images/a.img", "/images/a.img"),
            ("raw:/dev/vg/a", "/dev/vg/a"),
            ("aio:/a:b", "/a:b"),
            ("/plain", "/plain"),
            ("/with:colon", "/with:colon"),
            ("qcow2:/images/a", "format=qcow2,target=/images/a"),
        ] {
            assert_eq!(of_qemu(params).as_deref(), Ok(path), "{params}");
        }
        let error = of_qemu("vhd:/images/a.vhd").unwrap_err();
        assert_eq!(
            error.to_string(),
            "params \"vhd:/images/a.vhd\": format vhd is not supported, only aio, raw and qcow2 are"
        );
    }
}
