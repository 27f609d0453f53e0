//! What changed between two looks.

use std::collections::BTreeMap;
use std::time::Duration;

use ringfence_blkback::stats::Latency;
use serde::Serialize;

use super::sample::{Counters, Device, Domain, Sample};

/// A domain, and how busy it is.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DomainView {
    /// As it is now.
    #[serde(flatten)]
    pub now: Domain,
    /// Processors that its process used: 1 is all of one.
    pub processors: Option<f64>,
}

/// A disk, and how busy it is.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DeviceView {
    /// As it is now.
    #[serde(flatten)]
    pub now: Device,
    /// The guest's name.
    pub guest_name: String,
    /// The driver domain's name.
    pub backend_name: String,
    /// How often the driver domain's process was started again.
    pub restarts: u32,
    /// By the counter's name: how much it grew in a second.
    pub rates: BTreeMap<String, f64>,
    /// How long the reads took that were answered meanwhile; `None` if there were none.
    pub read_latency: Option<Times>,
    /// The same of writes.
    pub write_latency: Option<Times>,
}

/// How long requests took in the backend, in µs, to a quarter.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Times {
    /// Half of them took no longer.
    pub p50: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
}

/// Everything, with rates.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct View {
    /// Seconds between the two looks.
    pub seconds: f64,
    /// By number.
    pub domains: Vec<DomainView>,
    /// By guest and number.
    pub devices: Vec<DeviceView>,
}

impl View {
    /// Of two looks, `time` apart.
    pub fn between(before: &Sample, now: &Sample, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let domains = now.domains.iter().map(|domain| {
            let old = before.domains.iter().find(|old| old.pid == domain.pid);
            let used = old.and_then(|old| domain.cpu?.checked_sub(old.cpu?));
            DomainView {
                now: domain.clone(),
                processors: used.and_then(|nanos| per_second(nanos, seconds * 1e9)),
            }
        });
        let devices = now.devices.iter().map(|device| {
            let old = before.devices.iter().find(|old| old.is_same(device));
            let began = Device::default();
            // What another process counted is over: what this one has is what it did since.
            let old = old.map(|old| match old.process == device.process {
                true => old,
                false => &began,
            });
            let rates = rates(old.map(|old| &old.counters), &device.counters, seconds);
            let restarts = now
                .domains
                .iter()
                .find(|domain| domain.domid == device.backend)
                .map_or(0, |domain| domain.restarts);
            DeviceView {
                guest_name: now.name(device.guest),
                backend_name: now.name(device.backend),
                read_latency: times(old, device, |device| device.reads),
                write_latency: times(old, device, |device| device.writes),
                now: device.clone(),
                restarts,
                rates,
            }
        });
        Self {
            seconds,
            domains: domains.collect(),
            devices: devices.collect(),
        }
    }
}

fn rates(before: Option<&Counters>, now: &Counters, seconds: f64) -> BTreeMap<String, f64> {
    let Some(before) = before else {
        return BTreeMap::new();
    };
    let grown = now.iter().filter_map(|(name, value)| {
        let old = before.get(name).copied().unwrap_or(0);
        Some((
            name.clone(),
            per_second(value.saturating_sub(old), seconds)?,
        ))
    });
    grown.collect()
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn per_second(count: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| count as f64 / seconds)
}

fn times(
    before: Option<&Device>,
    now: &Device,
    which: impl Fn(&Device) -> Option<Latency>,
) -> Option<Times> {
    let now = which(now)?;
    let latency = match which(before?) {
        Some(before) => now.since(&before),
        None => now,
    };
    let within = |thousandths| latency.within(thousandths).map(microseconds);
    Some(Times {
        p50: within(500)?,
        p99: within(990)?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}
