//! One disk of one guest: its life in XenStore, its engine while it is connected.

mod alone;
mod hotplug;
mod keep;
mod link;
mod medium;
mod queue;
mod served;
mod share;
mod waits;

use std::string::String;
use std::sync::Arc;
use std::time::Duration;

use ringfence_core::platform::Platform;
use ringfence_core::store::{FieldError, Store, StoreError, StoreExt, StorePath, Tx};
use ringfence_core::weakened;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::xenbus::{BackAction, BackView, BackWish, Class, Held, Peer, back, paths};

pub(super) use self::served::{Rings, Served};
pub(super) use self::share::Round;

use self::medium::Drive;
use self::queue::{Looked, Queue};
use self::share::Share;
use self::waits::{Look, Waits};
use super::disks::{Disks, Kept};
use super::doorbells::Doorbells;
use super::id::DeviceId;
use super::toolstack::{Hotplug, Toolstack, is_lost};
use super::waiting::Waiting;
use crate::error::EngineError;
use crate::grants::persistent::Budget;
use crate::negotiate::{self, Offer};
use crate::sink::{Disk, Split};
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
    /// Since the connection was begun, if somebody keeps a journal.
    kept: Option<Kept>,
    /// While connected.
    queues: Vec<Queue<'p, P>>,
    /// While connected with several queues.
    split: Option<Split>,
    /// What the frontend is offered.
    offer: Offer,
    /// How many pages of guests may stay mapped by all devices.
    budget: Arc<Budget>,
    /// Of a CD-ROM, since its disk was opened.
    drive: Option<Drive>,
    /// Whether it is a CD-ROM, by its `device-type` node.
    cdrom: bool,
    /// While connected: the `sectors` that the frontend was told.
    announced: Option<u64>,
    wish: BackWish,
    /// Whether the fault that ended the connection is the frontend's: it may then come again.
    peers_fault: bool,
    reason: String,
    /// The image that could not be opened, or why none is named: not tried again.
    refused: Option<Result<String, String>>,
    messages: u32,
    /// How the service waits for devices that do not say otherwise.
    waiting: Waiting,
    waits: Waits,
    share: Share,
    /// The queue that is served first in the next round: the one after whoever took what was left in this one.
    first: usize,
    /// Whether the service has it among those that have something to do without being rung.
    pub(super) listed: bool,
    /// What its disk is called that was to be asked for again.
    awaited: Option<String>,
    /// Since the last look: its disk is to be asked for again.
    pub(super) later: bool,
}

