//! The peer of the lab's scenarios: agents in domains, and what has them do things.

mod agent;
mod census;
mod checks;
mod conformance;
mod fleet;
mod hostile;
mod lies;
mod native;

use clap::{Parser, Subcommand};
use ringfence_core::DomId;

/// Speaks for domains on real Xen
#[derive(Debug, Parser)]
#[command(name = "lab-peer")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Execute platform operations in this domain for a caller in dom0
    Agent {
        /// Be the process that does it, not the one that starts it again when it is killed
        #[arg(long)]
        once: bool,
    },
    /// Run the platforms' conformance suite with three domains, in each of which an agent runs
    Conformance {
        #[command(flatten)]
        domains: Three,
        /// Only these contracts
        #[arg(long, value_name = "ID")]
        only: Vec<String>,
        /// Leave out the one after which domain A is no more
        #[arg(long)]
        keep: bool,
    },
    /// Attack grant tables and event channels between three domains, in each of which an agent runs
    Tables {
        #[command(flatten)]
        domains: Three,
        /// Leave out the attack after which domain A is no more
        #[arg(long)]
        keep: bool,
    },
    /// Attack the backend of a disk as a frontend whose domain has an agent
    Block {
        /// Who attacks
        #[arg(value_parser = domid)]
        attacker: DomId,
        /// Who has another disk of the same backend, and an agent
        #[arg(value_parser = domid)]
        bystander: DomId,
        /// The backend's domain
        #[arg(long, value_parser = domid, default_value = "0")]
        back: DomId,
        /// The number of both disks: xvda
        #[arg(long, default_value_t = 51712)]
        vdev: u32,
    },
    /// Be the backend of disks of a guest that does not run yet, and lie about each in another way, until the guest is gone
    Lies {
        /// The guest
        #[arg(value_parser = domid)]
        front: DomId,
    },
    /// Print what the agents in these domains hold
    Census {
        /// The domains
        #[arg(value_parser = domid)]
        domains: Vec<DomId>,
    },
}

/// The suite's three domains, by number.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Three {
    /// Who grants
    #[arg(value_parser = domid)]
    a: DomId,
    /// Its peer
    #[arg(value_parser = domid)]
    b: DomId,
    /// Who has no business with either
    #[arg(value_parser = domid)]
    c: DomId,
}

fn domid(text: &str) -> Result<DomId, std::num::ParseIntError> {
    text.parse().map(DomId::new)
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Arguments::parse().command {
        Command::Agent { once: false } => agent::watch_over(),
        Command::Agent { once: true } => agent::serve(),
        Command::Conformance {
            domains,
            only,
            keep,
        } => Ok(conformance::run(domains, &only, keep)),
        Command::Tables { domains, keep } => Ok(hostile::on_tables(domains, keep)),
        Command::Block {
            attacker,
            bystander,
            back,
            vdev,
        } => hostile::on_block(attacker, bystander, back, vdev),
        Command::Lies { front } => lies::tell(front),
        Command::Census { domains } => Ok(census::print(&domains)),
    }
}
