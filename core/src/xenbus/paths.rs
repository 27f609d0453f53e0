//! Where the two directories of a device are, and what is written there by both ends.

use core::fmt::{self, Write as _};

use crate::ids::DomId;
use crate::store::{Store, StoreError, StoreExt, StorePath, TRANSACTION_RETRIES, Tx};
use crate::wire::xenbus::XenbusState;
use crate::wire::xs_wire::Errno;

use super::Class;

/// `EINVAL`, the number in front of what [`fatal`] writes: readers expect `<errno> <text>`.
const EINVAL: u16 = 22;
const DOMAIN: &str = "/local/domain/";

impl Class {
    /// The directory name of the class.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vif => "vif",
        }
    }
}

/// `/local/domain/<back>/backend/<class>/<front>/<device>`: written by the backend, read by the frontend.
pub fn backend_dir(class: Class, back: DomId, front: DomId, device: u32) -> StorePath {
    typed_backend_dir(class.name(), back, front, device)
}

/// The same for a kind of backend whose directories have another name than their class, such as `qdisk`. Empty if `kind` is
/// longer than any path.
pub fn typed_backend_dir(kind: &str, back: DomId, front: DomId, device: u32) -> StorePath {
    let mut path = StorePath::new();
    // 14 + 5 + 10 + 5 + 1 + 10 bytes of 256, and the kind: what toolstacks use always fits.
    if write!(path, "{DOMAIN}{back}/backend/{kind}/{front}/{device}").is_err() {
        path.clear();
    }
    path
}

/// `/local/domain/<front>/device/<class>/<device>`: written by the frontend, read by the backend.
pub fn frontend_dir(class: Class, front: DomId, device: u32) -> StorePath {
    let mut path = StorePath::new();
    // Shorter than the backend's.
    let _ = write!(path, "{DOMAIN}{front}/device/{}/{device}", class.name());
    path
}

/// The node that says why a device failed: `/local/domain/<domid>/error/<rest of dir>/error`.
///
/// # Errors
/// [`StoreError::Unsendable`] if that is too long.
pub fn error_path(dir: &str) -> Result<StorePath, StoreError> {
    let (home, rest) = dir
        .strip_prefix(DOMAIN)
        .and_then(|below| below.split_once('/'))
        .map_or((None, dir), |(domid, rest)| (Some(domid), rest));
    let mut path = StorePath::new();
    match home {
        Some(domid) => write!(path, "{DOMAIN}{domid}/error/{rest}/error"),
        None => write!(path, "error/{rest}/error"),
    }
    .map_err(|fmt::Error| StoreError::Unsendable {
        len: dir.len().saturating_add(12),
    })?;
    Ok(path)
}

/// Writes `<dir>/state`, alone.
pub fn switch_state<S: Store>(
    store: &mut S,
    dir: &str,
    state: XenbusState,
) -> Result<(), StoreError> {
    store.write_str(Tx::NONE, dir, "state", state.digit())
}

/// Says why the device of `dir` failed in its `error` node (`22 <message>`, cut at 256 bytes). That we may not write it is no
/// failure: not every toolstack makes a place for it.
///
/// # Errors
/// Whatever else the store says.
pub fn report<S: Store>(
    store: &mut S,
    dir: &str,
    message: impl fmt::Display,
) -> Result<(), StoreError> {
    let mut text = Cut(heapless::String::new());
    // `Cut` takes everything.
    let _ = write!(text, "{EINVAL} {message}");
    match error_path(dir).and_then(|path| store.write(Tx::NONE, &path, text.0.as_bytes())) {
        Err(StoreError::Denied) => Ok(()),
        told => told,
    }
}

/// [`report`]s, then writes state 5, also if the `error` node could not be written.
///
/// # Errors
/// What the store said to either.
pub fn fatal<S: Store>(
    store: &mut S,
    dir: &str,
    message: impl fmt::Display,
) -> Result<(), StoreError> {
    let told = report(store, dir, message);
    switch_state(store, dir, XenbusState::Closing)?;
    told
}

/// Removes a device's directory and then, from the inside, as many of the `above` directories above it as are empty and for us
/// to remove. That it is gone already is no failure.
///
/// # Errors
/// What the store said; [`StoreError::Denied`] if this domain may not remove the directory itself.
pub fn erase<S: Store>(store: &mut S, dir: &str, above: usize) -> Result<(), StoreError> {
    let mut result = try_erase(store, dir, above);
    for _ in 1..TRANSACTION_RETRIES {
        match result {
            // A transaction reads each node when it first needs it. When somebody else removes the same directories meanwhile,
            // the daemon finds nodes without parents (EINVAL) or names without nodes (EIO).
            Err(StoreError::Refused(Errno::Inval | Errno::Io)) => {}
            other => return other,
        }
        result = try_erase(store, dir, above);
    }
    result
}

fn try_erase<S: Store>(store: &mut S, dir: &str, above: usize) -> Result<(), StoreError> {
    store.transaction(|store, tx| {
        match store.rm(tx, dir) {
            Ok(()) | Err(StoreError::Missing) => {}
            Err(error) => return Err(error),
        }
        let parents = core::iter::successors(Some(dir), |dir| Some(dir.rsplit_once('/')?.0));
        for parent in parents.skip(1).take(above) {
            let mut names = [0; 512];
            // What has more names than fit is not empty.
            let alone = store.directory(tx, parent, &mut names).map(Iterator::count);
            match alone {
                Ok(0) => {}
                Ok(_) | Err(StoreError::Denied | StoreError::TooLong { .. }) => break,
                Err(StoreError::Missing) => continue,
                Err(error) => return Err(error),
            }
            match store.rm(tx, parent) {
                Ok(()) | Err(StoreError::Missing) => {}
                Err(StoreError::Denied) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

/// Text that ends where its room ends.
struct Cut(heapless::String<256>);

impl fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_a_disk() {
        let (back, front) = (DomId::new(1), DomId::new(7));
        let dir = backend_dir(Class::Vbd, back, front, 51712);
        assert_eq!(dir, "/local/domain/1/backend/vbd/7/51712");
        assert_eq!(
            error_path(&dir).unwrap(),
            "/local/domain/1/error/backend/vbd/7/51712/error"
        );
        let dir = frontend_dir(Class::Vif, front, 0);
        assert_eq!(dir, "/local/domain/7/device/vif/0");
        assert_eq!(
            error_path("device/vif/0").unwrap(),
            "error/device/vif/0/error"
        );
        let long = backend_dir(
            Class::Vbd,
            DomId::new(u16::MAX),
            DomId::new(u16::MAX),
            u32::MAX,
        );
        assert!(long.ends_with("/4294967295"));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut text = Cut(heapless::String::new());
        for _ in 0..200 {
            write!(text, "aé").unwrap();
        }
        assert!(text.0.len() >= 254);
    }
}
