//! What a guest does: connects its disks, then copies, exports, verifies, or waits.

pub mod arg;
pub mod copy;
pub mod device;
pub mod disks;
mod export;
pub mod front;
mod lane;
mod pool;
pub mod verify;
pub mod world;

use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use ringfence_core::platform::Platform as _;
use ringfence_core::wire::vbd::Vdev;
use ringfence_hosted::Hosted;

use crate::args::GuestWork;
use crate::signals::Stop;
use copy::{Counts, copy};
use device::{Cost, GuestDisk};
use disks::{Disks, Shared};
use export::ExportSpec;
use verify::{Verifier, VerifySpec};
use world::World;

/// The process of a hosted guest; gives the status to exit with.
///
/// # Errors
/// A disk cannot be connected or fails.
pub fn run(vdevs: &[String], work: &GuestWork) -> Result<u8> {
    let stop = Stop::install().context("cannot catch signals")?;
    let (platform, store) = Hosted::inherited()?;
    let identity = serde_json::json!({
        "pid": std::process::id(),
        "domid": platform.domid().get(),
        "name": platform.name(),
    });
    let vdevs = vdevs
        .iter()
        .map(|text| named(text))
        .collect::<Result<Vec<_>>>()?;
    let queues = work.queues.into();
    let disks = Disks::new(platform, store, !work.no_persistent, queues, usize::MAX)?;
    disks.borrow_mut().set_sectors(work.sectors);
    Guest::new(disks, vdevs, identity, &stop).work(work)
}

fn named(text: &str) -> Result<(String, u32)> {
    let (name, number) = text
        .split_once('=')
        .with_context(|| format!("--vdev '{text}': expected NAME=NUMBER"))?;
    Ok((
        name.to_owned(),
        number.parse().with_context(|| format!("--vdev '{text}'"))?,
    ))
}

/// A guest with its disks, in whichever world.
pub(crate) struct Guest<'a, P: World> {
    disks: Shared<P>,
    /// The disks of the command line, by name and number.
    named: Vec<(String, u32)>,
    /// Who we are, for those who started us.
    identity: serde_json::Value,
    stop: &'a Stop,
}

impl<'a, P: World> Guest<'a, P> {
    pub(crate) fn new(
        disks: Shared<P>,
        named: Vec<(String, u32)>,
        identity: serde_json::Value,
        stop: &'a Stop,
    ) -> Self {
        Self {
            disks,
            named,
            identity,
            stop,
        }
    }

    /// Does what there is to do, then closes every disk. Gives the status to exit with.
    pub(crate) fn work(&self, work: &GuestWork) -> Result<u8> {
        let status = if let Some(pair) = &work.copy {
            self.copy(pair, work.depth)?
        } else if let Some(spec) = &work.verify {
            self.verify(spec, work)?
        } else if work.nbd_export.is_empty() {
            crate::say(&serde_json::json!({ "ready": self.identity }));
            self.disks.borrow_mut().run(self.stop.as_fd())?;
            0
        } else {
            let exports = work
                .nbd_export
                .iter()
                .map(|text| self.export_spec(text))
                .collect::<Result<Vec<_>>>()?;
            export::run(self, exports)?;
            0
        };
        self.disks.borrow_mut().close()?;
        Ok(status)
    }

    /// The number of a disk: of the command line's, or of its name.
    fn number(&self, name: &str) -> Result<u32> {
        if let Some((_, number)) = self.named.iter().find(|(known, _)| known == name) {
            return Ok(*number);
        }
        let vdev: Vdev = name
            .parse()
            .map_err(|error| anyhow!("disk '{name}': {error}"))?;
        Ok(vdev.get())
    }

    fn export_spec(&self, text: &str) -> Result<ExportSpec> {
        let (name, socket) = text
            .split_once('=')
            .with_context(|| format!("--nbd-export '{text}': expected VDEV=SOCKET"))?;
        Ok(ExportSpec {
            name: name.to_owned(),
            vdev: self.number(name)?,
            socket: socket.into(),
        })
    }

    /// Waits for a disk; `None` when it is time to end.
    fn connect(&self, name: &str) -> Result<Option<GuestDisk<P>>> {
        GuestDisk::connect(&self.disks, self.number(name)?, name, self.stop.as_fd())
    }

    fn copy(&self, pair: &str, depth: u16) -> Result<u8> {
        let (from, to) = pair
            .split_once('=')
            .with_context(|| format!("--copy '{pair}': expected FROM=TO"))?;
        let (Some(mut from), Some(mut to)) = (self.connect(from)?, self.connect(to)?) else {
            return Ok(0);
        };
        let mut shown = 0;
        let mut progress = |done: u64, whole: u64| {
            let percent = (done * 100).checked_div(whole).unwrap_or(100);
            if percent >= shown + 10 {
                shown = percent / 10 * 10;
                eprintln!("{shown} % of copying and reading back");
            }
        };
        let start = Instant::now();
        let counts: Counts = copy(&mut from, &mut to, usize::from(depth), &mut progress)?;
        let seconds = start.elapsed().as_secs_f64();
        let (one, other): (Cost, Cost) = (from.cost(), to.cost());
        from.give_back();
        to.give_back();
        crate::say(&serde_json::json!({ "copied": {
            "pid": self.identity.get("pid"),
            "domid": self.identity.get("domid"),
            "sandbox": "none: a guest is the user's own program",
            "depth": counts.in_flight,
            "queues": one.queues.min(other.queues),
            "requests": counts.requests,
            "bytes": counts.bytes,
            "seconds": seconds,
            "notifications": one.notifications + other.notifications,
            "syscalls": one.syscalls + other.syscalls + counts.polls,
        }}));
        Ok(0)
    }

    fn verify(&self, spec: &VerifySpec, work: &GuestWork) -> Result<u8> {
        let Some(mut disk) = self.connect(&spec.disk)? else {
            return Ok(0);
        };
        crate::say(&serde_json::json!({ "ready": self.identity, "verifying": spec.disk }));
        let start = Instant::now();
        let seed = work.seed.unwrap_or_else(verify::any_seed);
        let mut verifier = Verifier::new(&mut disk, seed, usize::from(work.depth))?;
        let outcome = verifier.run(spec.until, self.stop.as_fd());
        let report = verifier.report();
        let seconds = start.elapsed().as_secs_f64();
        let cost = disk.cost();
        disk.give_back();
        let failed = outcome.as_ref().err().map(ToString::to_string);
        let good = failed.is_none() && report.mismatches == 0 && report.failed == 0;
        crate::say(&serde_json::json!({ "verified": {
            "disk": spec.disk,
            "seed": seed,
            "good": good,
            "writes": report.writes,
            "reads": report.reads,
            "flushes": report.flushes,
            "bytes_written": report.bytes_written,
            "bytes_read": report.bytes_read,
            "blocks": report.blocks,
            "mismatches": report.mismatches,
            "first_mismatch": report.first_mismatch,
            "failed": report.failed,
            "aborted": report.aborted,
            "in_flight": report.in_flight,
            "queues": cost.queues,
            "error": failed,
            "seconds": seconds,
            "notifications": cost.notifications,
        }}));
        Ok(u8::from(!good))
    }
}
