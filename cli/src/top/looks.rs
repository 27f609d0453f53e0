//! Looks at what a host has: the broker's domains, or on Xen those of the driver domain's guests.

use std::collections::BTreeMap;

use anyhow::Result;
use ringfence_blkback::service::DeviceReport;
use ringfence_core::store::{Store, Tx, join};
use ringfence_hosted::RunDir;
use ringfence_hosted::admin::{Client, DomainKind};
use ringfence_linux::open_store;

use super::Source;
use super::sample::{self, Counters, Device, Domain, Ring, Sample};
use crate::args::Platform;
use crate::statistics::{self, sources};

/// A broker.
pub struct Hosted<'a> {
    /// Where it is.
    pub run_dir: &'a RunDir,
    /// A connection to it.
    pub client: Client,
}

impl Source for Hosted<'_> {
    fn look(&mut self) -> Result<Sample> {
        let counted = counted(&sources(Platform::Hosted, self.run_dir)?);
        let domains = self.client.domains()?.into_iter().map(|domain| Domain {
            domid: domain.domid,
            name: domain.name,
            kind: match domain.kind {
                DomainKind::DriverDomain => "driver-domain".into(),
                DomainKind::Guest => "guest".into(),
            },
            pid: domain.pid,
            restarts: domain.restarts,
            cpu: domain.pid.and_then(sample::cpu),
        });
        let mut domains: Vec<Domain> = domains.collect();
        domains.sort_by_key(|domain| domain.domid);
        let devices = self.client.disks()?.into_iter().map(|disk| Device {
            guest: disk.guest,
            backend: disk.backend,
            vdev: disk.vdev,
            dev: disk.dev,
            frontend_state: disk.frontend_state,
            backend_state: disk.backend_state,
            ..counted
                .get(&(disk.backend, disk.guest, disk.vdev))
                .cloned()
                .unwrap_or_default()
        });
        let mut devices: Vec<Device> = devices.collect();
        devices.sort_by_key(|device| (device.guest, device.vdev));
        Ok(Sample { domains, devices })
    }
}

/// By driver domain, guest and number: what was counted.
fn counted(sources: &[statistics::Source]) -> BTreeMap<(u16, u16, u32), Device> {
    let mut all = BTreeMap::new();
    for source in sources {
        let Some(report) = source.report() else {
            continue;
        };
        for device in &report.devices {
            let (front, vdev) = (device.id.front.get(), device.id.vdev);
            let device = counts(source.domid, report.process, device);
            all.insert((source.domid, front, vdev), device);
        }
    }
    all
}

fn counts(backend: u16, process: u64, device: &DeviceReport) -> Device {
    let counters = device.counters.named();
    let rings = device.rings.iter().map(|ring| Ring {
        entries: ring.entries,
        in_flight: ring.in_flight(),
        requests: ring.taken,
    });
    Device {
        guest: device.id.front.get(),
        backend,
        vdev: device.id.vdev,
        dev: device.id.vdev.to_string(),
        frontend_state: 0,
        backend_state: device.state,
        rings: rings.collect(),
        counters: counters
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Counters>(),
        process,
        reads: Some(device.reads),
        writes: Some(device.writes),
    }
}

/// The driver domain of this run directory, on Xen.
pub struct Xen<'a> {
    /// Where its supervisor is.
    pub run_dir: &'a RunDir,
}

impl Source for Xen<'_> {
    fn look(&mut self) -> Result<Sample> {
        let sources = sources(Platform::Xen, self.run_dir)?;
        let mut store = open_store()?;
        // What cannot be read is not known.
        let mut text = |dir: String, node: &str| text(&mut store, &dir, node);
        let mut domains: Vec<Domain> = sources
            .iter()
            .map(|source| Domain {
                domid: source.domid,
                name: source.name.clone(),
                kind: "driver-domain".into(),
                pid: source.pid,
                restarts: source.restarts,
                cpu: source.pid.and_then(sample::cpu),
            })
            .collect();
        let mut devices: Vec<Device> = counted(&sources).into_values().collect();
        for device in &mut devices {
            let guest = device.guest;
            if domains.iter().all(|domain| domain.domid != guest) {
                let name = text(format!("/local/domain/{guest}"), "name");
                domains.push(Domain {
                    domid: guest,
                    name: name.unwrap_or_else(|| guest.to_string()),
                    kind: "guest".into(),
                    ..Domain::default()
                });
            }
            let front = format!("/local/domain/{guest}/device/vbd/{}", device.vdev);
            let state = text(front, "state");
            device.frontend_state = state.and_then(|state| state.parse().ok()).unwrap_or(0);
            let back = format!(
                "/local/domain/{}/backend/vbd/{guest}/{}",
                device.backend, device.vdev
            );
            if let Some(dev) = text(back, "dev") {
                device.dev = dev;
            }
        }
        Ok(Sample { domains, devices })
    }
}

/// A node for people to read.
fn text<S: Store>(store: &mut S, dir: &str, node: &str) -> Option<String> {
    let mut buf = [0; 4096];
    let path = join(dir, node).ok()?;
    let bytes = store.read(Tx::NONE, &path, &mut buf).ok()?;
    let text = String::from_utf8_lossy(bytes);
    Some(text.replace(char::is_control, "\u{fffd}"))
}
