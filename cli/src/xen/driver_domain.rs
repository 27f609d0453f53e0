//! `ringfence driver-domain --platform xen`: serves the disks of this domain, dom0 or a driver domain, until it is told to end.

use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use ringfence_blkback::service::Toolstack;
use ringfence_core::DomId;
use ringfence_core::store::{Store, Tx};
use ringfence_hosted::RunDir;
use ringfence_linux::ByPath;
use ringfence_linux::store::{open_store, own_domid};
use ringfence_process::child::Exit;
use ringfence_process::restart::RestartPolicy;

use super::driver_domain_checks as checks;
use super::supervisor::{Ended, Supervisor};
use super::supervisor_files::Files;
use super::supervisor_journals::Journals;
use super::supervisor_link::Identity;
use super::supervisor_statistics::Published;
use crate::args::{DriverDomain, Restart};
use crate::backend::{self, ProbeTargets};
use crate::signals::{Reload, Stop};

/// Who makes the disks of domain `domid`.
pub(super) const fn toolstack(domid: DomId) -> Toolstack {
    match domid {
        DomId::DOM0 => Toolstack::DOM0,
        _ => Toolstack::DRIVER_DOMAIN,
    }
}

/// Serves until the process ended for good; gives the status to exit with.
///
/// # Errors
/// This is no place to serve disks, in words that say what to do; or the process cannot be started.
pub(super) fn run(run_dir: Option<&Path>, wanted: &DriverDomain) -> Result<u8> {
    checks::check_host(Path::new("/"))?;
    let run_dir = RunDir::resolve(run_dir)?;
    run_dir.create()?;
    let mut store = open_store()?;
    let domid = own_domid(&mut store)?;
    let identity = Identity {
        domid: domid.get(),
        name: name(&mut store),
        supervisor: std::process::id(),
    };
    if let Some(name) = wanted.name.as_ref().filter(|name| **name != identity.name) {
        bail!("this domain is {:?}, not {name:?}", identity.name);
    }
    let mut arguments = vec!["--platform=xen".to_owned()];
    arguments.extend(backend::arguments(&wanted.options));
    let mut restart = match wanted.restart {
        Some(Restart::Never) => RestartPolicy::Never,
        Some(Restart::OnFailure) | None => RestartPolicy::OnFailure,
    };
    // Lives until the end of the probe.
    let mut probe = None;
    let mut lock = None;
    if wanted.probe_sandbox {
        let (reachable, targets) = Reachable::new(&run_dir)?;
        arguments.push(format!("--probe={}", serde_json::to_string(&targets)?));
        probe = Some(reachable);
        restart = RestartPolicy::Never;
    } else {
        checks::check_blkback(Path::new("/"))?;
        lock = Some(checks::take_lock(&run_dir)?);
    }
    // Descriptors for every event channel: the soft limit of 1024 is soon reached. The process inherits it.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);

    let stop = Stop::install().context("cannot catch signals")?;
    let reload = Reload::install().context("cannot catch signals")?;
    // While it is the one that runs: what replaces the file has the same name.
    let on_disk = std::env::current_exe().context("/proc/self/exe")?;
    let toolstack = toolstack(domid);
    tracing::info!(%domid, types = ?backend::types(&toolstack), "serving as a driver domain");
    let program = "/proc/self/exe".into();
    let journals = run_dir.path().join("journal");
    let journals = Journals::new(&journals).with_context(|| journals.display().to_string())?;
    journals.sweep(domid, &mut store);
    journals.check()?;
    let files = Files::new(domid, toolstack, store, ByPath).with_journals(journals);
    let mut supervisor = Supervisor::new(identity, files, program, arguments, restart);
    if let Some(lock) = lock {
        supervisor = supervisor.with_lock(lock.into());
        match Published::new(run_dir.path()) {
            Ok(published) => supervisor = supervisor.with_statistics(published),
            Err(error) => tracing::warn!(%error, "nobody can look at the statistics"),
        }
    }
    let ended = supervisor.run(stop.as_fd(), &reload, &on_disk)?;
    drop(probe);
    Ok(match ended {
        Ended::Exit(Exit::Code(code)) => u8::try_from(code).unwrap_or(1),
        Ended::Exit(Exit::Signal(signal)) => {
            128_u8.saturating_add(u8::try_from(signal).unwrap_or(127))
        }
        Ended::Next(program) => {
            tracing::info!(program = %program.display(), "going on with another program");
            // The same process number, so that whoever watches over us sees no end. All descriptors but the streams close.
            let arguments = std::env::args_os().skip(1);
            let error = Command::new(&program).args(arguments).exec();
            return Err(error).with_context(|| program.display().to_string());
        }
    })
}

/// What the toolstack calls this domain.
fn name<S: Store>(store: &mut S) -> String {
    let mut room = [0; 256];
    let name = store.read(Tx::NONE, "name", &mut room);
    name.map_or_else(
        |_| String::new(),
        |name| String::from_utf8_lossy(name).into_owned(),
    )
}

/// What the probe tries to reach, there while this lives.
struct Reachable {
    path: std::path::PathBuf,
    _sockets: [UnixListener; 2],
}

impl Reachable {
    fn new(run_dir: &RunDir) -> Result<(Self, ProbeTargets)> {
        let name = format!("ringfence-probe-{}", std::process::id());
        let path = run_dir.path().join("probe.sock");
        let _ = std::fs::remove_file(&path);
        let named = SocketAddr::from_abstract_name(&name)?;
        let sockets = [UnixListener::bind(&path)?, UnixListener::bind_addr(&named)?];
        let targets = ProbeTargets {
            peer_pid: std::process::id(),
            file: "/proc/self/exe".into(),
            socket: path.clone(),
            abstract_socket: name,
        };
        let reachable = Self {
            path,
            _sockets: sockets,
        };
        Ok((reachable, targets))
    }
}

impl Drop for Reachable {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
