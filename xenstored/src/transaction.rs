//! Transactions: what each saw and changed, laid over the tree until it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

use crate::perms::NodePerms;
use crate::quota::Owned;
use crate::tree::{Node, Tree};

/// A change that watchers hear of.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) path: Box<str>,
    /// Only watches on this very node: it went with one above it.
    pub(crate) exact: bool,
    /// Its permissions before, if it existed.
    pub(crate) old: Option<NodePerms>,
}

#[derive(Debug)]
struct Seen {
    /// Generation in the tree at the first look, `None` when there was no such node.
    base: Option<u64>,
    now: Option<Arc<Node>>,
    written: bool,
}

/// An open transaction.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    seen: BTreeMap<Box<str>, Seen>,
    changes: Vec<Change>,
    changed: BTreeSet<(Box<str>, bool)>,
    owned: BTreeMap<DomId, Owned>,
    /// Bytes kept for the transaction itself.
    bytes: i64,
}

impl Transaction {
    pub(crate) fn owned(&self, domid: DomId) -> Owned {
        self.owned.get(&domid).copied().unwrap_or_default()
    }

    pub(crate) const fn bytes(&self) -> i64 {
        self.bytes
    }

    pub(crate) fn has_seen(&self, path: &str) -> bool {
        self.seen.contains_key(path)
    }

    pub(crate) fn written(&self) -> impl Iterator<Item = &str> {
        self.seen
            .iter()
            .filter(|(_, seen)| seen.written)
            .map(|(path, _)| &**path)
    }

    fn count(&mut self, node: &Node, path: &str, change: fn(Owned, Owned) -> Owned) {
        let owned = self.owned.entry(node.perms.owner().domid).or_default();
        *owned = change(*owned, node.cost(path));
    }

    fn is_current(&self, tree: &Tree) -> bool {
        self.seen
            .iter()
            .all(|(path, seen)| tree.get(path).map(|node| node.generation) == seen.base)
    }

    /// Moves everything into the tree, all or nothing, and returns the changes in the order they were made.
    /// `allowed` says whether a domain may own that much.
    pub(crate) fn commit(
        self,
        tree: &mut Tree,
        allowed: impl Fn(DomId, Owned) -> bool,
    ) -> Result<Vec<Change>, Errno> {
        if !self.is_current(tree) && !weakened!("transaction_conflict") {
            return Err(Errno::Again);
        }
        let grown = self.owned.iter().filter(|(_, owned)| owned.nodes > 0);
        for (domid, owned) in grown {
            if !allowed(*domid, tree.owned(*domid).plus(*owned)) {
                return Err(Errno::NoSpc);
            }
        }
        for (path, seen) in self.seen {
            match seen.now {
                _ if !seen.written => {}
                Some(node) => tree.put(&path, Arc::unwrap_or_clone(node)),
                None => tree.remove(&path),
            }
        }
        Ok(self.changes)
    }
}

/// The tree as one request sees it: with its transaction, if it has one, laid over it.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) tx: Option<&'a mut Transaction>,
    /// Nodes that the transaction may see.
    pub(crate) tx_nodes: usize,
    /// Changes made outside a transaction.
    pub(crate) changes: &'a mut Vec<Change>,
}

impl View<'_> {
    /// The node, remembered by the transaction.
    pub(crate) fn get(&mut self, path: &str) -> Result<Option<Arc<Node>>, Errno> {
        let Some(tx) = &mut self.tx else {
            return Ok(self.tree.get(path).cloned());
        };
        if let Some(seen) = tx.seen.get(path) {
            return Ok(seen.now.clone());
        }
        if tx.seen.len() >= self.tx_nodes && !weakened!("xsa_326_transaction_nodes") {
            return Err(Errno::NoSpc);
        }
        let node = self.tree.get(path).cloned();
        tx.bytes = tx.bytes.saturating_add(128 + path.len() as i64);
        let base = node.as_ref().map(|node| node.generation);
        tx.seen.insert(
            path.into(),
            Seen {
                base,
                now: node.clone(),
                written: false,
            },
        );
        Ok(node)
    }

    /// The node, without the transaction's remembering it.
    pub(crate) fn peek(&self, path: &str) -> Option<&Arc<Node>> {
        match self.tx.as_ref().and_then(|tx| tx.seen.get(path)) {
            Some(seen) => seen.now.as_ref(),
            None => self.tree.get(path),
        }
    }

    /// What `domid` owns in this view.
    pub(crate) fn owned(&self, domid: DomId) -> Owned {
        let tx = self
            .tx
            .as_ref()
            .map(|tx| tx.owned(domid))
            .unwrap_or_default();
        self.tree.owned(domid).plus(tx)
    }

    /// Replaces or creates a node that [`get`](Self::get) was asked for before.
    pub(crate) fn put(&mut self, path: &str, node: Node) {
        let Some(tx) = &mut self.tx else {
            self.tree.put(path, node);
            return;
        };
        tx.count(&node, path, Owned::plus);
        tx.bytes = tx.bytes.saturating_add(node.value.len() as i64);
        self.set(path, Some(node));
    }

    /// Removes a node that [`get`](Self::get) was asked for before.
    pub(crate) fn remove(&mut self, path: &str) {
        if self.tx.is_some() {
            self.set(path, None);
        } else {
            self.tree.remove(path);
        }
    }

    fn set(&mut self, path: &str, node: Option<Node>) {
        let base = self.tree.get(path).map(|node| node.generation);
        let Some(tx) = &mut self.tx else {
            return;
        };
        let seen = tx.seen.entry(path.into()).or_insert(Seen {
            base,
            now: None,
            written: false,
        });
        seen.written = true;
        let old = std::mem::replace(&mut seen.now, node.map(Arc::new));
        if let Some(old) = old {
            tx.bytes = tx.bytes.saturating_sub(old.value.len() as i64).max(0);
            if !weakened!("xsa_421") {
                tx.count(&old, path, Owned::minus);
            }
        }
    }

    /// Remembers that watchers are to hear of `path`.
    pub(crate) fn changed(&mut self, path: &str, exact: bool, old: Option<NodePerms>) {
        let change = Change {
            path: path.into(),
            exact,
            old,
        };
        match &mut self.tx {
            None => self.changes.push(change),
            Some(tx) => {
                if tx.changed.insert((change.path.clone(), exact)) {
                    tx.changes.push(change);
                }
            }
        }
    }
}
