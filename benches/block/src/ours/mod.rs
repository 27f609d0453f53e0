//! Ours: `ringfence-blkfront` and `ringfence-blkback`, each in a process that the hosted platform's broker started.

mod back;
mod front;
pub mod host;

use crate::load::{DISK, Load, Placement, Side, Waiting};
use crate::meter::Outcome;
use anyhow::{Context as _, Result};
use front::FrontOptions;
use host::{Domain, Host};
use ringfence_hosted::Hosted;
use ringfence_hosted::admin::RestartPolicy;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The guest that is busy.
const FRONT: &str = "front";

/// `xvda`.
pub const VDEV: u32 = 202 << 8;

/// What the driver domain serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Disk {
    /// Nothing: reads leave the pages as they are.
    Null,
    /// The image, by io_uring, past the page cache.
    File,
    /// The image, which is qcow2, past the page cache.
    Qcow2,
}

impl Disk {
    /// As the command line says it.
    const fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::File => "file",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// How the driver domain runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct BackOptions {
    /// How it waits.
    #[arg(long)]
    pub waiting: Waiting,
    /// Where it runs.
    #[arg(long)]
    pub placement: Placement,
    /// What it serves.
    #[arg(long, value_enum, default_value = "null")]
    pub disk: Disk,
    /// Whether it keeps no journal.
    #[arg(long)]
    pub unjournaled: bool,
}

/// What a process of a measurement does.
#[derive(clap::Subcommand)]
pub enum Half {
    /// The driver domain
    #[command(hide = true)]
    Back {
        #[command(flatten)]
        options: BackOptions,
    },
    /// The guest
    #[command(hide = true)]
    Front {
        #[command(flatten)]
        options: FrontOptions,
    },
}

/// How both halves wait and what is on.
pub fn command_line(waiting: Waiting) -> String {
    let (back, front) = match waiting {
        Waiting::Events => ("Waiting::Block", "arm, poll"),
        Waiting::Spin => ("Waiting::Spin(1 ms)", "reap in a loop"),
    };
    format!(
        "block-bench back, null disk, {back} | block-bench front, {front}; hosted grants, persistent grants, journal and all checks on, no sandbox"
    )
}

/// What the driver domain says when it ends, over all that it served.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Served {
    /// Requests.
    pub requests: u64,
    /// Doorbells rung.
    pub notifications: u64,
    /// System calls of the data path.
    pub calls: u64,
}

/// Runs one half in its own process.
///
/// # Errors
/// It was not started by the broker, or something fails.
pub fn half(half: &Half) -> Result<()> {
    let (platform, store) = Hosted::inherited()?;
    match half {
        Half::Back { options } => {
            options.placement.take(Side::Back)?;
            println!(
                "{}",
                serde_json::to_string(&back::run(&platform, store, *options)?)?
            );
        }
        Half::Front { options } => {
            options.placement.take(Side::Front)?;
            println!("{}", front::run(&platform, store, options)?);
        }
    }
    Ok(())
}

/// Measures on a disk that touches no data.
///
/// # Errors
/// A process ends early.
pub fn measure(load: &Load, unjournaled: bool) -> Result<Outcome> {
    let host = Host::start()?;
    let image = host.image(DISK)?;
    let back = BackOptions {
        waiting: load.waiting,
        placement: load.placement,
        disk: Disk::Null,
        unjournaled,
    };
    run(&host, &image, back, &FrontOptions::new(load))
}

/// Measures on a file, past the page cache: its own bytes, or qcow2.
///
/// # Errors
/// A process ends early.
pub fn measure_file(file: &Path, disk: Disk, load: &Load, write: bool) -> Result<Outcome> {
    let host = Host::start()?;
    let back = BackOptions {
        waiting: load.waiting,
        placement: load.placement,
        disk,
        unjournaled: false,
    };
    let front = FrontOptions {
        write,
        ..FrontOptions::new(load)
    };
    run(&host, file, back, &front)
}

/// Idle disks of one guest.
const PER_GUEST: u16 = 30;

/// Measures one disk among so many that are connected and idle, and of other guests.
///
/// # Errors
/// A process ends early.
pub fn measure_among(disks: u16, load: &Load) -> Result<Outcome> {
    let host = Host::start()?;
    let image = host.image(DISK)?;
    let options = BackOptions {
        waiting: load.waiting,
        placement: load.placement,
        disk: Disk::Null,
        unjournaled: false,
    };
    let back = host.back(options, RestartPolicy::Never)?;
    let mut guests = Vec::new();
    let mut first = 1;
    while first < disks {
        let front = FrontOptions {
            idle: true,
            first,
            disks: (disks - first).min(PER_GUEST),
            ..FrontOptions::new(load)
        };
        let name = format!("idle-{first}");
        let guest = host.front(&name, &front)?;
        for number in first..first + front.disks {
            host.attach(&name, options.disk, &image, true, vdev(number))?;
        }
        guest.line().with_context(|| name.clone())?;
        guests.push(guest);
        first += front.disks;
    }
    let outcome = measured(&host, options.disk, &image, back, &FrontOptions::new(load));
    for guest in guests {
        guest.end()?;
    }
    outcome
}

/// Kills the driver domain's process so often, with so many reads in flight: how long none was answered, in ms.
///
/// # Errors
/// A process ends early, or the driver domain does not come back.
pub fn measure_kills(kills: u32, load: &Load) -> Result<Vec<f64>> {
    let host = Host::start()?;
    let image = host.image(DISK)?;
    let options = BackOptions {
        waiting: load.waiting,
        placement: load.placement,
        disk: Disk::File,
        unjournaled: false,
    };
    let back = host.back(options, RestartPolicy::OnFailure)?;
    let front = FrontOptions {
        kills,
        ..FrontOptions::new(load)
    };
    let guest = host.front(FRONT, &front)?;
    host.attach(FRONT, options.disk, &image, true, VDEV)?;
    let stalls = guest.say().context("the guest")?;
    drop(back);
    Ok(stalls)
}

/// Starts both halves on this image and waits for what they say.
fn run(host: &Host, image: &Path, options: BackOptions, front: &FrontOptions) -> Result<Outcome> {
    let back = host.back(options, RestartPolicy::Never)?;
    measured(host, options.disk, image, back, front)
}

/// Starts the guest and waits for what it and the driver domain say.
fn measured(
    host: &Host,
    disk: Disk,
    image: &Path,
    back: Domain,
    front: &FrontOptions,
) -> Result<Outcome> {
    let front = FrontOptions {
        back: host.pid("back")?,
        ..front.clone()
    };
    let guest = host.front(FRONT, &front)?;
    host.attach(FRONT, disk, image, !front.write, VDEV)?;
    let mut outcome: Outcome = guest.say().context("the guest")?;
    let served: Served = back.stop().context("the driver domain")?;
    let per = |count: u64| count as f64 / served.requests.max(1) as f64;
    outcome.back_notifications = Some(per(served.notifications));
    outcome.back_calls = Some(per(served.calls));
    Ok(outcome)
}

/// The number of a disk: `xvda` first, then those that Linux calls extended.
pub const fn vdev(number: u16) -> u32 {
    match number {
        0 => VDEV,
        number => 1 << 28 | (number as u32) << 8,
    }
}
