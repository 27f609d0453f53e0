//! What two processes share: a page, two doorbells, and how they wait.

use anyhow::{Context, Result, ensure};
use memmap2::{MmapOptions, MmapRaw};
use ringfence_core::mem::{PAGE, SharedMem};
use ringfence_mem::RawPages;
use ringfence_ring::layout::{REQ_EVENT, RSP_EVENT};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Whose code both ends run.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Code {
    Ours,
    C,
}

/// One end's view of a measurement.
pub(crate) struct World {
    pub(crate) memory: File,
    pub(crate) to_peer: OwnedFd,
    pub(crate) from_peer: OwnedFd,
    pub(crate) count: u64,
    pub(crate) batch: u32,
    pub(crate) spin: bool,
}

/// How the second process is told of its world.
#[derive(clap::Args)]
pub(crate) struct Peer {
    #[arg(long, value_enum)]
    code: Code,
    /// Memory, doorbell of the front, doorbell of the back
    #[arg(long, num_args = 3)]
    fds: Vec<RawFd>,
    #[arg(long)]
    count: u64,
    #[arg(long)]
    spin: bool,
    #[arg(long)]
    core: Option<usize>,
}

impl World {
    pub(crate) fn kick(&self) -> Result<()> {
        rustix::io::write(&self.to_peer, &1u64.to_ne_bytes()).context("doorbell")?;
        Ok(())
    }

    pub(crate) fn wait(&self) -> Result<()> {
        rustix::io::read(&self.from_peer, &mut [0; 8]).context("doorbell")?;
        Ok(())
    }

    fn map(&self) -> Result<(MmapRaw, RawPages)> {
        let map = MmapOptions::new().len(PAGE).map_raw(&self.memory)?;
        let base = NonNull::new(map.as_mut_ptr()).context("mapped at 0")?;
        // SAFETY: the caller keeps the map for as long as the pages, and nobody makes references into it.
        let pages = unsafe { RawPages::new(base, PAGE) };
        Ok((map, pages))
    }
}

/// The cores for the two processes, if there are two. Asked before anything is pinned.
pub(crate) fn cores() -> Option<(usize, usize)> {
    static CORES: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    *CORES.get_or_init(|| {
        let set = sched_getaffinity(None).ok()?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core));
        Some((cores.next()?, cores.next()?))
    })
}

fn pin(core: Option<usize>) -> Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).context("pinning")
}

/// Runs one measurement: a back in a new process, the front here.
pub(crate) fn measure(code: Code, count: u64, batch: u32, spin: bool) -> Result<Duration> {
    let memory = memfd_create("ring-bench", MemfdFlags::empty())?;
    ftruncate(&memory, PAGE as u64)?;
    // Inherited, hence without CLOEXEC.
    let to_back = eventfd(0, EventfdFlags::empty())?;
    let to_front = eventfd(0, EventfdFlags::empty())?;
    let world = World {
        memory: memory.into(),
        to_peer: to_back,
        from_peer: to_front,
        count,
        batch,
        spin,
    };
    let (_map, pages) = world.map()?;
    for event in [REQ_EVENT, RSP_EVENT] {
        pages.store_u32(event, 1);
    }
    let cores = cores();
    let mut peer = spawn(code, &world, cores.map(|(_, back)| back))?;
    pin(cores.map(|(front, _)| front))?;
    world.wait()?;
    let address = pages.as_ptr();
    let start = Instant::now();
    let sum = match code {
        Code::Ours => crate::ours::front(pages, &world)?,
        Code::C => crate::theirs::front(address, PAGE, &world),
    };
    let elapsed = start.elapsed();
    ensure!(peer.wait()?.success(), "the second process failed");
    // Each answer is the sum of its request's words, 1 more and 1 less.
    let constant: u64 = (0..14).filter(|word| *word != 1).sum();
    let expected = (0..count).fold(0u64, |sum, id| sum.wrapping_add(id).wrapping_add(constant));
    ensure!(sum == expected, "answers add up to {sum}, not {expected}");
    Ok(elapsed)
}

fn spawn(code: Code, world: &World, core: Option<usize>) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("peer").arg("--code").arg(match code {
        Code::Ours => "ours",
        Code::C => "c",
    });
    command.arg("--fds").args(
        [
            world.memory.as_raw_fd(),
            world.from_peer.as_raw_fd(),
            world.to_peer.as_raw_fd(),
        ]
        .map(|fd| fd.to_string()),
    );
    command.arg("--count").arg(world.count.to_string());
    if world.spin {
        command.arg("--spin");
    }
    if let Some(core) = core {
        command.arg("--core").arg(core.to_string());
    }
    Ok(command.stdin(Stdio::null()).spawn()?)
}

/// The second process.
pub(crate) fn peer(peer: &Peer) -> Result<()> {
    let [memory, to_front, to_back] = peer.fds[..] else {
        anyhow::bail!("three descriptors");
    };
    // SAFETY: the parent left exactly these three open for us, and nothing else here owns them.
    let [memory, to_front, to_back] =
        [memory, to_front, to_back].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let world = World {
        memory: memory.into(),
        to_peer: to_front,
        from_peer: to_back,
        count: peer.count,
        batch: 0,
        spin: peer.spin,
    };
    pin(peer.core)?;
    let (_map, pages) = world.map()?;
    match peer.code {
        Code::Ours => crate::ours::back(pages, &world)?,
        Code::C => crate::theirs::back(pages.as_ptr(), PAGE, &world),
    }
    Ok(())
}
