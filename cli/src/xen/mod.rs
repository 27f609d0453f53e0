//! `--platform xen`: the commands on Linux that runs on the real hypervisor, in dom0 or in a guest.

use anyhow::{Result, bail};

use crate::args::Command;

/// Runs a command; gives the status to exit with.
///
/// # Errors
/// In words for the user.
pub fn run(command: &Command) -> Result<u8> {
    let name = match command {
        Command::Host => "host",
        Command::DriverDomain(_) => "driver-domain",
        Command::Guest(_) => "guest",
        Command::BlockAttach { .. } => "block-attach",
        Command::BlockDetach { .. } => "block-detach",
        Command::BlockList { .. } => "block-list",
        Command::Xenstore(_) => "xenstore",
        Command::Shutdown => "shutdown",
        Command::DomainMain(_) => "domain-main",
    };
    bail!("{name} is not for --platform xen")
}
