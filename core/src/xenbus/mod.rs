//! The life of a split device as the two `state` nodes tell it (`xen/io/xenbus.h`): what to do next, given what is seen.
//!
//! [`back::step`] and [`front::step`] are pure and total: they are asked again after every watch event and every piece of work
//! done, look at the present and remember nothing, so that coalesced, spurious and missed events make no difference. What they
//! answer for every input stands in `back.table` and `front.table` beside them, with a source for each line; a test compares.
//!
//! Stopping the process of a backend is *not* an input. It stops taking requests, finishes those it has, unmaps and exits with
//! the states as they are; the next process of the same domain finds 4 and 4 and is told to [`Resume`](BackAction::Resume).

pub mod back;
pub mod front;
pub mod paths;

#[cfg(test)]
mod model;
#[cfg(test)]
mod table;

pub use back::{BackAction, BackView, BackWish};
pub use front::{FrontAction, FrontView, FrontWish};

use crate::store::{Store, StoreError, Tx, join};
use crate::wire::xenbus::XenbusState;

/// The kinds of device, as far as their handshakes differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A disk: the frontend publishes its ring with state 3 and follows the backend to 4.
    Vbd,
    /// A network interface: the frontend publishes its rings with state 4 and the backend follows; either may reconfigure.
    Vif,
}

/// What is seen of the other end's `state` node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// There is no such node.
    Missing,
    /// We may not read it.
    Denied,
    /// It holds something that is no state.
    Garbage,
    /// It holds this.
    State(XenbusState),
}

/// What we hold of the present connection: ring, pages, port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Nothing: not connected yet, released again, or a new process.
    Nothing,
    /// Resources, and no request that is still to be finished. A ring that is disabled for a fault is idle.
    Idle,
    /// Resources, and requests in flight.
    Busy,
}

impl Peer {
    /// Reads `<dir>/state`. One NUL at its end is taken off: some peers write it.
    ///
    /// # Errors
    /// Only if the store itself fails; what the peer did to its node is a value.
    pub fn read<S: Store>(store: &mut S, dir: &str) -> Result<Self, StoreError> {
        let mut buf = [0; 16];
        Ok(match store.read(Tx::NONE, &join(dir, "state")?, &mut buf) {
            Ok(text) => XenbusState::parse(text.strip_suffix(b"\0").unwrap_or(text))
                .map_or(Self::Garbage, Self::State),
            Err(StoreError::Missing) => Self::Missing,
            Err(StoreError::Denied) => Self::Denied,
            Err(StoreError::TooLong { .. }) => Self::Garbage,
            Err(error) => return Err(error),
        })
    }

    /// The state read, and [`XenbusState::Unknown`] for anything else: for one's own node.
    pub const fn state(self) -> XenbusState {
        match self {
            Self::State(state) => state,
            _ => XenbusState::Unknown,
        }
    }
}
