//! The peers: `qemu-storage-daemon` serving vhost-user-blk over null-co or a qcow2 image, and io_uring on a file, all driven by the
//! crate `blkio`.

use crate::load::{DEEPEST, DISK, Load, Placement, Places, READ, Side, Waiting};
use crate::meter::{Meter, Now, Outcome, Spent};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAM: &str = "qemu-storage-daemon";
/// What is tried when its thread may spin: its default, longer than any answer takes here, and between.
const POLL_MAX_NS: [u64; 3] = [32_768, 200_000, 1_000_000];
const SOCKET_FD: i32 = 3;

/// The peer's version, as it says it; `None` if it is not installed.
pub fn version() -> Option<String> {
    let output = Command::new(PROGRAM).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(format!("{}, blkio 0.5.1", text.lines().next()?))
}

/// What its numbers do not show: `strace -c -f` sees one `ppoll` and one `read` of the kick for each read of depth 1 in both
/// modes.
pub const NOTE: &str = "may spin: the front does; the daemon is allowed to, but waits for each kick (strace: ppoll and read)";

/// The values of `poll-max-ns` that are tried, of which the best one counts.
pub const fn settings(waiting: Waiting) -> &'static [u64] {
    match waiting {
        Waiting::Events => &[0],
        Waiting::Spin => &POLL_MAX_NS,
    }
}

/// What the daemon serves.
#[derive(Clone, Copy)]
enum Serves<'a> {
    /// Nothing.
    Null,
    /// This image, past the page cache.
    Qcow2(&'a Path),
}

impl Serves<'_> {
    fn blockdev(self) -> String {
        match self {
            Self::Null => format!("driver=null-co,node-name=disk,size={DISK},read-zeroes=off"),
            Self::Qcow2(path) => format!(
                "driver=qcow2,node-name=disk,cache.direct=on,file.driver=file,file.aio=io_uring,file.cache.direct=on,file.filename={}",
                path.display()
            ),
        }
    }
}

