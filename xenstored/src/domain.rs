//! What the store knows about a domain.

use std::time::Duration;

use crate::perms::{Identity, Life};

#[derive(Debug)]
pub(crate) struct Domain {
    /// The current life, or the next one while the domain is not introduced.
    pub(crate) life: Life,
    pub(crate) introduced: bool,
    /// It has shut down, and watchers were told.
    pub(crate) shut_down: bool,
    pub(crate) target: Option<Identity>,
    pub(crate) watches: u64,
    pub(crate) watch_bytes: u64,
    pub(crate) transactions: u64,
    pub(crate) tx_bytes: u64,
    /// Commits in a row that met a conflict.
    pub(crate) conflicts: u32,
    /// When the domain may be preferred again.
    pub(crate) next_hold: Duration,
}

impl Domain {
    pub(crate) const fn new(life: Life) -> Self {
        Self {
            life,
            introduced: false,
            shut_down: false,
            target: None,
            watches: 0,
            watch_bytes: 0,
            transactions: 0,
            tx_bytes: 0,
            conflicts: 0,
            next_hold: Duration::ZERO,
        }
    }
}
