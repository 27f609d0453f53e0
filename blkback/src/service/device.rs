//! One disk of one guest: its life in XenStore, its engine while it is connected.

mod hotplug;

use std::string::String;
use std::sync::Arc;
use std::time::Duration;

use ringfence_core::platform::{Channel, Platform};
use ringfence_core::store::{FieldError, Store, StoreError, StoreExt, StorePath, Tx};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::xenbus::{BackAction, BackView, BackWish, Class, Held, Peer, back, paths};
use ringfence_ring::Armed;

use super::disks::Disks;
use super::doorbells::Doorbells;
use super::id::DeviceId;
use super::storm::Storm;
use super::toolstack::{Hotplug, Toolstack, is_lost};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::negotiate;
use crate::sink::Disk;
use crate::stats::Stats;

/// Steps of the state machine in one go. More cannot be needed; fewer would only mean another round.
const STEPS: usize = 16;
/// Messages about one device that a guest can provoke.
const MESSAGES: u32 = 16;

/// What goes with the last device: the frontend's directory and that of the type, not `backend` itself, which is the place that
/// the toolstack made for this domain.
const ABOVE: usize = 2;

/// Whether the device is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Goes,
    Over,
}

/// What one look at the ring brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Served {
    /// Requests were taken.
    pub(super) worked: bool,
    /// There is more to do at once.
    pub(super) again: bool,
    /// The state machine wants to look: drained, or failed.
    pub(super) control: bool,
}

pub(super) struct Device<'p, P: Platform> {
    id: DeviceId,
    toolstack: Toolstack,
    dir: StorePath,
    front_dir: StorePath,
    /// How many directories above that of our `error` node may go when they are empty.
    error_dirs: usize,
    token: heapless::String<64>,
    watching: bool,
    stats: Arc<Stats>,
    /// While not connected.
    disk: Option<Disk>,
    engine: Option<Engine<&'p P>>,
    wish: BackWish,
    /// Whether the fault that ended the connection is the frontend's: it may then come again.
    peers_fault: bool,
    reason: String,
    /// The image that could not be opened, or why none is named: not tried again.
    refused: Option<Result<String, String>>,
    storm: Storm,
    /// No event is looked at before.
    masked_until: Option<Duration>,
    /// Look at the ring without being rung.
    pub(super) due: bool,
    messages: u32,
}

impl<'p, P: Platform> Device<'p, P> {
    pub(super) fn new(
        domid: ringfence_core::DomId,
        id: DeviceId,
        toolstack: Toolstack,
        stats: Arc<Stats>,
    ) -> Self {
        let mut token = heapless::String::new();
        // Five letters, five digits, ten digits and two dashes.
        let _ = core::fmt::write(
            &mut token,
            format_args!("{}-{}-{}", id.backend, id.front, id.vdev),
        );
        Self {
            id,
            toolstack,
            dir: id.backend_dir(domid),
            front_dir: paths::frontend_dir(Class::Vbd, id.front, id.vdev),
            // Those of the frontend, of the type, `backend`, and `error`, which only the control domain could make again.
            error_dirs: if domid == ringfence_core::DomId::DOM0 {
                4
            } else {
                3
            },
            token,
            watching: false,
            stats,
            disk: None,
            engine: None,
            wish: BackWish::Run,
            peers_fault: false,
            reason: String::new(),
            refused: None,
            storm: Storm::default(),
            masked_until: None,
            due: false,
            messages: MESSAGES,
        }
    }

