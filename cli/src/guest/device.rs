//! A disk of this guest, as the copy and the NBD export see one: a block frontend with its buffers and its share of the store.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringfence_blkfront::{
    Armed, Buffer, Event, Frontend, Info, MAX_PAGES, Op, Reason, Serviced, Tag,
};
use ringfence_core::store::Store;
use ringfence_core::{PAGE, Sector};
use ringfence_hosted::{Hosted, HostedStore};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::nbd::{BlockError, Blocks, Data, Geometry, SubmitError, Token};

/// The guest's connection to the store, which its disks share.
#[derive(Debug)]
pub struct Control {
    store: HostedStore,
    /// Grows with every event: a disk that saw an older number looks at its nodes again.
    news: u64,
}

impl Control {
    /// For all disks of one guest.
    pub fn new(store: HostedStore) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { store, news: 0 }))
    }

    /// Takes in what the store sent. Does not wait.
    fn listen(&mut self) -> Result<()> {
        while self.store.next_watch().context("xenstore")?.is_some() {
            self.news += 1;
        }
        Ok(())
    }
}

/// How long the end of a guest waits for a backend that may be gone.
pub const CLOSE_MAX: Duration = Duration::from_secs(5);

/// What one disk's data path cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Times the backend's doorbell was rung.
    pub notifications: u64,
    /// System calls of the data path without those for waiting, which the owner of the loop makes.
    pub syscalls: u64,
}

/// A connected disk.
pub struct GuestDisk {
    name: String,
    front: Frontend<Hosted>,
    control: Rc<RefCell<Control>>,
    /// A descriptor of the store's socket, to sleep on.
    store_fd: OwnedFd,
    /// Ends the pause that a backend earns which rings without cause.
    pause: OwnedFd,
    paused: bool,
    info: Info,
    open: HashMap<Tag, Token>,
    idle: Vec<Buffer<Hosted>>,
    news: u64,
    slept: bool,
    gone: bool,
    syscalls: u64,
}

impl GuestDisk {
    /// Waits until the disk with this number is connected.
    ///
    /// # Errors
    /// The backend closed the device or its nodes make no sense.
    pub fn connect(
        platform: &Hosted,
        control: &Rc<RefCell<Control>>,
        vdev: u32,
        name: &str,
    ) -> Result<Self> {
        let mut front = Frontend::new(platform.clone(), &format!("device/vbd/{vdev}"))?;
        let mut shared = control.borrow_mut();
        let info = loop {
            match front
                .step(&mut shared.store)
                .with_context(|| format!("{name}: cannot connect"))?
            {
                Some(Event::Connected(info)) => break info,
                Some(Event::Failed(fault)) => bail!("{name}: {fault}"),
                Some(Event::Closing | Event::Closed) => {
                    bail!("{name}: the backend closed the device")
                }
                Some(Event::Disconnected) => {}
                None => {
                    shared.store.wait(None).context("xenstore")?;
                    shared.listen()?;
                }
            }
        };
        let store_fd = shared.store.transport().as_fd().try_clone_to_owned()?;
        let news = shared.news;
        drop(shared);
        Ok(Self {
            name: name.to_owned(),
            front,
            control: control.clone(),
            store_fd,
            pause: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?,
            paused: false,
            info,
            open: HashMap::new(),
            idle: Vec::new(),
            news,
            slept: false,
            gone: false,
            syscalls: 0,
        })
    }

    /// The name it was attached by, e.g. `xvda`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the data path cost so far.
    pub fn cost(&self) -> Cost {
        let counters = self.front.counters();
        Cost {
            notifications: counters.notifications,
            syscalls: self.syscalls + counters.notifications,
        }
    }

    /// Closes the device and waits until the backend has let go.
    ///
    /// # Errors
    /// The store failed, or the backend does not answer.
    pub fn close(mut self) -> Result<()> {
        self.front.close();
        let control = self.control.clone();
        let mut shared = control.borrow_mut();
        let deadline = Instant::now() + CLOSE_MAX;
        loop {
            while self
                .front
                .reap()
                .is_ok_and(|completion| completion.is_some())
            {}
            match self.front.step(&mut shared.store)? {
                Some(Event::Closed | Event::Failed(_)) => return Ok(()),
                Some(_) => {}
                None if Instant::now() > deadline => {
                    bail!(
                        "{}: the backend did not close within {CLOSE_MAX:?}",
                        self.name
                    )
                }
                None => {
                    // What is in flight is answered without the store's knowing.
                    shared
                        .store
                        .wait(Some(Duration::from_millis(20)))
                        .context("xenstore")?;
                    shared.listen()?;
                }
            }
        }
    }

    fn look_at_nodes(&mut self) {
        self.syscalls += 1;
        let mut shared = self.control.borrow_mut();
        if shared.listen().is_err() {
            self.gone = true;
            return;
        }
        while self.news != shared.news {
            match self.front.step(&mut shared.store) {
                Ok(Some(Event::Connected(info))) => {
                    self.info = info;
                    self.idle.clear();
                }
                Ok(Some(Event::Failed(_) | Event::Closed)) | Err(_) => self.gone = true,
                Ok(Some(Event::Closing | Event::Disconnected)) => {}
                Ok(None) => self.news = shared.news,
            }
            if self.gone {
                break;
            }
        }
    }

