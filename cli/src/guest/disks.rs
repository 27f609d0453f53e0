//! The disks of a guest as the store names them, also those that come later: each is connected as soon as its backend is there,
//! whether somebody uses it or not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringfence_blkfront::{Convention, Error, Event, Info};
use ringfence_core::store::{Store, StoreError, Tx};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::front::DiskFront;
use super::world::World;
use crate::rarely::Rarely;

/// Where the toolstack puts our disks.
const DISKS: &str = "device/vbd";

/// How long the end of a guest waits for a backend that may be gone.
pub const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Between two looks at rings that nothing of the store's announces.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Where a disk is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Life {
    /// There is no connection, and one may come.
    Waiting,
    /// Usable.
    Connected(Info),
    /// Closed by the backend, which does not come back unless the toolstack attaches the disk again.
    Closed,
    /// Disabled, and why.
    Failed(String),
}

struct Disk<P: World> {
    /// `None` while somebody uses the disk.
    front: Option<Box<DiskFront<P>>>,
    life: Life,
    /// Whether the store has its directory.
    present: bool,
}

/// The guest's connection to the store and the disks that nobody uses at the moment.
pub struct Disks<P: World> {
    platform: P,
    pub(crate) store: P::Store,
    persistent: bool,
    /// Of each disk, where its backend takes so many.
    queues: usize,
    /// How backends count sectors.
    sectors: Convention,
    /// For the buffers of one disk.
    pub(crate) pages: usize,
    /// Grows with every event: whoever saw an older number looks at its nodes again.
    news: u64,
    disks: BTreeMap<u32, Disk<P>>,
}

/// What the disks of one guest share.
pub type Shared<P> = Rc<RefCell<Disks<P>>>;

impl<P: World> Disks<P> {
    /// Watches the disks of this domain. Backends may keep their pages mapped if `persistent`. Each disk has up to `queues`
    /// queues, and its buffers take up to `pages` pages.
    ///
    /// # Errors
    /// The store failed.
    pub fn new(
        platform: P,
        mut store: P::Store,
        persistent: bool,
        queues: usize,
        pages: usize,
    ) -> Result<Shared<P>> {
        store.watch(DISKS, "disks").context("xenstore")?;
        Ok(Rc::new(RefCell::new(Self {
            platform,
            store,
            persistent,
            queues,
            sectors: Convention::default(),
            pages,
            news: 0,
            disks: BTreeMap::new(),
        })))
    }

    /// How the backends of the disks that come from now on count sectors larger than 512 bytes.
    pub const fn set_sectors(&mut self, convention: Convention) {
        self.sectors = convention;
    }

    /// How many events there were: see [`attend`](Self::attend).
    pub const fn news(&self) -> u64 {
        self.news
    }

    /// Takes in what the store sent, until nothing more is queued, and moves every disk on that nobody uses. Does not wait.
    ///
    /// # Errors
    /// The store failed.
    pub fn attend(&mut self) -> Result<()> {
        loop {
            let mut any = false;
            while self.store.next_watch().context("xenstore")?.is_some() {
                any = true;
            }
            if !any {
                return Ok(());
            }
            self.news += 1;
            self.list()?;
            for (vdev, disk) in &mut self.disks {
                if let Some(front) = &mut disk.front {
                    step(*vdev, front, &mut self.store, &mut disk.life)?;
                }
            }
        }
    }

    /// Compares with what the store has.
    fn list(&mut self) -> Result<()> {
        let present = present(&mut self.store)?;
        for vdev in &present {
            if !self.disks.contains_key(vdev) {
                let dir = format!("{DISKS}/{vdev}");
                let platform = self.platform.clone();
                let mut front = DiskFront::new(platform, &dir, self.queues, self.persistent)?;
                front.set_sectors(self.sectors);
                let disk = Disk {
                    front: Some(Box::new(front)),
                    life: Life::Waiting,
                    present: true,
                };
                self.disks.insert(*vdev, disk);
            }
        }
        for (vdev, disk) in &mut self.disks {
            disk.present = present.contains(vdev);
        }
        self.disks
            .retain(|_, disk| disk.present || disk.front.is_none());
        Ok(())
    }

    /// Where a disk is; `None` when the store knows none of this number.
    pub fn life(&self, vdev: u32) -> Option<&Life> {
        let disk = self.disks.get(&vdev).filter(|disk| disk.present)?;
        Some(&disk.life)
    }

    /// The disks there are.
    pub fn vdevs(&self) -> Vec<u32> {
        self.disks.keys().copied().collect()
    }

    /// Hands out a connected disk that nobody uses.
    pub fn lend(&mut self, vdev: u32) -> Option<(Box<DiskFront<P>>, Info)> {
        let disk = self.disks.get_mut(&vdev)?;
        match disk.life {
            Life::Connected(info) => disk.front.take().map(|front| (front, info)),
            _ => None,
        }
    }

    /// Takes a disk back, which is `life` now.
    pub fn give_back(&mut self, vdev: u32, front: Box<DiskFront<P>>, life: Life) {
        if let Some(disk) = self.disks.get_mut(&vdev) {
            disk.front = Some(front);
            disk.life = life;
        }
        self.disks
            .retain(|_, disk| disk.present || disk.front.is_none());
    }

