//! Paths as clients send them, and as the tree keeps them.

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::{ABS_PATH_MAX, Errno, REL_PATH_MAX};

/// The special node that changes whenever a domain is introduced.
pub(crate) const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// The special node that changes whenever a domain is released.
pub(crate) const RELEASE_DOMAIN: &str = "@releaseDomain";

/// `/local/domain/<domid>`.
pub(crate) fn home(domid: DomId) -> String {
    format!("/local/domain/{domid}")
}

/// The absolute form of a path that `domid` sent, checked.
///
/// The length is checked both as sent and after the home was put before it: a node whose path is longer than the limit could
/// be read by nobody (XSA-323).
pub(crate) fn canonicalize(domid: DomId, sent: &[u8]) -> Result<String, Errno> {
    let sent = std::str::from_utf8(sent).map_err(|_| Errno::Inval)?;
    let path = match sent.as_bytes().first() {
        // No name of a node begins so, not even a relative one.
        None | Some(b'@') => return Err(Errno::Inval),
        Some(b'/') => sent.to_owned(),
        Some(_) if sent.len() > REL_PATH_MAX => return Err(Errno::Inval),
        Some(_) => format!("{}/{sent}", home(domid)),
    };
    if path.len() > ABS_PATH_MAX && !weakened!("xsa_323") {
        return Err(Errno::Inval);
    }
    let valid =
        path.bytes().all(is_valid) && !path.contains("//") && (path == "/" || !path.ends_with('/'));
    if valid { Ok(path) } else { Err(Errno::Inval) }
}

/// Like [`canonicalize`], and special names as well, which only watches and permissions know. Not all of them are nodes: a
/// client may watch one that a later store would have.
pub(crate) fn canonicalize_special(domid: DomId, sent: &[u8]) -> Result<String, Errno> {
    let Some((b'@', name)) = sent.split_first() else {
        return canonicalize(domid, sent);
    };
    let valid = sent.len() <= REL_PATH_MAX && name.iter().all(|byte| is_valid(*byte));
    match std::str::from_utf8(sent) {
        Ok(sent) if valid => Ok(sent.to_owned()),
        _ => Err(Errno::Inval),
    }
}

fn is_valid(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte)
}

/// The parent of an absolute path and the last component; `None` for `/` and for special nodes.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    if path == "/" {
        return None;
    }
    let (parent, name) = path.rsplit_once('/')?;
    Some((if parent.is_empty() { "/" } else { parent }, name))
}

/// The path itself, its parent, and so on up to `/`.
pub(crate) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| split(path).map(|(parent, _)| parent))
}

/// `<parent>/<name>`.
pub(crate) fn child(parent: &str, name: &str) -> String {
    if parent == "/" {
        format!("/{name}")
    } else {
        format!("{parent}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked_in_both_forms() {
        let dom = DomId::new(7);
        assert_eq!(
            canonicalize(dom, b"data/x").unwrap(),
            "/local/domain/7/data/x"
        );
        assert_eq!(canonicalize(dom, b"/").unwrap(), "/");
        for bad in [
            &b""[..],
            b"/a//b",
            b"/a/",
            b"a/",
            b"/a b",
            b"/a\x80",
            b"/a\0",
        ] {
            assert_eq!(canonicalize(dom, bad), Err(Errno::Inval), "{bad:?}");
        }
        let path = |len: usize| format!("/{}", "x".repeat(len - 1));
        assert!(canonicalize(dom, path(3072).as_bytes()).is_ok());
        assert!(canonicalize(dom, path(3073).as_bytes()).is_err());
        assert!(canonicalize(dom, "x".repeat(2048).as_bytes()).is_ok());
        assert!(canonicalize(dom, "x".repeat(2049).as_bytes()).is_err());
        assert_eq!(
            canonicalize_special(dom, b"@releaseDomain").unwrap(),
            RELEASE_DOMAIN
        );
        assert_eq!(canonicalize_special(dom, b"@other").unwrap(), "@other");
        assert_eq!(canonicalize_special(dom, b"@a b"), Err(Errno::Inval));
        assert_eq!(canonicalize(dom, b"@releaseDomain"), Err(Errno::Inval));
        assert_eq!(canonicalize(dom, b"a@b").unwrap(), "/local/domain/7/a@b");
    }

    #[test]
    fn ancestors_end_at_the_root() {
        assert_eq!(ancestors("/a/b").collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(ancestors("@x").collect::<Vec<_>>(), ["@x"]);
        assert_eq!(child("/", "a"), "/a");
        assert_eq!(child("/a", "b"), "/a/b");
    }
}
