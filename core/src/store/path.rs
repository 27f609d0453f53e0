//! Building paths without an allocator.

use core::fmt::Write as _;

use super::error::StoreError;
use super::queue::EVENT_PATH_MAX;
use crate::ids::DomId;

/// A path of a driver's. The wire allows 3072 bytes; those that drivers build are far shorter.
pub type StorePath = heapless::String<EVENT_PATH_MAX>;

/// `<dir>/<name>`; just `dir` when `name` is empty.
pub fn join(dir: &str, name: &str) -> Result<StorePath, StoreError> {
    let long = || StoreError::Unsendable {
        len: dir.len().saturating_add(name.len()).saturating_add(1),
    };
    let mut path = StorePath::new();
    path.push_str(dir).map_err(|_| long())?;
    if !name.is_empty() {
        if !dir.ends_with('/') {
            path.push('/').map_err(|_| long())?;
        }
        path.push_str(name).map_err(|_| long())?;
    }
    Ok(path)
}

/// `/local/domain/<domid>`, the home of a domain.
pub fn domain_path(domid: DomId) -> StorePath {
    let mut path = StorePath::new();
    // 14 bytes and five digits: it always fits.
    let _ = write!(path, "/local/domain/{domid}");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_with_exactly_one_slash() {
        assert_eq!(join("/a/b", "c").unwrap(), "/a/b/c");
        assert_eq!(join("/", "c").unwrap(), "/c");
        assert_eq!(join("/a", "").unwrap(), "/a");
        assert_eq!(domain_path(DomId::new(65535)), "/local/domain/65535");
        let long = [b'x'; EVENT_PATH_MAX];
        let long = core::str::from_utf8(&long).unwrap();
        assert_eq!(
            join(long, "y"),
            Err(StoreError::Unsendable {
                len: EVENT_PATH_MAX + 2
            })
        );
    }
}
