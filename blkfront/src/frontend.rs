//! The frontend of one disk with one queue.

use core::ops::{Deref, DerefMut};

use ringfence_core::platform::Platform;

use crate::life::{Event, Life, device};
use crate::{Error, MAX_PAGES, Queue, SLOTS};

/// The frontend of one disk: its control plane, and by [`Deref`] its [`Queue`], the data path.
pub struct Frontend<P: Platform, const DEPTH: usize = SLOTS, const PAGES: usize = MAX_PAGES> {
    life: Life<P, Queue<P, DEPTH, PAGES>>,
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Deref for Frontend<P, DEPTH, PAGES> {
    type Target = Queue<P, DEPTH, PAGES>;

    fn deref(&self) -> &Self::Target {
        &self.life.rings
    }
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> DerefMut for Frontend<P, DEPTH, PAGES> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.life.rings
    }
}

impl<P: Platform> Frontend<P> {
    /// As [`with_limits`](Self::with_limits), with a ring of one page and buffers for direct segments.
    ///
    /// # Errors
    /// [`StoreError::Unsendable`](ringfence_core::store::StoreError::Unsendable) if the path is too long.
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
    /// [`StoreError::Unsendable`](ringfence_core::store::StoreError::Unsendable) if the path is too long.
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
        let life = Life::new(dir, Queue::new(platform, device(dir)))?;
        Ok(Self { life })
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
        self.life.token()
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
        self.life.dir()
    }

    /// This guest was restored after having been saved, or migrated: its ring, its port, its grants and its watches are gone,
    /// whatever number it has now. Call this before anything else, then [`step`](Self::step): it connects anew, and what was
    /// not answered is put on the ring again. Buffers in the caller's hands must be [renewed](Queue::renew). Not to be called
    /// where suspending was cancelled.
    ///
    /// # Errors
    /// [`StoreError::Unsendable`](ringfence_core::store::StoreError::Unsendable) if the path is too long with the new number.
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
        self.life.resume()
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
        self.life.close();
    }

    /// Looks at both directories and does what is to be done. Call it at the start, when a watch with
    /// [`token`](Self::token) fired, after [`reap`](Queue::reap) said that the backend lied or left a closing device
    /// [drained](Queue::is_drained), and again after every event it returned; `None` means that all is done for now.
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
        self.life.step(store)
    }
}