    /// Whether the backend rang. Others wake us as well: what they have to say is no fault of the backend's.
    fn take_event(&mut self) -> bool {
        if !std::mem::take(&mut self.slept) {
            return false;
        }
        if std::mem::take(&mut self.paused) {
            let mut expirations = [0; 8];
            let _ = rustix::io::read(&self.pause, &mut expirations);
            let _ = self.front.unmask();
            self.syscalls += 2;
        }
        self.syscalls += 1;
        let rang = self.front.take_event().unwrap_or(false);
        if !rang {
            self.look_at_nodes();
        }
        rang
    }

    fn serviced(&mut self) {
        if let Ok(Serviced::Spurious(delay)) = self.front.serviced() {
            let it_value = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(delay.subsec_nanos()),
            };
            let it_value = Timespec {
                tv_sec: delay.as_secs() as i64,
                ..it_value
            };
            let once = Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value,
            };
            self.paused = timerfd_settime(&self.pause, TimerfdTimerFlags::empty(), &once).is_ok();
            self.syscalls += 1;
        }
    }

    /// A buffer of this length, used before or new.
    fn buffer(&mut self, bytes: usize) -> Result<Buffer<Hosted>, SubmitError> {
        let mut buffer = match self.idle.pop() {
            Some(buffer) => buffer,
            None => self
                .front
                .buffer(MAX_PAGES)
                .map_err(|_| SubmitError::Gone)?,
        };
        buffer.set_len(bytes).map_err(|_| SubmitError::Gone)?;
        Ok(buffer)
    }

    fn submit(
        &mut self,
        token: Token,
        op: Op,
        sector: u64,
        buffer: Buffer<Hosted>,
    ) -> Result<(), SubmitError> {
        match self.front.submit(op, Sector::new(sector), buffer) {
            Ok(tag) => {
                self.open.insert(tag, token);
                Ok(())
            }
            Err(rejected) => {
                self.idle.push(rejected.buffer);
                Err(self.refused(rejected.reason))
            }
        }
    }

    /// While the backend is away, requests wait as they do for a full ring.
    fn refused(&self, reason: Reason) -> SubmitError {
        match reason {
            Reason::Full { .. } => SubmitError::Full,
            Reason::NotConnected | Reason::ForeignBuffer { .. } if !self.gone => SubmitError::Full,
            _ => SubmitError::Gone,
        }
    }
}

impl Blocks for GuestDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.info.sectors.get(),
            block_bytes: self.info.sector_size,
            request_bytes: (MAX_PAGES * PAGE) as u32,
            read_only: self.info.read_only,
            flush: self.info.flush,
        }
    }

    fn submit_read(&mut self, token: Token, sector: u64, bytes: u32) -> Result<(), SubmitError> {
        if self.front.free() == 0 {
            return Err(SubmitError::Full);
        }
        let buffer = self.buffer(bytes as usize)?;
        self.submit(token, Op::Read, sector, buffer)
    }

    fn submit_write(&mut self, token: Token, sector: u64, data: &[u8]) -> Result<(), SubmitError> {
        if self.front.free() == 0 {
            return Err(SubmitError::Full);
        }
        let mut buffer = self.buffer(data.len())?;
        buffer.write_at(0, data).map_err(|_| SubmitError::Gone)?;
        self.submit(token, Op::Write, sector, buffer)
    }

    fn submit_flush(&mut self, token: Token) -> Result<(), SubmitError> {
        match self.front.flush() {
            Ok(tag) => {
                self.open.insert(tag, token);
                Ok(())
            }
            Err(reason) => Err(self.refused(reason)),
        }
    }

    fn kick(&mut self) {
        if self.front.kick().is_err() {
            self.gone = true;
        }
    }

    fn reap(&mut self, done: &mut dyn FnMut(Token, Result<Data<'_>, BlockError>)) {
        let rang = self.take_event();
        loop {
            match self.front.reap() {
                Ok(Some(completion)) => {
                    let Some(token) = self.open.remove(&completion.tag) else {
                        continue;
                    };
                    let error = if self.gone {
                        BlockError::Gone
                    } else {
                        BlockError::Failed
                    };
                    match (completion.result, completion.buffer) {
                        (Ok(()), buffer) => {
                            done(
                                token,
                                Ok(&|offset, out: &mut [u8]| {
                                    if let Some(buffer) = &buffer {
                                        // The server asks for parts of what it submitted; there is nothing beyond.
                                        let _ = buffer.read_at(offset, out);
                                    }
                                }),
                            );
                            self.idle.extend(buffer);
                        }
                        (Err(ringfence_blkfront::IoError::Aborted), _) => done(token, Err(error)),
                        (Err(_), buffer) => {
                            self.idle.extend(buffer);
                            done(token, Err(error));
                        }
                    }
                }
                Ok(None) => break,
                // A lie of the backend's: the device closes, and what is in flight comes back aborted.
                Err(_) => {
                    self.gone = true;
                    let control = self.control.clone();
                    let mut shared = control.borrow_mut();
                    if !matches!(self.front.step(&mut shared.store), Ok(Some(_))) {
                        break;
                    }
                }
            }
        }
        if rang {
            self.serviced();
        }
    }

    fn arm(&mut self) -> bool {
        self.slept = self.front.channel().is_none() || self.front.arm() == Armed::Sleep;
        self.slept
    }

    fn wake(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.store_fd.as_fd()];
        if self.paused {
            fds.push(self.pause.as_fd());
        } else {
            fds.extend(self.front.channel().map(AsFd::as_fd));
        }
        fds
    }
}
