//! Whoever loses every commit gets one uninterrupted transaction (XSA-206).
//!
//! After [`CONFLICTS`] commits in a row that met a conflict, a domain's next transaction is *held*: for at most [`HOLD`],
//! requests of other guests that would change a node it has seen wait. The next hold of the same domain is at least
//! [`PAUSE`] later, so that nobody can stop the others by arranging conflicts.

use std::time::Duration;

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::{Op, SockMsg};

use crate::connection::ConnId;
use crate::path::{canonicalize, split};
use crate::store::Store;

/// Lost commits in a row that call for a hold.
pub const CONFLICTS: u32 = 3;
/// How long a hold lasts at most.
pub const HOLD: Duration = Duration::from_millis(50);
/// The least time between two holds of one domain.
pub const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    domid: DomId,
    conn: ConnId,
    tx: u32,
    until: Duration,
}

impl Store {
    /// Tells the store what time it is, on any clock that never goes back; ends a hold that lasted long enough.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.hold.is_some_and(|hold| hold.until <= self.now) {
            self.end_hold();
            self.run_waiting();
        }
    }

    /// When to call [`advance`](Self::advance) at the latest; `None` while nothing depends on it.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.hold.map(|hold| hold.until)
    }

    pub(crate) fn transaction_started(&mut self, domid: DomId, conn: ConnId, tx: u32) {
        let now = self.now;
        let domain = self.domain_mut(domid);
        if domain.conflicts < CONFLICTS || domain.next_hold > now || weakened!("xsa_206") {
            return;
        }
        domain.next_hold = now.saturating_add(HOLD).saturating_add(PAUSE);
        if self.hold.is_none() {
            self.hold = Some(Hold {
                domid,
                conn,
                tx,
                until: now.saturating_add(HOLD),
            });
        }
    }

    /// Transaction `tx` of `conn` is over, or `conn` itself when `tx` is `None`.
    pub(crate) fn transaction_over(&mut self, conn: ConnId, tx: Option<u32>) {
        if self
            .hold
            .is_some_and(|hold| hold.conn == conn && tx.is_none_or(|tx| tx == hold.tx))
        {
            self.end_hold();
        }
    }

    fn end_hold(&mut self) {
        self.hold = None;
        self.resume = true;
    }

    /// Whether a request has to wait for the held transaction.
    pub(crate) fn must_wait(&self, conn: ConnId, header: SockMsg, payload: &[u8]) -> bool {
        let Some(hold) = self.hold else {
            return false;
        };
        let (Some(caller), Some(held)) = (self.caller(conn), self.transaction(hold.conn, hold.tx))
        else {
            return false;
        };
        if caller.is_privileged() || caller.who.domid == hold.domid {
            return false;
        }
        if header.op == Op::TRANSACTION_END {
            let own = self.transaction(conn, header.tx_id);
            return payload.first() == Some(&b'T')
                && own.is_some_and(|own| own.written().any(|path| held.has_seen(path)));
        }
        if header.tx_id != 0 || ![Op::WRITE, Op::MKDIR, Op::RM, Op::SET_PERMS].contains(&header.op)
        {
            return false;
        }
        let sent = payload.split(|byte| *byte == 0).next().unwrap_or_default();
        canonicalize(caller.who.domid, sent).is_ok_and(|path| {
            held.has_seen(&path) || split(&path).is_some_and(|(parent, _)| held.has_seen(parent))
        })
    }
}
