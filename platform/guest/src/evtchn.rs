//! Event channels of the 2-level layout, which the guest looks at instead of being called.

use ringfence_core::platform::{self, EvtchnError, PlatformError};
use ringfence_core::weakened;
use ringfence_core::wire::event_channel::{AllocUnbound, BindInterdomain, Op, Port};
use ringfence_core::{DomId, EvtchnPort};

use crate::Guest;
use crate::hypercall::{DOMID_SELF, Errno, HypercallError, Number, operate};

/// Our end of an event channel. Dropping it closes the port.
pub struct Channel {
    guest: Guest,
    port: EvtchnPort,
    /// The guest's when it was allocated: in another one the number is nobody's, or somebody else's.
    life: u32,
}

pub(crate) fn alloc_unbound(guest: Guest, peer: DomId) -> Result<Channel, EvtchnError> {
    let mut argument = AllocUnbound {
        dom: DOMID_SELF,
        remote_dom: peer.get(),
        port: 0,
    };
    event_channel_op(Op::ALLOC_UNBOUND, &mut argument)
        .map_err(|error| refused(error, peer, None))?;
    Ok(Channel::new(guest, EvtchnPort::new(argument.port)))
}

pub(crate) fn bind(guest: Guest, peer: DomId, port: EvtchnPort) -> Result<Channel, EvtchnError> {
    let mut argument = BindInterdomain {
        remote_dom: peer.get(),
        remote_port: port.get(),
        ..BindInterdomain::default()
    };
    event_channel_op(Op::BIND_INTERDOMAIN, &mut argument)
        .map_err(|error| refused(error, peer, Some(port)))?;
    Ok(Channel::new(guest, EvtchnPort::new(argument.local_port)))
}

/// Rings.
pub(crate) fn send(port: EvtchnPort) -> Result<(), HypercallError> {
    event_channel_op(Op::SEND, &mut Port { port: port.get() })
}

fn event_channel_op<T>(op: Op, argument: &mut T) -> Result<(), HypercallError> {
    // SAFETY: callers pass the struct of the operation; it holds no address.
    unsafe { operate(Number::EventChannelOp, op.0, argument)? };
    Ok(())
}

fn refused(error: HypercallError, peer: DomId, port: Option<EvtchnPort>) -> EvtchnError {
    match (error.errno, port) {
        (Errno::NOSPC, _) => EvtchnError::Exhausted,
        (Errno::SRCH, _) => EvtchnError::NoDomain { peer },
        (Errno::INVAL, Some(port)) => EvtchnError::Refused { peer, port },
        _ => EvtchnError::Platform(error.into()),
    }
}

impl Channel {
    fn new(guest: Guest, port: EvtchnPort) -> Self {
        // Whoever had the number before may have left it masked.
        guest.shared().unmask(port);
        let life = guest.life();
        Self { guest, port, life }
    }

    fn is_open(&self) -> bool {
        self.life == self.guest.life()
    }
}

impl platform::Channel for Channel {
    fn port(&self) -> EvtchnPort {
        self.port
    }

    fn notify(&self) -> Result<(), PlatformError> {
        if self.is_open() {
            send(self.port)?;
        }
        Ok(())
    }

    fn take_pending(&self) -> Result<bool, PlatformError> {
        Ok(self.is_open() && self.guest.shared().take(self.port))
    }

    fn unmask(&self) -> Result<(), PlatformError> {
        if self.is_open() {
            self.guest.shared().unmask(self.port);
        }
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if !self.is_open() {
            return;
        }
        let late = weakened!("cve_2024_26687_guest");
        // While the port is ours: once it is closed its number may be somebody else's, and so is an event that is pending then
        // (CVE-2024-26687). What comes between the two Xen drops itself.
        if !late {
            self.guest.shared().clear(self.port);
        }
        let mut argument = Port {
            port: self.port.get(),
        };
        // Fails only if there is no such port, and then there is nothing to close.
        let _ = event_channel_op(Op::CLOSE, &mut argument);
        if late {
            self.guest.shared().clear(self.port);
        }
    }
}

#[cfg(test)]
mod tests;
