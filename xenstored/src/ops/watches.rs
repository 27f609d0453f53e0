//! Registering watches and taking them back. Transaction ids are ignored here (XSA-115).

use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

use super::{OK, Request};
use crate::path::{canonicalize_special, home};
use crate::store::Store;
use crate::watch::Watch;

impl Store {
    pub(super) fn watch(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let [sent, token] = request.strings()?;
        let domid = request.caller.who.domid;
        let path = canonicalize_special(domid, sent)?;
        if self.watches.find(request.conn, &path, token).is_some() {
            return Err(Errno::Exist);
        }
        let limits = self.limits_of(domid);
        let usage = self.usage(domid);
        if usage.watches >= limits.watches && !weakened!("quota_watches") {
            return Err(Errno::TooBig);
        }
        let relative = !matches!(sent.first(), Some(b'/' | b'@'));
        let watch = Watch {
            conn: request.conn,
            path: path.into(),
            token: token.into(),
            prefix: relative.then(|| format!("{}/", home(domid)).into()),
        };
        if usage.memory.saturating_add(watch.bytes()) > limits.memory_hard {
            return Err(Errno::NoMem);
        }
        let domain = self.domain_mut(domid);
        domain.watches = domain.watches.saturating_add(1);
        domain.watch_bytes = domain.watch_bytes.saturating_add(watch.bytes());
        request.registered = Some(self.watches.add(watch));
        Ok(OK.to_vec())
    }

    pub(super) fn unwatch(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let [path, token] = request.strings()?;
        let domid = request.caller.who.domid;
        let path = canonicalize_special(domid, path)?;
        let id = self
            .watches
            .find(request.conn, &path, token)
            .ok_or(Errno::NoEnt)?;
        let watch = self.watches.remove(id).ok_or(Errno::NoEnt)?;
        if let Some(connection) = self.conns.get_mut(&request.conn) {
            connection.out.forget(id);
        }
        let domain = self.domain_mut(domid);
        domain.watches = domain.watches.saturating_sub(1);
        domain.watch_bytes = domain.watch_bytes.saturating_sub(watch.bytes());
        Ok(OK.to_vec())
    }

    pub(super) fn reset_watches(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        self.reset(request.conn);
        Ok(OK.to_vec())
    }
}
