//! `XS_CONTROL`: what `xenstore-control` asks.

use ringfence_core::wire::xs_wire::Errno;

use super::{OK, Request, domid};
use crate::store::Store;

impl Store {
    pub(super) fn control(&self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        request.dom0_only()?;
        let arguments = request.list()?;
        match *arguments.as_slice() {
            [b"check"] => self.check().map(|()| OK.to_vec()).map_err(|_| Errno::Io),
            // Asks for a line in the daemon's log; there is none here.
            [b"print", ..] => Ok(OK.to_vec()),
            [b"help"] => Ok(b"check\nhelp\nprint <text>\nquota [<domid>]\n\0".to_vec()),
            [b"quota"] => Ok(self.quota_text().into_bytes()),
            [b"quota", number] => {
                let usage = self.usage(domid(number)?);
                Ok(format!(
                    "nodes {}\nwatches {}\ntransactions {}\nmemory {}\n\0",
                    usage.nodes, usage.watches, usage.transactions, usage.memory
                )
                .into_bytes())
            }
            _ => Err(Errno::Inval),
        }
    }

    fn quota_text(&self) -> String {
        let limits = &self.limits;
        format!(
            "nodes {}\nnode-size {}\nwatches {}\ntransactions {}\ntransaction-nodes {}\noutstanding {}\npath-max {}\n\
             node-permissions {}\nmemory {} soft, {} hard\n\0",
            limits.nodes,
            limits.node_size,
            limits.watches,
            limits.transactions,
            limits.transaction_nodes,
            limits.outstanding,
            limits.path,
            limits.perms,
            limits.memory_soft,
            limits.memory_hard
        )
    }
}
