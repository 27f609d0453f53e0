//! The `ringfence` command.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ringfence_cli::args::{Cli, Command, DomainMain, Platform};
use ringfence_cli::{backend, block, domains, guest, host, top, upgrade, xen, xenstore, xenstored};
use ringfence_hosted::RunDir;
use ringfence_hosted::admin::Client;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let said = match &cli.command {
        Command::Xenstored(options) if options.verbose => "warn,ringfence_cli::xenstored=info",
        _ => "warn",
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(said)))
        .init();
    match run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("ringfence: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<u8> {
    if let Command::DomainMain(main) = &cli.command {
        return match main {
            DomainMain::DriverDomain { options, probe } => {
                let targets = probe
                    .as_deref()
                    .map(serde_json::from_str)
                    .transpose()
                    .context("--probe")?;
                let run = match cli.platform {
                    Platform::Hosted => backend::run,
                    Platform::Xen => xen::backend::run,
                };
                run(options, targets.as_ref()).map(|()| 0)
            }
            DomainMain::KnowsJournal { version } => Ok(upgrade::knows(*version)),
            DomainMain::Guest { vdevs, work } => guest::run(vdevs, work),
        };
    }
    if let Command::Xenstored(options) = &cli.command {
        return xenstored::run(options).map(|()| 0);
    }
    if cli.platform == Platform::Xen {
        return xen::run(cli);
    }
    let run_dir = RunDir::resolve(cli.run_dir.as_deref())?;
    match &cli.command {
        Command::Host(options) => host::run(&run_dir, options)?,
        Command::DriverDomain(wanted) => return domains::driver_domain(&run_dir, wanted),
        Command::Guest(wanted) => return domains::guest(&run_dir, wanted),
        Command::BlockAttach { guest, disk } => {
            block::attach(&Client::connect(&run_dir)?, guest, disk)?
        }
        Command::BlockDetach { guest, vdev } => {
            block::detach(&Client::connect(&run_dir)?, guest, vdev)?
        }
        Command::BlockList { guest, json } => {
            block::list(&Client::connect(&run_dir)?, guest.as_deref(), *json)?
        }
        Command::Top(options) => {
            let client = Client::connect(&run_dir)?;
            let run_dir = &run_dir;
            top::run(&mut top::Hosted { run_dir, client }, options)?;
        }
        Command::Xenstore(command) => xenstore::run(&run_dir, command)?,
        Command::Upgrade { name } => upgrade::hosted(&Client::connect(&run_dir)?, name)?,
        Command::Shutdown => Client::connect(&run_dir)?.shutdown()?,
        Command::Xenstored(_) | Command::DomainMain(_) => {}
    }
    Ok(0)
}
