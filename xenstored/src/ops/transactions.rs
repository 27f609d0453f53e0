//! Starting and ending transactions.

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

use super::{OK, Request};
use crate::quota::Owned;
use crate::store::Store;
use crate::transaction::Transaction;

impl Store {
    pub(super) fn transaction_start(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        if request.tx_id != 0 {
            return Err(Errno::Busy);
        }
        let domid = request.caller.who.domid;
        let limit = self.limits_of(domid).transactions;
        let open = self.domain_mut(domid).transactions;
        if open >= limit && !weakened!("quota_transactions") {
            return Err(Errno::NoSpc);
        }
        let connection = self.conns.get_mut(&request.conn).ok_or(Errno::Inval)?;
        let mut id = connection.next_tx;
        while id == 0 || connection.transactions.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        connection.next_tx = id.wrapping_add(1);
        connection.transactions.insert(id, Transaction::default());
        self.domain_mut(domid).transactions = open.saturating_add(1);
        self.transaction_started(domid, request.conn, id);
        Ok(format!("{id}\0").into_bytes())
    }

    pub(super) fn transaction_end(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let commit = match request.one()? {
            b"T" => true,
            b"F" => false,
            _ => return Err(Errno::Inval),
        };
        let connection = self.conns.get_mut(&request.conn).ok_or(Errno::Inval)?;
        let tx = connection
            .transactions
            .remove(&request.tx_id)
            .ok_or(Errno::NoEnt)?;
        let domain = self.domain_mut(request.caller.who.domid);
        domain.transactions = domain.transactions.saturating_sub(1);
        domain.tx_bytes = domain
            .tx_bytes
            .saturating_sub(u64::try_from(tx.bytes()).unwrap_or(0));
        self.transaction_over(request.conn, Some(request.tx_id));
        if !commit {
            return Ok(OK.to_vec());
        }
        let (privileged, nodes) = (request.caller.is_privileged(), self.limits.nodes);
        let allowed = |domid: DomId, owned: Owned| {
            privileged
                || domid == DomId::DOM0
                || u64::try_from(owned.nodes).is_ok_and(|owned| owned <= nodes)
        };
        let committed = tx.commit(&mut self.tree, allowed);
        let domain = self.domain_mut(request.caller.who.domid);
        match committed {
            Ok(changes) => {
                domain.conflicts = 0;
                request.changes = changes;
                Ok(OK.to_vec())
            }
            Err(errno) => {
                if errno == Errno::Again {
                    domain.conflicts = domain.conflicts.saturating_add(1);
                }
                Err(errno)
            }
        }
    }
}
