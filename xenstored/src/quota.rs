//! What one domain may use. Xen's defaults; dom0 is above them.

/// Limits per domain, where nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Nodes owned.
    pub nodes: u64,
    /// Bytes of one node: value, names of children, permissions.
    pub node_size: usize,
    /// Watches.
    pub watches: u64,
    /// Open transactions.
    pub transactions: u64,
    /// Nodes that one transaction looked at or changed.
    pub transaction_nodes: usize,
    /// Requests whose answer was not read yet; no further request is looked at.
    pub outstanding: usize,
    /// Bytes of an absolute path.
    pub path: usize,
    /// Entries in a node's permission list.
    pub perms: usize,
    /// Bytes of memory from which on the domain is reported.
    pub memory_soft: u64,
    /// Bytes of memory from which on nothing more is kept for the domain.
    pub memory_hard: u64,
    /// Distinct watch events that wait to be read, per connection; above, the events of a watch become one.
    pub events: usize,
}

impl Limits {
    /// Xen's.
    pub const DEFAULT: Self = Self {
        nodes: 1000,
        node_size: 2048,
        watches: 128,
        transactions: 10,
        transaction_nodes: 1024,
        outstanding: 20,
        path: ringfence_core::wire::xs_wire::ABS_PATH_MAX,
        perms: 5,
        memory_soft: 2 * 1024 * 1024,
        memory_hard: 2 * 1024 * 1024 + 512 * 1024,
        events: 1024,
    };

    /// The names that [`set`](Self::set) knows: Xen's own daemon's.
    pub const NAMES: [&str; 8] = [
        "nodes",
        "watches",
        "transactions",
        "outstanding",
        "transaction-nodes",
        "memory",
        "node-size",
        "permissions",
    ];

    /// Sets one quota; `memory` in bytes, of which four fifths are the limit from which on a domain is reported. `false` if none
    /// is called so.
    #[must_use]
    pub fn set(&mut self, name: &str, value: u64) -> bool {
        let size = usize::try_from(value).unwrap_or(usize::MAX);
        match name {
            "nodes" => self.nodes = value,
            "watches" => self.watches = value,
            "transactions" => self.transactions = value,
            "outstanding" => self.outstanding = size,
            "transaction-nodes" => self.transaction_nodes = size,
            "memory" => {
                self.memory_hard = value;
                self.memory_soft = value.saturating_sub(value.div_ceil(5));
            }
            "node-size" => self.node_size = size,
            "permissions" => self.perms = size,
            _ => return false,
        }
        true
    }

    /// Dom0's: only what keeps a tool that stopped reading from filling the memory.
    pub(crate) const DOM0: Self = Self {
        nodes: u64::MAX,
        node_size: usize::MAX,
        watches: u64::MAX,
        transactions: u64::MAX,
        transaction_nodes: usize::MAX,
        outstanding: 1024,
        path: ringfence_core::wire::xs_wire::ABS_PATH_MAX,
        perms: 64,
        memory_soft: u64::MAX,
        memory_hard: u64::MAX,
        events: 65536,
    };
}

/// What a domain uses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Nodes owned.
    pub nodes: u64,
    /// Bytes kept for it: nodes, watches, transactions.
    pub memory: u64,
    /// Watches.
    pub watches: u64,
    /// Open transactions.
    pub transactions: u64,
}

/// Nodes and bytes: owned in the tree, or a transaction's difference to that.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Owned {
    pub(crate) nodes: i64,
    pub(crate) bytes: i64,
}

impl Owned {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.saturating_add(other.nodes),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(crate) const fn minus(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.saturating_sub(other.nodes),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_sets_another_quota() {
        for name in Limits::NAMES {
            let mut limits = Limits::DEFAULT;
            assert!(limits.set(name, 7777), "{name}");
            assert_ne!(limits, Limits::DEFAULT, "{name}");
            for other in Limits::NAMES.into_iter().filter(|other| *other != name) {
                let mut both = limits;
                assert!(both.set(other, 7777), "{other}");
                assert_ne!(both, limits, "{name} and {other} are one");
            }
        }
        assert!(!Limits::DEFAULT.clone().set("events", 1));
    }
}
