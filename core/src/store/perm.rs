//! Permissions of a node as they travel: `n0`, `r3`, `w4`, `b5`.

use core::fmt::Write as _;

use crate::ids::DomId;

/// What an entry of a permission list allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeAccess {
    /// `n`.
    None,
    /// `r`.
    Read,
    /// `w`.
    Write,
    /// `b`.
    Both,
}

impl NodeAccess {
    /// The letter on the wire.
    pub const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }

    /// Whether reading is allowed.
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether writing is allowed.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// One entry of a node's permission list. In the first entry, `domid` is the owner, who may do everything, and `access` is what
/// everybody not listed may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Perm {
    /// Whom it is about.
    pub domid: DomId,
    /// What they may do.
    pub access: NodeAccess,
}

/// A node's permission list, owner first. The store's quota is 5 entries per node.
pub type Perms = heapless::Vec<Perm, 16>;

impl Perm {
    /// The owner's entry, for the first place of a list: nobody else may do anything unless listed.
    pub const fn owner(domid: DomId) -> Self {
        Self {
            domid,
            access: NodeAccess::None,
        }
    }

    /// An entry that lets `domid` read.
    pub const fn read(domid: DomId) -> Self {
        Self {
            domid,
            access: NodeAccess::Read,
        }
    }

    /// Reads one entry (`r3`), without its NUL. Numbers have no sign and no blank.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (letter, number) = text.split_first()?;
        let access = match letter {
            b'n' => NodeAccess::None,
            b'r' => NodeAccess::Read,
            b'w' => NodeAccess::Write,
            b'b' => NodeAccess::Both,
            _ => return None,
        };
        let domid = super::number::unsigned(number)?;
        Some(Self {
            domid: DomId::new(u16::try_from(domid).ok()?),
            access,
        })
    }

    /// The entry as on the wire, without its NUL.
    pub fn text(self) -> heapless::String<6> {
        let mut out = heapless::String::new();
        // A letter and at most five digits: it always fits.
        let _ = write!(out, "{}{}", self.access.letter(), self.domid);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_round_trip() {
        for text in ["n0", "r3", "w65535", "b12"] {
            assert_eq!(Perm::parse(text.as_bytes()).unwrap().text(), text);
        }
        for text in ["", "r", "x1", "r-1", "r65536", "r1 ", "r+1", "r\0", "R1"] {
            assert_eq!(Perm::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
