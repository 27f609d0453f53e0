//! Going on with another program while guests stay connected.

use std::os::fd::OwnedFd;
use std::time::Instant;

use ringfence_core::DomId;
use ringfence_process::records::{self, Stamp};

use super::Broker;
use super::admin::AdminId;
use super::domains::Domain;
use crate::admin::AdminError;
use crate::control::DomainKind;

/// An upgrade under way.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// Who waits for its end.
    pub(super) asked_by: AdminId,
    /// What comes next, until the present process has ended.
    program: Option<OwnedFd>,
}

impl Domain {
    /// The process ended: takes the next program if one is to follow. Says so.
    pub(super) fn upgraded(&mut self) -> bool {
        let next = self.upgrade.as_mut().and_then(|it| it.program.take());
        let follows = next.is_some();
        if follows {
            self.program = next;
        }
        follows
    }
}

impl Broker {
    /// Asks the present process to finish; the next one runs `program`. Whoever asked is answered when it was started.
    pub(super) fn upgrade(
        &mut self,
        id: AdminId,
        domid: DomId,
        program: OwnedFd,
        knows: Stamp,
    ) -> Result<(), AdminError> {
        if self.stopping {
            return Err(AdminError::ShuttingDown);
        }
        let Some(domain) = self.domains.get_mut(&domid.get()) else {
            return Err(AdminError::NoDomain(domid.to_string()));
        };
        let name = domain.new.name.clone();
        if domain.new.kind != DomainKind::DriverDomain {
            return Err(AdminError::NotADriverDomain(name));
        }
        if domain.upgrade.is_some() {
            return Err(AdminError::Upgrading(name));
        }
        // Before anything is done: a program that does not understand what the present process leaves could only end its disks.
        let own = self.disks.iter().filter(|(_, disk)| disk.backend == domid);
        for (backend_path, _) in own {
            let stamp = self.records.stamp(backend_path).unwrap_or_default();
            if !records::is_known(stamp, knows) {
                return Err(AdminError::UnknownRecord {
                    name,
                    backend_path: backend_path.clone(),
                    version: stamp[1],
                });
            }
        }
        domain.upgrade = Some(Upgrade {
            asked_by: id,
            program: Some(program),
        });
        match &domain.process {
            // Fails only if it has ended meanwhile.
            Some(process) => drop(process.child.signal(libc::SIGTERM)),
            None => {
                domain.upgraded();
                domain.restarts.follow(Instant::now());
            }
        }
        Ok(())
    }

    /// The process was asked to end, and not for another program: an upgrade that is under way is none any more.
    pub(super) fn follow_with_nothing(&mut self, domid: DomId) {
        let Some(domain) = self.domains.get_mut(&domid.get()) else {
            return;
        };
        if let Some(upgrade) = domain.upgrade.take() {
            let ending = AdminError::Ending(domain.new.name.clone());
            self.admin_answer(upgrade.asked_by, Err(ending));
        }
    }

