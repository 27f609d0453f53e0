//! Opening what the configuration names, for the one process that will use it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::image::{ImageError, ImageFormat, ImageSpec};
use crate::locks::{Conflict, Seat, Use};
use crate::nbd::{Address, Fence};
use crate::open::{self, BACKING_MAX, Busy, Identity, Wish};

/// How long a process may be kept from the image of a disk that is in use: by I/O of a dead one, or by an error that may pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much longer than an attempt that failed it is left alone: others are not served while a server does not answer.
const REST: u32 = 4;

/// How long a process may take to let go of the image of a disk that is gone.
const PARTING: Duration = Duration::from_secs(5);

/// What comes of asking for an image.
#[derive(Debug)]
pub enum Asked {
    /// Here it is, with what the configuration says of it.
    Open(ImageSpec, Opened),
    /// I/O of an earlier process is still under way, or it cannot be opened just now: ask again.
    Later,
    /// Another domain of the same machine has it, which will end: ask again, for as long as that takes.
    Moving,
}

/// An open image with its locks.
#[derive(Debug)]
pub struct Opened {
    /// A description that nobody else has; or the connection to a server.
    pub file: File,
    /// The images below it, in the order of the configuration.
    pub backing: Vec<File>,
    /// Size of the file; nothing of a server's.
    pub bytes: u64,
    identity: Identity,
}

/// A disk as configured.
#[derive(Debug)]
struct Disk {
    spec: ImageSpec,
    /// As messages name it.
    name: String,
    identity: Identity,
    /// Whose it is: domains of the same machine are one and the same guest, before and after it is migrated.
    machine: Option<String>,
    /// Some process had it open: I/O of a dead one may still be under way.
    served: bool,
    /// By which that of a server's disk is waited for.
    fence: Option<Fence>,
    /// When a process was first told to ask again.
    waits: Option<Instant>,
    /// Why it could not be opened last, and when that is tried again.
    trouble: Option<(ImageError, Instant)>,
}

impl Disk {
    /// Of which nothing is known but what it is for.
    const fn new(spec: ImageSpec, name: String) -> Self {
        Self {
            spec,
            name,
            identity: (0, 0),
            machine: None,
            served: false,
            fence: None,
            waits: None,
            trouble: None,
        }
    }

    /// Opens it, for one process.
    fn open(&mut self, seat: Seat) -> Result<Result<Opened, Busy>, ImageError> {
        let opened = match open(&self.spec, seat)? {
            Ok(opened) => opened,
            busy => return Ok(busy),
        };
        if self.spec.format == ImageFormat::Nbd {
            let fence = Fence::new(&opened.file).map_err(|error| ImageError::System {
                target: self.spec.target.clone(),
                op: "dup".to_owned(),
                errno: error.raw_os_error().unwrap_or(0),
            })?;
            self.fence = Some(fence);
        }
        self.served = true;
        self.waits = None;
        self.trouble = None;
        self.identity = opened.identity;
        Ok(Ok(opened))
    }

    /// An attempt to open it failed: whether another is to follow.
    fn tries_again(&mut self, error: &ImageError, took: Duration, patience: Duration) -> bool {
        let last = self.trouble.take();
        if !error.may_pass() || !self.may_wait(patience) {
            return false;
        }
        if last.is_none_or(|(last, _)| last != *error) {
            tracing::warn!("{}: {error}: tried again for {patience:?}", self.name);
        }
        self.trouble = Some((error.clone(), Instant::now() + took * REST));
        true
    }

    /// Whether its image is this one: a server's by its address.
    fn has(&self, identity: Identity, spec: &ImageSpec) -> bool {
        match spec.format {
            ImageFormat::Nbd => {
                self.spec.format == ImageFormat::Nbd && self.spec.target == spec.target
            }
            _ => identity != (0, 0) && self.identity == identity,
        }
    }

    /// Whether whoever asks may go on asking. Once that is refused a new time begins.
    fn may_wait(&mut self, patience: Duration) -> bool {
        let since = *self.waits.get_or_insert_with(Instant::now);
        let may = since.elapsed() < patience;
        if !may {
            self.waits = None;
        }
        may
    }
}

/// What was a disk's until just now.
#[derive(Debug)]
struct Parted {
    disk: Disk,
    since: Instant,
}

