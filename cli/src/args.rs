//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringfence_blkback::service::{THREADS_MAX, Waiting};
use ringfence_core::wire::blkif::Convention;

use crate::disk::DiskSpec;
use crate::guest::arg::DiskArg;
use crate::guest::front::QUEUES;
use crate::guest::verify::VerifySpec;

/// Xen's split drivers, with domains as processes.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, about)]
pub struct Cli {
    /// Where the broker's sockets are [default: /run/ringfence as root, else $XDG_RUNTIME_DIR/ringfence]
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where the domains are
    #[arg(long, global = true, value_enum, default_value_t = Platform::Hosted)]
    pub platform: Platform,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the domains are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Platform {
    /// Processes on this machine, which a broker started.
    Hosted,
    /// Real ones: this is Linux on Xen, dom0 or a guest.
    Xen,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker: the store, the event channels, and every domain's process
    Host(crate::host::Options),
    /// Run an isolated backend domain until it ends
    DriverDomain(DriverDomain),
    /// Run a guest with block devices until it ends
    Guest(Guest),
    /// Attach a disk to a guest, also while it runs
    BlockAttach {
        /// The guest's name
        guest: String,
        /// The disk as xl or xm write it, e.g. format=raw,vdev=xvda,access=rw,backend=blk0,target=/img
        #[arg(value_name = "DISK")]
        disk: DiskSpec,
    },
    /// Detach a disk from a guest
    BlockDetach {
        /// The guest's name
        guest: String,
        /// The disk's name or number, e.g. xvda
        vdev: String,
    },
    /// List the disks of a guest, or of all
    BlockList {
        /// The guest's name
        guest: Option<String>,
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Have a driver domain go on with this program; its guests stay connected
    Upgrade {
        /// The domain's name
        name: String,
    },
    /// Show domains and disks, with rates and restarts
    Top(crate::top::Options),
    /// Read and write XenStore as the control domain
    #[command(subcommand)]
    Xenstore(Xenstore),
    /// Run XenStore for dom0 of a real Xen
    Xenstored(crate::xenstored::Options),
    /// End the broker and every domain of it
    Shutdown,
    /// What a domain's process runs; started by the broker only
    #[command(subcommand, hide = true)]
    DomainMain(DomainMain),
}

/// `driver-domain`
#[derive(Clone, Debug, Args)]
pub struct DriverDomain {
    /// The domain's name, for backend= of disks; on Xen the name that it has, and may be left out
    pub name: Option<String>,
    /// How the process runs
    #[command(flatten)]
    pub options: BackendOptions,
    /// Whether the process is started again when it dies [default: never; on Xen on-failure]
    #[arg(long, value_enum)]
    pub restart: Option<Restart>,
    /// Print what the sandbox lets through, tried from inside, and exit
    #[arg(long)]
    pub probe_sandbox: bool,
}

/// What the process of a driver domain is told.
#[derive(Clone, Debug, Args)]
pub struct BackendOptions {
    /// Confine the process before it serves anybody
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub sandbox: Switch,
    /// How the process waits for work: block, spin, spin:TIME or poll; disks may say otherwise with wait=
    #[arg(long, default_value_t)]
    pub wait: Waiting,
    /// Threads of the process, which share the disks among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    pub threads: u16,
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// When the broker starts a dead domain's process again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Restart {
    /// Never.
    Never,
    /// When it did not exit by itself with 0.
    OnFailure,
}

/// `guest`
#[derive(Clone, Debug, Args)]
pub struct Guest {
    /// The domain's name; none with --platform xen, where the toolstack gave it one
    pub name: Option<String>,
    /// A disk as xl or xm write it; with --platform xen the name of one to wait for, e.g. xvda; may be given several times
    #[arg(long = "disk", value_name = "DISK")]
    pub disks: Vec<DiskArg>,
    /// What it does
    #[command(flatten)]
    pub work: GuestWork,
}

/// What a guest does with its disks.
#[derive(Clone, Debug, Args)]
pub struct GuestWork {
    /// Copy one disk to another and read both back, e.g. xvda=xvdb
    #[arg(long, value_name = "FROM=TO", conflicts_with_all = ["nbd_export", "verify"])]
    pub copy: Option<String>,
    /// Overwrite a disk with a pattern at random places while reading, flush, and read all of it back: DISK, DISK,10s or DISK,64M
    #[arg(long, value_name = "DISK[,UNTIL]", conflicts_with = "nbd_export")]
    pub verify: Option<VerifySpec>,
    /// What the pattern and the places of --verify are made from [default: another each time]
    #[arg(long, requires = "verify")]
    pub seed: Option<u64>,
    /// Requests in flight while copying or verifying
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=288))]
    pub depth: u16,
    /// Rings for each disk, as far as its backend offers several (multi-queue-max-queues)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=QUEUES as i64))]
    pub queues: u16,
    /// Do not let backends keep pages mapped that they know (feature-persistent)
    #[arg(long)]
    pub no_persistent: bool,
    /// How backends count sectors larger than 512 bytes: linux, freebsd, qemu or mini-os
    #[arg(long, value_name = "CONVENTION", default_value_t)]
    pub sectors: Convention,
    /// Serve a disk over NBD on a Unix socket, e.g. xvda=/path/to.sock, also one that is attached later; may be given several times
    #[arg(long = "nbd-export", value_name = "VDEV=SOCKET")]
    pub nbd_export: Vec<String>,
}

/// `xenstore`
#[derive(Clone, Debug, Subcommand)]
pub enum Xenstore {
    /// Print a node and everything below it
    Ls {
        /// Where to begin
        #[arg(default_value = "/")]
        path: String,
    },
    /// Print a node's value
    Read {
        /// The node
        path: String,
    },
    /// Write a node
    Write {
        /// The node
        path: String,
        /// Its value
        value: String,
    },
    /// Remove a node and everything below it
    Rm {
        /// The node
        path: String,
    },
    /// Print the names of a node's children
    List {
        /// The node
        path: String,
    },
}

/// What a domain's process runs.
#[derive(Clone, Debug, Subcommand)]
pub enum DomainMain {
    /// A driver domain
    DriverDomain {
        /// How it runs
        #[command(flatten)]
        options: BackendOptions,
        /// Try to reach these instead of serving, as JSON
        #[arg(long)]
        probe: Option<String>,
    },
    /// Nothing: says by its status whether it knows journals of this version
    KnowsJournal {
        /// The version
        version: u64,
    },
    /// A guest
    Guest {
        /// Its disks, as name=number, in the order of the command line
        #[arg(long = "vdev")]
        vdevs: Vec<String>,
        /// What it does
        #[command(flatten)]
        work: GuestWork,
    },
}
