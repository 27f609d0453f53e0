//! `block-attach`, `block-detach`, `block-list`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ringfence_core::wire::vbd::Vdev;
use ringfence_hosted::ImageFormat;
use ringfence_hosted::admin::{Client, DiskInfo, DomainKind, NewDisk};

use crate::disk::DiskSpec;

/// Attaches a disk to a guest; without `backend=` by the only driver domain there is.
///
/// # Errors
/// What the broker or the backend said.
pub fn attach(client: &Client, guest: &str, disk: &DiskSpec) -> Result<()> {
    let backend = match &disk.backend {
        Some(name) => name.clone(),
        None => only_driver_domain(client)?,
    };
    let target = match disk.format {
        ImageFormat::Nbd | ImageFormat::Empty => disk.target.clone().into(),
        // The broker may run elsewhere: what is relative here is made absolute here.
        _ => real(
            std::path::absolute(Path::new(&disk.target))
                .with_context(|| format!("target '{}'", disk.target))?,
        ),
    };
    let image = disk.image(target);
    client
        .attach_disk(NewDisk {
            guest: guest.to_owned(),
            backend,
            image,
            vdev: disk.vdev.get(),
            dev: disk.vdev_name.clone(),
            cdrom: disk.cdrom,
            discard: disk.discard,
        })
        .with_context(|| format!("cannot attach {} to {guest}", disk.vdev_name))
}

/// Links are followed here, so that the broker opens what the caller meant; what is not there the broker reports.
fn real(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

fn only_driver_domain(client: &Client) -> Result<String> {
    let mut names = client
        .domains()?
        .into_iter()
        .filter(|domain| domain.kind == DomainKind::DriverDomain)
        .map(|domain| domain.name);
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => bail!("backend= is not given, and there is no driver domain"),
        (Some(one), Some(other)) => {
            bail!("backend= is not given, and there are several driver domains: {one}, {other}")
        }
    }
}

/// Detaches a disk.
///
/// # Errors
/// The name makes no sense, or what the broker said.
pub fn detach(client: &Client, guest: &str, vdev: &str) -> Result<()> {
    let number: Vdev = vdev.parse().with_context(|| format!("vdev '{vdev}'"))?;
    client
        .detach_disk(guest, number.get())
        .with_context(|| format!("cannot detach {vdev} from {guest}"))
}

/// Prints the disks of one guest, or of all.
///
/// # Errors
/// No broker, or no such guest.
pub fn list(client: &Client, guest: Option<&str>, json: bool) -> Result<()> {
    let domains = client.domains()?;
    let only = match guest {
        None => None,
        Some(text) => Some(
            domains
                .iter()
                .find(|domain| domain.name == text || domain.domid.to_string() == text)
                .map(|domain| domain.domid)
                .with_context(|| format!("no domain {text}"))?,
        ),
    };
    let name = |domid: u16| {
        domains
            .iter()
            .find(|domain| domain.domid == domid)
            .map_or("?", |domain| &domain.name)
    };
    let disks: Vec<DiskInfo> = client
        .disks()?
        .into_iter()
        .filter(|disk| only.is_none_or(|domid| disk.guest == domid))
        .collect();
    if json {
        let list: Vec<_> = disks
            .iter()
            .map(|disk| {
                serde_json::json!({
                    "vdev": disk.vdev, "dev": disk.dev, "guest": name(disk.guest), "backend": name(disk.backend),
                    "target": disk.image.target, "read_only": disk.image.read_only,
                    "format": disk.image.format.name(), "shared": disk.image.shared,
                    "cache": disk.image.cache.name(), "layers": disk.image.layers,
                    "backend_state": disk.backend_state, "frontend_state": disk.frontend_state,
                    "backend_path": disk.backend_path,
                })
            })
            .collect();
        println!("{}", serde_json::json!({ "disks": list }));
        return Ok(());
    }
    println!(
        "{:<6} {:<6} {:<12} {:<12} {:<6} {:<5} target",
        "vdev", "dev", "guest", "backend", "mode", "state"
    );
    for disk in disks {
        println!(
            "{:<6} {:<6} {:<12} {:<12} {:<6} {}/{}   {}",
            disk.vdev,
            disk.dev,
            name(disk.guest),
            name(disk.backend),
            if disk.image.read_only { "r" } else { "w" },
            disk.frontend_state,
            disk.backend_state,
            disk.image.target.display()
        );
    }
    Ok(())
}
