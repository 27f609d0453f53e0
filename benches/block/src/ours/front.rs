//! The guest of a measurement.

use super::vdev;
use crate::load::{Load, Placement, Places, READ, Waiting};
use crate::meter::{self, Meter, Now, Outcome, Spent};
use anyhow::{Context as _, Result, bail, ensure};
use ringfence_blkfront::{Armed, Event, Frontend, Op, SLOTS};
use ringfence_core::Sector;
use ringfence_core::store::Store as _;
use ringfence_hosted::admin::Client;
use ringfence_hosted::{Hosted, HostedStore, RunDir};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the guest does.
#[derive(Clone, Debug, clap::Args)]
pub struct FrontOptions {
    /// How it waits
    #[arg(long)]
    pub waiting: Waiting,
    /// Where it runs
    #[arg(long)]
    pub placement: Placement,
    /// Requests in flight
    #[arg(long)]
    pub depth: usize,
    /// For how long
    #[arg(long)]
    pub millis: u64,
    /// Instead of reading
    #[arg(long)]
    pub write: bool,
    /// So many are connected
    #[arg(long, default_value_t = 1)]
    pub disks: u16,
    /// Connect them, say so, and do nothing until told to end
    #[arg(long)]
    pub idle: bool,
    /// The number of the first
    #[arg(long, default_value_t = 0)]
    pub first: u16,
    /// Kill the driver domain's process so often instead of counting
    #[arg(long, default_value_t = 0)]
    pub kills: u32,
    /// The process of the driver domain
    #[arg(long, default_value_t = 0)]
    pub back: u32,
    /// The broker's
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
}

impl FrontOptions {
    /// One disk that is read.
    pub fn new(load: &Load) -> Self {
        Self {
            waiting: load.waiting,
            placement: load.placement,
            depth: load.depth,
            millis: u64::try_from(load.time.as_millis()).unwrap_or(u64::MAX),
            write: false,
            disks: 1,
            idle: false,
            first: 0,
            kills: 0,
            back: 0,
            run_dir: None,
        }
    }

    /// As arguments, but for the broker's directory.
    pub fn arguments(&self) -> Vec<String> {
        let mut words = vec![
            "front".into(),
            format!("--waiting={}", self.waiting.word()),
            format!("--placement={}", self.placement.word()),
            format!("--depth={}", self.depth),
            format!("--millis={}", self.millis),
            format!("--disks={}", self.disks),
            format!("--first={}", self.first),
            format!("--kills={}", self.kills),
            format!("--back={}", self.back),
        ];
        words.extend(self.write.then(|| "--write".to_owned()));
        words.extend(self.idle.then(|| "--idle".to_owned()));
        words
    }

    fn load(&self) -> Load {
        Load {
            depth: self.depth,
            waiting: self.waiting,
            placement: self.placement,
            time: Duration::from_millis(self.millis),
        }
    }
}

/// Requests that are shown to the backend together.
const PART: usize = 8;

/// Requests of one page: the buffers have no room for more.
type Front = Frontend<Hosted, SLOTS, 1>;
type Buffer = ringfence_blkfront::Buffer<Hosted, 1>;

struct Guest {
    front: Front,
    places: Places,
    op: Op,
    /// Slots of the reads that ended in this turn.
    done: Vec<usize>,
    calls: u64,
}

/// Does what it is told; gives what it has to say.
pub(super) fn run(
    platform: &Hosted,
    mut store: HostedStore,
    options: &FrontOptions,
) -> Result<String> {
    let load = options.load();
    if options.idle {
        return idle(platform, &mut store, options);
    }
    let front = connect(platform, &mut store, options.first)?;
    let mut guest = Guest {
        front,
        places: Places::new(),
        op: if options.write { Op::Write } else { Op::Read },
        done: Vec::with_capacity(SLOTS),
        calls: 0,
    };
    for _ in 0..load.depth {
        let buffer = guest.front.buffer(1)?;
        guest.submit(buffer)?;
    }
    guest.front.kick()?;
    let said = if options.kills > 0 {
        let dir = RunDir::resolve(options.run_dir.as_deref())?;
        let stalls = stalls(&mut guest, &load, &Client::connect(&dir)?, options.kills)?;
        serde_json::to_string(&stalls)?
    } else {
        serde_json::to_string(&count(&mut guest, &load, options.back)?)?
    };
    Ok(said)
}

/// Connects, says so in one line, and stays connected until its standard input ends.
fn idle(platform: &Hosted, store: &mut HostedStore, options: &FrontOptions) -> Result<String> {
    let last = options.first + options.disks;
    let connected: Vec<Front> = (options.first..last)
        .map(|number| connect(platform, store, number))
        .collect::<Result<_>>()?;
    println!("{}", connected.len());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(String::new())
}

