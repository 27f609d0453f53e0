//! What a driver domain's process does: confines itself, then serves disks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_blkback::service::{
    self, DiskError, Files, Image, Images, Options, Statistics, Waiting,
};
use ringfence_core::platform::Platform;
use ringfence_hosted::Hosted;

use crate::args::{BackendOptions, Wait};
use crate::signals::Stop;

/// How long a worker that spins looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// Asks the broker for images.
struct FromBroker(Hosted);

impl Images for FromBroker {
    fn open(&mut self, backend_dir: &str) -> Result<Image, DiskError> {
        let opened = self.0.open_image(backend_dir)?;
        Ok(Image {
            fd: opened.file.into(),
            read_only: opened.spec.read_only,
        })
    }
}

/// The process of a driver domain.
///
/// # Errors
/// The store is gone, or the system refuses.
pub fn run(options: &BackendOptions, _probe_sandbox: bool) -> Result<()> {
    let stop = Stop::install().context("cannot catch signals")?;
    let (platform, store) = Hosted::inherited()?;
    let sandbox = "none".to_owned();
    let disks = Files::new(FromBroker(platform.clone()), None);
    let waiting = match options.wait {
        Wait::Block => Waiting::Block,
        Wait::Spin => Waiting::Spin(SPIN),
        Wait::Poll => Waiting::Poll,
    };
    let statistics = OnceLock::new();
    let identity = || {
        serde_json::json!({
            "pid": std::process::id(), "domid": platform.domid().get(), "name": platform.name(), "sandbox": sandbox,
        })
    };
    use std::os::fd::AsFd as _;
    service::run(
        &platform,
        store,
        disks,
        stop.as_fd(),
        Options {
            waiting,
            ..Options::default()
        },
        |counters| {
            let _ = statistics.set(Arc::clone(counters));
            println!("{}", serde_json::json!({ "ready": identity() }));
        },
    )?;
    let mut served = identity();
    if let (Some(map), Some(statistics)) = (served.as_object_mut(), statistics.get()) {
        map.extend(totals(statistics));
    }
    println!("{}", serde_json::json!({ "served": served }));
    Ok(())
}

/// The counters of all devices that were served; `syscalls` is the sum of what the data path made of each kind.
fn totals(statistics: &Statistics) -> serde_json::Map<String, serde_json::Value> {
    let total = statistics.total();
    let syscalls: u64 = total
        .named()
        .filter(|(name, _)| name.starts_with("sys_"))
        .map(|(_, value)| value)
        .sum();
    let named = total.named().chain([
        ("syscalls", syscalls),
        ("notifications", total.notifications_sent),
    ]);
    named
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}
