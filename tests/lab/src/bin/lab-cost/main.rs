//! `lab-cost`: has a guest do a load and prints, as one line of JSON, how long everybody ran meanwhile. In dom0.
//!
//! Under `-icount` a nanosecond is an instruction. Nothing else runs in between: the guest is told through the store, and
//! this process sleeps on a watch until the guest says that it is done.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use ringfence_core::DomId;
use ringfence_core::store::{Store, StoreExt, Tx};
use ringfence_linux::domains::Domains;
use ringfence_linux::open_store;
use ringfence_linux::privcmd::Privcmd;

/// Measures one load of a guest.
#[derive(Parser)]
struct Options {
    /// The guest, which runs guest/cost.sh
    #[arg(long)]
    guest: u16,
    /// Tells this load from those before it
    #[arg(long)]
    number: u32,
    /// What it is to do, in the words of guest/cost.sh
    #[arg(long)]
    load: String,
    /// Processes of the backend, threads of the kernel too
    #[arg(long = "process")]
    processes: Vec<u32>,
}

/// How long everybody has run.
struct Times {
    at: Instant,
    dom0: Duration,
    guest: Duration,
    processes: Duration,
}

impl Times {
    fn now(domains: &mut Domains, options: &Options) -> Result<Self> {
        let mut of = |domid: DomId| -> Result<Duration> {
            let info = domains.get(domid)?;
            Ok(info
                .with_context(|| format!("there is no domain {domid}"))?
                .cpu_time)
        };
        let (dom0, guest) = (of(DomId::DOM0)?, of(DomId::new(options.guest))?);
        let mut processes = Duration::ZERO;
        for process in &options.processes {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let path = task?.path().join("schedstat");
                let text = fs::read_to_string(&path)?;
                let ran = text.split_whitespace().next().unwrap_or_default();
                let ran = ran
                    .parse()
                    .with_context(|| format!("{} is {text:?}", path.display()))?;
                processes += Duration::from_nanos(ran);
            }
        }
        Ok(Self {
            at: Instant::now(),
            dom0,
            guest,
            processes,
        })
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut domains = Domains::new(Privcmd::open()?);
    let mut store = open_store()?;
    let dir = format!("/local/domain/{}/data/cost", options.guest);
    store.watch(&format!("{dir}/done"), "done")?;
    // The event of the registration, and of loads before.
    let mark = format!("{} ", options.number);
    if done(&mut store, &dir).is_some_and(|text| text.starts_with(&mark)) {
        bail!("load {} was done before", options.number);
    }
    let before = Times::now(&mut domains, &options)?;
    let go = format!("{mark}{}", options.load);
    store.write_str(Tx::NONE, &dir, "go", &go)?;
    let status = loop {
        while store.next_watch()?.is_some() {}
        if let Some(text) = done(&mut store, &dir)
            && let Some(status) = text.strip_prefix(&mark)
        {
            break status.to_owned();
        }
        store.wait(None)?;
    };
    let after = Times::now(&mut domains, &options)?;
    if status != "0" {
        bail!("the guest ended `{}` with status {status}", options.load);
    }
    println!(
        "{{\"load\":\"{}\",\"machine\":{},\"guest\":{},\"dom0\":{},\"process\":{}}}",
        options.load,
        (after.at - before.at).as_nanos(),
        (after.guest - before.guest).as_nanos(),
        (after.dom0 - before.dom0).as_nanos(),
        (after.processes - before.processes).as_nanos(),
    );
    Ok(())
}

fn done(store: &mut impl Store, dir: &str) -> Option<String> {
    let mut room = [0; 64];
    let value = store.read(Tx::NONE, &format!("{dir}/done"), &mut room);
    Some(String::from_utf8_lossy(value.ok()?).into_owned())
}
