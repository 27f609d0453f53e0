//! The lives of domains and of their processes, which are two things.

use std::time::{Duration, Instant};

use ringfence_core::DomId;
use ringfence_core::store::{Perm, Store, StoreError, StoreExt as _, Tx, domain_path};

use super::Broker;
use super::domains::Domain;
use crate::admin::{AdminError, AdminReply, NewDomain};
use crate::control::DomainKind;

/// How long processes may take to end when the host shuts down.
const FAREWELL: Duration = Duration::from_secs(5);

impl Broker {
    /// The living domain of this name or number.
    pub(super) fn find(&self, name: &str) -> Result<DomId, AdminError> {
        let number = name.parse::<u16>().ok();
        let found = self
            .domains
            .values()
            .find(|domain| domain.new.name == name || number == Some(domain.domid.get()));
        found
            .map(|domain| domain.domid)
            .ok_or_else(|| AdminError::NoDomain(name.to_owned()))
    }

    /// Makes a domain and starts its first process.
    pub(super) fn create(
        &mut self,
        new: NewDomain,
        streams: [std::os::fd::OwnedFd; 3],
    ) -> Result<DomId, AdminError> {
        if self.stopping {
            return Err(AdminError::ShuttingDown);
        }
        let name = new.name.clone();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if name.is_empty() || name.parse::<u64>().is_ok() || !name.chars().all(plain) {
            return Err(AdminError::BadName(name));
        }
        if self.find(&name).is_ok() {
            return Err(AdminError::NameTaken(name));
        }
        // Never used twice: nothing that was said about a dead domain can then be about another.
        if self.next_domid >= DomId::FIRST_RESERVED.get() {
            return Err(AdminError::OutOfDomains);
        }
        let domid = DomId::new(self.next_domid);
        self.next_domid += 1;
        self.store.introduce(domid);
        let _ = self.home(domid, &new);
        self.domains
            .insert(domid.get(), Domain::new(domid, new, streams));
        if let Err(error) = self.start(domid) {
            self.destroy(domid);
            return Err(error);
        }
        Ok(domid)
    }

    /// The nodes that a toolstack makes for every domain.
    fn home(&mut self, domid: DomId, new: &NewDomain) -> Result<(), StoreError> {
        let home = domain_path(domid);
        let mut store = self.store.client();
        store.transaction(|store, tx| {
            store.mkdir(tx, &home)?;
            store.set_perms(tx, &home, &[Perm::owner(DomId::DOM0), Perm::read(domid)])?;
            store.write_str(tx, &home, "name", &new.name)?;
            store.write_u32(tx, &home, "domid", domid.get().into())?;
            let writable: &[&str] = match new.kind {
                DomainKind::DriverDomain => &["data", "error", "drivers", "backend"],
                DomainKind::Guest => &["data", "error", "drivers"],
            };
            for dir in writable {
                let path = format!("{home}/{dir}");
                store.mkdir(tx, &path)?;
                store.set_perms(tx, &path, &[Perm::owner(domid)])?;
            }
            store.mkdir(tx, &format!("{home}/device"))
        })
    }

    /// Starts the next process of a domain that has none.
    pub(super) fn start(&mut self, domid: DomId) -> Result<(), AdminError> {
        let failed = |name: &str, error: &std::io::Error| AdminError::Spawn {
            name: name.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        };
        let Some(domain) = self.domains.get_mut(&domid.get()) else {
            return Err(AdminError::NoDomain(domid.to_string()));
        };
        let (client, theirs) = self
            .store
            .connect(domid)
            .map_err(|error| failed(&domain.new.name, &error))?;
        domain
            .start(&self.program, client, theirs)
            .map_err(|error| {
                self.store.disconnect(client);
                failed(&domain.new.name, &error)
            })
    }

    /// Sends a signal to the process of a domain.
    pub(super) fn kill(&mut self, name: &str, signal: i32) -> Result<(), AdminError> {
        let domid = self.find(name)?;
        let process = self
            .domains
            .get(&domid.get())
            .and_then(|found| found.process.as_ref());
        let sent = process.and_then(|process| process.child.signal(signal).ok());
        sent.ok_or_else(|| AdminError::NotRunning(name.to_owned()))?;
        if signal == libc::SIGTERM {
            self.follow_with_nothing(domid);
        }
        Ok(())
    }