impl Parted {
    /// Whether something of it may still be under way.
    fn is_under_way(&mut self) -> bool {
        let fence = self.disk.fence.as_mut();
        self.since.elapsed() < PARTING && fence.is_none_or(|fence| !fence.is_over())
    }
}

/// The images of all disks, by backend directory.
#[derive(Debug)]
pub struct Images {
    /// What tells these backend directories from those of others, who may use the same images.
    place: String,
    disks: BTreeMap<String, Disk>,
    /// Disks that are gone, which processes may not have noticed yet.
    parted: Vec<Parted>,
    patience: Duration,
}

/// The part of a backend directory that numbers the guest's disk.
fn vdev(backend: &str) -> Option<&str> {
    backend.rsplit('/').next()
}

/// A name that the kernel gives, from `/proc/sys/kernel/random`.
fn random(name: &str) -> String {
    // Without one, devices of other machines might be waited for.
    std::fs::read_to_string(Path::new("/proc/sys/kernel/random").join(name)).unwrap_or_default()
}

fn open(spec: &ImageSpec, seat: Seat) -> Result<Result<Opened, Busy>, ImageError> {
    let format = || spec.format.name().to_owned();
    let target = || spec.target.clone();
    if spec.shared && spec.format == ImageFormat::Qcow2 {
        return Err(ImageError::Shared {
            target: target(),
            format: format(),
        });
    }
    let count = spec.backing.len();
    if count > BACKING_MAX || (count > 0 && spec.format != ImageFormat::Qcow2) {
        return Err(ImageError::Backing {
            target: target(),
            format: format(),
            count,
        });
    }
    match spec.format {
        ImageFormat::Nbd => return connect(spec).map(Ok),
        ImageFormat::Empty => return nothing().map(Ok),
        ImageFormat::Raw | ImageFormat::Qcow2 => {}
    }
    let wish = Wish {
        target: &spec.target,
        format: spec.format,
        what: match (spec.read_only, spec.shared) {
            (true, _) => Use::Read,
            (false, false) => Use::Write,
            (false, true) => Use::ShareWrites(seat),
        },
        cache: spec.cache,
    };
    let top = match open::open(&wish)? {
        Ok(top) => top,
        Err(busy) => return Ok(Err(busy)),
    };
    let mut backing = Vec::with_capacity(count);
    for below in &spec.backing {
        let wish = Wish {
            target: &below.target,
            format: below.format,
            what: Use::Read,
            cache: spec.cache,
        };
        match open::open(&wish)? {
            Ok(one) => backing.push(one.file),
            Err(busy) => return Ok(Err(busy)),
        }
    }
    Ok(Ok(Opened {
        file: top.file,
        backing,
        bytes: top.bytes,
        identity: top.identity,
    }))
}

/// For a drive without a medium: as for all disks, a descriptor.
fn nothing() -> Result<Opened, ImageError> {
    const NOTHING: &str = "/dev/null";
    let file = File::open(NOTHING).map_err(|error| ImageError::System {
        target: NOTHING.into(),
        op: "open".to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
    })?;
    Ok(Opened {
        file,
        backing: Vec::new(),
        bytes: 0,
        identity: (0, 0),
    })
}

fn connect(spec: &ImageSpec) -> Result<Opened, ImageError> {
    let text = spec.target.to_string_lossy();
    let address: Address = text.parse().map_err(|why| ImageError::Address {
        target: spec.target.clone(),
        why,
    })?;
    let connection = address.connect().map_err(|error| ImageError::System {
        target: spec.target.clone(),
        op: match error.raw_os_error() {
            Some(_) => "connect".to_owned(),
            None => format!("connect: {error}"),
        },
        errno: error.raw_os_error().unwrap_or(0),
    })?;
    Ok(Opened {
        file: connection.into(),
        backing: Vec::new(),
        bytes: 0,
        identity: address.identity(),
    })
}

impl Images {
    /// Images of backend directories that whoever comes after us means as well, as long as this kernel runs.
    pub fn of_kernel() -> Self {
        Self::at(random("boot_id"))
    }

    /// Images of backend directories that nobody but us knows.
    pub fn of_process() -> Self {
        Self::at(random("uuid"))
    }

