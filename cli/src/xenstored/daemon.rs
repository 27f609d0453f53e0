//! The event loop: one thread that waits for doorbells, tools and signals.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use ringfence_core::EvtchnPort;

use super::host::Host;
use super::poller::{Poller, Token};
use super::server::Server;
use super::socket::Listener;

const LISTENER: Token = Token::new(0);
const EVENTS: Token = Token::new(1);
const STOP: Token = Token::new(2);
/// The first of the tokens for clients.
pub(super) const CLIENTS: Token = Token::new(3);

/// A host whose doorbells can be waited for.
pub trait Events: Host + AsFd {
    /// Takes what rang since the last time.
    ///
    /// # Errors
    /// The events are lost: nothing can be served any more.
    fn take(&mut self, rang: &mut Vec<Event>) -> io::Result<()>;
}

/// What rang.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A domain's doorbell.
    Port(EvtchnPort),
    /// Some domain shut down, died or is gone.
    Domains,
}

/// Serves until `stop` is readable.
///
/// # Errors
/// The system refuses to go on.
pub fn run<H: Events>(
    server: &mut Server<H>,
    listener: &Listener,
    stop: impl AsFd,
) -> io::Result<()> {
    let poller = Poller::new()?;
    poller.add(listener, LISTENER)?;
    poller.add(server.host(), EVENTS)?;
    poller.add(stop, STOP)?;
    let (mut ready, mut rang) = (Vec::new(), Vec::new());
    let mut listening = true;
    loop {
        let more = server.turn();
        server.arm(&poller)?;
        let timeout = if more {
            Some(Duration::ZERO)
        } else {
            server.deadline()
        };
        ready.clear();
        poller.wait(timeout, &mut ready)?;
        for now in &ready {
            match now.token {
                STOP => return Ok(()),
                EVENTS => server.host_mut().take(&mut rang)?,
                LISTENER => listening = accept(server, &poller, listener)?,
                _ => {
                    if server.client_ready(*now) && !listening {
                        // There is a descriptor for another one now.
                        poller.set(listener, LISTENER, true, false)?;
                        listening = true;
                    }
                }
            }
        }
        for event in rang.drain(..) {
            match event {
                Event::Port(port) => server.rang(port),
                Event::Domains => server.domains_changed(),
            }
        }
    }
}

/// Takes everybody who waits. Returns whether to go on listening.
fn accept<H: Host>(
    server: &mut Server<H>,
    poller: &Poller,
    listener: &Listener,
) -> io::Result<bool> {
    loop {
        match listener.accept() {
            Ok(Some(client)) => server.accept(poller, client)?,
            Ok(None) => return Ok(true),
            Err(error) => {
                tracing::warn!("no more clients until one leaves: {error}");
                poller.set(listener, LISTENER, false, false)?;
                return Ok(false);
            }
        }
    }
}
