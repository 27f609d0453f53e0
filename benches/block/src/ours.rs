//! Ours: `ringfence-blkfront` and `ringfence-blkback` with its null disk, each in a process that the hosted platform's broker
//! started.

use crate::load::{BACK_CPU, DISK, FRONT_CPU, Load, Places, READ, Waiting, pin};
use anyhow::{Context as _, Result, bail, ensure};
use ringfence_blkback::Stats;
use ringfence_blkback::service::{self, DiskError, Disks, Options};
use ringfence_blkback::sink::{DiskIo, Null};
use ringfence_blkfront::{Armed, Buffer, Event, Frontend, Op};
use ringfence_core::store::Store as _;
use ringfence_core::{Sector, SectorCount};
use ringfence_hosted::admin::{Client, DomainKind, NewDisk, NewDomain, RestartPolicy};
use ringfence_hosted::broker::Broker;
use ringfence_hosted::{Hosted, HostedStore, ImageSpec, RunDir};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As long as the peer may.
const SPIN: Duration = Duration::from_millis(1);
/// `xvda`.
const VDEV: u32 = 202 << 8;

/// What a process of a measurement does.
#[derive(clap::Subcommand)]
pub enum Half {
    /// The driver domain
    #[command(hide = true)]
    Back {
        #[arg(long)]
        waiting: Waiting,
    },
    /// The guest
    #[command(hide = true)]
    Front {
        #[arg(long)]
        waiting: Waiting,
        #[arg(long)]
        depth: usize,
        #[arg(long)]
        millis: u64,
    },
}

/// How both halves wait and what is on.
pub fn command_line(waiting: Waiting) -> String {
    let (back, front) = match waiting {
        Waiting::Events => ("Waiting::Block", "arm, poll"),
        Waiting::Spin => ("Waiting::Spin(1 ms)", "reap in a loop"),
    };
    format!(
        "block-bench back, null disk, {back} | block-bench front, {front}; hosted grants and all checks on, no sandbox"
    )
}

/// Runs one half in its own process.
///
/// # Errors
/// It was not started by the broker, or something fails.
pub fn half(half: &Half) -> Result<()> {
    let (platform, store) = Hosted::inherited()?;
    match half {
        Half::Back { waiting } => {
            pin(BACK_CPU)?;
            back(&platform, store, *waiting)
        }
        Half::Front {
            waiting,
            depth,
            millis,
        } => {
            pin(FRONT_CPU)?;
            let time = Duration::from_millis(*millis);
            let load = Load {
                depth: *depth,
                waiting: *waiting,
                time,
            };
            println!("{}", front(&platform, store, &load)?);
            Ok(())
        }
    }
}

struct Nulls;

impl Disks for Nulls {
    fn open(&mut self, _: &str, _: bool, _: &Arc<Stats>) -> Result<Box<dyn DiskIo>, DiskError> {
        Ok(Box::new(Null::new(SectorCount::new(DISK / 512))))
    }
}

fn back(platform: &Hosted, store: HostedStore, waiting: Waiting) -> Result<()> {
    // Nothing is ever said here: the broker ends us.
    let (stop, _other) = UnixStream::pair()?;
    let waiting = match waiting {
        Waiting::Events => service::Waiting::Block,
        Waiting::Spin => service::Waiting::Spin(SPIN),
    };
    let options = Options {
        waiting,
        ..Options::default()
    };
    Ok(service::run(
        platform,
        store,
        Nulls,
        stop.as_fd(),
        options,
        |_| {},
    )?)
}

fn front(platform: &Hosted, mut store: HostedStore, load: &Load) -> Result<f64> {
    let mut front = Frontend::new(platform.clone(), &format!("device/vbd/{VDEV}"))?;
    loop {
        match front.step(&mut store)? {
            Some(Event::Connected(_)) => break,
            Some(Event::Failed(fault)) => bail!("{fault}"),
            Some(Event::Closed) => bail!("the backend closed"),
            Some(_) => {}
            None => {
                store.wait(None)?;
                while store.next_watch()?.is_some() {}
            }
        }
    }
    let mut places = Places::new();
    for _ in 0..load.depth {
        let buffer = front.buffer(1)?;
        submit(&mut front, &mut places, buffer)?;
    }
    front.kick()?;
    let warm = load.time / 10;
    let (mut reads, mut warming, mut start) = (0_u64, true, Instant::now());
    loop {
        let done = turn(&mut front, &mut places)?;
        if done == 0 {
            if load.waiting == Waiting::Events {
                wait(&mut front)?;
            }
            continue;
        }
        reads += done;
        let elapsed = start.elapsed();
        if warming && elapsed >= warm {
            (warming, reads, start) = (false, 0, Instant::now());
        } else if !warming && elapsed >= load.time {
            return Ok(reads as f64 / start.elapsed().as_secs_f64());
        }
    }
}

