//! The frontend's side.

use super::{Class, Held, Peer};
use crate::wire::xenbus::XenbusState as S;

/// What the owner of the frontend wants with this device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontWish {
    /// Use it, and connect again whenever the backend is there again.
    Run,
    /// Close it and stay closed.
    Close,
    /// The backend broke the protocol: close and stay closed.
    Retire,
}

/// What [`step`] decides on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrontView {
    /// Our own `state` node.
    pub own: S,
    /// The backend's `state` node.
    pub peer: Peer,
    /// The backend's `online` node, missing counted as `true`: `false` means that a closed backend does not come back.
    pub online: bool,
    /// What our owner wants.
    pub wish: FrontWish,
    /// What we hold.
    pub held: Held,
}

/// What to do. After anything but [`Wait`](Self::Wait) and [`Drain`](Self::Drain), look again at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontAction {
    /// Nothing, until something changes.
    Wait,
    /// Grant a fresh ring and publish it: then state 3 for a disk, 4 for a network interface.
    Publish,
    /// Read what the backend published, then write state 4.
    Connect,
    /// Submit nothing more and write state 5.
    BeginClosing,
    /// Submit nothing more, write the `error` node, then state 5 ([`paths::fatal`](super::paths::fatal)).
    Fail,
    /// Wait for the answers to what is in flight.
    Drain,
    /// Write state 6. The backend may still have our pages mapped: nothing is reused yet.
    Disconnect,
    /// The backend let go: end its access and hand back what was never answered.
    Release,
    /// Write state 1.
    Reinitialise,
}

/// What a frontend of `class` does next.
pub const fn step(class: Class, view: &FrontView) -> FrontAction {
    match (view.own, view.wish) {
        (S::Closing, _) => closing(view),
        // Unknown: no directory yet, or none any more; whatever we write would make one.
        (S::Closed | S::Unknown, _) => closed(view),
        (_, FrontWish::Retire) => FrontAction::Fail,
        (_, FrontWish::Close) => FrontAction::BeginClosing,
        (S::Initialising, FrontWish::Run) => initialising(view),
        (S::Initialised, FrontWish::Run) if matches!(class, Class::Vbd) => published(class, view),
        (S::Connected, FrontWish::Run) => published(class, view),
        // States that no frontend of these classes writes.
        (S::InitWait | S::Initialised | S::Reconfiguring | S::Reconfigured, FrontWish::Run) => {
            FrontAction::BeginClosing
        }
    }
}

const fn initialising(view: &FrontView) -> FrontAction {
    match view.peer {
        Peer::State(S::InitWait) => FrontAction::Publish,
        Peer::State(S::Closed) if !view.online => FrontAction::BeginClosing,
        Peer::Garbage => FrontAction::Fail,
        // It gave up on an earlier connection, and goes on when it hears that we did.
        Peer::State(S::Closing) => FrontAction::BeginClosing,
        // Also a backend still in an earlier connection: it sees our 1, closes, and comes back to 2.
        _ => FrontAction::Wait,
    }
}

/// We are in 3 or 4: the ring is out.
const fn published(class: Class, view: &FrontView) -> FrontAction {
    if matches!(view.held, Held::Nothing) {
        // The ring went with the process that had it.
        return FrontAction::BeginClosing;
    }
    let connected = matches!(view.own, S::Connected);
    match (class, view.peer) {
        (_, Peer::Garbage) => FrontAction::Fail,
        (_, Peer::State(S::Connected)) => {
            if connected {
                FrontAction::Wait
            } else {
                FrontAction::Connect
            }
        }
        (_, Peer::Missing | Peer::Denied | Peer::State(S::Unknown | S::Closing | S::Closed)) => {
            FrontAction::BeginClosing
        }
        // A backend that starts over lost our requests: a fresh ring, through all states.
        (Class::Vbd, Peer::State(S::Initialising | S::InitWait)) if connected => {
            FrontAction::BeginClosing
        }
        (Class::Vbd, Peer::State(S::Reconfiguring | S::Reconfigured)) => FrontAction::Fail,
        (_, Peer::State(_)) => FrontAction::Wait,
    }
}

const fn closing(view: &FrontView) -> FrontAction {
    match (view.held, view.peer) {
        // These backends answer what they have.
        (Held::Busy, Peer::State(S::Connected | S::Closing)) => FrontAction::Drain,
        // A backend that starts over may just be taking the ring that we give up. It closes first, and only then we begin anew.
        (_, Peer::State(S::Initialising | S::InitWait)) if matches!(view.wish, FrontWish::Run) => {
            FrontAction::Wait
        }
        _ => FrontAction::Disconnect,
    }
}

const fn closed(view: &FrontView) -> FrontAction {
    // Initialising and InitWait: a backend that starts over has nothing mapped.
    let let_go = matches!(
        view.peer,
        Peer::Missing | Peer::State(S::Unknown | S::Closed | S::Initialising | S::InitWait)
    );
    if !matches!(view.held, Held::Nothing) {
        return if let_go {
            FrontAction::Release
        } else {
            FrontAction::Wait
        };
    }
    match (view.own, view.wish, view.peer) {
        (S::Closed, FrontWish::Run, Peer::State(S::Closed)) if view.online => {
            FrontAction::Reinitialise
        }
        (S::Closed, FrontWish::Run, Peer::State(S::Initialising | S::InitWait)) => {
            FrontAction::Reinitialise
        }
        _ => FrontAction::Wait,
    }
}
