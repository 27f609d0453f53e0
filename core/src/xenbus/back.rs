//! The backend's side.

use super::{Class, Held, Peer};
use crate::weakened;
use crate::wire::xenbus::XenbusState as S;

/// What the owner of the backend wants with this device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackWish {
    /// Serve it.
    Run,
    /// Take it away: detached, or the whole host shuts down. A stopping process is neither.
    Detach,
    /// End this connection after a fault. Goes back to [`Run`](Self::Run) after [`BackAction::Disconnect`] if the fault was the
    /// frontend's, which may then connect again; stays if the fault is ours (no image), or the two would go round for ever.
    Retire,
}

/// What [`step`] decides on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackView {
    /// Our own `state` node; [`S::Unknown`] if it is gone. The toolstack writes it too (5 when it detaches).
    pub own: S,
    /// The frontend's `state` node.
    pub peer: Peer,
    /// Our `online` node, missing counted as `true`: `false` means that the toolstack detaches.
    pub online: bool,
    /// What the backend needs is there: hotplug script done, image open.
    pub ready: bool,
    /// What our owner wants.
    pub wish: BackWish,
    /// What we hold.
    pub held: Held,
    /// Nobody else removes our directory: the toolstack is in another domain and we stand in for its daemon here (`xl devd`).
    pub keeper: bool,
}

/// What to do. After anything but [`Wait`](Self::Wait) and [`Drain`](Self::Drain), look again at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackAction {
    /// Nothing, until something changes.
    Wait,
    /// Write the features, then state 2.
    Publish,
    /// Map ring and port, all or nothing, and write `sectors` and the like, then state 4. If that fails: wish
    /// [`BackWish::Retire`].
    Connect,
    /// Both states are 4, or the frontend is about to close, but this process holds nothing: map again what an earlier one had,
    /// change no feature, write no state. If that is impossible: wish [`BackWish::Retire`].
    Resume,
    /// Write state 5. Requests are served on: the frontend drains before it closes.
    BeginClosing,
    /// Take no more requests, write the `error` node, then state 5 ([`paths::fatal`](super::paths::fatal)).
    Fail,
    /// Take no more requests, and ask again when the last one in flight is done.
    Drain,
    /// Unmap everything, then write state 6.
    Disconnect,
    /// Write the features anew, then state 2: the frontend is back.
    Reinitialise,
    /// Unmap what is still held, write nothing and forget the device; the toolstack removes the directory.
    Remove,
    /// As [`Remove`](Self::Remove), and remove the directory: nobody else does ([`paths::erase`](super::paths::erase)).
    Erase,
}

/// What a backend of `class` does next.
pub fn step(class: Class, view: &BackView) -> BackAction {
    let leaving = !view.online || matches!(view.wish, BackWish::Detach);
    let retiring = matches!(view.wish, BackWish::Retire);
    match view.own {
        // The directory is gone: whatever we write would bring it back.
        S::Unknown => match view.held {
            Held::Busy => BackAction::Drain,
            Held::Idle | Held::Nothing => BackAction::Remove,
        },
        S::Closing => closing(view),
        S::Closed => closed(view, leaving, retiring),
        S::Initialising
        | S::InitWait
        | S::Initialised
        | S::Connected
        | S::Reconfiguring
        | S::Reconfigured
            if retiring =>
        {
            BackAction::Fail
        }
        S::Initialising if !leaving => BackAction::Publish,
        S::InitWait if !leaving => waiting(class, view),
        S::Connected if !leaving => connected(class, view),
        // Detaching, or in a state that neither class's backend writes.
        _ => BackAction::BeginClosing,
    }
}

const fn waiting(class: Class, view: &BackView) -> BackAction {
    match (class, view.peer) {
        (_, Peer::Garbage | Peer::State(S::Reconfiguring | S::Reconfigured)) => BackAction::Fail,
        // Also a frontend that closes before it ever connected (Windows); it waits for every state in turn.
        (_, Peer::State(S::Closing | S::Closed)) => BackAction::BeginClosing,
        (_, Peer::State(S::Connected)) | (Class::Vbd, Peer::State(S::Initialised)) => {
            if view.ready {
                BackAction::Connect
            } else {
                BackAction::Wait
            }
        }
        _ => BackAction::Wait,
    }
}

fn connected(class: Class, view: &BackView) -> BackAction {
    match (class, view.peer) {
        (_, Peer::State(S::Initialising)) if weakened!("xsa_350_left") => BackAction::Wait,
        // One that closes drains first, and its requests are still to be answered.
        (_, Peer::State(S::Initialised | S::Connected | S::Closing))
            if matches!(view.held, Held::Nothing) =>
        {
            BackAction::Resume
        }
        (_, Peer::State(S::Initialised | S::Connected)) => BackAction::Wait,
        (_, Peer::Garbage) | (Class::Vbd, Peer::State(S::Reconfiguring | S::Reconfigured)) => {
            BackAction::Fail
        }
        (Class::Vif, Peer::State(S::Reconfiguring | S::Reconfigured)) => BackAction::Wait,
        (
            _,
            Peer::Missing
            | Peer::Denied
            | Peer::State(S::Unknown | S::Initialising | S::InitWait | S::Closing | S::Closed),
        ) => BackAction::BeginClosing,
    }
}

const fn closing(view: &BackView) -> BackAction {
    match view.peer {
        // What it may wait for does not come: only our 6 says so.
        Peer::State(S::Closing) if matches!(view.held, Held::Nothing) => BackAction::Disconnect,
        // It may still wait for answers, and closes when it has them.
        Peer::State(
            S::Initialised | S::Connected | S::Closing | S::Reconfiguring | S::Reconfigured,
        ) => BackAction::Wait,
        Peer::Missing
        | Peer::Denied
        | Peer::Garbage
        | Peer::State(S::Unknown | S::Initialising | S::InitWait | S::Closed) => match view.held {
            Held::Busy => BackAction::Drain,
            Held::Idle | Held::Nothing => BackAction::Disconnect,
        },
    }
}

const fn closed(view: &BackView, leaving: bool, retiring: bool) -> BackAction {
    match (view.held, view.peer) {
        (Held::Busy, _) => BackAction::Drain,
        (Held::Idle, _) => BackAction::Disconnect,
        (Held::Nothing, _) if view.keeper && !view.online => BackAction::Erase,
        // A frontend whose directory is gone does not come again. What is missing in another's home cannot be told from what is
        // not for us.
        (Held::Nothing, Peer::Missing | Peer::Denied) if view.keeper => BackAction::Erase,
        (Held::Nothing, _) if leaving => BackAction::Remove,
        (Held::Nothing, Peer::State(S::Initialising)) if !retiring => BackAction::Reinitialise,
        (Held::Nothing, _) => BackAction::Wait,
    }
}