/// Takes what is there and asks for as much again.
fn turn(front: &mut Frontend<Hosted>, places: &mut Places) -> Result<u64> {
    let mut done = 0;
    while let Some(completion) = front.reap()? {
        completion.result?;
        submit(
            front,
            places,
            completion.buffer.context("a read without its buffer")?,
        )?;
        done += 1;
    }
    if done > 0 {
        front.kick()?;
    }
    Ok(done)
}

fn submit(front: &mut Frontend<Hosted>, places: &mut Places, buffer: Buffer<Hosted>) -> Result<()> {
    ensure!(buffer.len() == READ, "a page of {} bytes", buffer.len());
    let sector = Sector::new(places.next() / 512);
    match front.submit(Op::Read, sector, buffer) {
        Ok(_) => Ok(()),
        Err(rejected) => bail!("not submitted: {rejected}"),
    }
}

/// Sleeps until the next answer, and accounts for the event.
fn wait(front: &mut Frontend<Hosted>) -> Result<()> {
    if front.arm() == Armed::Again {
        return Ok(());
    }
    let channel = front.channel().context("no channel")?;
    match poll(&mut [PollFd::new(channel, PollFlags::IN)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    if front.take_event()? {
        // Unmasking is free here, and the backend is our own.
        let _ = front.serviced()?;
    }
    Ok(())
}

/// A broker of our own; dropping it ends its domains.
struct Host {
    dir: PathBuf,
    client: Client,
    broker: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Host {
    fn start() -> Result<Self> {
        let dir =
            std::env::temp_dir().join(format!("ringfence-block-bench-{}-ours", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let run = RunDir::resolve(Some(&dir.join("run")))?;
        let mut broker = Broker::with_program(run.clone(), std::env::current_exe()?)?;
        let broker = Some(std::thread::spawn(move || broker.run()));
        let client = Client::connect(&run)?;
        Ok(Self {
            dir,
            client,
            broker,
        })
    }

    fn domain(
        &self,
        name: &str,
        kind: DomainKind,
        argv: &[String],
        output: &UnixStream,
    ) -> Result<()> {
        let domain = NewDomain {
            name: name.to_owned(),
            kind,
            argv: argv.iter().map(Into::into).collect(),
            env: Vec::new(),
            restart: RestartPolicy::Never,
            destroy_on_exit: true,
        };
        let (input, error) = (std::io::stdin(), std::io::stderr());
        self.client
            .create_domain(domain, [input.as_fd(), output.as_fd(), error.as_fd()])?;
        Ok(())
    }

    fn image(&self) -> Result<PathBuf> {
        let path = self.dir.join("image");
        std::fs::File::create(&path)?.set_len(DISK)?;
        Ok(path.canonicalize()?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.client.shutdown();
        let _ = self.broker.take().map(std::thread::JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Reads per second.
///
/// # Errors
/// A process ends early.
pub fn measure(load: &Load) -> Result<f64> {
    let host = Host::start()?;
    let waiting = match load.waiting {
        Waiting::Events => "events",
        Waiting::Spin => "spin",
    };
    let argv = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let (ours, theirs) = UnixStream::pair()?;
    host.domain(
        "back",
        DomainKind::DriverDomain,
        &argv(&["back", "--waiting", waiting]),
        &theirs,
    )?;
    let (depth, millis) = (load.depth.to_string(), load.time.as_millis().to_string());
    let front = argv(&[
        "front",
        "--waiting",
        waiting,
        "--depth",
        &depth,
        "--millis",
        &millis,
    ]);
    host.domain("front", DomainKind::Guest, &front, &theirs)?;
    drop(theirs);
    attach(&host.client, &host.image()?)?;
    host.client.wait_exit("front")?;
    drop(host);
    let mut text = String::new();
    let mut output = ours;
    output.read_to_string(&mut text)?;
    text.trim()
        .parse()
        .with_context(|| format!("the guest said {text:?}"))
}

fn attach(client: &Client, image: &Path) -> Result<()> {
    client.attach_disk(NewDisk {
        guest: "front".into(),
        backend: "back".into(),
        image: ImageSpec::raw(image, true),
        vdev: VDEV,
        dev: "xvda".into(),
    })?;
    Ok(())
}
