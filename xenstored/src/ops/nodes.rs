//! Reading, writing and removing nodes.

use std::sync::Arc;

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

use super::{Nodes, OK, Request};
use crate::path::{ancestors, canonicalize, child, split};
use crate::perms::{Caller, NodePerms};
use crate::store::Store;
use crate::transaction::{Change, View};
use crate::tree::Node;

impl Nodes<'_> {
    /// A node that the caller may read.
    pub(super) fn readable(&mut self, path: &str) -> Result<Arc<Node>, Errno> {
        match self.view.get(path)? {
            Some(node) if node.perms.reads(&self.caller) => Ok(node),
            Some(_) => Err(Errno::Acces),
            None => Err(self.missing(path, NodePerms::reads)),
        }
    }

    /// That a node is missing is only for those to know who could do what they want with the nearest one above it.
    pub(super) fn missing(&self, path: &str, may: fn(&NodePerms, &Caller) -> bool) -> Errno {
        let nearest = ancestors(path).find_map(|path| self.view.peek(path));
        if self.caller.is_privileged() || nearest.is_some_and(|node| may(&node.perms, &self.caller))
        {
            Errno::NoEnt
        } else {
            Errno::Acces
        }
    }

    /// Whether a node is within the caller's limit; checked before anything is changed, so that nothing has to be undone
    /// (XSA-414, XSA-415).
    pub(super) fn fits(&self, node: &Node) -> Result<(), Errno> {
        if node.size() >= self.limits.node_size && !weakened!("quota_node_size") {
            return Err(Errno::NoSpc);
        }
        Ok(())
    }

    /// Whether `bytes` more may be kept for `owner`.
    pub(super) fn affords(&self, owner: DomId, bytes: usize) -> Result<(), Errno> {
        if owner == DomId::DOM0 || self.caller.is_privileged() || weakened!("xsa_326_memory") {
            return Ok(());
        }
        let kept = if owner == self.caller.who.domid {
            self.kept
        } else {
            0
        };
        let total = self
            .view
            .owned(owner)
            .bytes
            .saturating_add(kept)
            .saturating_add(bytes as i64);
        if u64::try_from(total).unwrap_or(0) > self.limits.memory_hard {
            return Err(Errno::NoMem);
        }
        Ok(())
    }

    fn replace(&mut self, path: &str, node: &Node, value: &[u8]) -> Result<(), Errno> {
        let mut new = node.clone();
        new.value = value.to_vec();
        self.fits(&new)?;
        self.affords(
            new.perms.owner().domid,
            value.len().saturating_sub(node.value.len()),
        )?;
        self.view.put(path, new);
        Ok(())
    }

    fn create(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        let mut missing = vec![path];
        let mut at = path;
        let (top, parent) = loop {
            let (parent, _) = split(at).ok_or(Errno::Inval)?;
            if let Some(node) = self.view.get(parent)? {
                break (parent, node);
            }
            missing.push(parent);
            at = parent;
        };
        if !parent.perms.writes(&self.caller) {
            return Err(Errno::Acces);
        }
        let perms = parent.perms.inherited_by(&self.caller);
        let owner = perms.owner().domid;
        let owned = self
            .view
            .owned(owner)
            .nodes
            .saturating_add(missing.len() as i64);
        let within = u64::try_from(owned).is_ok_and(|owned| owned <= self.limits.nodes);
        if !within && !weakened!("quota_nodes") {
            return Err(Errno::NoSpc);
        }
        let mut nodes = Vec::with_capacity(missing.len() + 1);
        let mut below: Option<&str> = None;
        for path in &missing {
            let mut node = Node::new(perms.clone());
            match below {
                None => node.value = value.to_vec(),
                Some(name) => drop(node.children.insert(name.into())),
            }
            self.fits(&node)?;
            below = split(path).map(|(_, name)| name);
            nodes.push((*path, node));
        }
        let mut parent = Arc::unwrap_or_clone(parent);
        if let Some(name) = below {
            parent.children.insert(name.into());
        }
        self.fits(&parent)?;
        let bytes = nodes
            .iter()
            .map(|(path, node)| usize::try_from(node.cost(path).bytes).unwrap_or(0))
            .sum();
        self.affords(owner, bytes)?;
        nodes.push((top, parent));
        for (path, node) in nodes.into_iter().rev() {
            self.view.put(path, node);
        }
        Ok(())
    }
}

