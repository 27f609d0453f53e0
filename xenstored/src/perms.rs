//! Who may do what to a node.

use std::sync::Arc;

use ringfence_core::DomId;
use ringfence_core::store::{NodeAccess, Perm};
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

/// Which life of a domid: raised at each release, so that a permission set for one life never serves the next (XSA-322).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Life(u64);

impl Life {
    /// The first life of every domid.
    pub(crate) const FIRST: Self = Self(0);
    /// The life of nobody: an entry for a domain that did not exist when a guest wrote it (XSA-417).
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// The life after this.
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A domain in one of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// Its number.
    pub(crate) domid: DomId,
    /// Which of those that had the number.
    pub(crate) life: Life,
}

impl Identity {
    fn is(self, other: Self) -> bool {
        let any_life = weakened!("xsa_322") && other.life != Life::NEVER;
        self.domid == other.domid && (self.life == other.life || any_life)
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    /// The domain at the other end of the connection.
    pub(crate) who: Identity,
    /// The domain it may act for (`XS_SET_TARGET`).
    pub(crate) target: Option<Identity>,
}

impl Caller {
    /// Only dom0 is above permissions and quotas.
    pub(crate) fn is_privileged(&self) -> bool {
        self.who.domid == DomId::DOM0
    }

    fn is(&self, other: Identity) -> bool {
        self.who.is(other) || self.target.is_some_and(|target| target.is(other))
    }
}

/// One entry of a node's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Whom it is about.
    pub(crate) who: Identity,
    /// What they may do.
    pub(crate) access: NodeAccess,
}

/// A node's permissions: never empty, owner first. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodePerms(Arc<[Entry]>);

impl NodePerms {
    /// Of the nodes that the store itself makes: dom0's, and nobody else's.
    pub(crate) fn dom0() -> Self {
        let who = Identity {
            domid: DomId::DOM0,
            life: Life::FIRST,
        };
        Self(Arc::new([Entry {
            who,
            access: NodeAccess::None,
        }]))
    }

    /// Of a list that was received, each domid in the life that `life` gives it.
    pub(crate) fn from_list(list: &[Perm], life: impl Fn(DomId) -> Life) -> Result<Self, Errno> {
        if list.is_empty() || list.iter().any(|perm| perm.domid >= DomId::FIRST_RESERVED) {
            return Err(Errno::Inval);
        }
        let entry = |perm: &Perm| Entry {
            who: Identity {
                domid: perm.domid,
                life: life(perm.domid),
            },
            access: perm.access,
        };
        Ok(Self(list.iter().map(entry).collect()))
    }

    /// Of a new node below one with these: the same, owned by whoever makes it unless that is dom0.
    #[must_use]
    pub(crate) fn inherited_by(&self, caller: &Caller) -> Self {
        if caller.is_privileged() {
            return self.clone();
        }
        let own = |(at, entry): (usize, &Entry)| Entry {
            who: if at == 0 { caller.who } else { entry.who },
            ..*entry
        };
        Self(self.0.iter().enumerate().map(own).collect())
    }

    /// The entries, owner first.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The owner.
    pub(crate) fn owner(&self) -> Identity {
        self.0.first().map_or(
            Identity {
                domid: DomId::DOM0,
                life: Life::FIRST,
            },
            |entry| entry.who,
        )
    }

    /// Whether `caller` owns the node, or is above that.
    pub(crate) fn is_owner(&self, caller: &Caller) -> bool {
        caller.is_privileged() || caller.is(self.owner())
    }

    fn access(&self, caller: &Caller) -> NodeAccess {
        if self.is_owner(caller) {
            return NodeAccess::Both;
        }
        let Some((owner, others)) = self.0.split_first() else {
            return NodeAccess::None;
        };
        others
            .iter()
            .find(|entry| caller.is(entry.who))
            .unwrap_or(owner)
            .access
    }

    /// Whether `caller` may read the node.
    pub(crate) fn reads(&self, caller: &Caller) -> bool {
        self.access(caller).reads()
    }

    /// Whether `caller` may write the node.
    pub(crate) fn writes(&self, caller: &Caller) -> bool {
        self.access(caller).writes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(domid: u16, life: Life) -> Caller {
        Caller {
            who: Identity {
                domid: DomId::new(domid),
                life,
            },
            target: None,
        }
    }

    fn perms(text: &[&str]) -> NodePerms {
        let list: Vec<_> = text
            .iter()
            .map(|text| Perm::parse(text.as_bytes()).unwrap())
            .collect();
        NodePerms::from_list(&list, |_| Life::FIRST).unwrap()
    }

    #[test]
    fn the_owner_may_everything_and_the_first_letter_is_for_the_rest() {
        let perms = perms(&["r1", "n2", "b3"]);
        let may = |domid| {
            (
                perms.reads(&caller(domid, Life::FIRST)),
                perms.writes(&caller(domid, Life::FIRST)),
            )
        };
        assert_eq!(may(0), (true, true));
        assert_eq!(may(1), (true, true));
        assert_eq!(may(2), (false, false));
        assert_eq!(may(3), (true, true));
        assert_eq!(may(4), (true, false));
    }

    #[test]
    fn a_target_lends_its_rights() {
        let perms = perms(&["n5", "r6"]);
        let mut stubdom = caller(9, Life::FIRST);
        assert!(!perms.reads(&stubdom));
        stubdom.target = Some(Identity {
            domid: DomId::new(5),
            life: Life::FIRST,
        });
        assert!(perms.is_owner(&stubdom));
    }

    #[test]
    fn lists_that_name_nobody_are_refused() {
        assert!(NodePerms::from_list(&[], |_| Life::FIRST).is_err());
        for domid in [0x7FF0, 32767, 65535] {
            let list = [Perm::owner(DomId::new(domid))];
            assert!(
                NodePerms::from_list(&list, |_| Life::FIRST).is_err(),
                "{domid}"
            );
        }
    }
}