    const fn at(place: String) -> Self {
        Self {
            place,
            disks: BTreeMap::new(),
            parted: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// A process may be told to ask again for so long.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Domains of the same machine have the same.
    fn seat(&self, backend: &str) -> Seat {
        let machine = self
            .disks
            .get(backend)
            .and_then(|disk| disk.machine.as_ref());
        match (machine, vdev(backend)) {
            (Some(machine), Some(vdev)) => Seat::of(&[&self.place, machine, vdev]),
            _ => Seat::of(&[&self.place, backend]),
        }
    }

    fn in_use(
        &self,
        target: &Path,
        conflict: Conflict,
        identity: (u64, u64),
        except: &str,
    ) -> ImageError {
        let ours = self.disks.iter().find(|(path, disk)| {
            *path != except && disk.identity == identity && identity != (0, 0) && disk.served
        });
        let by = match (ours, conflict) {
            (_, Conflict::Seated) => {
                "an earlier process of this disk, which still writes to it".to_owned()
            }
            (Some((_, disk)), _) => disk.name.clone(),
            (None, Conflict::Used) => "another process, which writes to it".to_owned(),
            (None, Conflict::NotShared) => {
                "another process, which shares it with nobody".to_owned()
            }
        };
        ImageError::InUse {
            target: target.to_owned(),
            by,
        }
    }

    /// Checks an image and remembers what it is for. `name` is the disk as messages name it. `false`: nothing was remembered,
    /// since the process of a disk that is gone has yet to let go of it; ask again.
    ///
    /// # Errors
    /// [`ImageError`], in words for the `error` node.
    pub fn configure(
        &mut self,
        backend: &str,
        spec: ImageSpec,
        name: String,
    ) -> Result<bool, ImageError> {
        match open(&spec, self.seat(backend))? {
            Err((_, identity)) if self.is_parted(identity, &spec) => Ok(false),
            Err((conflict, identity)) => {
                Err(self.in_use(&spec.target, conflict, identity, backend))
            }
            Ok(Opened { identity, .. }) => {
                let disk = Disk {
                    identity,
                    ..Disk::new(spec, name)
                };
                self.disks.insert(backend.to_owned(), disk);
                Ok(true)
            }
        }
    }

    /// Remembers what a disk is for without looking at it; what is known already stays known, as this says.
    pub fn set(&mut self, backend: &str, spec: ImageSpec, name: String) -> bool {
        if self
            .disks
            .get(backend)
            .is_some_and(|disk| disk.spec == spec)
        {
            return true;
        }
        self.disks.insert(backend.to_owned(), Disk::new(spec, name));
        false
    }

    /// Somebody before us gave the image to a process, whose I/O may still be under way: that it is locked is no conflict yet.
    pub fn was_served(&mut self, backend: &str) {
        if let Some(disk) = self.disks.get_mut(backend) {
            disk.served = true;
        }
    }

    /// The disk is this machine's, which may have it in another domain too while it is migrated.
    pub fn is_of(&mut self, backend: &str, machine: Option<String>) {
        if let Some(disk) = self.disks.get_mut(backend) {
            disk.machine = machine;
        }
    }

    /// These disks are gone, as `is_gone` says of their backend directories; processes may have yet to notice.
    pub fn part(&mut self, mut is_gone: impl FnMut(&str) -> bool) {
        let since = Instant::now();
        let gone = self.disks.extract_if(.., |backend, _| is_gone(backend));
        let served = gone.filter(|(_, disk)| disk.served);
        self.parted
            .extend(served.map(|(_, disk)| Parted { disk, since }));
    }

    /// Whether a disk with this image was there until just now.
    fn is_parted(&mut self, identity: Identity, spec: &ImageSpec) -> bool {
        self.parted.retain_mut(Parted::is_under_way);
        let mut parted = self.parted.iter();
        parted.any(|parted| parted.disk.has(identity, spec))
    }

    /// Whether another domain of the machine that this disk is of has the image, as the same disk.
    fn is_moving(&self, backend: &str, identity: Identity, spec: &ImageSpec) -> bool {
        let disk = self.disks.get(backend);
        let Some(machine) = disk.and_then(|disk| disk.machine.as_ref()) else {
            return false;
        };
        self.disks.iter().any(|(path, disk)| {
            path != backend
                && vdev(path) == vdev(backend)
                && disk.served
                && disk.machine.as_ref() == Some(machine)
                && disk.has(identity, spec)
        })
    }

    /// Nothing is known of this disk any more, and nothing of it is under way.
    pub fn forget(&mut self, backend: &str) {
        self.disks.remove(backend);
    }

    /// The process that asked for those of these disks is dead: the next one may wait as long.
    pub fn process_died(&mut self, of: impl Fn(&str) -> bool) {
        let disks = self.disks.iter_mut().filter(|(path, _)| of(path));
        disks.for_each(|(_, disk)| disk.waits = None);
    }

    /// Opens the image of a disk. `connected`: a guest uses it, and has it no more once its process hears of an error, so an error
    /// that may pass is waited out as I/O of an earlier process is.
    ///
    /// # Errors
    /// [`ImageError`], in words for the `error` node; also when that has been waited for too long.
    pub fn open(&mut self, backend: &str, connected: bool) -> Result<Asked, ImageError> {
        let seat = self.seat(backend);
        let Some(disk) = self.disks.get_mut(backend) else {
            return Err(ImageError::NoDisk {
                backend_path: backend.to_owned(),
            });
        };
        let spec = disk.spec.clone();
        if disk.fence.as_mut().is_some_and(|fence| !fence.is_over()) {
            if disk.may_wait(self.patience) {
                return Ok(Asked::Later);
            }
            return Err(self.in_use(&spec.target, Conflict::Used, (0, 0), backend));
        }
        disk.fence = None;
        // A server keeps nobody out.
        if spec.format == ImageFormat::Nbd {
            if self.is_moving(backend, (0, 0), &spec) {
                return Ok(Asked::Moving);
            }
            if self.is_parted((0, 0), &spec) {
                return Ok(Asked::Later);
            }
        }
        let Some(disk) = self.disks.get_mut(backend) else {
            return Ok(Asked::Later);
        };
        let began = Instant::now();
        if connected && matches!(disk.trouble, Some((_, until)) if began < until) {
            return Ok(Asked::Later);
        }
        match disk.open(seat) {
            Ok(Ok(opened)) => Ok(Asked::Open(spec, opened)),
            Err(error) => {
                let took = began.elapsed();
                match connected && disk.tries_again(&error, took, self.patience) {
                    true => Ok(Asked::Later),
                    false => Err(error),
                }
            }
            Ok(Err(_)) if disk.served && disk.may_wait(self.patience) => Ok(Asked::Later),
            Ok(Err((_, identity))) if self.is_moving(backend, identity, &spec) => Ok(Asked::Moving),
            Ok(Err((_, identity))) if self.is_parted(identity, &spec) => Ok(Asked::Later),
            Ok(Err((conflict, identity))) => {
                Err(self.in_use(&spec.target, conflict, identity, backend))
            }
        }
    }

    /// What tells the image of a disk from others, as last opened: device and inode, or what stands for a server's address and
    /// the export's name. `None` if it never was.
    pub fn identity(&self, backend: &str) -> Option<[u64; 2]> {
        let disk = self.disks.get(backend).filter(|disk| disk.served)?;
        let (device, inode) = disk.identity;
        Some([device, inode])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_export_of_another_server_is_another_image() {
        let dir = std::env::temp_dir();
        let mut images = Images::of_process();
        let mut identity = |name: &str, export: &str| {
            let path = dir.join(format!("ringfence-{name}-{}", std::process::id()));
            let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
            let mut spec = ImageSpec::raw(format!("nbd:unix:{}:{export}", path.display()), false);
            spec.format = ImageFormat::Nbd;
            images.set("/disk", spec, name.to_owned());
            let opened = images.open("/disk", false);
            std::fs::remove_file(&path).expect("there");
            drop(listener);
            assert!(matches!(opened, Ok(Asked::Open(..))), "{opened:?}");
            images.identity("/disk").expect("served")
        };
        let own = identity("one", "a");
        assert_ne!(own, identity("other", "a"));
        assert_ne!(own, identity("one", "b"));
        assert_eq!(own, identity("one", "a"));
    }
}