/// Its arguments.
fn arguments(poll: u64, serves: Serves<'_>) -> Vec<String> {
    [
        "--object",
        &format!("iothread,id=worker,poll-max-ns={poll}"),
        "--blockdev",
        &serves.blockdev(),
        "--export",
        &format!("type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=fd,addr.str={SOCKET_FD},iothread=worker"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The whole command line of both halves.
pub fn command_line(waiting: Waiting, poll: u64) -> String {
    let wait = match waiting {
        Waiting::Events => "do_io(min=1)",
        Waiting::Spin => "do_io(min=0)",
    };
    format!(
        "{PROGRAM} {} | blkio virtio-blk-vhost-user num-queues=1, {wait}",
        arguments(poll, Serves::Null).join(" ")
    )
}

/// The daemon, on its processor; dropping it ends it.
struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    fn start(poll: u64, placement: Placement, serves: Serves<'_>) -> Result<Self> {
        let dir = crate::directory()?;
        // We listen and it accepts: a client may connect before the daemon is up.
        let listener = OwnedFd::from(UnixListener::bind(dir.path().join("sock"))?);
        // It finds the socket under a number that its command line names, whatever ours is.
        let script = format!("exec \"$0\" \"$@\" {SOCKET_FD}<&{}", listener.as_raw_fd());
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
        placement.take(Side::Back)?;
        let child = Command::new("sh")
            .args(["-c", &script, PROGRAM])
            .args(arguments(poll, serves))
            .spawn();
        placement.take(Side::Front)?;
        let child = child.with_context(|| format!("cannot start {PROGRAM}"))?;
        Ok(Self { child, dir })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures it with this `poll-max-ns`.
///
/// # Errors
/// The daemon or a read fails.
pub fn measure(load: &Load, poll: u64) -> Result<Outcome> {
    measure_daemon(load, poll, Serves::Null, false)
}

/// Measures it on writes to a qcow2 image.
///
/// # Errors
/// The daemon or a write fails.
pub fn measure_qcow2(image: &Path, load: &Load) -> Result<Outcome> {
    measure_daemon(load, 0, Serves::Qcow2(image), true)
}

fn measure_daemon(load: &Load, poll: u64, serves: Serves<'_>, write: bool) -> Result<Outcome> {
    let daemon = Daemon::start(poll, load.placement, serves)?;
    let target = Target::Socket(&daemon.socket(), daemon.child.id());
    let result = drive(&target, load, write);
    drop(daemon);
    result
}

/// Measures io_uring on the file itself, past the page cache.
///
/// # Errors
/// A request fails.
pub fn measure_file(file: &Path, load: &Load, write: bool) -> Result<Outcome> {
    load.placement.take(Side::Front)?;
    drive(&Target::File(file), load, write)
}

/// What is driven.
enum Target<'a> {
    /// A daemon's socket, and its process.
    Socket(&'a Path, u32),
    File(&'a Path),
}

impl Target<'_> {
    fn open(&self, write: bool) -> Result<Blkio, blkio::Error> {
        let (driver, path) = match self {
            Self::Socket(path, _) => ("virtio-blk-vhost-user", path),
            Self::File(path) => ("io_uring", path),
        };
        let mut disk = Blkio::new(driver)?;
        disk.set_str("path", &path.to_string_lossy())?;
        // As the daemon exports it, and as ours is attached.
        disk.set_bool("read-only", !write)?;
        if let Self::File(_) = self {
            disk.set_bool("direct", true)?;
        }
        disk.connect()?;
        Ok(disk)
    }

    /// What the process behind it has spent.
    fn spent(&self) -> Spent {
        match self {
            Self::Socket(_, daemon) => Spent::of(Some(*daemon)),
            Self::File(_) => Spent::default(),
        }
    }
}

fn drive(target: &Target<'_>, load: &Load, write: bool) -> Result<Outcome> {
    let failed = |error: blkio::Error| anyhow!("blkio: {error}");
    let mut disk = target.open(write).map_err(failed)?;
    disk.set_i32("num-queues", 1).map_err(failed)?;
    let mut queue = disk
        .start()
        .map_err(failed)?
        .queues
        .pop()
        .context("no queue")?;
    let region = disk
        .alloc_mem_region((load.depth * READ).max(READ))
        .map_err(failed)?;
    disk.map_mem_region(&region).map_err(failed)?;
    let by_events = load.waiting == Waiting::Events && matches!(target, Target::Socket(..));
    queue.set_completion_fd_enabled(by_events);
    let mut places = Places::new();
    let mut submit = |queue: &mut Blkioq, slot: usize| {
        let buffer = (region.addr + slot * READ) as *mut u8;
        if write {
            queue.write(places.next(), buffer, READ, slot, ReqFlags::empty());
        } else {
            queue.read(places.next(), buffer, READ, slot, ReqFlags::empty());
        }
    };
    let mut meter = Meter::start(load);
    (0..load.depth).for_each(|slot| submit(&mut queue, slot));
    let mut before = (Spent::default(), Spent::default());
    loop {
        let done = complete(&mut queue, load.waiting)?;
        for slot in &done {
            submit(&mut queue, *slot);
        }
        if done.is_empty() {
            continue;
        }
        match meter.turn(Instant::now(), &done) {
            Now::On => {}
            Now::Begin => before = (Spent::of(None), target.spent()),
            Now::End => break,
        }
    }
    let time = meter.elapsed();
    let mut outcome = meter.outcome(time);
    (outcome.front_cpu, outcome.front_sleeps) = Spent::of(None).per(before.0, meter.reads());
    (outcome.back_cpu, outcome.back_sleeps) = target.spent().per(before.1, meter.reads());
    let mut open = load.depth;
    let deadline = Instant::now() + Duration::from_secs(5);
    while open > 0 {
        ensure!(Instant::now() < deadline, "{open} reads are not answered");
        open -= complete(&mut queue, load.waiting)?.len();
    }
    drop(queue);
    disk.unmap_mem_region(&region);
    disk.free_mem_region(&region);
    Ok(outcome)
}

/// Submits what is queued and takes what is there, at least one when waiting for events: the slots that are free again.
fn complete(queue: &mut Blkioq, waiting: Waiting) -> Result<heapless::Vec<usize, DEEPEST>> {
    let mut completions = [const { MaybeUninit::<Completion>::uninit() }; DEEPEST];
    let least = usize::from(waiting == Waiting::Events);
    let count = queue
        .do_io(&mut completions, least, None, None)
        .map_err(|error| anyhow!("blkio: {error}"))?;
    let mut slots = heapless::Vec::new();
    for completion in completions.iter().take(count) {
        // SAFETY: `do_io` returns how many of the completions it has written, from the first on.
        let completion = unsafe { completion.assume_init_ref() };
        if completion.ret != 0 {
            bail!("a read failed: {}", completion.ret);
        }
        let _ = slots.push(completion.user_data);
    }
    Ok(slots)
}
