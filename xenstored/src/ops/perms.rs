//! Permissions.

use ringfence_core::DomId;
use ringfence_core::store::Perm;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

use super::{OK, Request};
use crate::path::{canonicalize, canonicalize_special};
use crate::perms::{Caller, Life, NodePerms};
use crate::store::Store;

impl Store {
    fn life(&self, domid: DomId) -> Life {
        self.domains
            .get(&domid)
            .map_or(Life::FIRST, |domain| domain.life)
    }

    /// Whether a permission for `domid` is for somebody.
    fn exists(&self, caller: &Caller, domid: DomId) -> bool {
        let told = match &self.witness {
            Some(witness) => witness.exists(domid),
            // Dom0 prepares nodes for domains that it introduces later.
            None => caller.is_privileged(),
        };
        told || domid == caller.who.domid || self.is_introduced(domid)
    }

    pub(super) fn get_perms(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let path = canonicalize(request.caller.who.domid, request.one()?)?;
        let perms = self.nodes(request).readable(&path)?.perms.clone();
        let mut answer = Vec::new();
        for (at, entry) in perms.entries().iter().enumerate() {
            // An entry of an earlier life means nobody.
            if at == 0 || entry.who.life == self.life(entry.who.domid) {
                let perm = Perm {
                    domid: entry.who.domid,
                    access: entry.access,
                };
                answer.extend_from_slice(perm.text().as_bytes());
                answer.push(0);
            }
        }
        Ok(answer)
    }

    pub(super) fn set_perms(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let strings = request.list()?;
        let (path, list) = strings.split_first().ok_or(Errno::Inval)?;
        let caller = request.caller;
        let path = canonicalize_special(caller.who.domid, path)?;
        let list: Vec<_> = list
            .iter()
            .map(|text| Perm::parse(text).ok_or(Errno::Inval))
            .collect::<Result<_, _>>()?;
        if list.len() > self.limits_of(caller.who.domid).perms && !weakened!("quota_perms") {
            return Err(Errno::NoSpc);
        }
        let owner = list.first().ok_or(Errno::Inval)?.domid;
        if self.witness.is_some() && !self.exists(&caller, owner) {
            return Err(Errno::NoEnt);
        }
        let new = NodePerms::from_list(&list, |domid| {
            if domid == caller.who.domid {
                caller.who.life
            } else if self.exists(&caller, domid) || weakened!("xsa_417") {
                self.life(domid)
            } else {
                Life::NEVER
            }
        })?;
        let mut nodes = self.nodes(request);
        let Some(node) = nodes.view.get(&path)? else {
            return Err(nodes.missing(&path, NodePerms::writes));
        };
        if !(node.perms.is_owner(&caller) || (path == "/" && weakened!("xsa_353"))) {
            return Err(Errno::Acces);
        }
        let given = new.owner().domid != node.perms.owner().domid;
        if given && !caller.is_privileged() && !weakened!("xsa_352") {
            return Err(Errno::Perm);
        }
        let mut changed = (*node).clone();
        changed.perms = new;
        nodes.fits(&changed)?;
        let named: Vec<_> = changed
            .perms
            .entries()
            .iter()
            .map(|entry| entry.who)
            .collect();
        nodes.view.put(&path, changed);
        nodes.view.changed(&path, false, Some(node.perms.clone()));
        for who in named.iter().filter(|who| who.life != Life::NEVER) {
            self.domain_mut(who.domid).named = true;
        }
        Ok(OK.to_vec())
    }
}
