//! `guest --platform xen`: the frontend in user space of a Linux domain. The kernel's xen-blkfront must not be loaded there: the
//! two would share the nodes of every disk.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ringfence_core::platform::Platform as _;
use ringfence_linux::Linux;

use crate::args::Guest;
use crate::guest::arg::DiskArg;
use crate::guest::disks::Disks;
use crate::guest::front::QUEUES;
use crate::signals::Stop;

/// Pages of one disk's buffers and rings: Linux grants 1024 pages of user space.
const DISK_PAGES: usize = 400;
/// Pages of one of its rings.
const RING_PAGES: usize = 16;

const _: () = assert!(DISK_PAGES > RING_PAGES * QUEUES);

/// Where the kernel's frontend shows that it is there, as a module or built in.
const KERNEL_FRONTEND: [&str; 2] = ["/sys/module/xen_blkfront", "/sys/bus/xen/drivers/vbd"];

/// Uses the disks that the toolstack gave this domain; gives the status to exit with.
///
/// # Errors
/// This is no domain of Xen's, the kernel drives the disks itself, or a disk fails.
pub(super) fn run(wanted: &Guest) -> Result<u8> {
    if let Some(name) = &wanted.name {
        bail!("guest {name}: on Xen the toolstack names domains, and this one is itself");
    }
    if let Some(path) = KERNEL_FRONTEND.iter().find(|path| Path::new(path).exists()) {
        bail!(
            "the kernel's xen-blkfront drives the disks of this domain ({path}): rmmod xen-blkfront"
        );
    }
    let mut named = Vec::new();
    for disk in &wanted.disks {
        match disk {
            DiskArg::Await(..) => named.push(disk.named()),
            DiskArg::Attach(disk) => bail!(
                "--disk {}: on Xen the toolstack attaches disks; name the one to wait for: --disk {}",
                disk.target,
                disk.vdev_name
            ),
        }
    }
    let stop = Stop::install().context("cannot catch signals")?;
    // Its message has the whole chain of causes.
    let platform = Linux::open().map_err(|error| anyhow!("{error}"))?;
    let identity = serde_json::json!({
        "pid": std::process::id(),
        "domid": platform.domid().get(),
    });
    let store = platform.store().context("xenstore")?;
    let queues = usize::from(wanted.work.queues);
    let pages = DISK_PAGES - RING_PAGES * queues;
    let disks = Disks::new(platform, store, !wanted.work.no_persistent, queues, pages)?;
    disks.borrow_mut().set_sectors(wanted.work.sectors);
    crate::guest::Guest::new(disks, named, identity, &stop).work(&wanted.work)
}