    pub(super) const fn engine(&self) -> Option<&Engine<&'p P>> {
        self.engine.as_ref()
    }

    pub(super) const fn engine_mut(&mut self) -> Option<&mut Engine<&'p P>> {
        self.engine.as_mut()
    }

    pub(super) const fn masked_until(&self) -> Option<Duration> {
        self.masked_until
    }

    fn held(&self) -> Held {
        match &self.engine {
            None => Held::Nothing,
            Some(engine) if engine.is_idle() => Held::Idle,
            Some(_) => Held::Busy,
        }
    }

    /// Looks at the two states and does what they ask for, until there is nothing to do.
    pub(super) fn control<S: Store, D: Disks>(
        &mut self,
        platform: &'p P,
        store: &mut S,
        disks: &mut D,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> Result<Life, StoreError> {
        if !self.watching {
            let path = ringfence_core::store::join(&self.front_dir, "state")?;
            store.watch(&path, &self.token)?;
            self.watching = true;
        }
        for _ in 0..STEPS {
            let view = self.view(store, disks)?;
            let action = back::step(Class::Vbd, &view);
            tracing::trace!(id = %self.id, ?view, ?action);
            match action {
                BackAction::Wait => return Ok(Life::Goes),
                BackAction::Drain => {
                    self.stop();
                    return Ok(Life::Goes);
                }
                BackAction::Publish | BackAction::Reinitialise => {
                    if !self.publish(store, disks)? {
                        return Ok(Life::Goes);
                    }
                }
                BackAction::Connect => {
                    if self.connect(platform, store, disks, doorbells)? {
                        self.announce(store)?;
                    }
                }
                BackAction::Resume => {
                    self.connect(platform, store, disks, doorbells)?;
                }
                BackAction::BeginClosing => {
                    paths::switch_state(store, &self.dir, XenbusState::Closing)?;
                }
                BackAction::Fail => {
                    self.stop();
                    let reason = self.reason.clone();
                    self.warn(format_args!("{reason}"));
                    paths::fatal(store, &self.dir, &reason)?;
                }
                BackAction::Disconnect => {
                    self.release(doorbells);
                    paths::switch_state(store, &self.dir, XenbusState::Closed)?;
                    if self.wish == BackWish::Retire && self.peers_fault {
                        self.wish = BackWish::Run;
                    }
                }
                BackAction::Remove => {
                    self.leave(store, doorbells)?;
                    return Ok(Life::Over);
                }
                BackAction::Erase => {
                    self.leave(store, doorbells)?;
                    // The image is another's from here on: it must be closed when the directory is gone.
                    self.disk = None;
                    match paths::erase(store, &self.dir, ABOVE) {
                        Err(error) if is_lost(error) => return Err(error),
                        // It would be the same at once again: whoever may remove it has to.
                        Err(error) => self.warn(format_args!("the directory stays: {error}")),
                        Ok(()) => {}
                    }
                    return Ok(Life::Over);
                }
            }
        }
        // Someone else keeps changing the states; the next event brings us back.
        Ok(Life::Goes)
    }

    /// Lets go of everything but the disk, which goes with the device.
    fn leave<S: Store>(
        &mut self,
        store: &mut S,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> Result<(), StoreError> {
        self.release(doorbells);
        let path = ringfence_core::store::join(&self.front_dir, "state")?;
        // The watch may be gone with the frontend's domain.
        let _ = store.unwatch(&path, &self.token);
        self.watching = false;
        if self.toolstack.hotplug == Hotplug::AtOnce {
            // The broker reads it afterwards.
            return Ok(());
        }
        self.clear_error(store)
    }

    fn view<S: Store, D: Disks>(
        &mut self,
        store: &mut S,
        disks: &mut D,
    ) -> Result<BackView, StoreError> {
        let own = Peer::read(store, &self.dir)?.state();
        let peer = Peer::read(store, &self.front_dir)?;
        let online = match store.read_opt::<bool>(Tx::NONE, &self.dir, "online") {
            Ok(online) => online.unwrap_or(true),
            Err(FieldError::Store { error, .. }) => return Err(error),
            Err(_) => true,
        };
        // What makes the step fail must also be told: garbage in the frontend's state.
        if self.reason.is_empty() || self.wish == BackWish::Run {
            self.reason = match peer {
                Peer::Garbage => "the frontend's state is no state".into(),
                Peer::Denied => "the frontend's state cannot be read: permission denied".into(),
                Peer::State(state) => format!("the frontend went to state {}", state.digit()),
                Peer::Missing => String::new(),
            };
        }
        self.plug(store, disks, own, online)?;
        Ok(BackView {
            own,
            peer,
            online,
            ready: self.disk.is_some() || self.engine.is_some(),
            wish: self.wish,
            held: self.held(),
            keeper: self.toolstack.hotplug == Hotplug::Daemon,
        })
    }

    fn retire(&mut self, peers_fault: bool, reason: String) {
        self.stop();
        self.wish = BackWish::Retire;
        self.peers_fault = peers_fault;
        self.reason = reason;
    }

    /// `false` if what it takes is not there yet.
    fn publish<S: Store, D: Disks>(
        &mut self,
        store: &mut S,
        disks: &mut D,
    ) -> Result<bool, StoreError> {
        if self.is_unnamed(store)? {
            return Ok(false);
        }
        // Whoever runs a script wants to see state 2 first.
        if self.toolstack.hotplug != Hotplug::Script && !self.open(store, disks)? {
            return Ok(true);
        }
        if let Some(disk) = &self.disk {
            negotiate::write_features(store, &self.dir, disk.geometry())?;
        }
        self.clear_error(store)?;
        paths::switch_state(store, &self.dir, XenbusState::InitWait)?;
        Ok(true)
    }

    /// Maps, binds, attaches. `false` if that failed: the device is retired, and holds nothing.
    fn connect<S: Store, D: Disks>(
        &mut self,
        platform: &'p P,
        store: &mut S,
        disks: &mut D,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> Result<bool, StoreError> {
        if !self.open(store, disks)? {
            return Ok(false);
        }
        let frontend = match negotiate::read_frontend(store, &self.front_dir) {
            Ok(frontend) => frontend,
            Err(error) => {
                if let Some(error) = error.store() {
                    return Err(error);
                }
                self.retire(true, format!("{}: {error}", self.front_dir));
                return Ok(false);
            }
        };
        let Some(disk) = self.disk.take() else {
            return Ok(false);
        };
        let connected = Engine::connect(
            platform,
            self.id.front,
            frontend.ring_ref,
            frontend.port,
            disk,
        );
        let engine = match connected {
            Ok(engine) => engine,
            Err((disk, error)) => {
                self.disk = Some(disk);
                let (gref, port) = (frontend.ring_ref, frontend.port);
                let reason = format!("{error} (ring-ref {gref}, event-channel {port})");
                self.retire(true, reason);
                return Ok(false);
            }
        };
        if let Err(error) = doorbells.add(self.id, engine.channel()) {
            self.disk = Some(engine.into_disk());
            self.retire(false, error.to_string());
            return Ok(false);
        }
        self.engine = Some(engine);
        self.storm = Storm::default();
        self.masked_until = None;
        // The frontend may have posted requests before there was anybody to ring.
        self.due = true;
        Ok(true)
    }

    fn announce<S: Store>(&mut self, store: &mut S) -> Result<(), StoreError> {
        if let Some(engine) = &self.engine {
            let geometry = engine.disk().geometry();
            // Also what was written with state 2 if the disk was known then; frontends look again now.
            negotiate::write_features(store, &self.dir, geometry)?;
            negotiate::write_geometry(store, &self.dir, geometry)?;
        }
        paths::switch_state(store, &self.dir, XenbusState::Connected)
    }

    /// Ends the connection, if there is one: closes the port, unmaps the ring, keeps the disk.
    pub(super) fn release(&mut self, doorbells: &mut impl Doorbells<P::Channel>) {
        self.masked_until = None;
        self.due = false;
        if let Some(engine) = self.engine.take() {
            doorbells.remove(self.id, engine.channel());
            self.disk = Some(engine.into_disk());
        }
    }

    /// Takes no more requests.
    pub(super) fn stop(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.stop();
        }
    }

    /// The doorbell was rung. Looks at it, unless it is rung too often for nothing.
    pub(super) fn rung(&mut self) -> bool {
        let Some(engine) = &self.engine else {
            return false;
        };
        if self.masked_until.is_some() {
            return false;
        }
        self.stats.sys_evtchn.add(1);
        // A failure here shows again when the doorbell is to be rung.
        engine.channel().take_pending().unwrap_or(false)
    }

    /// The time of a masked doorbell has come.
    pub(super) fn unmask(
        &mut self,
        now: Duration,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> bool {
        let Some(engine) = &self.engine else {
            return false;
        };
        if self.masked_until.is_none_or(|until| until > now) {
            return false;
        }
        self.masked_until = None;
        let _ = engine.channel().unmask();
        doorbells.mask(self.id, engine.channel(), false);
        true
    }

    /// Serves the ring once, within the budget. `event`: because the doorbell was rung. `arm`: ask to be rung again.
    pub(super) fn serve(
        &mut self,
        event: bool,
        arm: bool,
        budget: u32,
        now: Duration,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> Served {
        let Some(engine) = &mut self.engine else {
            return Served::default();
        };
        let was_idle = engine.is_idle();
        self.due = false;
        let mut served = Served::default();
        match engine.step(budget) {
            Ok(progress) => {
                if progress.taken > 0 {
                    self.storm.worked();
                    served.worked = true;
                }
                served.again = progress.more || (arm && engine.arm() == Armed::Again);
                served.control = !was_idle && engine.is_idle();
                if let Some(why) = progress.refused {
                    self.warn(format_args!("request refused: {why}"));
                }
            }
            Err(error) => {
                served.control = true;
                served.again = true;
                self.retire(matches!(error, EngineError::Peer(_)), error.to_string());
            }
        }
        self.due = served.again;
        if event {
            self.settle(now, doorbells);
        }
        served
    }

    /// Lets the next event come, now or later.
    fn settle(&mut self, now: Duration, doorbells: &mut impl Doorbells<P::Channel>) {
        let Some(engine) = &self.engine else { return };
        self.stats.notifications_received.add(1);
        let delay = self.storm.event();
        if self.storm.is_idle() {
            self.stats.spurious_events.add(1);
        }
        match delay {
            None => {
                let _ = engine.channel().unmask();
            }
            Some(delay) => {
                self.masked_until = Some(now.saturating_add(delay));
                doorbells.mask(self.id, engine.channel(), true);
            }
        }
    }

    /// Says something that the guest can provoke: so many times and no more (XSA-43, XSA-180).
    fn warn(&mut self, text: core::fmt::Arguments<'_>) {
        let Some(left) = self.messages.checked_sub(1) else {
            return;
        };
        self.messages = left;
        let last = if left == 0 {
            "; further messages are dropped"
        } else {
            ""
        };
        tracing::warn!("{}: {text}{last}", self.id);
    }
}
