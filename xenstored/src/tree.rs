//! The nodes: a flat map by path, so that nothing recurses (XSA-418), and the only place where ownership is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringfence_core::DomId;

use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use crate::perms::NodePerms;
use crate::quota::Owned;

/// What the size limit takes off for every node, so that clients meet it where Xen's daemon has it.
const HEADER: usize = 24;

/// A node without its path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub(crate) value: Vec<u8>,
    pub(crate) perms: NodePerms,
    pub(crate) children: BTreeSet<Box<str>>,
    /// Of the last change of value, permissions or children; never the same twice in a store's life.
    pub(crate) generation: u64,
}

impl Node {
    pub(crate) const fn new(perms: NodePerms) -> Self {
        Self {
            value: Vec::new(),
            perms,
            children: BTreeSet::new(),
            generation: 0,
        }
    }

    /// Bytes that the size limit looks at.
    pub(crate) fn size(&self) -> usize {
        let names: usize = self.children.iter().map(|name| name.len() + 1).sum();
        HEADER + self.value.len() + names + 8 * self.perms.entries().len()
    }

    /// What the node costs its owner.
    pub(crate) fn cost(&self, path: &str) -> Owned {
        let bytes = 64 + path.len() + self.value.len() + 16 * self.perms.entries().len();
        Owned {
            nodes: 1,
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }
    }
}

/// All nodes that are not in a transaction.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: BTreeMap<Box<str>, Arc<Node>>,
    owned: BTreeMap<DomId, Owned>,
    generation: u64,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            owned: BTreeMap::new(),
            generation: 0,
        };
        for path in ["/", INTRODUCE_DOMAIN, RELEASE_DOMAIN] {
            tree.put(path, Node::new(NodePerms::dom0()));
        }
        tree
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    pub(crate) fn put(&mut self, path: &str, mut node: Node) {
        self.generation = self.generation.saturating_add(1);
        node.generation = self.generation;
        self.count(&node, path, Owned::plus);
        if let Some(old) = self.nodes.insert(path.into(), Arc::new(node)) {
            self.count(&old, path, Owned::minus);
        }
    }

    pub(crate) fn remove(&mut self, path: &str) {
        if let Some(old) = self.nodes.remove(path) {
            self.count(&old, path, Owned::minus);
        }
    }

    fn count(&mut self, node: &Node, path: &str, change: fn(Owned, Owned) -> Owned) {
        let owner = node.perms.owner().domid;
        let owned = self.owned.entry(owner).or_default();
        *owned = change(*owned, node.cost(path));
        if *owned == Owned::default() {
            self.owned.remove(&owner);
        }
    }

    pub(crate) fn owned(&self, domid: DomId) -> Owned {
        self.owned.get(&domid).copied().unwrap_or_default()
    }

    /// The paths of all nodes that `domid` owns.
    pub(crate) fn owned_paths(&self, domid: DomId) -> Vec<Box<str>> {
        if !self.owned.contains_key(&domid) {
            return Vec::new();
        }
        let owned = self
            .nodes
            .iter()
            .filter(|(_, node)| node.perms.owner().domid == domid);
        owned.map(|(path, _)| path.clone()).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (&**path, &**node))
    }
}
