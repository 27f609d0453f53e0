//! `block-attach`, `block-detach` and `block-list` on Xen: disks of running domains, by writing the nodes that libxl would.

pub mod attached;
pub mod nodes;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringfence_blkback::service::BackendType;
use ringfence_core::store::{Store, StoreError};
use ringfence_core::wire::vbd::Vdev;
use ringfence_hosted::ImageFormat;
use ringfence_linux::store::{LinuxStore, open_store, own_domid};

use self::attached::Domains;
use self::nodes::{Attaching, Detaching, Disk, Place};
use crate::disk::DiskSpec;
use crate::image;

/// How long a driver domain may take to see a new disk.
const ADOPTION: Duration = Duration::from_secs(10);
/// How long the two ends may take to connect, and a frontend to let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a device may take to close that never connected.
const UNDOING: Duration = Duration::from_secs(5);

/// Attaches a disk to a running domain; without `backend=` by this one.
///
/// # Errors
/// In words: what is wrong with the names, or why the ends did not connect. Nothing is left behind then.
pub fn attach(guest: &str, disk: &DiskSpec) -> Result<()> {
    let mut store = open_store()?;
    let own = own_domid(&mut store)?;
    let domains = Domains::read(&mut store)?;
    let backend = match &disk.backend {
        Some(name) => domains.find(name)?,
        None => own,
    };
    let place = Place {
        kind: BackendType::Vbd,
        guest: domains.find(guest)?,
        backend,
        vdev: disk.vdev.get(),
    };
    let local = place.backend == own;
    let target = if matches!(disk.format, ImageFormat::Nbd | ImageFormat::Empty) {
        PathBuf::from(&disk.target)
    } else if local {
        let target = Path::new(&disk.target);
        target
            .canonicalize()
            .with_context(|| format!("target '{}'", disk.target))?
    } else if disk.target.starts_with('/') {
        PathBuf::from(&disk.target)
    } else {
        bail!(
            "target '{}' of another domain is not an absolute path",
            disk.target
        );
    };
    let params = image::words(disk, &target);
    let new = Disk {
        params: &params,
        dev: &disk.vdev_name,
        access: disk.access,
        cdrom: disk.cdrom,
        discard: disk.discard,
        local,
    };
    let what = || format!("cannot attach {} to {guest}", disk.vdev_name);
    nodes::write(&mut store, &place, &new).with_context(what)?;
    connected(&mut store, &place).with_context(what)
}

/// Waits for both ends, and takes the device away again if that fails.
fn connected(store: &mut LinuxStore, place: &Place) -> Result<()> {
    let mut last = Attaching::default();
    let look = |store: &mut LinuxStore, last: &mut Attaching| {
        *last = nodes::attaching(store, place)?;
        Ok::<_, StoreError>(last.failure().is_some())
    };
    let adopted = wait(store, place, ADOPTION, |store| {
        Ok(look(store, &mut last)? || last.was_seen())
    });
    let ended = match adopted {
        Ok(true) => wait(store, place, PATIENCE, |store| {
            Ok(look(store, &mut last)? || last.is_connected())
        }),
        other => other,
    };
    let reason = match ended {
        Ok(true) if last.failure().is_none() => return Ok(()),
        Ok(_) => last.reason(place, PATIENCE),
        Err(error) => error.to_string(),
    };
    undo(store, place, &last).with_context(|| reason.clone())?;
    bail!(reason)
}

/// Takes away what did not connect.
fn undo(store: &mut LinuxStore, place: &Place, last: &Attaching) -> Result<(), StoreError> {
    nodes::begin_detach(store, place)?;
    // Nobody closes what nobody saw.
    if last.was_seen() {
        wait(store, place, UNDOING, |store| {
            Ok(nodes::detaching(store, place)?.is_over())
        })?;
    }
    nodes::remove(store, place)
}

/// Detaches a disk, and waits until the guest has let go of it.
///
/// # Errors
/// There is no such disk, or the guest keeps it.
pub fn detach(guest: &str, vdev: &str) -> Result<()> {
    let number: Vdev = vdev.parse().with_context(|| format!("vdev '{vdev}'"))?;
    let mut store = open_store()?;
    let guest_id = Domains::read(&mut store)?.find(guest)?;
    let place = attached::find(&mut store, guest_id, number.get())
        .with_context(|| format!("cannot detach {vdev} from {guest}"))?;
    nodes::begin_detach(&mut store, &place)?;
    let mut last = Detaching::default();
    let over = wait(&mut store, &place, PATIENCE, |store| {
        last = nodes::detaching(store, &place)?;
        Ok(last.is_over())
    })?;
    if !over {
        bail!(
            "{guest} has not let go of {vdev} in {} s ({last}); it stays until the guest closes it",
            PATIENCE.as_secs()
        );
    }
    if place.backend != own_domid(&mut store)? {
        // It removes what is its own; if it does not, we do.
        wait(&mut store, &place, UNDOING, |store| {
            Ok(nodes::detaching(store, &place)?.is_removed())
        })?;
    }
    nodes::remove(&mut store, &place)?;
    Ok(())
}

/// Prints the disks of one domain, or of all.
///
/// # Errors
/// No store, or no such domain.
pub fn list(guest: Option<&str>, json: bool) -> Result<()> {
    let mut store = open_store()?;
    let domains = Domains::read(&mut store)?;
    let only = guest.map(|guest| domains.find(guest)).transpose()?;
    let disks = attached::all(&mut store, only)?;
    if json {
        println!("{}", attached::json(&disks, &domains));
    } else {
        print!("{}", attached::table(&disks, &domains));
    }
    Ok(())
}

/// Asks again whenever anything of the device changes, until the answer is yes or the time is over, which is `false`.
fn wait<S: Store>(
    store: &mut S,
    place: &Place,
    patience: Duration,
    mut ask: impl FnMut(&mut S) -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    const TOKEN: &str = "ringfence";
    let end = Instant::now() + patience;
    let dirs = [place.backend_dir(), place.frontend_dir()];
    for dir in &dirs {
        store.watch(dir, TOKEN)?;
    }
    let answer = loop {
        while store.next_watch()?.is_some() {}
        if ask(store)? {
            break true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break false;
        }
        store.wait(Some(left))?;
    };
    for dir in &dirs {
        store.unwatch(dir, TOKEN)?;
    }
    Ok(answer)
}