/// Removes a node and everything below it.
pub(super) fn remove(view: &mut View<'_>, path: &str) -> Result<(), Errno> {
    let (parent_path, name) = split(path).ok_or(Errno::Inval)?;
    // Look at all of it first: a failure on the way would leave half a tree.
    let mut gone = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let Some(node) = view.get(&path)? else {
            continue;
        };
        open.extend(node.children.iter().rev().map(|name| child(&path, name)));
        gone.push((path, node.perms.clone()));
    }
    if let Some(parent) = view.get(parent_path)? {
        let mut parent = Arc::unwrap_or_clone(parent);
        parent.children.remove(name);
        view.put(parent_path, parent);
    }
    for (below, perms) in gone {
        view.remove(&below);
        view.changed(&below, below != path, Some(perms));
    }
    Ok(())
}

impl Store {
    pub(super) fn read(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let path = canonicalize(request.caller.who.domid, request.one()?)?;
        Ok(self.nodes(request).readable(&path)?.value.clone())
    }

    pub(super) fn write(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let (path, value) = request.head()?;
        let (path, value) = (
            canonicalize(request.caller.who.domid, path)?,
            value.to_vec(),
        );
        let mut nodes = self.nodes(request);
        let old = match nodes.view.get(&path)? {
            Some(node) if !node.perms.writes(&nodes.caller) => return Err(Errno::Acces),
            Some(node) => {
                nodes.replace(&path, &node, &value)?;
                Some(node.perms.clone())
            }
            None => {
                nodes.create(&path, &value)?;
                None
            }
        };
        nodes.view.changed(&path, false, old);
        Ok(OK.to_vec())
    }

    pub(super) fn mkdir(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let path = canonicalize(request.caller.who.domid, request.one()?)?;
        let mut nodes = self.nodes(request);
        match nodes.view.get(&path)? {
            Some(node) if !node.perms.writes(&nodes.caller) => return Err(Errno::Acces),
            Some(_) => {}
            None => {
                nodes.create(&path, b"")?;
                nodes.view.changed(&path, false, None);
            }
        }
        Ok(OK.to_vec())
    }

    pub(super) fn rm(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let path = canonicalize(request.caller.who.domid, request.one()?)?;
        let (parent, _) = split(&path).ok_or(Errno::Inval)?;
        let mut nodes = self.nodes(request);
        match nodes.view.get(&path)? {
            Some(node) if !node.perms.writes(&nodes.caller) => Err(Errno::Acces),
            Some(_) => {
                remove(&mut nodes.view, &path)?;
                Ok(OK.to_vec())
            }
            // Removing what is not there is fine, as long as it could have been there.
            None => match nodes.missing(&path, NodePerms::writes) {
                Errno::NoEnt if nodes.view.get(parent)?.is_some() => Ok(OK.to_vec()),
                errno => Err(errno),
            },
        }
    }

    /// Removes every node that `domid` owns, with everything below (XSA-419).
    pub(crate) fn remove_nodes_of(&mut self, domid: DomId, changes: &mut Vec<Change>) {
        for path in self.tree.owned_paths(domid) {
            let mut view = View {
                tree: &mut self.tree,
                tx: None,
                tx_nodes: usize::MAX,
                changes,
            };
            if view.peek(&path).is_none() {
                continue;
            }
            // Without a transaction nothing can fail but the root, which is handed back to dom0 instead.
            if remove(&mut view, &path).is_err()
                && let Some(node) = view.tree.get(&path).cloned()
            {
                let mut node = Arc::unwrap_or_clone(node);
                node.perms = NodePerms::dom0();
                view.put(&path, node);
            }
        }
    }
}