    /// The pidfd says that a process ended.
    pub(super) fn process_ended(&mut self, domid: DomId) {
        let Some(domain) = self.domains.get_mut(&domid.get()) else {
            return;
        };
        let Some(exit) = domain
            .process
            .as_mut()
            .and_then(|process| process.child.exit())
        else {
            return;
        };
        if let Some(process) = domain.process.take() {
            for client in process.clients {
                self.store.disconnect(client);
            }
        }
        domain.exit = Some(exit);
        let failed = exit != crate::admin::Exit::Code(0);
        let upgraded = !self.stopping && domain.upgraded();
        let again = match upgraded {
            true => {
                domain.restarts.follow(Instant::now());
                Some(Duration::ZERO)
            }
            false => domain.restarts.ended(Instant::now(), failed),
        };
        let (name, destroy) = (domain.new.name.clone(), domain.new.destroy_on_exit);
        let own = |(_, disk): &(&String, &super::disks::Disk)| disk.backend == domid;
        let own = self.disks.iter().filter(own).map(|(path, _)| path.as_str());
        self.records.note_end(own, exit);
        let disks = &self.disks;
        let own = |path: &str| disks.get(path).is_some_and(|disk| disk.backend == domid);
        self.images.process_died(own);
        self.evtchns.process_died(domid.get());
        self.arenas.process_died(domid.get());
        match again {
            Some(_) if upgraded => tracing::info!(%domid, name, ?exit, "process replaced"),
            Some(pause) => {
                tracing::warn!(%domid, name, ?exit, ?pause, "process ended, to be started again")
            }
            None => tracing::info!(%domid, name, ?exit, "process ended"),
        }
        self.tell_of_exit(domid);
        if again.is_none() && destroy {
            self.destroy(domid);
        }
    }

    /// Answers those who wait for a domain's process to end, if it has for good.
    pub(super) fn tell_of_exit(&mut self, domid: DomId) {
        let Some(domain) = self.domains.get(&domid.get()) else {
            return;
        };
        let Some(exit) = domain.exit.filter(|_| domain.restarts.due().is_none()) else {
            return;
        };
        self.answer_waiters(domid, Ok(AdminReply::Exited(exit)));
    }

    fn answer_waiters(&mut self, domid: DomId, answer: Result<AdminReply, AdminError>) {
        let waiting = |admin: &&mut super::admin::Admin| admin.waits_for == Some(domid);
        let mut waiters = Vec::new();
        for (id, admin) in &mut self.admins {
            if waiting(&admin) {
                admin.waits_for = None;
                waiters.push(*id);
            }
        }
        for id in waiters {
            self.admin_answer(id, answer.clone());
        }
    }

    /// Starts the processes whose pause is over.
    pub(super) fn restart_due(&mut self) {
        let now = Instant::now();
        let due = |domain: &&Domain| domain.restarts.due().is_some_and(|at| at <= now);
        let due: Vec<DomId> = self
            .domains
            .values()
            .filter(due)
            .map(|domain| domain.domid)
            .collect();
        for domid in due {
            let started = self.start(domid);
            self.tell_of_upgrade(domid, &started);
            if let Err(error) = started {
                tracing::error!(%domid, %error, "cannot start again");
                if let Some(domain) = self.domains.get_mut(&domid.get()) {
                    domain.restarts.ended(now, true);
                }
            }
        }
    }

    /// Ends a domain: nothing of it can be mapped or bound, its nodes are gone, `@releaseDomain` fires (contract D4).
    pub(super) fn destroy(&mut self, domid: DomId) {
        let Some(mut domain) = self.domains.remove(&domid.get()) else {
            return;
        };
        if let Some(process) = domain.process.take() {
            for client in &process.clients {
                self.store.disconnect(*client);
            }
            process.child.end();
            domain.exit = Some(crate::admin::Exit::Signal(libc::SIGKILL));
        }
        self.evtchns.domain_destroyed(domid.get());
        self.arenas.domain_destroyed(domid.get());
        self.remove_disks_of(domid);
        // Nodes below its home that dom0 owns are not removed with the domain's own.
        let _ = self.store.client().rm(Tx::NONE, &domain_path(domid));
        self.store.release(domid);
        match domain.exit {
            Some(exit) => {
                self.ended.insert(domid.get(), exit);
                self.answer_waiters(domid, Ok(AdminReply::Exited(exit)));
            }
            None => self.answer_waiters(domid, Err(AdminError::NoDomain(domid.to_string()))),
        }
        if let Some(upgrade) = domain.upgrade {
            let gone = AdminError::NoDomain(domid.to_string());
            self.admin_answer(upgrade.asked_by, Err(gone));
        }
    }

    /// The whole host shuts down: guests first, since they need their disks to the last.
    pub(super) fn shut_down(&mut self) {
        for kind in [DomainKind::Guest, DomainKind::DriverDomain] {
            for domain in self.domains.values_mut() {
                domain.restarts.give_up();
                if let (true, Some(process)) = (domain.new.kind == kind, &domain.process) {
                    let _ = process.child.signal(libc::SIGTERM);
                }
            }
            let deadline = Instant::now() + FAREWELL;
            while let Some(left) = deadline.checked_duration_since(Instant::now()) {
                let alive = |domain: &Domain| domain.new.kind == kind && domain.process.is_some();
                if !self.domains.values().any(alive) || self.turn(Some(left)).is_err() {
                    break;
                }
            }
        }
        let all: Vec<DomId> = self.domains.values().map(|domain| domain.domid).collect();
        for domid in all {
            self.destroy(domid);
        }
        for path in [self.dir.control(), self.dir.xenstored()] {
            let _ = std::fs::remove_file(path);
        }
    }
}
