//! Event channels: ports, and our ends of them.

use std::sync::Arc;

use ringfence_core::platform::{Channel, EvtchnError, PlatformError};
use ringfence_core::weakened;
use ringfence_core::{DomId, EvtchnPort};

use crate::domain::Sim;
use crate::faults::Place;
use crate::process::{Process, ProcessId};
use crate::world::{State, dead};

/// One use of a port: the number comes back after a close, the generation does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortId {
    domid: DomId,
    port: u32,
    generation: u64,
}

#[derive(Debug)]
enum Link {
    /// `ECS_UNBOUND`: this domain may bind it.
    Unbound(DomId),
    /// `ECS_INTERDOMAIN`
    Bound(PortId),
}

#[derive(Debug)]
struct Port {
    generation: u64,
    link: Link,
    holder: ProcessId,
    /// From `alloc_unbound`: it outlives the process.
    allocated: bool,
    pending: bool,
    masked: bool,
}

impl Port {
    /// Whether this domain may bind it.
    fn is_for(&self, domid: DomId) -> bool {
        let any = weakened!("evtchn_sim_peer");
        matches!(self.link, Link::Unbound(who) if who == domid || any)
    }
}

/// A domain's ports. Number 0 is none.
#[derive(Debug)]
pub(crate) struct Ports {
    slots: Vec<Option<Port>>,
    limit: u32,
}

impl Ports {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            slots: vec![None],
            limit,
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn get_mut(&mut self, port: u32) -> Option<&mut Port> {
        self.slots.get_mut(port as usize)?.as_mut()
    }

    /// Enters a port at the lowest free number, as Xen does.
    fn enter(&mut self, port: Port) -> Option<u32> {
        let free = self.slots.iter().skip(1).position(Option::is_none);
        let index = free.map_or(self.slots.len(), |free| free + 1);
        let number = u32::try_from(index).ok().filter(|n| *n <= self.limit)?;
        if index == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[index] = Some(port);
        Some(number)
    }

    /// The ports that end with their process, or all of them.
    pub(crate) fn mortal(&self, all: bool) -> Vec<u32> {
        let mortal = |port: &Port| all || !port.allocated;
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.as_ref().is_some_and(mortal))
            .map(|(number, _)| number)
            .collect()
    }
}

