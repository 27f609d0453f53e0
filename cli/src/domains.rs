//! `driver-domain` and `guest`: asks the broker for a domain and stays until it ends.

use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, Result, bail};
use ringfence_core::DomId;
use ringfence_hosted::RunDir;
use ringfence_hosted::admin::{Client, DomainKind, Exit, NewDomain, RestartPolicy};

use crate::args::{DriverDomain, Guest, Restart};
use crate::backend::{self, ProbeTargets};
use crate::block;
use crate::guest::arg::DiskArg;
use crate::signals::Stop;

/// Makes a driver domain and waits for its end; gives the status to exit with.
///
/// # Errors
/// What the broker said.
pub fn driver_domain(run_dir: &RunDir, wanted: &DriverDomain) -> Result<u8> {
    let Some(name) = &wanted.name else {
        bail!("a driver domain needs a name, for backend= of disks");
    };
    let mut argv = backend::arguments(&wanted.options).to_vec();
    // Lives until the end of the probe.
    let mut listener = None;
    if wanted.probe_sandbox {
        let socket = format!("ringfence-probe-{}", std::process::id());
        listener = Some(UnixListener::bind_addr(&SocketAddr::from_abstract_name(
            &socket,
        )?)?);
        let targets = ProbeTargets {
            peer_pid: std::process::id(),
            file: "/etc/passwd".into(),
            socket: run_dir.xenstored(),
            abstract_socket: socket,
        };
        argv.push(format!("--probe={}", serde_json::to_string(&targets)?));
    }
    let restart = match wanted.restart {
        Some(Restart::Never) | None => RestartPolicy::Never,
        Some(Restart::OnFailure) => RestartPolicy::OnFailure,
    };
    let client = Client::connect(run_dir)?;
    // From here on a signal is the domain's.
    let stop = Stop::install().context("cannot catch signals")?;
    let domid = create(&client, name, DomainKind::DriverDomain, argv, restart)?;
    let status = wait(run_dir, &client, domid, stop);
    drop(listener);
    status
}

/// Makes a guest, attaches its disks, and waits for its end; gives the status to exit with.
///
/// # Errors
/// What the broker or a backend said; the guest is destroyed then.
pub fn guest(run_dir: &RunDir, wanted: &Guest) -> Result<u8> {
    let name = wanted
        .name
        .as_deref()
        .context("guest: a domain of the broker's needs a NAME")?;
    let disks = wanted
        .disks
        .iter()
        .map(DiskArg::attach)
        .collect::<Result<Vec<_>, _>>()?;
    let mut argv = vec!["domain-main".to_owned(), "guest".into()];
    for disk in &disks {
        argv.push(format!("--vdev={}={}", disk.vdev_name, disk.vdev.get()));
    }
    argv.push(format!("--depth={}", wanted.work.depth));
    argv.push(format!("--queues={}", wanted.work.queues));
    argv.push(format!("--sectors={}", wanted.work.sectors));
    if wanted.work.no_persistent {
        argv.push("--no-persistent".to_owned());
    }
    argv.extend(wanted.work.copy.iter().map(|copy| format!("--copy={copy}")));
    argv.extend(
        wanted
            .work
            .verify
            .iter()
            .map(|spec| format!("--verify={spec}")),
    );
    argv.extend(wanted.work.seed.iter().map(|seed| format!("--seed={seed}")));
    argv.extend(
        wanted
            .work
            .nbd_export
            .iter()
            .map(|export| format!("--nbd-export={export}")),
    );
    let client = Client::connect(run_dir)?;
    // From here on a signal is the domain's.
    let stop = Stop::install().context("cannot catch signals")?;
    let domid = create(&client, name, DomainKind::Guest, argv, RestartPolicy::Never)?;
    for disk in disks {
        if let Err(error) = block::attach(&client, name, disk) {
            // The guest may have ended by itself meanwhile.
            let _ = client.destroy_domain(&domid.to_string());
            return Err(error);
        }
    }
    wait(run_dir, &client, domid, stop)
}

fn create(
    client: &Client,
    name: &str,
    kind: DomainKind,
    argv: Vec<String>,
    restart: RestartPolicy,
) -> Result<DomId> {
    let domain = NewDomain {
        name: name.to_owned(),
        kind,
        argv: argv.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        restart,
        destroy_on_exit: true,
    };
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    client
        .create_domain(domain, [input.as_fd(), output.as_fd(), error.as_fd()])
        .with_context(|| format!("cannot make domain {name}"))
}

/// Waits for the end; a signal to us is passed on, and the domain ends as it would by its own.
fn wait(run_dir: &RunDir, client: &Client, domid: DomId, stop: Stop) -> Result<u8> {
    let second = Client::connect(run_dir)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while stop.wait().is_ok() {
                if second
                    .signal(&domid.to_string(), signal_hook::consts::SIGTERM)
                    .is_err()
                {
                    return;
                }
            }
        })?;
    Ok(match client.wait_exit(&domid.to_string())? {
        Exit::Code(code) => u8::try_from(code).unwrap_or(1),
        Exit::Signal(signal) => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
    })
}