/// Runs the load and counts.
fn count(guest: &mut Guest, load: &Load, back: u32) -> Result<Outcome> {
    let mut meter = Meter::start(load);
    let mut before = (Spent::default(), Spent::default(), 0, 0);
    let mut pss = 0;
    loop {
        guest.step(load.waiting)?;
        if guest.done.is_empty() {
            continue;
        }
        match meter.turn(Instant::now(), &guest.done) {
            Now::On => {}
            Now::Begin => {
                pss = meter::pss(back);
                before = (
                    Spent::of(None),
                    Spent::of(Some(back)),
                    guest.calls,
                    guest.front.counters().notifications,
                );
                meter.restart();
            }
            Now::End => break,
        }
    }
    let time = meter.elapsed();
    let (own, other) = (Spent::of(None), Spent::of(Some(back)));
    let reads = meter.reads();
    let mut outcome = meter.outcome(time);
    (outcome.front_cpu, outcome.front_sleeps) = own.per(before.0, reads);
    (outcome.back_cpu, outcome.back_sleeps) = other.per(before.1, reads);
    let rung = guest.front.counters().notifications - before.3;
    outcome.front_notifications = Some(rung as f64 / reads as f64);
    outcome.front_calls = Some((guest.calls - before.2 + rung) as f64 / reads as f64);
    outcome.back_pss = pss;
    Ok(outcome)
}

/// Kills the driver domain's process again and again; gives the longest time without an answer around each, in ms.
fn stalls(guest: &mut Guest, load: &Load, client: &Client, kills: u32) -> Result<Vec<f64>> {
    let restarts = || -> Result<u32> {
        let domains = client.domains()?;
        let back = domains.into_iter().find(|domain| domain.name == "back");
        Ok(back.context("the driver domain is gone")?.restarts)
    };
    let mut stalls = Vec::new();
    for kill in 0..kills {
        let begin = Instant::now();
        while begin.elapsed() < load.time {
            guest.step(load.waiting)?;
        }
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        client.signal("back", 9)?;
        let mut back = false;
        // Until the next process has answered something.
        loop {
            guest.step(Waiting::Spin)?;
            if !guest.done.is_empty() {
                let now = Instant::now();
                longest = longest.max(now.duration_since(last));
                last = now;
                if back {
                    break;
                }
            }
            if !back && last.elapsed() > Duration::from_micros(200) {
                back = restarts()? > kill;
            }
            ensure!(
                last.elapsed() < Duration::from_secs(20),
                "no answer for 20 s"
            );
        }
        stalls.push(longest.as_secs_f64() * 1000.0);
    }
    Ok(stalls)
}

fn connect(platform: &Hosted, store: &mut HostedStore, number: u16) -> Result<Front> {
    let dir = format!("device/vbd/{}", vdev(number));
    let mut front = Front::with_limits(platform.clone(), &dir)?;
    front.set_persistent(true);
    loop {
        match front.step(store)? {
            Some(Event::Connected(_)) => return Ok(front),
            Some(Event::Failed(fault)) => bail!("{fault}"),
            Some(Event::Closed) => bail!("the backend closed"),
            Some(_) => {}
            None => {
                store.wait(None)?;
                while store.next_watch()?.is_some() {}
            }
        }
    }
}

impl Guest {
    /// A turn, and a wait if there was nothing.
    fn step(&mut self, waiting: Waiting) -> Result<()> {
        self.turn()?;
        if self.done.is_empty() && waiting == Waiting::Events {
            self.wait()?;
        }
        Ok(())
    }

    /// Takes what is there and asks for as much again.
    fn turn(&mut self) -> Result<()> {
        self.done.clear();
        while let Some(completion) = self.front.reap()? {
            completion.result?;
            self.done
                .push(usize::try_from(completion.tag.get() & u64::from(u32::MAX))?);
            self.submit(completion.buffer.context("a read without its buffer")?)?;
            if self.done.len().is_multiple_of(PART) {
                // The backend begins while we go on.
                self.front.kick()?;
            }
        }
        self.front.kick()?;
        Ok(())
    }

    fn submit(&mut self, buffer: Buffer) -> Result<()> {
        ensure!(buffer.len() == READ, "a page of {} bytes", buffer.len());
        let sector = Sector::new(self.places.next() / 512);
        match self.front.submit(self.op, sector, buffer) {
            Ok(_) => Ok(()),
            Err(rejected) => bail!("not submitted: {rejected}"),
        }
    }

    /// Sleeps until the next answer, and accounts for the event.
    fn wait(&mut self) -> Result<()> {
        if self.front.arm() == Armed::Again {
            return Ok(());
        }
        let channel = self.front.channel().context("no channel")?;
        self.calls += 2;
        match poll(&mut [PollFd::new(channel, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if self.front.take_event()? {
            // Unmasking is free here, and the backend is our own.
            let _ = self.front.serviced()?;
        }
        Ok(())
    }
}