impl<'p, P: Platform> Device<'p, P> {
    pub(super) fn new(
        domid: ringfence_core::DomId,
        id: DeviceId,
        toolstack: Toolstack,
        stats: Arc<Stats>,
        offer: Offer,
        budget: Arc<Budget>,
        waiting: Waiting,
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
            kept: None,
            queues: Vec::new(),
            split: None,
            offer,
            budget,
            drive: None,
            cdrom: false,
            announced: None,
            wish: BackWish::Run,
            peers_fault: false,
            reason: String::new(),
            refused: None,
            messages: MESSAGES,
            waiting,
            waits: Waits::new(waiting),
            share: Share::default(),
            first: 0,
            listed: false,
            awaited: None,
            later: false,
        }
    }

    /// When the first of the masked doorbells is to be looked at.
    pub(super) fn masked_until(&self) -> Option<Duration> {
        let masked = self.queues.iter();
        masked.filter_map(|queue| queue.masked_until).min()
    }

    /// Whether there is, or will be, something to do without being rung.
    pub(super) fn is_due(&self) -> bool {
        if self.waits.is_due() && self.is_connected() {
            return true;
        }
        let mut queues = self.queues.iter();
        queues.any(|queue| queue.due || queue.is_masked() || !queue.engine.is_idle())
    }

    /// Whether a frontend uses it.
    pub(super) const fn is_connected(&self) -> bool {
        !self.queues.is_empty()
    }

    fn held(&self) -> Held {
        match self.queues.is_empty() {
            true => Held::Nothing,
            false if self.is_idle() => Held::Idle,
            false => Held::Busy,
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
        self.later = false;
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
                    if self.connect(platform, store, disks, doorbells, false)? {
                        self.announce(store)?;
                    } else if self.later {
                        return Ok(Life::Goes);
                    }
                }
                BackAction::Resume => {
                    self.connect(platform, store, disks, doorbells, true)?;
                    if self.later {
                        return Ok(Life::Goes);
                    }
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
                    (self.disk, self.drive) = (None, None);
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
                Peer::State(state) => format!("the frontend went to state {}", state.digit()),
                Peer::Missing | Peer::Denied => String::new(),
            };
        }
        self.stats.set_state(own.number());
        self.plug(store, disks, own, online)?;
        self.change_medium(store, disks, own, online)?;
        Ok(BackView {
            own,
            peer,
            online,
            ready: self.disk.is_some() || !self.queues.is_empty(),
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
            return Ok(!self.later);
        }
        negotiate::write_offer(store, &self.dir, &self.offer)?;
        if let Some(disk) = &self.disk {
            negotiate::write_features(store, &self.dir, disk.geometry())?;
        }
        self.clear_error(store)?;
        paths::switch_state(store, &self.dir, XenbusState::InitWait)?;
        Ok(true)
    }

    /// Takes no more requests.
    pub(super) fn stop(&mut self) {
        self.waits.end();
        for queue in &mut self.queues {
            queue.engine.stop();
        }
    }

    /// Starts a flush.
    pub(super) fn flush(&mut self) {
        // One covers what all the others have written.
        if let Some(queue) = self.queues.first_mut() {
            queue.engine.flush();
        }
    }

    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(|queue| queue.engine.is_idle())
    }

    /// Looks at the doorbell of a queue, and serves its ring if it was rung.
    pub(super) fn rung(
        &mut self,
        queue: u16,
        round: &Round,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> Served {
        let index = usize::from(queue);
        let Some(queue) = self.queues.get_mut(index) else {
            return Served::default();
        };
        if !queue.rung(&self.stats) {
            return Served::default();
        }
        let could = self.share.left(round) > 0;
        let looked = queue.serve(true, true, round, &mut self.share, doorbells, &self.stats);
        self.took_turn(index, could, round);
        self.looked(looked, round)
    }

    /// The next round begins with the queue after the one that took the last of this one's share.
    fn took_turn(&mut self, index: usize, could: bool, round: &Round) {
        if could && self.share.left(round) == 0 {
            self.first = index.saturating_add(1);
        }
    }

    /// All queues, in this round's order.
    fn turns(&self) -> impl Iterator<Item = usize> + use<P> {
        let count = self.queues.len();
        let first = self.first.min(count);
        (first..count).chain(0..first)
    }

    /// The same for all queues, one after the other.
    pub(super) fn poll(
        &mut self,
        round: &Round,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> Served {
        self.turns().fold(Served::default(), |served, queue| {
            let queue = u16::try_from(queue).unwrap_or(u16::MAX);
            served.and(self.rung(queue, round, doorbells))
        })
    }

    /// Serves those of these rings that have something to do without being rung, or all of them while it spins, each once and all
    /// together within the device's share of the round.
    pub(super) fn serve(
        &mut self,
        round: &Round,
        rings: Rings,
        doorbells: &mut impl Doorbells<P::Channel>,
    ) -> Served {
        let mut all = Served::default();
        let look = self.waits.look(round.now);
        for index in self.turns() {
            let Some(queue) = self.queues.get_mut(index) else {
                break;
            };
            let now = match rings {
                Rings::All => true,
                Rings::Only(only) => usize::from(only) == index,
                Rings::Plain => !queue.engine.has_suspects(),
            };
            if !now {
                continue;
            }
            let rung = queue.take_up(round, doorbells, &self.stats);
            if !rung && !queue.wants(look, round, doorbells) {
                continue;
            }
            let arm = look != Look::Poll;
            let could = self.share.left(round) > 0;
            let looked = queue.serve(rung, arm, round, &mut self.share, doorbells, &self.stats);
            self.took_turn(index, could, round);
            all = all.and(self.looked(looked, round));
        }
        all.again |= self.split.as_ref().is_some_and(Split::moved);
        all.spins = self.waits.spins(round.now) && self.is_connected();
        all
    }

    fn looked(&mut self, mut looked: Looked, round: &Round) -> Served {
        if looked.served.worked {
            self.waits.worked(round.now);
        }
        if (looked.others || looked.failed.is_some()) && self.queues.len() > 1 {
            for queue in &mut self.queues {
                queue.due = true;
            }
            looked.served.again = true;
        }
        if let Some(why) = looked.refused {
            self.warn(format_args!("request refused: {why}"));
        }
        if let Some(error) = looked.failed {
            self.retire(matches!(error, EngineError::Peer(_)), error.to_string());
        }
        looked.served
    }

    /// Says something that the guest can provoke: so many times and no more (XSA-43, XSA-180).
    pub(super) fn warn(&mut self, text: core::fmt::Arguments<'_>) {
        let left = self.messages.checked_sub(1);
        let weak = weakened!("xsa_180_blkback").then_some(MESSAGES);
        let Some(left) = left.or(weak) else {
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
