//! Opening what the configuration names, for the one process that will use it.

mod connections;
mod disk;
mod opened;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::image::{ImageError, ImageFormat, ImageSpec};
use crate::locks::{Conflict, Seat};
use crate::open::Identity;
use connections::Connections;
use disk::{Disk, Parted};
pub use opened::Opened;
use opened::Tried;

/// How long a process may be kept from the image of a disk that is in use: by I/O of a dead one, or by an error that may pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes of asking for an image.
#[derive(Debug)]
pub enum Asked {
    /// Here it is, with what the configuration says of it.
    Open(ImageSpec, Opened),
    /// I/O of an earlier process is still under way, a server has yet to let us in, or it cannot be opened just now: ask again.
    Later,
    /// Another domain of the same machine has it, which will end: ask again, for as long as that takes.
    Moving,
}

/// The images of all disks, by backend directory.
#[derive(Debug)]
pub struct Images {
    /// What tells these backend directories from those of others, who may use the same images.
    place: String,
    disks: BTreeMap<String, Disk>,
    /// Disks that are gone, which processes may not have noticed yet.
    parted: Vec<Parted>,
    connections: Connections,
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

impl Images {
    /// Images of backend directories that whoever comes after us means as well, as long as this kernel runs.
    pub fn of_kernel() -> Self {
        Self::at(random("boot_id"))
    }

    /// Images of backend directories that nobody but us knows.
    pub fn of_process() -> Self {
        Self::at(random("uuid"))
    }

    fn at(place: String) -> Self {
        Self {
            place,
            disks: BTreeMap::new(),
            parted: Vec::new(),
            connections: Connections::default(),
            patience: PATIENCE,
        }
    }

    /// A process may be told to ask again for so long.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Domains of the same machine have the same.
    fn seat(&self, backend: &str, machine: Option<&str>) -> Seat {
        match (machine, vdev(backend)) {
            (Some(machine), Some(vdev)) => Seat::of(&[&self.place, machine, vdev]),
            _ => Seat::of(&[&self.place, backend]),
        }
    }

