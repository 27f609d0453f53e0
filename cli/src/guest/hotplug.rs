//! A guest that has no work of its own: it connects every disk it is given, also later ones, and lets go of those taken away.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ringfence_blkfront::{Event, Frontend};
use ringfence_core::store::{Store, StoreError, Tx};
use ringfence_hosted::{Hosted, HostedStore};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::device::CLOSE_MAX;
use crate::signals::Stop;

/// Where the toolstack puts our disks.
const DISKS: &str = "device/vbd";

/// Connects disks as they come until `stop`, then closes them.
///
/// # Errors
/// The store failed.
pub fn run(platform: &Hosted, mut store: HostedStore, stop: &Stop) -> Result<()> {
    let mut disks: BTreeMap<u32, Frontend<Hosted>> = BTreeMap::new();
    store.watch(DISKS, "disks").context("xenstore")?;
    let mut deadline: Option<Instant> = None;
    loop {
        let stopping = deadline.is_some();
        while store.next_watch().context("xenstore")?.is_some() {}
        let present = present(&mut store)?;
        for vdev in present.iter().filter(|_| !stopping) {
            if !disks.contains_key(vdev) {
                disks.insert(
                    *vdev,
                    Frontend::new(platform.clone(), &format!("{DISKS}/{vdev}"))?,
                );
            }
        }
        let mut gone = Vec::new();
        for (vdev, front) in &mut disks {
            while let Some(event) = front
                .step(&mut store)
                .with_context(|| format!("disk {vdev}"))?
            {
                match event {
                    Event::Connected(info) => {
                        tracing::info!(vdev, sectors = info.sectors.get(), "connected")
                    }
                    Event::Failed(fault) => eprintln!("ringfence: disk {vdev}: {fault}"),
                    Event::Closed if stopping => gone.push(*vdev),
                    Event::Closing | Event::Disconnected | Event::Closed => {}
                }
            }
            if !present.contains(vdev) {
                gone.push(*vdev);
            }
        }
        gone.iter().for_each(|vdev| drop(disks.remove(vdev)));
        if stopping && disks.is_empty() {
            return Ok(());
        }
        let mut fds = vec![PollFd::from_borrowed_fd(
            store.transport().as_fd(),
            PollFlags::IN,
        )];
        if !stopping {
            fds.push(PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN));
        }
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let names: Vec<_> = disks.keys().map(u32::to_string).collect();
            bail!(
                "the backends of {} did not close within {CLOSE_MAX:?}",
                names.join(", ")
            );
        }
        match poll(
            &mut fds,
            left.map(Timespec::try_from).and_then(Result::ok).as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            deadline = Some(Instant::now() + CLOSE_MAX);
            disks.values_mut().for_each(Frontend::close);
        }
    }
}

/// The numbers of the disks that the store knows.
fn present(store: &mut HostedStore) -> Result<Vec<u32>> {
    let mut room = [0; 4096];
    match store.directory(Tx::NONE, DISKS, &mut room) {
        Ok(names) => Ok(names.filter_map(|name| name.parse().ok()).collect()),
        Err(StoreError::Missing) => Ok(Vec::new()),
        Err(error) => Err(error).context(DISKS),
    }
}