impl State {
    fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        let port = self.domains.get_mut(&id.domid)?.ports.get_mut(id.port)?;
        // A late event for a port that was closed, and maybe opened anew by somebody else, is nobody's (XSA-331).
        let same = weakened!("xsa_331_sim_late_event") || port.generation == id.generation;
        same.then_some(port)
    }

    fn open_port(
        &mut self,
        process: &Process,
        link: Link,
        allocated: bool,
    ) -> Result<PortId, EvtchnError> {
        let generation = self.next_id();
        let domain = self.domain_of(process);
        let port = Port {
            generation,
            link,
            holder: process.id,
            allocated,
            // Whoever binds looks at the ring once without being rung.
            pending: !allocated,
            masked: false,
        };
        let port = domain.ports.enter(port).ok_or(EvtchnError::Exhausted)?;
        Ok(PortId {
            domid: process.domid,
            port,
            generation,
        })
    }

    pub(crate) fn alloc_unbound(
        &mut self,
        process: &Process,
        peer: DomId,
    ) -> Result<PortId, EvtchnError> {
        self.alive(process, "alloc_unbound")?;
        if let Some(errno) = self.faults.strike(Place::AllocUnbound) {
            return Err(PlatformError {
                op: "alloc_unbound",
                errno,
            }
            .into());
        }
        if !self.domains.contains_key(&peer) {
            return Err(EvtchnError::NoDomain { peer });
        }
        let id = self.open_port(process, Link::Unbound(peer), true)?;
        self.note("alloc_unbound", process.domid, id.port);
        Ok(id)
    }

    pub(crate) fn bind(
        &mut self,
        process: &Process,
        peer: DomId,
        remote: EvtchnPort,
    ) -> Result<PortId, EvtchnError> {
        self.alive(process, "bind")?;
        if let Some(errno) = self.faults.strike(Place::Bind) {
            return Err(PlatformError { op: "bind", errno }.into());
        }
        let us = process.domid;
        let refused = EvtchnError::Refused { peer, port: remote };
        let domain = self
            .domains
            .get_mut(&peer)
            .ok_or(EvtchnError::NoDomain { peer })?;
        let theirs = match domain.ports.get_mut(remote.get()) {
            Some(port) if port.is_for(us) => PortId {
                domid: peer,
                port: remote.get(),
                generation: port.generation,
            },
            _ => return Err(refused),
        };
        // A bind that fails changes nothing (XSA-496).
        if weakened!("xsa_496_sim")
            && let Some(port) = self.port_mut(theirs)
        {
            port.link = Link::Bound(theirs);
        }
        let ours = self.open_port(process, Link::Bound(theirs), false)?;
        if let Some(port) = self.port_mut(theirs) {
            port.link = Link::Bound(ours);
        }
        self.note("bind", us, ours.port);
        Ok(ours)
    }

    /// Closes a port; the other end is unbound then, for us to bind again.
    pub(crate) fn close(&mut self, domid: DomId, port: u32) {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        let Some(closed) = domain
            .ports
            .slots
            .get_mut(port as usize)
            .and_then(Option::take)
        else {
            return;
        };
        self.note("close", domid, port);
        if let Link::Bound(other) = closed.link
            && let Some(other) = self.port_mut(other)
        {
            other.link = Link::Unbound(domid);
        }
    }

    fn notify(&mut self, process: &Process, from: PortId) -> Result<(), PlatformError> {
        self.alive(process, "notify")?;
        if let Some(errno) = self.faults.strike(Place::Notify) {
            return Err(PlatformError {
                op: "notify",
                errno,
            });
        }
        self.domain_of(process).counts.notifications += 1;
        self.note("notify", from.domid, from.port);
        let to = match self.port_mut(from).map(|port| &port.link) {
            Some(Link::Bound(to)) => *to,
            _ => return Ok(()),
        };
        if self.doorbells.ring(to) {
            self.arrive(to);
        }
        Ok(())
    }

    fn arrive(&mut self, to: PortId) {
        if let Some(port) = self.port_mut(to) {
            port.pending = true;
            self.note("arrive", to.domid, to.port);
        }
    }

    fn arrive_all(&mut self, arrived: &[PortId]) {
        for to in arrived {
            self.arrive(*to);
        }
    }

    pub(crate) fn tick(&mut self) {
        if self.doorbells.under_way() > 0 {
            let mut arrived = Vec::new();
            self.doorbells.tick(|to| arrived.push(to));
            self.arrive_all(&arrived);
        }
    }

    pub(crate) fn advance(&mut self) -> bool {
        let mut arrived = Vec::new();
        let any = self.doorbells.advance(|to| arrived.push(to));
        self.arrive_all(&arrived);
        any
    }

    fn take_pending(&mut self, process: &Process, id: PortId) -> Result<bool, PlatformError> {
        self.alive(process, "take_pending")?;
        self.tick();
        let Some(port) = self.port_mut(id) else {
            return Ok(false);
        };
        if !port.pending || port.masked {
            return Ok(false);
        }
        port.pending = false;
        // As /dev/xen/evtchn does: no further event before `unmask`.
        port.masked = true;
        self.domain_of(process).counts.events += 1;
        self.note("take", id.domid, id.port);
        Ok(true)
    }

    fn unmask(&mut self, process: &Process, id: PortId) -> Result<(), PlatformError> {
        self.alive(process, "unmask")?;
        if let Some(port) = self.port_mut(id) {
            port.masked = false;
        }
        Ok(())
    }

    pub(crate) fn adopt_port(&mut self, process: &Process, port: u32) -> Option<PortId> {
        let id = process.id;
        let entry = self.domain_of(process).ports.get_mut(port)?;
        if entry.holder == id {
            return None;
        }
        entry.holder = id;
        entry.masked = false;
        Some(PortId {
            domid: process.domid,
            port,
            generation: entry.generation,
        })
    }
}

/// Our end of an event channel. Dropping it closes the port, unless its process died before.
///
/// As on `/dev/xen/evtchn`, a port from which [`take_pending`](Channel::take_pending) took an event stays silent until
/// [`unmask`](Channel::unmask); what comes meanwhile is kept.
#[derive(Debug)]
pub struct SimChannel {
    sim: Sim,
    id: PortId,
}

impl SimChannel {
    pub(crate) const fn new(sim: Sim, id: PortId) -> Self {
        Self { sim, id }
    }

    fn process(&self) -> &Arc<Process> {
        &self.sim.process
    }
}

impl Channel for SimChannel {
    fn port(&self) -> EvtchnPort {
        EvtchnPort::new(self.id.port)
    }

    fn notify(&self) -> Result<(), PlatformError> {
        self.sim.step();
        self.sim.state().notify(self.process(), self.id)
    }

    fn take_pending(&self) -> Result<bool, PlatformError> {
        self.sim.state().take_pending(self.process(), self.id)
    }

    fn unmask(&self) -> Result<(), PlatformError> {
        self.sim.state().unmask(self.process(), self.id)
    }
}

impl Drop for SimChannel {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if dead(self.process()).is_none() && state.port_mut(self.id).is_some() {
            state.close(self.id.domid, self.id.port);
        }
    }
}
