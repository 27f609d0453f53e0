//! A block driver domain in a simulated world, with guests that keep no rules.

mod bells;
mod disk;
mod guest;
mod rings;

pub use bells::Bells;
pub use disk::{RecordingDisks, SECTORS, Shared};
pub use guest::{Guest, discard, indirect, read, request, write, write_segments};
pub use rings::{OtherRing, Pages};

use std::num::NonZero;
use std::time::Duration;

use ringfence_blkback::service::{Crew, Service, Toolstack};
use ringfence_core::DomId;
use ringfence_core::platform::Granted as _;
use ringfence_core::store::{Perm, Store, StoreError, StoreExt, Tx, domain_path, join};
use ringfence_core::xenbus::{Class, paths};
use ringfence_sim::{Sim, SimStore, Usage, World};

/// The driver domain.
pub const BACK: DomId = DomId::new(1);
/// Requests of one ring before the next ring's turn.
pub const BUDGET: u32 = 32;

/// The world, its toolstack, and the service under test.
pub struct Rig {
    /// The world.
    pub world: World,
    kind: Toolstack,
    /// dom0's connection to the store.
    pub toolstack: SimStore,
    /// The service.
    pub service: Service<'static, Sim, RecordingDisks, Bells>,
    /// Those of the process's other threads, if it has any.
    pub others: Vec<Service<'static, Sim, RecordingDisks, Bells>>,
    /// What the service's disks have seen.
    pub disks: RecordingDisks,
    /// The service's clock.
    pub now: Duration,
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Rig {
    /// A driver domain without devices.
    pub fn new() -> Self {
        Self::on(World::new())
    }

    /// The same in a world that is there already.
    pub fn on(world: World) -> Self {
        Self::served(world, Toolstack::HOSTED)
    }

    /// The next process of a driver domain whose last one is dead.
    pub fn next(world: World, disks: &RecordingDisks) -> Self {
        Self::with_disks(world, Toolstack::HOSTED, disks, 1)
    }

    /// The same with devices that this toolstack makes.
    pub fn served(world: World, kind: Toolstack) -> Self {
        Self::with_disks(world, kind, &RecordingDisks::default(), 1)
    }

    /// A driver domain without devices whose process has so many threads.
    pub fn in_threads(threads: u16) -> Self {
        let (world, disks) = (World::new(), RecordingDisks::default());
        Self::with_disks(world, Toolstack::HOSTED, &disks, threads)
    }

    /// The process of the driver domain dies, if it is not dead yet, and another takes its place.
    #[must_use]
    pub fn restarted(self) -> Self {
        let threads = u16::try_from(self.others.len() + 1).expect("few");
        let Self {
            world, kind, disks, ..
        } = self;
        world.kill(BACK);
        Self::with_disks(world, kind, &disks, threads)
    }

    fn with_disks(world: World, kind: Toolstack, disks: &RecordingDisks, threads: u16) -> Self {
        let mut toolstack = world.store(DomId::DOM0);
        // A service borrows its platform for as long as it runs: here, as long as the test.
        let back: &'static Sim = Box::leak(Box::new(world.domain(BACK)));
        let disks = disks.of_process(back);
        let crew = Crew::new(NonZero::new(threads).expect("somebody serves"));
        let mut services = (0..threads).map(|index| {
            let (store, bells) = (back.store(), Bells::default());
            let service = Service::with_toolstack(back, store, disks.clone(), bells, kind);
            let mut service = service.expect("a watch");
            service.join(&crew, index);
            service
        });
        let service = services.next().expect("somebody serves");
        let others = services.collect();
        // Where a backend says what went wrong; the toolstack makes it with the domain.
        let errors = join(&domain_path(BACK), "error").expect("a short path");
        let made = toolstack.mkdir(Tx::NONE, &errors);
        let perms = [Perm::owner(BACK), Perm::read(DomId::DOM0)];
        let made = made.and_then(|()| toolstack.set_perms(Tx::NONE, &errors, &perms));
        made.expect("dom0 may");
        Self {
            world,
            kind,
            toolstack,
            service,
            others,
            disks,
            now: Duration::ZERO,
        }
    }

    /// Lets the driver domain work until it rests.
    ///
    /// # Panics
    /// If it never does: that is what a frontend that keeps it busy is after.
    pub fn settle(&mut self) {
        // One thread may wait for what the next one says after it.
        let mut rests = 0;
        for _ in 0..2000 {
            let mut busy = false;
            for service in std::iter::once(&mut self.service).chain(&mut self.others) {
                busy |= service.control().expect("the store lives");
                let rung = service.poll(BUDGET, self.now);
                let served = service.serve(BUDGET, self.now);
                busy |= [rung, served]
                    .iter()
                    .any(|turn| turn.again | turn.control | turn.worked);
            }
            rests = if busy || self.world.advance() {
                0
            } else {
                rests + 1
            };
            if rests > 2 * self.others.len() {
                return;
            }
        }
        panic!("the backend does not come to rest");
    }

    /// A guest whose disk has no nodes yet.
    pub fn guest(&self, front: u16, vdev: u32) -> Guest {
        Guest::new(&self.world, DomId::new(front), vdev)
    }

    /// A guest with a new disk, as the toolstack makes them. Not connected.
    pub fn attach(&mut self, front: u16, vdev: u32, mode: &str) -> Guest {
        let front = DomId::new(front);
        let guest = Guest::new(&self.world, front, vdev);
        let (own, other) = (guest.dir.clone(), guest.back_dir.clone());
        self.make_dir(&own, front, BACK);
        self.make_dir(&other, BACK, front);
        let id = front.to_string();
        let back = BACK.to_string();
        for (dir, node, value) in [
            (&own, "backend", other.as_str()),
            (&own, "backend-id", &back),
            (&own, "virtual-device", "51712"),
            (&own, "state", "1"),
            (&other, "frontend", &own),
            (&other, "frontend-id", &id),
            (&other, "mode", mode),
            (&other, "online", "1"),
            (&other, "state", "1"),
        ] {
            self.toolstack
                .write_str(Tx::NONE, dir, node, value)
                .expect("dom0 may");
        }
        guest
    }

    fn make_dir(&mut self, dir: &str, owner: DomId, reader: DomId) {
        let perms = [Perm::owner(owner), Perm::read(reader)];
        self.toolstack.mkdir(Tx::NONE, dir).expect("dom0 may");
        self.toolstack
            .set_perms(Tx::NONE, dir, &perms)
            .expect("dom0 may");
    }

    /// A guest with a connected disk.
    pub fn connected(&mut self, front: u16, mode: &str) -> Guest {
        let mut guest = self.attach(front, 51712, mode);
        guest.connect(self);
        guest
    }

    /// A guest with so many writes of a page at its disk, which keeps them.
    ///
    /// # Panics
    /// If they do not get there.
    pub fn in_flight(&mut self, front: u16, writes: u64) -> Guest {
        let mut guest = self.connected(front, "w");
        let disk = self.disks.of(&guest.back_dir);
        disk.borrow_mut().hold = true;
        let gref = guest.page.grant_ref();
        (0..writes).for_each(|id| guest.push(&write(id, id * 8, gref)));
        guest.kick();
        self.settle();
        assert_eq!(disk.borrow().held() as u64, writes);
        guest
    }

    /// The backend's `state` node, `?` if there is none.
    pub fn state(&mut self, guest: &Guest) -> String {
        self.node(&guest.back_dir, "state")
            .unwrap_or_else(|| "?".into())
    }

    /// A node as the toolstack sees it.
    pub fn node(&mut self, dir: &str, name: &'static str) -> Option<String> {
        let value = self
            .toolstack
            .read_opt::<heapless::String<300>>(Tx::NONE, dir, name);
        value.expect("dom0 may").map(|text| text.to_string())
    }

    /// The toolstack writes a node.
    pub fn set(&mut self, dir: &str, name: &str, value: &str) {
        let written = self.toolstack.write_str(Tx::NONE, dir, name, value);
        written.expect("dom0 may");
    }

    /// The text of the device's `error` node, empty if there is none.
    pub fn error(&mut self, guest: &Guest) -> String {
        let path = paths::error_path(&guest.back_dir).expect("a short path");
        let (dir, _) = path.rsplit_once('/').expect("a path");
        self.node(dir, "error").unwrap_or_default()
    }

    /// What the driver domain holds of others.
    pub fn usage(&self) -> Usage {
        self.world.usage(BACK)
    }

    /// The toolstack takes a device away.
    pub fn detach(&mut self, guest: &Guest) {
        self.toolstack
            .write_str(Tx::NONE, &guest.back_dir, "online", "0")
            .expect("dom0 may");
        self.toolstack
            .write_str(Tx::NONE, &guest.back_dir, "state", "5")
            .expect("dom0 may");
    }

    /// The toolstack removes both directories of a device.
    pub fn remove(&mut self, guest: &Guest) {
        for dir in [&guest.dir, &guest.back_dir] {
            match self.toolstack.rm(Tx::NONE, dir) {
                Ok(()) | Err(StoreError::Missing) => {}
                Err(error) => panic!("{dir}: {error}"),
            }
        }
    }

    /// What THREATS' universal oracle asks of every attack, afterwards: the attacker's device, reset, can be used again; the
    /// other guest's never stopped; and once all is closed, nothing is held.
    pub fn recovers(&mut self, mut attacker: Guest, mut bystander: Guest) {
        self.settle();
        bystander.round_trip(self, 77);
        attacker.reset(self);
        attacker.connect(self);
        attacker.round_trip(self, 33);
        assert_eq!(
            self.error(&attacker),
            "",
            "a connection clears the error node"
        );
        for guest in [&mut attacker, &mut bystander] {
            guest.close(self);
        }
        let usage = self.usage();
        assert_eq!(
            (usage.mapped, usage.ports),
            (0, 0),
            "all is unmapped and unbound"
        );
    }
}

/// The backend's directory of a device.
pub fn backend_dir(front: DomId, vdev: u32) -> String {
    paths::backend_dir(Class::Vbd, BACK, front, vdev).to_string()
}
