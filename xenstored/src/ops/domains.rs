//! Domains: those who may tell are dom0.

use ringfence_core::DomId;
use ringfence_core::store::number;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::Errno;

use super::{OK, Request, domid};
use crate::path::home;
use crate::perms::Identity;
use crate::store::{Effect, Store};

impl Store {
    pub(super) fn introduce_request(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        request.dom0_only()?;
        let [target, frame, port] = request.strings()?;
        let target = domid(target)?;
        let frame = number::unsigned(frame).ok_or(Errno::Inval)?;
        let port = number::unsigned(port)
            .and_then(|port| u32::try_from(port).ok())
            .ok_or(Errno::Inval)?;
        if self.asks {
            let connection = self.conns.get_mut(&request.conn).ok_or(Errno::Inval)?;
            connection.introducing = Some((request.header, target));
            self.effects.push_back(Effect::Introducing {
                conn: request.conn,
                domid: target,
                frame,
                port,
            });
            // The answer is `admit`'s.
            return Ok(Vec::new());
        }
        // Again for a known domain means: its ring or port is another one now.
        self.introduce(target);
        self.effects.push_back(Effect::Introduced {
            domid: target,
            frame,
            port,
        });
        Ok(OK.to_vec())
    }

    pub(super) fn release_request(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        request.dom0_only()?;
        let target = domid(request.one()?)?;
        if target == DomId::DOM0 {
            return Err(Errno::Inval);
        }
        if !self.is_introduced(target) {
            return Err(Errno::NoEnt);
        }
        self.release(target);
        self.effects.push_back(Effect::Released { domid: target });
        Ok(OK.to_vec())
    }

    pub(super) fn resume_request(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        request.dom0_only()?;
        let target = domid(request.one()?)?;
        if !self.is_introduced(target) {
            return Err(Errno::NoEnt);
        }
        self.domain_mut(target).shut_down = false;
        Ok(OK.to_vec())
    }

    pub(super) fn set_target(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        request.dom0_only()?;
        let [stubdom, target] = request.strings()?;
        let (stubdom, target) = (domid(stubdom)?, domid(target)?);
        if target == DomId::DOM0 || stubdom == target {
            return Err(Errno::Inval);
        }
        if !self.is_introduced(stubdom) || !self.is_introduced(target) {
            return Err(Errno::NoEnt);
        }
        let life = self.domain_mut(target).life;
        self.domain_mut(stubdom).target = Some(Identity {
            domid: target,
            life,
        });
        Ok(OK.to_vec())
    }

    pub(super) fn get_domain_path(&self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let target = domid(request.one()?)?;
        Ok(format!("{}\0", home(target)).into_bytes())
    }

    pub(super) fn is_domain_introduced(&self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        if !weakened!("xsa_115_introduced") {
            request.dom0_only()?;
        }
        let target = domid(request.one()?)?;
        Ok(if self.is_introduced(target) {
            b"T\0".to_vec()
        } else {
            b"F\0".to_vec()
        })
    }
}
