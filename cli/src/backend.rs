//! What a driver domain's process does: confines itself, then serves disks.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ringfence_blkback::journal::{self, Record};
use ringfence_blkback::service::{
    self, Asked, DiskError, Files, Image, Images, Kept, Options, STATISTICS_BYTES, Statistics,
    Toolstack, Worker,
};
use ringfence_blkback::sink::Uring;
use ringfence_core::platform::Platform;
use ringfence_core::{DomId, GrantRef};
use ringfence_hosted::probe::{Attempt, Outcome, Targets, probe_sandbox};
use ringfence_hosted::sandbox::{self, Allow, Report};
use ringfence_hosted::{Hosted, RestrictedRing};
use serde::{Deserialize, Serialize};

use crate::args::{BackendOptions, Switch};
use crate::image;
use crate::signals::Stop;

/// Submission entries of the ring that all disks of a thread share.
const RING_ENTRIES: u32 = 256;

/// What `--probe-sandbox` tries to reach; the `ringfence` command provides it, so that all of it exists.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeTargets {
    /// A process of the same user.
    pub peer_pid: u32,
    /// A file that the user may read.
    pub file: PathBuf,
    /// A listening Unix socket.
    pub socket: PathBuf,
    /// The name of a listening abstract Unix socket.
    pub abstract_socket: String,
}

/// Bytes of a device's journal.
#[expect(clippy::cast_possible_truncation, reason = "a megabyte")]
pub(crate) const JOURNAL_BYTES: u32 = journal::BYTES as u32;

/// Asks the broker for images and journals.
#[derive(Clone)]
struct FromBroker(Hosted);

impl Images for FromBroker {
    fn open(&mut self, backend_dir: &str) -> Result<Asked<Image>, DiskError> {
        let Some(opened) = self.0.open_image(backend_dir)? else {
            return Ok(Asked::Later);
        };
        let backing = opened.backing.into_iter().map(Into::into).collect();
        image::opened(&opened.spec, opened.file.into(), backing).map(Asked::Open)
    }

    fn journal(&mut self, backend_dir: &str) -> Result<Option<Kept>, DiskError> {
        let (record, image) = self.0.record(backend_dir, JOURNAL_BYTES)?;
        let record = Record::new(record);
        Ok(Some(Kept { record, image }))
    }
}

/// The command line of a driver domain's process, after the program's name and global options.
pub fn arguments(options: &BackendOptions) -> [String; 5] {
    [
        "domain-main".into(),
        "driver-domain".into(),
        format!("--sandbox={}", word(&options.sandbox)),
        format!("--wait={}", options.wait),
        format!("--threads={}", options.threads),
    ]
}

fn word<V: ValueEnum>(value: &V) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The names of the types of backend that are served.
pub fn types(toolstack: &Toolstack) -> Vec<&'static str> {
    toolstack.types.iter().map(|kind| kind.name()).collect()
}

/// Confines this process as `options` say; gives the rings that it keeps, one for each thread, or none where the system has
/// none. `ioctls` are requests that the platform needs.
///
/// # Errors
/// The sandbox cannot be set up.
pub fn confine(
    options: &BackendOptions,
    ioctls: &'static [u64],
) -> Result<(Report, Vec<RestrictedRing>)> {
    // Before the filter: it refuses every further ring.
    let rings = (0..options.threads).map(|_| RestrictedRing::new(RING_ENTRIES));
    let rings = rings
        .collect::<Result<Vec<_>, _>>()
        .inspect_err(|error| tracing::warn!(%error, "no io_uring"))
        .unwrap_or_default();
    let allow = match options.sandbox {
        Switch::On => Allow::NOTHING,
        Switch::Off => Allow::EVERYTHING,
    };
    let allow = Allow { ioctls, ..allow };
    let report = sandbox::enforce(&allow, rings.first()).context("cannot confine the process")?;
    if options.sandbox == Switch::On && !report.is_full() {
        eprintln!("ringfence: the kernel enforces less than asked: {report}");
    }
    Ok((report, rings))
}