    /// Answers who asked for an upgrade, if a process was started for one.
    pub(super) fn tell_of_upgrade(&mut self, domid: DomId, started: &Result<(), AdminError>) {
        let domain = self.domains.get_mut(&domid.get());
        if let Some(upgrade) = domain.and_then(|domain| domain.upgrade.take()) {
            let answer = started.clone().map(|()| crate::admin::AdminReply::Done);
            self.admin_answer(upgrade.asked_by, answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use ringfence_process::ImageSpec;
    use ringfence_process::packet::{self, Received};
    use ringfence_process::restart::RestartPolicy;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

    use super::super::admin::Admin;
    use super::*;
    use crate::admin::{AdminReply, NewDisk, NewDomain};
    use crate::rundir::RunDir;

    fn open(path: &str) -> OwnedFd {
        File::open(path).expect(path).into()
    }

    fn sleeper(broker: &mut Broker, name: &str, kind: DomainKind) -> DomId {
        let new = NewDomain {
            name: name.into(),
            kind,
            argv: vec!["1000".into()],
            env: Vec::new(),
            restart: RestartPolicy::Never,
            destroy_on_exit: false,
        };
        let streams = [(); 3].map(|()| open("/dev/null"));
        broker.create(new, streams).expect("a domain")
    }

    #[test]
    fn a_program_that_does_not_know_the_records_changes_nothing() {
        let dir = tempfile::TempDir::with_prefix("ringfence-upgrade-").expect("a directory");
        let image = dir.path().join("image");
        std::fs::write(&image, [0; 512]).expect("an image");
        let run_dir = RunDir::resolve(Some(&dir.path().join("run"))).expect("a place");
        let mut broker = Broker::with_program(run_dir, "/bin/sleep".into()).expect("a broker");
        let blk0 = sleeper(&mut broker, "blk0", DomainKind::DriverDomain);
        let guest = sleeper(&mut broker, "g1", DomainKind::Guest);
        let disk = NewDisk {
            guest: "g1".into(),
            backend: "blk0".into(),
            image: ImageSpec::raw(&image, false),
            vdev: 51712,
            dev: "xvda".into(),
            cdrom: false,
            discard: true,
        };
        broker.attach(1, disk).expect("a disk");
        let path = broker.disks.keys().next().expect("it").clone();
        let record = broker.records.get(&path, 4096).expect("a record");
        let found: Stamp = [3, 9];
        for (at, word) in [(0, found[0]), (8, found[1])] {
            rustix::io::pwrite(&record, &word.to_ne_bytes(), at).expect("written");
        }
        let program = || open("/bin/true");

        let refused = broker
            .upgrade(1, blk0, program(), [3, 8])
            .expect_err("not known");
        assert_eq!(
            refused.to_string(),
            format!(
                "{path} has a record of version 9, which the new program does not know: blk0 goes on with the old one"
            )
        );
        let domain = &broker.domains[&blk0.get()];
        assert!(domain.upgrade.is_none() && domain.program.is_none());
        let refused = broker
            .upgrade(1, guest, program(), found)
            .expect_err("a guest");
        assert_eq!(refused, AdminError::NotADriverDomain("g1".into()));

        broker.upgrade(1, blk0, program(), found).expect("known");
        let refused = broker
            .upgrade(1, blk0, program(), found)
            .expect_err("twice");
        assert_eq!(refused, AdminError::Upgrading("blk0".into()));
        // The one that runs was told to end; the next one is the other program.
        while broker.domains[&blk0.get()].upgrade.is_some() {
            broker.turn(None).expect("a turn");
        }
        assert!(broker.domains[&blk0.get()].program.is_some());
        broker.destroy(guest);
        broker.destroy(blk0);
    }

    /// A connection of the command's with this number: its other end.
    fn asks(broker: &mut Broker, id: AdminId) -> OwnedFd {
        let (ours, socket) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("sockets");
        let waits_for = None;
        broker.admins.insert(id, Admin { socket, waits_for });
        ours
    }

    fn answer(command: &OwnedFd) -> Option<AdminReply> {
        match packet::recv(command.as_fd(), RecvFlags::DONTWAIT).expect("it reads") {
            Received::Message(reply, _) => Some(reply),
            _ => None,
        }
    }

    #[test]
    fn who_is_told_to_end_is_not_followed_by_another_program() {
        let dir = tempfile::TempDir::with_prefix("ringfence-ended-").expect("a directory");
        let run_dir = RunDir::resolve(Some(&dir.path().join("run"))).expect("a place");
        let mut broker = Broker::with_program(run_dir, "/bin/sleep".into()).expect("a broker");
        let domid = sleeper(&mut broker, "blk0", DomainKind::DriverDomain);
        let program = || open("/bin/true");
        let command = asks(&mut broker, 1);
        broker.upgrade(1, domid, program(), [3, 9]).expect("known");
        assert_eq!(answer(&command), None);
        broker.kill("blk0", libc::SIGTERM).expect("it runs");
        let ending = AdminError::Ending("blk0".into());
        assert_eq!(answer(&command), Some(AdminReply::Refused(ending)));
        while broker.domains[&domid.get()].exit.is_none() {
            broker.turn(None).expect("a turn");
        }
        let domain = &broker.domains[&domid.get()];
        assert!(domain.process.is_none() && domain.program.is_none() && domain.upgrade.is_none());

        // Where nothing runs there is nothing to end, and the other program goes on.
        broker.upgrade(1, domid, program(), [3, 9]).expect("known");
        let not_running = AdminError::NotRunning("blk0".into());
        assert_eq!(broker.kill("blk0", libc::SIGTERM), Err(not_running));
        while broker.domains[&domid.get()].upgrade.is_some() {
            broker.turn(None).expect("a turn");
        }
        assert_eq!(answer(&command), Some(AdminReply::Done));
        broker.stopping = true;
        let refused = broker.upgrade(1, domid, program(), [3, 9]);
        assert_eq!(refused, Err(AdminError::ShuttingDown));
        broker.destroy(domid);
    }
}
