//! What one look shows.

use std::collections::BTreeMap;

use ringfence_blkback::stats::Latency;
use serde::Serialize;

/// Names of counters, as `ringfence_blkback::Snapshot` has them, and their values since the device was attached.
pub type Counters = BTreeMap<String, u64>;

/// A domain.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Domain {
    /// Its number.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// What it is for: `guest` or `driver-domain`.
    pub kind: String,
    /// Its process, where a domain is one and it runs.
    pub pid: Option<u32>,
    /// How often its process was started again.
    pub restarts: u32,
    /// Processor time of its process, in ns.
    pub cpu: Option<u64>,
}

/// One ring of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Ring {
    /// How many entries it has.
    pub entries: u64,
    /// Requests taken and not yet answered.
    pub in_flight: u64,
    /// Requests taken since it was connected.
    pub requests: u64,
}

/// A disk of a guest.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Device {
    /// The guest's domain.
    pub guest: u16,
    /// The driver domain.
    pub backend: u16,
    /// The number of the virtual disk.
    pub vdev: u32,
    /// Its name in the guest, e.g. `xvda`.
    pub dev: String,
    /// The frontend's xenbus state; 0 when it has none.
    pub frontend_state: u32,
    /// The backend's xenbus state; 0 when it has none.
    pub backend_state: u32,
    /// Those of the connection.
    pub rings: Vec<Ring>,
    /// Empty when nobody tells them.
    pub counters: Counters,
    /// Another number for every process of the driver domain: all counts begin anew with it.
    pub process: u64,
    /// How long reads took, from being taken to being answered.
    #[serde(skip)]
    pub reads: Option<Latency>,
    /// The same of writes.
    #[serde(skip)]
    pub writes: Option<Latency>,
}

/// Everything at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Sample {
    /// All domains that matter, by number.
    pub domains: Vec<Domain>,
    /// All disks, by guest and number.
    pub devices: Vec<Device>,
}

impl Device {
    /// Whether it is the same disk of the same guest.
    pub const fn is_same(&self, other: &Self) -> bool {
        self.guest == other.guest && self.vdev == other.vdev
    }
}

impl Sample {
    /// The name of a domain, or its number.
    pub fn name(&self, domid: u16) -> String {
        let domain = self.domains.iter().find(|domain| domain.domid == domid);
        domain.map_or_else(|| domid.to_string(), |domain| domain.name.clone())
    }
}

/// Processor time of a process in ns, all threads together.
pub fn cpu(pid: u32) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let times = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(times.sum())
}
