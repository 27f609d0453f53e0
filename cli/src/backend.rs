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
        for (key, value) in totals(statistics) {
            map.insert(key.to_owned(), value.into());
        }
    }
    println!("{}", serde_json::json!({ "served": served }));
    Ok(())
}

/// Sums over all devices; `syscalls` is the sum of what the data path made of each kind.
fn totals(statistics: &Statistics) -> Vec<(&'static str, u64)> {
    let mut totals: Vec<(&'static str, u64)> = vec![("syscalls", 0), ("notifications", 0)];
    for (_, snapshot) in statistics.snapshot() {
        for (name, value) in snapshot.named() {
            match totals.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) => *total += value,
                None => totals.push((name, value)),
            }
            if name.starts_with("sys_") {
                totals[0].1 += value;
            }
            if name == "notifications_sent" {
                totals[1].1 += value;
            }
        }
    }
    totals
}
