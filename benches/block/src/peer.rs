//! The peer: `qemu-storage-daemon` serving vhost-user-blk over null-co, driven by the crate `blkio`.

use crate::load::{BACK_CPU, DISK, FRONT_CPU, Load, Places, READ, Waiting, pin};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-storage-daemon";
/// As long as its documentation suggests for a thread that may spin: longer than any answer takes here.
const POLL_MAX_NS: u64 = 1_000_000;
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

/// Its arguments.
pub fn arguments(waiting: Waiting) -> Vec<String> {
    let poll = match waiting {
        Waiting::Events => 0,
        Waiting::Spin => POLL_MAX_NS,
    };
    [
        "--object",
        &format!("iothread,id=worker,poll-max-ns={poll}"),
        "--blockdev",
        &format!("driver=null-co,node-name=disk,size={DISK},read-zeroes=off"),
        "--export",
        &format!("type=vhost-user-blk,id=export,node-name=disk,addr.type=fd,addr.str={SOCKET_FD},iothread=worker"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The whole command line of both halves.
pub fn command_line(waiting: Waiting) -> String {
    let wait = match waiting {
        Waiting::Events => "do_io(min=1)",
        Waiting::Spin => "do_io(min=0)",
    };
    format!(
        "{PROGRAM} {} | blkio virtio-blk-vhost-user num-queues=1, {wait}",
        arguments(waiting).join(" ")
    )
}

/// The daemon, on its processor; dropping it ends it.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    fn start(waiting: Waiting) -> Result<Self> {
        let dir =
            std::env::temp_dir().join(format!("ringfence-block-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        // We listen and it accepts: a client may connect before the daemon is up.
        let listener = OwnedFd::from(UnixListener::bind(dir.join("sock"))?);
        // It finds the socket under a number that its command line names, whatever ours is.
        let script = format!("exec \"$0\" \"$@\" {SOCKET_FD}<&{}", listener.as_raw_fd());
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
        pin(BACK_CPU)?;
        let child = Command::new("sh")
            .args(["-c", &script, PROGRAM])
            .args(arguments(waiting))
            .spawn();
        pin(FRONT_CPU)?;
        let child = child.with_context(|| format!("cannot start {PROGRAM}"))?;
        Ok(Self { child, dir })
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Reads per second.
///
/// # Errors
/// The daemon or a read fails.
pub fn measure(load: &Load) -> Result<f64> {
    let daemon = Daemon::start(load.waiting)?;
    let result = drive(&daemon.socket(), load);
    drop(daemon);
    result
}

fn drive(socket: &Path, load: &Load) -> Result<f64> {
    let failed = |error: blkio::Error| anyhow!("blkio: {error}");
    let mut disk = Blkio::new("virtio-blk-vhost-user").map_err(failed)?;
    disk.set_str("path", &socket.to_string_lossy())
        .map_err(failed)?;
    // As the daemon exports it, and as ours is attached.
    disk.set_bool("read-only", true).map_err(failed)?;
    disk.connect().map_err(failed)?;
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
    queue.set_completion_fd_enabled(load.waiting == Waiting::Events);
    let mut places = Places::new();
    let mut reads = 0_u64;
    let mut submit = |queue: &mut Blkioq, slot: usize| {
        let buffer = (region.addr + slot * READ) as *mut u8;
        queue.read(places.next(), buffer, READ, slot, ReqFlags::empty());
    };
    // What is not counted lets caches and the daemon's own polling settle.
    let warm = load.time / 10;
    let mut start = Instant::now();
    let mut warming = true;
    (0..load.depth).for_each(|slot| submit(&mut queue, slot));
    loop {
        let done = complete(&mut queue, load.waiting)?;
        for slot in &done {
            submit(&mut queue, *slot);
        }
        reads += done.len() as u64;
        let elapsed = start.elapsed();
        if warming && elapsed >= warm {
            (warming, reads, start) = (false, 0, Instant::now());
        } else if !warming && elapsed >= load.time {
            break;
        }
    }
    let rate = reads as f64 / start.elapsed().as_secs_f64();
    let mut open = load.depth;
    let deadline = Instant::now() + Duration::from_secs(5);
    while open > 0 {
        ensure!(Instant::now() < deadline, "{open} reads are not answered");
        open -= complete(&mut queue, load.waiting)?.len();
    }
    drop(queue);
    disk.unmap_mem_region(&region);
    disk.free_mem_region(&region);
    Ok(rate)
}

/// Submits what is queued and takes what is there, at least one when waiting for events: the slots that are free again.
fn complete(queue: &mut Blkioq, waiting: Waiting) -> Result<heapless::Vec<usize, 32>> {
    let mut completions = [const { MaybeUninit::<Completion>::uninit() }; 32];
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