    /// A descriptor of the store's, to sleep on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn fd(&self) -> Result<OwnedFd> {
        Ok(self.store.transport().as_fd().try_clone_to_owned()?)
    }

    /// Sleeps until the store or `stop` has something; `true` for `stop`. For use after [`attend`](Self::attend).
    ///
    /// # Errors
    /// As `poll(2)`.
    pub fn wait(&self, stop: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> Result<bool> {
        let store = self.store.transport().as_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(store, PollFlags::IN)];
        fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
        let timeout = timeout.map(Timespec::try_from).and_then(Result::ok);
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        Ok(fds.get(1).is_some_and(|fd| !fd.revents().is_empty()))
    }

    /// Connects disks as they come and lets go of those taken away, until `stop`.
    ///
    /// # Errors
    /// The store failed.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<()> {
        loop {
            self.attend()?;
            if self.wait(Some(stop), None)? {
                return Ok(());
            }
        }
    }

    /// Closes every disk and waits until the backends have let go.
    ///
    /// # Errors
    /// The store failed, or a backend does not answer.
    pub fn close(&mut self) -> Result<()> {
        let deadline = Instant::now() + CLOSE_MAX;
        for disk in self.disks.values_mut() {
            disk.front.iter_mut().for_each(|front| front.close());
        }
        // The first look is nobody's event.
        self.step_all()?;
        loop {
            self.attend()?;
            let open = self.open();
            if open.is_empty() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "the backends of {} did not close within {CLOSE_MAX:?}",
                    open.join(", ")
                );
            }
            let fronts = self.disks.values().filter_map(|disk| disk.front.as_ref());
            let busy = fronts.map(|front| front.in_flight()).sum::<usize>() > 0;
            self.wait(None, Some(if busy { left.min(DRAIN_LOOK) } else { left }))?;
            if busy {
                // What is in flight is answered without the store's knowing.
                self.step_all()?;
            }
        }
    }

    fn step_all(&mut self) -> Result<()> {
        for (vdev, disk) in &mut self.disks {
            if let Some(front) = &mut disk.front {
                front.discard_answers();
                step(*vdev, front, &mut self.store, &mut disk.life)?;
            }
        }
        Ok(())
    }

    /// The disks that are not closed.
    fn open(&self) -> Vec<String> {
        let open = self.disks.iter().filter(|(_, disk)| {
            disk.front.is_some() && !matches!(disk.life, Life::Closed | Life::Failed(_))
        });
        open.map(|(vdev, _)| vdev.to_string()).collect()
    }
}

/// A backend changes its nodes as often as it likes.
static BACKENDS: Rarely = Rarely::new();

/// What went wrong with a disk.
fn say(vdev: u32, what: fmt::Arguments<'_>) {
    match BACKENDS.may() {
        Some(0) => eprintln!("ringfence: disk {vdev}: {what}"),
        Some(dropped) => eprintln!("ringfence: disk {vdev}: {what} ({dropped} messages dropped)"),
        None => {}
    }
}

/// What a disk has become.
fn tell(vdev: u32, info: Info, what: &str) {
    if let Some(dropped) = BACKENDS.may() {
        tracing::info!(vdev, sectors = info.sectors.get(), dropped, "{what}");
    }
}

/// Takes a disk as far as it goes; `true` if it is connected anew.
pub(crate) fn step<P: World>(
    vdev: u32,
    front: &mut DiskFront<P>,
    store: &mut P::Store,
    life: &mut Life,
) -> Result<bool> {
    let mut connected = false;
    loop {
        let event = match front.step(store) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(connected),
            // Its directory was taken away just now, with what we may write to: the next event tells of that.
            Err(Error::Store(StoreError::Missing | StoreError::Denied)) => return Ok(connected),
            Err(error @ (Error::Store(_) | Error::Field(_))) => {
                return Err(error).with_context(|| format!("disk {vdev}"));
            }
            // Out of grants, or the backend's domain is gone: the other disks go on, and this one is tried at the next event.
            Err(error) => {
                say(vdev, format_args!("{error}"));
                return Ok(connected);
            }
        };
        match event {
            Event::Connected(info) => {
                tell(vdev, info, "connected");
                *life = Life::Connected(info);
                connected = true;
            }
            Event::Resized(info) => {
                tell(vdev, info, "resized");
                *life = Life::Connected(info);
            }
            Event::Failed(fault) => {
                say(vdev, format_args!("{fault}"));
                *life = Life::Failed(fault.to_string());
            }
            Event::Closing | Event::Disconnected => {
                if matches!(life, Life::Connected(_)) {
                    *life = Life::Waiting;
                }
            }
            Event::Closed => {
                if !matches!(life, Life::Failed(_)) {
                    *life = Life::Closed;
                }
            }
        }
    }
}

/// The numbers of the disks that the store knows.
fn present<S: Store>(store: &mut S) -> Result<Vec<u32>> {
    let mut room = [0; 4096];
    match store.directory(Tx::NONE, DISKS, &mut room) {
        Ok(names) => Ok(names.filter_map(|name| name.parse().ok()).collect()),
        Err(StoreError::Missing) => Ok(Vec::new()),
        Err(error) => Err(error).context(DISKS),
    }
}
