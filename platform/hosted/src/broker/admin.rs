//! What the `ringfence` command asks for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ringfence_core::DomId;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::Broker;
use crate::admin::{AdminError, AdminReply, AdminRequest, DomainInfo};
use ringfence_process::packet::{self, Received};

/// A connection's number.
pub(super) type AdminId = u64;

/// A connection of the command's.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) socket: OwnedFd,
    /// Waits for this domain's process to end for good.
    pub(super) waits_for: Option<DomId>,
}

impl Broker {
    pub(super) fn admin_accept(&mut self) {
        let Ok(socket) = rustix::net::accept_with(&self.control, SocketFlags::CLOEXEC) else {
            return;
        };
        if !self.is_ours(&socket) {
            tracing::warn!("connection of another user refused");
            return;
        }
        self.next_admin += 1;
        self.admins.insert(
            self.next_admin,
            Admin {
                socket,
                waits_for: None,
            },
        );
    }

    /// Whether the other end belongs to our user, or to root.
    pub(super) fn is_ours(&self, socket: &OwnedFd) -> bool {
        rustix::net::sockopt::socket_peercred(socket)
            .is_ok_and(|peer| peer.uid == rustix::process::geteuid() || peer.uid.is_root())
    }

    pub(super) fn admin_readable(&mut self, id: AdminId) {
        let Some(admin) = self.admins.get(&id) else {
            return;
        };
        match packet::recv(admin.socket.as_fd(), RecvFlags::DONTWAIT) {
            Ok(Received::Message(AdminRequest::Statistics { domain }, _)) => {
                match self.look_at_statistics(&domain) {
                    Ok(fd) => self.admin_give(id, &AdminReply::Done, &[fd.as_fd()]),
                    Err(error) => self.admin_answer(id, Err(error)),
                }
            }
            Ok(Received::Message(request, fds)) => match self.admin_perform(id, request, fds) {
                Ok(Some(reply)) => self.admin_answer(id, Ok(reply)),
                Ok(None) => {}
                Err(error) => self.admin_answer(id, Err(error)),
            },
            Ok(Received::Nothing) => {}
            _ => {
                self.admins.remove(&id);
            }
        }
    }

    pub(super) fn admin_answer(&mut self, id: AdminId, answer: Result<AdminReply, AdminError>) {
        let reply = answer.unwrap_or_else(AdminReply::Refused);
        self.admin_give(id, &reply, &[]);
    }

    fn admin_give(&mut self, id: AdminId, reply: &AdminReply, fds: &[BorrowedFd<'_>]) {
        let sent = self
            .admins
            .get(&id)
            .map(|admin| packet::send(admin.socket.as_fd(), reply, fds, SendFlags::DONTWAIT));
        if matches!(sent, Some(Err(_))) {
            self.admins.remove(&id);
        }
    }

    /// `None`: the answer comes later.
    fn admin_perform(
        &mut self,
        id: AdminId,
        request: AdminRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<AdminReply>, AdminError> {
        match request {
            AdminRequest::Create(new) => {
                let streams = <[OwnedFd; 3]>::try_from(fds).map_err(|_| AdminError::NoStreams)?;
                let domid = self.create(new, streams)?.get();
                return Ok(Some(AdminReply::Created { domid }));
            }
            AdminRequest::Start { domain } => {
                let domid = self.find(&domain)?;
                if self
                    .domains
                    .get(&domid.get())
                    .is_some_and(|domain| domain.process.is_some())
                {
                    return Err(AdminError::Running(domain));
                }
                self.start(domid)?;
            }
            AdminRequest::WaitExit { domain } => {
                if let Some(exit) = domain
                    .parse()
                    .ok()
                    .and_then(|domid: u16| self.ended.get(&domid))
                {
                    return Ok(Some(AdminReply::Exited(*exit)));
                }
                let domid = self.find(&domain)?;
                if let Some(admin) = self.admins.get_mut(&id) {
                    admin.waits_for = Some(domid);
                }
                self.tell_of_exit(domid);
                return Ok(None);
            }
            AdminRequest::Destroy { domain } => {
                let domid = self.find(&domain)?;
                self.destroy(domid);
            }
            AdminRequest::Kill { domain, signal } => self.kill(&domain, signal)?,
            AdminRequest::Upgrade { domain, knows } => {
                let program = fds.into_iter().next().ok_or(AdminError::NoStreams)?;
                let domid = self.find(&domain)?;
                return self.upgrade(id, domid, program, knows).map(|()| None);
            }
            AdminRequest::Attach(disk) => return self.attach(id, disk).map(|()| None),
            AdminRequest::Detach { guest, vdev } => {
                return self.detach(id, guest, vdev).map(|()| None);
            }
            AdminRequest::Disks => return Ok(Some(AdminReply::Disks(self.list_disks()))),
            AdminRequest::Domains => {
                let info = |domain: &super::domains::Domain| DomainInfo {
                    domid: domain.domid.get(),
                    name: domain.new.name.clone(),
                    kind: domain.new.kind,
                    pid: domain.process.as_ref().map(|process| process.child.pid()),
                    restarts: domain.restarts.count(),
                };
                return Ok(Some(AdminReply::Domains(
                    self.domains.values().map(info).collect(),
                )));
            }
            AdminRequest::Shutdown => self.stopping = true,
            // Answered before, with a descriptor.
            AdminRequest::Statistics { domain } => {
                return Err(AdminError::NoStatistics(domain));
            }
        }
        Ok(Some(AdminReply::Done))
    }
}
