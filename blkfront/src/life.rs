//! The control plane: from the directory the toolstack made to a connection, and back.

use core::fmt::Write as _;
use core::ops::{Deref, DerefMut};

use ringfence_core::platform::Platform;
use ringfence_core::store::{
    FieldError, Store, StoreError, StoreExt, StorePath, Tx, domain_path, join,
};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::wire::xs_wire::Errno;
use ringfence_core::xenbus::paths::{fatal, switch_state};
use ringfence_core::xenbus::{Class, FrontAction, FrontView, FrontWish, Held, Peer, front};
use ringfence_core::{DomId, Handle};

use crate::connection::Connection;
use crate::events::Events;
use crate::negotiate::{
    Backend, Seen, locate, points_back, publish, read_info, read_sectors, ring_order,
};
use crate::{Error, Fault, Info, MAX_PAGES, NegotiateError, Queue, SLOTS};

/// What changed, as [`Frontend::step`] tells it.
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
    /// on the ring again; if it does not, or with [`Queue::set_replay`] off, that comes back from [`Queue::reap`].
    Disconnected,
    /// Closed, and nothing more will happen by itself.
    Closed,
}

/// How many actions one [`Frontend::step`] takes: more than any life has in a row, so that only a backend that flaps meanwhile
/// is put off to the next call.
const ACTIONS: usize = 8;

/// The frontend of one disk: its control plane, and by [`Deref`] its [`Queue`], the data path.
pub struct Frontend<P: Platform, const DEPTH: usize = SLOTS, const PAGES: usize = MAX_PAGES> {
    queue: Queue<P, DEPTH, PAGES>,
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
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Deref for Frontend<P, DEPTH, PAGES> {
    type Target = Queue<P, DEPTH, PAGES>;

    fn deref(&self) -> &Self::Target {
        &self.queue
    }
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> DerefMut for Frontend<P, DEPTH, PAGES> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.queue
    }
}

/// A frontend that was dropped leaves its watches, and the next one for the same device finds them: they are as good.
fn watch<S: Store>(store: &mut S, dir: &str, token: &str) -> Result<(), StoreError> {
    match store.watch(dir, token) {
        Err(StoreError::Refused(Errno::Exist)) => Ok(()),
        other => other,
    }
}

