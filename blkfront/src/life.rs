//! The control plane: from the directory the toolstack made to a connection, and back.

use core::fmt::Write as _;
use core::marker::PhantomData;

use ringfence_core::platform::Platform;
use ringfence_core::store::{
    FieldError, Store, StoreError, StoreExt, StorePath, Tx, domain_path, join,
};
use ringfence_core::weakened;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::wire::xs_wire::Errno;
use ringfence_core::xenbus::paths::{fatal, switch_state};
use ringfence_core::xenbus::{Class, FrontAction, FrontView, FrontWish, Held, Peer, front};
use ringfence_core::{DomId, Handle};

use crate::negotiate::{
    Backend, Seen, locate, offered, points_back, publish, read_info, read_sectors,
};
use crate::rings::Rings;
use crate::{Error, Fault, Info, NegotiateError};

/// What changed, as [`Frontend::step`](crate::Frontend::step) tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Requests are taken from now on.
    Connected(Info),
    /// The disk has another size, and is otherwise as it was. Requests that are already on the ring beyond the end of a smaller
    /// one fail.
    Resized(Info),
    /// No more requests are taken. Go on reaping: the backend may still answer what is in flight.
    Closing,
    /// The backend or its nodes make no sense; the device is closed for good.
    Failed(Fault),
    /// The connection is over. If the backend returns, so does [`Connected`](Self::Connected), and what was not answered is put
    /// on the ring again; if it does not, or with [`Queue::set_replay`](crate::Queue::set_replay) off, that comes back from [`Queue::reap`](crate::Queue::reap).
    Disconnected,
    /// Closed, and nothing more will happen by itself.
    Closed,
}

/// How many actions one step takes: more than any life has in a row, so that only a backend that flaps meanwhile
/// is put off to the next call.
const ACTIONS: usize = 8;

/// The life of one disk, whatever rings it has.
pub(crate) struct Life<P: Platform, R> {
    pub(crate) rings: R,
    dir: StorePath,
    /// Whose home the directory may be in.
    domid: DomId,
    token: heapless::String<24>,
    watching: bool,
    /// The directory of the backend that the toolstack named, which need not be there yet.
    watched: Option<StorePath>,
    /// The backend of the present connection. What the store says of it later does not matter (XSA-175).
    backend: Option<Backend>,
    closing: bool,
    /// The event of the fault, or of being closed, was given.
    told: bool,
    platform: PhantomData<fn() -> P>,
}

/// A frontend that was dropped leaves its watches, and the next one for the same device finds them: they are as good.
fn watch<S: Store>(store: &mut S, dir: &str, token: &str) -> Result<(), StoreError> {
    match store.watch(dir, token) {
        Err(StoreError::Refused(Errno::Exist)) => Ok(()),
        other => other,
    }
}

