//! What a driver domain's process does on Xen: confines itself, then serves disks with descriptors that its supervisor opens.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ringfence_blkback::service::{self, Options};
use ringfence_linux::Linux;
use ringfence_process::child::inherited_socket;
use ringfence_process::probe::{self, Attempt, Targets, outcome};

use super::driver_domain::toolstack;
use super::supervisor_link::{FromSupervisor, Link};
use crate::args::BackendOptions;
use crate::backend::{self, ProbeTargets, confine};
use crate::signals::Stop;

/// What a backend asks of `/dev/xen/evtchn` and `/dev/xen/gntdev`: to bind what a guest allocated and to map or copy what it
/// granted. Numbers as Linux's `xen/evtchn.h` and `xen/gntdev.h` define them.
const IOCTLS: &[u64] = &[
    0x0008_4501, // IOCTL_EVTCHN_BIND_INTERDOMAIN
    0x0004_4503, // IOCTL_EVTCHN_UNBIND
    0x0004_4504, // IOCTL_EVTCHN_NOTIFY
    0x0002_4506, // IOCTL_EVTCHN_RESTRICT_DOMID
    0x0018_4700, // IOCTL_GNTDEV_MAP_GRANT_REF
    0x0010_4701, // IOCTL_GNTDEV_UNMAP_GRANT_REF
    0x0010_4707, // IOCTL_GNTDEV_SET_UNMAP_NOTIFY
    0x0010_4708, // IOCTL_GNTDEV_GRANT_COPY
];

/// The process of a driver domain.
///
/// # Errors
/// No supervisor started it, the sandbox cannot be set up or is not tight, the store is gone, or the system refuses.
pub fn run(options: &BackendOptions, probe: Option<&ProbeTargets>) -> Result<()> {
    let stop = Stop::install().context("cannot catch signals")?;
    let link = Arc::new(Link::new(inherited_socket()?));
    let (who, _lock) = link.hello().context("the supervisor does not answer")?;
    let platform = Linux::with_files(who.domid(), link.clone());
    let stores = (0..options.threads).map(|_| platform.store());
    let stores = stores
        .collect::<Result<Vec<_>, _>>()
        .context("no xenstore")?;
    let (report, rings) = confine(options, IOCTLS)?;
    if let Some(targets) = probe {
        let targets = Targets {
            parent_pid: who.supervisor,
            peer_pid: targets.peer_pid,
            file: targets.file.clone(),
            socket: targets.socket.clone(),
            abstract_socket: targets.abstract_socket.clone().into_bytes(),
        };
        let mut ring = rings.into_iter().next();
        let mut attempts = probe::probe_sandbox(&targets, ring.as_mut());
        attempts.extend(devices());
        return backend::print(&report, &attempts);
    }
    let toolstack = toolstack(who.domid());
    let identity = serde_json::json!({
        "pid": std::process::id(), "domid": who.domid, "name": who.name, "supervisor": who.supervisor,
        "types": backend::types(&toolstack), "sandbox": report.to_string(),
    });
    let workers = backend::workers(stores, rings, &FromSupervisor(link.clone()));
    let options = Options {
        toolstack,
        waiting: options.wait,
        statistics: link.statistics().ok(),
        ..Options::default()
    };
    use std::os::fd::AsFd as _;
    backend::report(identity, |say_ready| {
        service::run(&platform, workers, stop.as_fd(), options, |counters| {
            say_ready(counters);
            if let Err(error) = link.ready() {
                tracing::warn!(%error, "cannot tell the supervisor");
            }
        })
    })
}

/// Devices of Xen that are in reach of who has the file system: of others' memory, of others' grants, of the hypervisor.
fn devices() -> impl Iterator<Item = Attempt> {
    [
        ("open /dev/xen/privcmd", "/dev/xen/privcmd"),
        ("open /dev/xen/gntdev", "/dev/xen/gntdev"),
        ("open /dev/xen/xenbus", "/dev/xen/xenbus"),
    ]
    .into_iter()
    .map(|(name, path)| (name, outcome(File::open(Path::new(path)))))
}
