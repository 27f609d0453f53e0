//! Watches: who wants to hear of what.

use std::collections::{BTreeMap, BTreeSet};

use crate::connection::ConnId;
use crate::path::ancestors;

/// A watch's number, never used again.
pub(crate) type WatchId = u64;

/// What a client calls a watch by: path and token.
type Name = (ConnId, Box<str>, Box<[u8]>);

#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) conn: ConnId,
    pub(crate) path: Box<str>,
    pub(crate) token: Box<[u8]>,
    /// What to take off the front of reported paths: the watch was registered with a relative one.
    pub(crate) prefix: Option<Box<str>>,
}

impl Watch {
    /// The path as the watcher knows it.
    pub(crate) fn report<'p>(&self, path: &'p str) -> &'p str {
        let relative = self
            .prefix
            .as_deref()
            .and_then(|prefix| path.strip_prefix(prefix));
        relative.unwrap_or(path)
    }

    pub(crate) fn bytes(&self) -> u64 {
        (64 + self.path.len() + self.token.len()) as u64
    }
}

/// All watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    by_id: BTreeMap<WatchId, Watch>,
    by_path: BTreeMap<Box<str>, BTreeSet<WatchId>>,
    by_conn: BTreeMap<ConnId, BTreeSet<WatchId>>,
    by_name: BTreeMap<Name, WatchId>,
    next: WatchId,
}

impl Watches {
    pub(crate) fn find(&self, conn: ConnId, path: &str, token: &[u8]) -> Option<WatchId> {
        self.by_name
            .get(&(conn, path.into(), token.into()))
            .copied()
    }

    pub(crate) fn add(&mut self, watch: Watch) -> WatchId {
        let id = self.next;
        self.next = self.next.saturating_add(1);
        self.by_path
            .entry(watch.path.clone())
            .or_default()
            .insert(id);
        self.by_conn.entry(watch.conn).or_default().insert(id);
        self.by_name
            .insert((watch.conn, watch.path.clone(), watch.token.clone()), id);
        self.by_id.insert(id, watch);
        id
    }

    pub(crate) fn get(&self, id: WatchId) -> Option<&Watch> {
        self.by_id.get(&id)
    }

    pub(crate) fn remove(&mut self, id: WatchId) -> Option<Watch> {
        let watch = self.by_id.remove(&id)?;
        self.by_name
            .remove(&(watch.conn, watch.path.clone(), watch.token.clone()));
        if let Some(ids) = self.by_path.get_mut(&watch.path) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_path.remove(&watch.path);
            }
        }
        if let Some(ids) = self.by_conn.get_mut(&watch.conn) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_conn.remove(&watch.conn);
            }
        }
        Some(watch)
    }

    pub(crate) fn of(&self, conn: ConnId) -> impl Iterator<Item = &Watch> {
        let ids = self.by_conn.get(&conn).into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id))
    }

    /// Takes all watches of a connection away, wherever they are indexed (XSA-330).
    pub(crate) fn remove_all(&mut self, conn: ConnId) -> Vec<WatchId> {
        let ids: Vec<_> = self
            .by_conn
            .get(&conn)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for id in &ids {
            self.remove(*id);
        }
        ids
    }

    /// The watches that a change of `path` concerns, in the order of registration.
    pub(crate) fn matching(&self, path: &str, exact: bool) -> BTreeSet<WatchId> {
        let depth = if exact { 1 } else { usize::MAX };
        ancestors(path)
            .take(depth)
            .filter_map(|path| self.by_path.get(path))
            .flatten()
            .copied()
            .collect()
    }
}