    fn in_use(&self, target: &Path, conflict: Conflict, identity: Identity) -> ImageError {
        let mut disks = self.disks.values();
        let ours = disks.find(|disk| disk.has(identity) && disk.served);
        let by = match (ours, conflict) {
            (_, Conflict::Seated) => {
                "an earlier process of this disk, which still writes to it".to_owned()
            }
            (Some(disk), _) => disk.name.clone(),
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
    /// since the process of a disk that is gone has yet to let go of it, or a server to let us in; ask again.
    ///
    /// # Errors
    /// [`ImageError`], in words for the `error` node.
    pub fn configure(
        &mut self,
        backend: &str,
        spec: ImageSpec,
        name: String,
    ) -> Result<bool, ImageError> {
        let seat = self.seat(backend, None);
        match Opened::by(&spec, seat, &mut self.connections)? {
            Tried::Later => Ok(false),
            Tried::Busy((_, identity)) if self.is_parted(identity) => Ok(false),
            Tried::Busy((conflict, identity)) => Err(self.in_use(&spec.target, conflict, identity)),
            Tried::Open(Opened { identity, .. }) => {
                let mut disk = Disk::new(spec, name);
                disk.identity = identity;
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
        self.parted.retain_mut(Parted::is_under_way);
    }

    /// Whether a disk with this image was there until just now.
    fn is_parted(&mut self, identity: Identity) -> bool {
        self.parted.retain_mut(Parted::is_under_way);
        let mut parted = self.parted.iter();
        parted.any(|parted| parted.disk.has(identity))
    }

    /// Whether another domain of `machine` has the image, as the same disk.
    fn is_moving(&self, backend: &str, machine: Option<&str>, identity: Identity) -> bool {
        machine.is_some()
            && self.disks.iter().any(|(path, disk)| {
                vdev(path) == vdev(backend)
                    && disk.served
                    && disk.machine.as_deref() == machine
                    && disk.has(identity)
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
        let Some((path, mut disk)) = self.disks.remove_entry(backend) else {
            return Err(ImageError::NoDisk {
                backend_path: backend.to_owned(),
            });
        };
        let asked = self.ask(&path, &mut disk, connected);
        self.disks.insert(path, disk);
        asked
    }

    /// The same of a disk that is none of those here meanwhile.
    fn ask(
        &mut self,
        backend: &str,
        disk: &mut Disk,
        connected: bool,
    ) -> Result<Asked, ImageError> {
        if disk.fence.as_mut().is_some_and(|fence| !fence.is_over()) {
            return self.later(disk);
        }
        disk.fence = None;
        let machine = disk.machine.as_deref();
        let seat = self.seat(backend, machine);
        // A server keeps nobody out.
        if disk.spec.format == ImageFormat::Nbd {
            if self.is_moving(backend, machine, disk.identity) {
                return Ok(Asked::Moving);
            }
            if self.is_parted(disk.identity) {
                return self.later(disk);
            }
        }
        let began = Instant::now();
        if connected && disk.rests(began) {
            return Ok(Asked::Later);
        }
        let (conflict, identity) = match disk.open(seat, &mut self.connections) {
            Ok(Tried::Open(opened)) => return Ok(Asked::Open(disk.spec.clone(), opened)),
            Ok(Tried::Later) => return Ok(Asked::Later),
            Ok(Tried::Busy(busy)) => busy,
            Err(error) => {
                let took = began.elapsed();
                return match connected && disk.tries_again(&error, took, self.patience) {
                    true => Ok(Asked::Later),
                    false => Err(error),
                };
            }
        };
        if disk.served && disk.may_wait(self.patience) {
            return Ok(Asked::Later);
        }
        if self.is_moving(backend, disk.machine.as_deref(), identity) {
            return Ok(Asked::Moving);
        }
        if self.is_parted(identity) {
            return Ok(Asked::Later);
        }
        Err(self.in_use(&disk.spec.target, conflict, identity))
    }

    /// Its server has yet to finish what came on another connection.
    fn later(&self, disk: &mut Disk) -> Result<Asked, ImageError> {
        match disk.may_wait(self.patience) {
            true => Ok(Asked::Later),
            false => Err(self.in_use(&disk.spec.target, Conflict::Used, (0, 0))),
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
    use std::io::Read as _;
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    /// A server's socket, and the disk that it has.
    fn server(name: &str, export: &str) -> (UnixListener, PathBuf, ImageSpec) {
        let name = format!("ringfence-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut spec = ImageSpec::raw(format!("nbd:unix:{}:{export}", path.display()), false);
        spec.format = ImageFormat::Nbd;
        (listener, path, spec)
    }

    #[test]
    fn the_export_of_another_server_is_another_image() {
        let mut images = Images::of_process();
        let mut identity = |name: &str, export: &str| {
            let (listener, path, spec) = server(name, export);
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

    #[test]
    fn an_export_that_has_two_names_is_one_image() {
        let mut images = Images::of_process();
        let (_listener, path, spec) = server("names", "a");
        let other = ImageSpec {
            target: format!("nbd+unix:///a?socket={}", path.display()).into(),
            ..spec.clone()
        };
        let (old, new) = ("/7/51712", "/8/51712");
        for (backend, spec) in [(old, spec), (new, other)] {
            images.set(backend, spec, backend.to_owned());
            images.is_of(backend, Some("machine".to_owned()));
        }
        // Before it is opened here too.
        images.was_served(old);
        let asked = images.open(new, false);
        assert!(matches!(asked, Ok(Asked::Moving)), "{asked:?}");
        images.part(|backend| backend == old);
        let asked = images.open(new, false);
        assert!(matches!(asked, Ok(Asked::Later)), "{asked:?}");
        std::fs::remove_file(&path).expect("there");
    }

    #[test]
    fn nothing_stays_of_a_disk_that_is_gone_once_its_server_has_closed_the_connection() {
        let mut images = Images::of_process();
        let (listener, path, spec) = server("gone", "");
        images.set("/disk", spec, "it".to_owned());
        let opened = images.open("/disk", false).expect("a server");
        let (mut servers, _) = listener.accept().expect("a connection");
        std::fs::remove_file(&path).expect("there");
        drop(opened);
        images.part(|backend| backend == "/disk");
        assert_eq!(servers.read(&mut [0; 8]).expect("it reads"), 0, "told");
        assert_eq!(images.parted.len(), 1);
        drop(servers);
        // A process that another test is just starting may have it for a moment.
        while !images.parted.is_empty() {
            images.part(|_| false);
        }
    }

    #[test]
    fn an_export_is_not_opened_while_its_server_finishes_what_a_disk_that_is_gone_asked_for() {
        let mut images = Images::of_process();
        let (listener, path, spec) = server("finishes", "");
        images.set("/old", spec.clone(), "old".to_owned());
        drop(images.open("/old", false).expect("a server"));
        let (servers, _) = listener.accept().expect("a connection");
        images.part(|backend| backend == "/old");
        // However long that takes.
        for parted in &mut images.parted {
            parted.since -= Duration::from_secs(3600);
        }
        images.set("/new", spec, "new".to_owned());
        let asked = images.open("/new", false);
        assert!(matches!(asked, Ok(Asked::Later)), "{asked:?}");
        images.patience = Duration::ZERO;
        let refused = images.open("/new", false).expect_err("waited for too long");
        assert!(refused.to_string().contains("in use by"), "{refused}");
        images.patience = PATIENCE;
        drop(servers);
        let asked = std::iter::repeat_with(|| images.open("/new", false))
            .find(|asked| !matches!(asked, Ok(Asked::Later)));
        assert!(matches!(asked, Some(Ok(Asked::Open(..)))), "{asked:?}");
        std::fs::remove_file(&path).expect("there");
    }

    #[test]
    fn a_server_that_lets_nobody_in_holds_up_no_other_disk() {
        let server = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        rustix::net::bind(&server, &any).unwrap();
        rustix::net::listen(&server, 0).unwrap();
        let server = TcpListener::from(server);
        let address = server.local_addr().unwrap();
        // Once it has no room it does not answer.
        let enough = Duration::from_millis(300);
        let room = std::iter::from_fn(|| TcpStream::connect_timeout(&address, enough).ok());
        let room: Vec<TcpStream> = room.collect();
        let mut remote = ImageSpec::raw(format!("nbd://{address}/x"), false);
        remote.format = ImageFormat::Nbd;
        let mut images = Images::of_process();
        images.set("/remote", remote.clone(), "remote".to_owned());
        images.set("/empty", ImageSpec::empty(), "empty".to_owned());
        for _ in 0..3 {
            let asked = images.open("/remote", false);
            assert!(matches!(asked, Ok(Asked::Later)), "{asked:?}");
            let known = images.configure("/other", remote.clone(), "other".to_owned());
            assert!(!known.expect("no answer yet"));
            let asked = images.open("/empty", false);
            assert!(matches!(asked, Ok(Asked::Open(..))), "{asked:?}");
        }
        // Now it has.
        for _ in &room {
            server.accept().unwrap();
        }
        poll(&mut [PollFd::new(&server, PollFlags::IN)], None).unwrap();
        let asked = std::iter::repeat_with(|| images.open("/remote", false))
            .find(|asked| !matches!(asked, Ok(Asked::Later)));
        assert!(matches!(asked, Some(Ok(Asked::Open(..)))), "{asked:?}");
    }
}
