//! Whether the tree is one.

use std::collections::BTreeMap;

use ringfence_core::DomId;
use thiserror::Error;

use crate::path::{child, split};
use crate::quota::Owned;
use crate::store::Store;

/// What is wrong with the tree: a defect of ours, never a client's doing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Damage {
    /// A node that its parent does not list.
    #[error("node {path} is not listed by its parent")]
    Orphan {
        /// The node.
        path: String,
    },
    /// A listed child that is not there.
    #[error("child {path} is listed and missing")]
    Dangling {
        /// The child.
        path: String,
    },
    /// A count of owned nodes that is off.
    #[error("domain {domid} owns {found} nodes, not {counted}")]
    Count {
        /// Whose.
        domid: DomId,
        /// Nodes in the tree.
        found: i64,
        /// Nodes on its account.
        counted: i64,
    },
}

impl Store {
    /// Walks all nodes, without recursion, and checks links and counts.
    pub fn check(&self) -> Result<(), Damage> {
        let mut owned = BTreeMap::<DomId, Owned>::new();
        for (path, node) in self.tree.iter() {
            let account = owned.entry(node.perms.owner().domid).or_default();
            *account = account.plus(node.cost(path));
            if let Some((parent, name)) = split(path)
                && !self
                    .tree
                    .get(parent)
                    .is_some_and(|parent| parent.children.contains(name))
            {
                return Err(Damage::Orphan {
                    path: path.to_owned(),
                });
            }
            for name in &node.children {
                let path = child(path, name);
                if self.tree.get(&path).is_none() {
                    return Err(Damage::Dangling { path });
                }
            }
        }
        for domid in self.domains.keys().chain(owned.keys()) {
            let found = owned.get(domid).copied().unwrap_or_default();
            let counted = self.tree.owned(*domid);
            if found != counted {
                return Err(Damage::Count {
                    domid: *domid,
                    found: found.nodes,
                    counted: counted.nodes,
                });
            }
        }
        Ok(())
    }
}