/// What the threads of a process begin with: for each a connection to the store, and disks on what `images` opens.
pub fn workers<S, I: Images + Clone + Send>(
    stores: Vec<S>,
    rings: Vec<RestrictedRing>,
    images: &I,
) -> Vec<Worker<S, impl FnOnce() -> Files<I> + Send + use<S, I>>> {
    let rings = rings
        .into_iter()
        .map(Some)
        .chain(std::iter::repeat_with(|| None));
    let workers = stores.into_iter().zip(rings);
    let workers = workers.map(|(store, ring)| {
        let images = images.clone();
        let disks = move || Files::new(images, ring.map(|ring| Uring::new(ring.into_inner())));
        Worker { store, disks }
    });
    workers.collect()
}

/// Says `ready` with this identity when `serve` does, and `served` with the totals when it ends well.
///
/// # Errors
/// Those of `serve`.
pub fn report<E: std::error::Error + Send + Sync + 'static>(
    identity: serde_json::Value,
    serve: impl FnOnce(&dyn Fn(&Arc<Statistics>)) -> Result<(), E>,
) -> Result<()> {
    let statistics = OnceLock::new();
    serve(&|counters| {
        let _ = statistics.set(Arc::clone(counters));
        crate::say(&serde_json::json!({ "ready": identity }));
    })?;
    let mut served = identity;
    if let (Some(map), Some(statistics)) = (served.as_object_mut(), statistics.get()) {
        map.extend(totals(statistics));
    }
    crate::say(&serde_json::json!({ "served": served }));
    Ok(())
}

/// The process of a driver domain.
///
/// # Errors
/// The sandbox cannot be set up or is not tight, the store is gone, or the system refuses.
pub fn run(options: &BackendOptions, probe: Option<&ProbeTargets>) -> Result<()> {
    let stop = Stop::install().context("cannot catch signals")?;
    let (platform, store) = Hosted::inherited()?;
    let others = (1..options.threads).map(|_| platform.another_store());
    let others: Vec<_> = others.collect::<Result<_, _>>().context("no xenstore")?;
    let (report, rings) = confine(options, &[])?;
    if let Some(targets) = probe {
        return try_to_get_out(&platform, &report, targets, rings.into_iter().next());
    }
    let identity = serde_json::json!({
        "pid": std::process::id(), "domid": platform.domid().get(), "name": platform.name(),
        "sandbox": report.to_string(),
    });
    let stores = std::iter::once(store).chain(others).collect();
    let workers = workers(stores, rings, &FromBroker(platform.clone()));
    let options = Options {
        waiting: options.wait,
        statistics: u32::try_from(STATISTICS_BYTES)
            .ok()
            .and_then(|bytes| platform.statistics(bytes).ok()),
        ..Options::default()
    };
    use std::os::fd::AsFd as _;
    self::report(identity, |ready| {
        service::run(&platform, workers, stop.as_fd(), options, ready)
    })
}

/// The counters of all devices that were served; `syscalls` is the sum of what the data path made of each kind.
fn totals(statistics: &Statistics) -> serde_json::Map<String, serde_json::Value> {
    let (total, waits) = (statistics.total(), statistics.waits());
    let kinds: u64 = total
        .named()
        .filter(|(name, _)| name.starts_with("sys_"))
        .map(|(_, value)| value)
        .sum();
    let sent = total.notifications_sent;
    let sums = [
        ("sys_wait", waits),
        ("syscalls", kinds + waits + sent),
        ("notifications", sent),
    ];
    total
        .named()
        .chain(sums)
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

/// Tries what the sandbox must not let through.
fn try_to_get_out(
    platform: &Hosted,
    report: &Report,
    targets: &ProbeTargets,
    mut ring: Option<RestrictedRing>,
) -> Result<()> {
    let targets = Targets {
        broker_pid: platform.broker_pid(),
        peer_pid: targets.peer_pid,
        file: targets.file.clone(),
        socket: targets.socket.clone(),
        abstract_socket: targets.abstract_socket.clone().into_bytes(),
        owner: DomId::DOM0,
        gref: GrantRef::new(8),
    };
    print(report, &probe_sandbox(platform, &targets, ring.as_mut()))
}

/// Prints what a sandbox let through.
///
/// # Errors
/// Something got out.
pub fn print(report: &Report, attempts: &[Attempt]) -> Result<()> {
    println!("sandbox: {report}");
    for (what, outcome) in attempts {
        println!("{what:<44} {outcome}");
    }
    let reached = attempts
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Reached)
        .count();
    if reached > 0 {
        bail!("{reached} of {} attempts got out", attempts.len());
    }
    Ok(())
}
