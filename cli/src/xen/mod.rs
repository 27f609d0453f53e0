//! `--platform xen`: the commands on Linux that runs on the real hypervisor, in dom0 or in a guest.

pub mod backend;
pub mod block;
mod driver_domain;
mod driver_domain_checks;
mod guest;
mod supervisor;
mod supervisor_files;
mod supervisor_journals;
mod supervisor_link;
mod supervisor_notify;
pub(crate) mod supervisor_statistics;

use anyhow::{Result, bail};
use ringfence_hosted::RunDir;

use crate::args::{Cli, Command};
use crate::top;

/// Runs a command; gives the status to exit with.
///
/// # Errors
/// In words for the user.
pub fn run(cli: &Cli) -> Result<u8> {
    let name = match &cli.command {
        Command::Host(_) => "host",
        Command::DriverDomain(wanted) => {
            return driver_domain::run(cli.run_dir.as_deref(), wanted);
        }
        Command::Guest(wanted) => return guest::run(wanted),
        Command::BlockAttach { guest, disk } => return block::attach(guest, disk).map(|()| 0),
        Command::BlockDetach { guest, vdev } => return block::detach(guest, vdev).map(|()| 0),
        Command::BlockList { guest, json } => {
            return block::list(guest.as_deref(), *json).map(|()| 0);
        }
        Command::Top(options) => {
            let run_dir = RunDir::resolve(cli.run_dir.as_deref())?;
            return top::run(&mut top::Xen { run_dir: &run_dir }, options).map(|()| 0);
        }
        Command::Upgrade { .. } => bail!(
            "on Xen the service goes on with the program that is on disk when it is sent SIGHUP: systemctl reload ringfence-driver-domain"
        ),
        Command::Xenstore(_) => "xenstore",
        Command::Xenstored(_) => "xenstored",
        Command::Shutdown => "shutdown",
        Command::DomainMain(_) => "domain-main",
    };
    bail!("{name} is not for --platform xen")
}