impl<P: Platform> Frontend<P> {
    /// As [`with_limits`](Self::with_limits), with a ring of one page and buffers for direct segments.
    ///
    /// # Errors
    /// [`StoreError::Unsendable`] if the path is too long.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Frontend;
    /// use ringfence_core::DomId;
    /// use ringfence_sim::World;
    ///
    /// let front = Frontend::new(World::new().create(DomId::new(1)), "device/vbd/51712")?;
    /// assert_eq!(front.dir(), "/local/domain/1/device/vbd/51712");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(platform: P, dir: &str) -> Result<Self, Error> {
        Self::with_limits(platform, dir)
    }
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Frontend<P, DEPTH, PAGES> {
    /// A frontend for the device whose own directory is `dir`: absolute, or relative to the home of this domain
    /// (`device/vbd/51712`), with up to `DEPTH` requests in flight and buffers of up to `PAGES` pages. Touches nothing yet.
    ///
    /// # Errors
    /// [`StoreError::Unsendable`] if the path is too long.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Frontend;
    /// use ringfence_core::DomId;
    /// use ringfence_sim::World;
    ///
    /// let guest = World::new().create(DomId::new(1));
    /// let front = Frontend::<_, 128, 32>::with_limits(guest, "device/vbd/51712")?;
    /// assert_eq!(front.free(), 128);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_limits(platform: P, dir: &str) -> Result<Self, Error> {
        let dir = if dir.starts_with('/') {
            join(dir, "")?
        } else {
            join(&domain_path(platform.domid()), dir)?
        };
        let device = dir.rsplit('/').next().and_then(|name| name.parse().ok());
        let device: u32 = device.unwrap_or(0);
        // As Linux: the low half of the number. Backends ignore it.
        let handle = u16::try_from(device & 0xFFFF).unwrap_or(0);
        let mut token = heapless::String::new();
        // 9 bytes and at most ten digits: it always fits.
        let _ = write!(token, "blkfront-{device}");
        Ok(Self {
            domid: platform.domid(),
            queue: Queue::new(platform, Handle::new(handle)),
            dir,
            token,
            watching: false,
            watched: None,
            backend: None,
            closing: false,
            told: false,
        })
    }

    /// The token of the watches that [`step`](Self::step) sets: call it when one fires, or after any other.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// assert_eq!(Rig::new().front.token(), "blkfront-51712");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The device's own directory, absolute.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// assert_eq!(Rig::new().front.dir(), "/local/domain/1/device/vbd/51712");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// This guest was restored after having been saved, or migrated: its ring, its port, its grants and its watches are gone,
    /// whatever number it has now. Call this before anything else, then [`step`](Self::step): it connects anew, and what was
    /// not answered is put on the ring again. Buffers in the caller's hands must be [renewed](Self::renew). Not to be called
    /// where suspending was cancelled.
    ///
    /// # Errors
    /// [`StoreError::Unsendable`] if the path is too long with the new number.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::connected();
    /// let tag = rig.front.flush()?;
    /// rig.front.kick()?;
    /// # rig.restored();
    /// rig.front.resume()?; // the guest runs again, elsewhere
    /// # rig.connect();
    /// # rig.serve();
    /// assert_eq!(rig.front.reap()?.expect("repeated").tag, tag);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume(&mut self) -> Result<(), Error> {
        let own = self.queue.platform.domid();
        if let Some(rest) = self.dir.strip_prefix(domain_path(self.domid).as_str()) {
            let mut dir = domain_path(own);
            let len = dir.len().saturating_add(rest.len());
            dir.push_str(rest)
                .map_err(|_| StoreError::Unsendable { len })?;
            self.dir = dir;
        }
        self.domid = own;
        self.queue.life = self.queue.life.wrapping_add(1);
        self.watching = false;
        self.watched = None;
        self.release();
        self.backend = None;
        self.told = false;
        Ok(())
    }

    /// Asks for the end: call [`step`](Self::step) and reap until [`Event::Closed`].
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Event;
    ///
    /// let mut rig = Rig::connected();
    /// rig.front.close();
    /// assert_eq!(rig.events(), [Event::Closing]);
    /// # rig.close_back();
    /// assert_eq!(rig.events(), [Event::Disconnected, Event::Closed]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn close(&mut self) {
        self.closing = true;
    }

    /// Looks at both directories and does what is to be done. Call it at the start, when a watch with
    /// [`token`](Self::token) fired, after [`reap`](Self::reap) said that the backend lied or gave the last answer of a
    /// closing device, and again after every event it returned; `None` means that all is done for now.
    ///
    /// # Errors
    /// The store or the platform failed; nothing is half done, and calling again tries again.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Event;
    /// use ringfence_core::wire::xenbus::XenbusState;
    ///
    /// let mut rig = Rig::new();
    /// # let (front, store) = (&mut rig.front, &mut rig.store);
    /// assert_eq!(front.step(store)?, None); // the backend has not come yet
    /// # rig.published(); rig.describe(); rig.state(XenbusState::Connected);
    /// # let (front, store) = (&mut rig.front, &mut rig.store);
    /// let Some(Event::Connected(info)) = front.step(store)? else {
    ///     panic!("the backend is there");
    /// };
    /// assert!(info.flush && !info.read_only);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn step(&mut self, store: &mut P::Store) -> Result<Option<Event>, Error> {
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
        let wish = match (&self.queue.fault, self.closing) {
            (Some(_), _) => FrontWish::Retire,
            (None, true) => FrontWish::Close,
            (None, false) => FrontWish::Run,
        };
        let held = match self.queue.connection {
            None => Held::Nothing,
            Some(_) if self.queue.fault.is_none() && self.queue.inflight.open() > 0 => Held::Busy,
            Some(_) => Held::Idle,
        };
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
        if self.queue.connection.is_some() {
            return Ok(());
        }
        self.backend = None;
        match locate(store, &self.dir)? {
            Seen::Nothing => self.follow(store, None),
            Seen::Value(backend) => {
                // First, so that no change after the look is missed.
                self.follow(store, Some(&backend.dir))?;
                match points_back(store, self.queue.platform.domid(), &self.dir, &backend.dir)? {
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
        self.queue.fault.get_or_insert(Fault::Negotiate(error));
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
                let order = match ring_order(store, &backend.dir, DEPTH)? {
                    Ok(order) => order,
                    Err(error) => {
                        self.refute(error);
                        return Ok(None);
                    }
                };
                let Queue {
                    platform,
                    persistent,
                    ..
                } = &self.queue;
                let connection = Connection::new(platform, backend.domid, order, *persistent)?;
                publish(store, &self.dir, &connection)?;
                self.queue.events = Events::default();
                self.queue.connection = Some(connection);
            }
            FrontAction::Connect => return self.connect(store),
            FrontAction::BeginClosing => {
                switch_state(store, &self.dir, XenbusState::Closing)?;
                return Ok(self.refuse().then_some(Event::Closing));
            }
            FrontAction::Fail => {
                let state = Fault::Negotiate(NegotiateError::State);
                let fault = self.queue.fault.get_or_insert(state).clone();
                fatal(store, &self.dir, &fault)?;
                self.refuse();
                return Ok(Some(Event::Failed(fault)));
            }
            FrontAction::Disconnect => {
                switch_state(store, &self.dir, XenbusState::Closed)?;
                self.refuse();
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
        let (Some(connection), Some(backend)) = (&mut self.queue.connection, &self.backend) else {
            return Ok(None);
        };
        match read_info(store, &backend.dir, PAGES, connection.persistent)? {
            Ok(info) => {
                switch_state(store, &self.dir, XenbusState::Connected)?;
                connection.open(info);
                self.queue.repeat();
                Ok(Some(Event::Connected(info)))
            }
            Err(error) => {
                self.queue.fault.get_or_insert(Fault::Negotiate(error));
                Ok(None)
            }
        }
    }

    /// A backend whose disk grew or shrank writes `sectors`, then its state 4 again; the former is what counts.
    fn resized(&mut self, store: &mut P::Store, view: &FrontView) -> Result<Option<Event>, Error> {
        let both =
            view.own == XenbusState::Connected && view.peer == Peer::State(XenbusState::Connected);
        let (Some(connection), Some(backend)) = (&mut self.queue.connection, &self.backend) else {
            return Ok(None);
        };
        let Some(info) = connection.info.as_mut().filter(|_| both) else {
            return Ok(None);
        };
        match read_sectors(store, &backend.dir)? {
            Some(sectors) if sectors != info.sectors => {
                info.sectors = sectors;
                Ok(Some(Event::Resized(*info)))
            }
            _ => Ok(None),
        }
    }

    /// Takes no more requests. Returns whether any were taken before.
    fn refuse(&mut self) -> bool {
        self.queue
            .connection
            .as_mut()
            .is_some_and(|c| core::mem::take(&mut c.accepting))
    }

    /// The backend let go of the connection.
    fn release(&mut self) {
        if self.queue.replay && self.queue.fault.is_none() && !self.closing {
            self.queue.inflight.wait();
        } else {
            self.queue.inflight.end();
        }
        self.forget();
    }

    /// Lets go of the connection.
    fn forget(&mut self) {
        if let Some(connection) = self.queue.connection.take() {
            connection.ring.into_mem().revoke();
        }
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
            self.queue.inflight.end();
        }
        (over && !core::mem::replace(&mut self.told, true)).then_some(Event::Closed)
    }
}

impl From<FieldError> for Error {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}