/// The number of the virtual device that the directory is of.
fn number(dir: &str) -> u32 {
    let name = dir.rsplit('/').next();
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// What requests name the device by: as Linux, the low half of its number. Backends ignore it.
pub(crate) fn device(dir: &str) -> Handle {
    Handle::new(u16::try_from(number(dir) & 0xFFFF).unwrap_or(0))
}

impl<P: Platform, R: Rings<P>> Life<P, R> {
    pub(crate) fn new(dir: &str, rings: R) -> Result<Self, Error> {
        let own = rings.platform().domid();
        let number = number(dir);
        let dir = if dir.starts_with('/') {
            join(dir, "")?
        } else {
            join(&domain_path(own), dir)?
        };
        let mut token = heapless::String::new();
        // 9 bytes and at most ten digits: it always fits.
        let _ = write!(token, "blkfront-{number}");
        Ok(Self {
            rings,
            domid: own,
            dir,
            token,
            watching: false,
            watched: None,
            backend: None,
            closing: false,
            told: false,
            platform: PhantomData,
        })
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn dir(&self) -> &str {
        &self.dir
    }

    pub(crate) fn resume(&mut self) -> Result<(), Error> {
        let own = self.rings.platform().domid();
        if let Some(rest) = self.dir.strip_prefix(domain_path(self.domid).as_str()) {
            let mut dir = domain_path(own);
            let len = dir.len().saturating_add(rest.len());
            dir.push_str(rest)
                .map_err(|_| StoreError::Unsendable { len })?;
            self.dir = dir;
        }
        self.domid = own;
        self.rings.restored();
        self.watching = false;
        self.watched = None;
        self.release();
        self.backend = None;
        self.told = false;
        Ok(())
    }

    pub(crate) const fn close(&mut self) {
        self.closing = true;
    }

    pub(crate) fn step(&mut self, store: &mut P::Store) -> Result<Option<Event>, Error> {
        if !self.watching {
            watch(store, &self.dir, &self.token)?;
            self.watching = true;
        }
        for _ in 0..ACTIONS {
            let view = self.view(store)?;
            let action = front::step(Class::Vbd, &view);
            if let Some(event) = self.act(store, action, &view)? {
                return Ok(Some(event));
            }
            if matches!(action, FrontAction::Wait | FrontAction::Drain) {
                break;
            }
        }
        Ok(None)
    }

    fn view(&mut self, store: &mut P::Store) -> Result<FrontView, Error> {
        let own = Peer::read(store, &self.dir)?.state();
        if own == XenbusState::Initialising || self.backend.is_none() {
            self.look_up(store)?;
        }
        let (peer, online) = match &self.backend {
            Some(backend) => (
                match Peer::read(store, &backend.dir)? {
                    // Of a directory that is gone the store says so only to those who may read what it lay in.
                    Peer::Denied => Peer::Missing,
                    peer => peer,
                },
                // Anything but a plain 0 leaves hope.
                !matches!(
                    store.read_field::<u64>(Tx::NONE, &backend.dir, "online"),
                    Ok(0)
                ),
            ),
            None => (Peer::Missing, true),
        };
        let wish = match (self.rings.fault(), self.closing) {
            (Some(_), _) => FrontWish::Retire,
            (None, true) => FrontWish::Close,
            (None, false) => FrontWish::Run,
        };
        let held = self.rings.held();
        Ok(FrontView {
            own,
            peer,
            online,
            wish,
            held,
        })
    }

    /// Finds the backend, unless there is a connection: then it stays the one it was.
    fn look_up(&mut self, store: &mut P::Store) -> Result<(), Error> {
        if self.rings.held() != Held::Nothing {
            return Ok(());
        }
        self.backend = None;
        match locate(store, &self.dir)? {
            Seen::Nothing => self.follow(store, None),
            Seen::Value(backend) => {
                // First, so that no change after the look is missed.
                self.follow(store, Some(&backend.dir))?;
                match points_back(
                    store,
                    self.rings.platform().domid(),
                    &self.dir,
                    &backend.dir,
                )? {
                    Seen::Nothing => {}
                    Seen::Value(()) => self.backend = Some(backend),
                    Seen::Bad(error) => self.refute(error),
                }
                Ok(())
            }
            Seen::Bad(error) => {
                self.refute(error);
                self.follow(store, None)
            }
        }
    }

    fn refute(&mut self, error: NegotiateError) {
        self.rings.disable(Fault::Negotiate(error));
    }

    /// Moves the watch to `dir`.
    fn follow(&mut self, store: &mut P::Store, dir: Option<&StorePath>) -> Result<(), Error> {
        if self.watched.as_ref() == dir {
            return Ok(());
        }
        if let Some(old) = self.watched.take() {
            match store.unwatch(&old, &self.token) {
                Ok(()) | Err(StoreError::Missing) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(new) = dir {
            watch(store, new, &self.token)?;
        }
        self.watched = dir.cloned();
        Ok(())
    }

    fn act(
        &mut self,
        store: &mut P::Store,
        action: FrontAction,
        view: &FrontView,
    ) -> Result<Option<Event>, Error> {
        match action {
            FrontAction::Wait => match self.closed(view) {
                Some(event) => return Ok(Some(event)),
                None => return self.resized(store, view),
            },
            FrontAction::Drain => {}
            FrontAction::Publish => {
                let Some(backend) = &self.backend else {
                    return Ok(None);
                };
                let wants = self.rings.wants();
                let (order, queues) = match offered(store, &backend.dir, wants)? {
                    Ok(offered) => offered,
                    Err(error) => {
                        self.refute(error);
                        return Ok(None);
                    }
                };
                self.rings.offer(backend.domid, order, queues)?;
                if let Err(error) = publish(store, &self.dir, &self.rings) {
                    // Nobody saw them.
                    self.rings.withdraw();
                    return Err(error.into());
                }
            }
            FrontAction::Connect => return self.connect(store),
            FrontAction::BeginClosing => {
                switch_state(store, &self.dir, XenbusState::Closing)?;
                return Ok(self.rings.refuse().then_some(Event::Closing));
            }
            FrontAction::Fail => {
                let state = Fault::Negotiate(NegotiateError::State);
                let fault = self.rings.disable(state);
                fatal(store, &self.dir, &fault)?;
                self.rings.refuse();
                return Ok(Some(Event::Failed(fault)));
            }
            FrontAction::Disconnect => {
                switch_state(store, &self.dir, XenbusState::Closed)?;
                self.rings.refuse();
            }
            FrontAction::Release => {
                self.release();
                return Ok(Some(Event::Disconnected));
            }
            FrontAction::Reinitialise => {
                self.told = false;
                switch_state(store, &self.dir, XenbusState::Initialising)?;
            }
        }
        Ok(None)
    }

    fn connect(&mut self, store: &mut P::Store) -> Result<Option<Event>, Error> {
        let Some(backend) = &self.backend else {
            return Ok(None);
        };
        match read_info(store, &backend.dir, self.rings.wants())? {
            Ok(info) => {
                switch_state(store, &self.dir, XenbusState::Connected)?;
                self.rings.open(info);
                Ok(Some(Event::Connected(info)))
            }
            Err(error) => {
                self.refute(error);
                Ok(None)
            }
        }
    }

    /// A backend whose disk grew or shrank writes `sectors`, then its state 4 again; the former is what counts.
    fn resized(&mut self, store: &mut P::Store, view: &FrontView) -> Result<Option<Event>, Error> {
        let both =
            view.own == XenbusState::Connected && view.peer == Peer::State(XenbusState::Connected);
        let (Some(mut info), Some(backend)) = (self.rings.info().filter(|_| both), &self.backend)
        else {
            return Ok(None);
        };
        match read_sectors(store, &backend.dir, info.units)? {
            Some(sectors) if sectors != info.sectors => {
                info.sectors = sectors;
                self.rings.resize(sectors);
                Ok(Some(Event::Resized(info)))
            }
            _ => Ok(None),
        }
    }

    /// The backend let go of the connection.
    fn release(&mut self) {
        let again = self.rings.fault().is_none() && !self.closing;
        self.rings.release(again);
    }

    /// The one event of having come to the end.
    fn closed(&mut self, view: &FrontView) -> Option<Event> {
        let over = match view.own {
            XenbusState::Closed => view.wish != FrontWish::Run || !view.online,
            // No directory, or none any more.
            XenbusState::Unknown => view.wish != FrontWish::Run,
            _ => false,
        } && view.held == Held::Nothing;
        if over {
            // No other connection comes by itself.
            self.rings.end();
        }
        let told = self.told;
        self.told |= over;
        let once = !told || weakened!("cve_2023_1859_front");
        (over && once).then_some(Event::Closed)
    }
}

impl From<FieldError> for Error {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}
