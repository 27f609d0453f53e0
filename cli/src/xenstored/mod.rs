//! `ringfence xenstored`: XenStore for dom0 of a real Xen, in place of the distribution's daemon.
//!
//! The store itself is `ringfence-xenstored`; here are its transports: the ring page of every domain (`rings`), the Unix
//! socket of dom0's tools (`clients`), and one thread that waits for all of them (`daemon`).

mod clients;
pub mod daemon;
mod detach;
pub mod host;
mod notify;
pub mod poller;
mod rings;
pub mod server;
pub mod socket;
#[cfg(test)]
mod tests;
mod xen;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::quota::{self, Quota};
use crate::signals::Stop;
use detach::PidFile;
use server::Server;
use socket::Listener;
use xen::XenHost;

/// `xenstored`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Write the daemon's process number here
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Where the tools of dom0 connect
    #[arg(long, value_name = "PATH", default_value = "/run/xenstored/socket")]
    pub socket: PathBuf,
    /// Stay in the foreground, and tell systemd when the store serves (the default)
    #[arg(long, conflicts_with = "daemonize")]
    pub foreground: bool,
    /// Go to the background; returns when the store serves
    #[arg(long)]
    pub daemonize: bool,
    /// What a domain may use, instead of Xen's defaults, e.g. watches=2000; may be given several times
    #[arg(short = 'Q', long, value_name = "WHAT=NUMBER")]
    pub quota: Vec<Quota>,
    /// Log what happens to domains
    #[arg(short = 'V', long)]
    pub verbose: bool,
    /// What --daemonize starts
    #[arg(long, hide = true, requires = "daemonize")]
    pub detached: bool,
}

/// Serves until SIGTERM or SIGINT; with `--daemonize` only until somebody else does.
///
/// # Errors
/// This is not dom0, a store is running already, or the system refuses.
pub fn run(options: &Options) -> Result<()> {
    if options.daemonize && !options.detached {
        return detach::start();
    }
    // Absolute, for the daemon leaves its folder.
    let socket = std::path::absolute(&options.socket)?;
    let listener = Listener::bind(&socket)?;
    let _pid_file = options
        .pid_file
        .as_deref()
        .map(|path| PidFile::write(path).with_context(|| path.display().to_string()))
        .transpose()?;
    if options.detached {
        detach::begin().context("cannot leave the terminal")?;
    }
    let stop = Stop::install().context("cannot catch signals")?;
    let mut server = Server::new(XenHost::open()?, daemon::CLIENTS);
    server.set_quotas(quota::limits(&options.quota));
    server
        .start()
        .context("cannot serve dom0's kernel: is this dom0, with xenfs on /proc/xen?")?;
    if options.detached {
        detach::ready().context("cannot go to the background")?;
    } else if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        notify::ready(&socket).context("cannot notify systemd")?;
    }
    daemon::run(&mut server, &listener, &stop).context("the store cannot go on")
}
