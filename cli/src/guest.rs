//! What a guest's process does: connects its disks, then copies, exports, or waits.

pub mod copy;
pub mod device;
pub mod hotplug;

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ringfence_core::platform::Platform;
use ringfence_hosted::Hosted;

use crate::args::GuestWork;
use crate::nbd::{Listener, Server};
use crate::signals::Stop;
use copy::{Counts, copy};
use device::{Control, Cost, GuestDisk};

/// The process of a guest.
///
/// # Errors
/// A disk cannot be connected or fails.
pub fn run(vdevs: &[String], work: &GuestWork) -> Result<()> {
    let stop = Stop::install().context("cannot catch signals")?;
    let (platform, store) = Hosted::inherited()?;
    if work.copy.is_none() && work.nbd_export.is_none() {
        crate::say(&serde_json::json!({ "ready": identity(&platform) }));
        return hotplug::run(&platform, store, &stop);
    }
    let guest = Guest {
        control: Control::new(store),
        platform,
    };
    let vdevs = vdevs
        .iter()
        .map(|text| vdev(text))
        .collect::<Result<Vec<_>>>()?;
    if let Some(pair) = &work.copy {
        let (from, to) = pair
            .split_once('=')
            .with_context(|| format!("--copy '{pair}': expected FROM=TO"))?;
        return guest.copy(
            guest.connect(&vdevs, from)?,
            guest.connect(&vdevs, to)?,
            work.depth,
        );
    }
    if let Some(export) = &work.nbd_export {
        let (name, socket) = export
            .split_once('=')
            .with_context(|| format!("--nbd-export '{export}': expected VDEV=SOCKET"))?;
        return guest.export(guest.connect(&vdevs, name)?, Path::new(socket), &stop);
    }
    Ok(())
}

fn vdev(text: &str) -> Result<(String, u32)> {
    let (name, number) = text
        .split_once('=')
        .with_context(|| format!("--vdev '{text}': expected NAME=NUMBER"))?;
    Ok((
        name.to_owned(),
        number.parse().with_context(|| format!("--vdev '{text}'"))?,
    ))
}

fn identity(platform: &Hosted) -> serde_json::Value {
    serde_json::json!({ "pid": std::process::id(), "domid": platform.domid().get(), "name": platform.name() })
}

struct Guest {
    platform: Hosted,
    control: Rc<RefCell<Control>>,
}

impl Guest {
    fn connect(&self, vdevs: &[(String, u32)], name: &str) -> Result<GuestDisk> {
        let Some((name, number)) = vdevs.iter().find(|(known, _)| known == name) else {
            let known: Vec<_> = vdevs.iter().map(|(name, _)| name.as_str()).collect();
            bail!("no disk '{name}': there are {}", known.join(", "));
        };
        GuestDisk::connect(&self.platform, &self.control, *number, name)
    }

    fn copy(&self, mut from: GuestDisk, mut to: GuestDisk, depth: u16) -> Result<()> {
        let mut shown = 0;
        let mut progress = |done: u64, whole: u64| {
            let percent = (done * 100).checked_div(whole).unwrap_or(100);
            if percent >= shown + 10 {
                shown = percent / 10 * 10;
                eprintln!("{shown} % of copying and reading back");
            }
        };
        let start = Instant::now();
        let counts: Counts = copy(&mut from, &mut to, usize::from(depth), &mut progress)?;
        let seconds = start.elapsed().as_secs_f64();
        let (one, other): (Cost, Cost) = (from.cost(), to.cost());
        from.close()?;
        to.close()?;
        crate::say(&serde_json::json!({ "copied": {
            "pid": std::process::id(),
            "domid": self.platform.domid().get(),
            "sandbox": "none: a guest is the user's own program",
            "depth": counts.in_flight,
            "requests": counts.requests,
            "bytes": counts.bytes,
            "seconds": seconds,
            "notifications": one.notifications + other.notifications,
            "syscalls": one.syscalls + other.syscalls + counts.polls,
        }}));
        Ok(())
    }

    fn export(&self, disk: GuestDisk, socket: &Path, stop: &Stop) -> Result<()> {
        let name = disk.name().to_owned();
        let mut server = Server::new(Listener::bind(socket)?, &name, disk);
        crate::say(
            &serde_json::json!({ "ready": identity(&self.platform), "nbd": socket, "export": name }),
        );
        server.run(stop.as_fd())?;
        server.into_blocks().close()
    }
}
