//! What a driver domain's process gives up before it serves anybody.
//!
//! Three layers, each of which an ordinary user can have: landlock takes the file system, abstract sockets, TCP and signals
//! away; seccomp leaves the system calls of the data path and of the allocator; and the io_uring, which neither sees through, is
//! [restricted](crate::RestrictedRing) before.

mod filter;

use std::fmt;
use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, Ruleset,
    RulesetAttr as _, RulesetStatus, Scope,
};
use thiserror::Error;

use crate::uring::RestrictedRing;

/// What to enforce; all of it by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allow {
    /// Leave the file system, sockets and signals alone: no landlock.
    pub files: bool,
    /// Leave the system calls alone: no seccomp filter.
    pub syscalls: bool,
    /// Requests of `ioctl` that the platform needs with descriptors it was given, beyond those of disks.
    pub ioctls: &'static [u64],
}

impl Allow {
    /// Nothing but serving: the sandbox of driver domains.
    pub const NOTHING: Self = Self {
        files: false,
        syscalls: false,
        ioctls: &[],
    };
    /// Everything: for a process that is not confined at all.
    pub const EVERYTHING: Self = Self {
        files: true,
        syscalls: true,
        ioctls: &[],
    };
}

/// How much of a layer the kernel enforces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enforced {
    /// All that was asked.
    Fully,
    /// A part of it: an older kernel.
    Partially,
    /// Nothing: the kernel or the container has no such thing.
    No,
    /// It was not asked for.
    Off,
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fully => "full",
            Self::Partially => "partial",
            Self::No => "refused by the kernel",
            Self::Off => "off",
        })
    }
}

/// What the kernel enforces from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Landlock: no file, no TCP, no abstract socket, no signal.
    pub landlock: Enforced,
    /// The version of landlock's interface that was used.
    pub landlock_abi: Option<i32>,
    /// The filter of system calls.
    pub seccomp: Enforced,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Whether a ring could be made; if not, disks use `preadv` and `pwritev`.
    pub io_uring: bool,
}

impl Report {
    /// Whether every layer is enforced in full.
    pub const fn is_full(&self) -> bool {
        matches!(
            (self.landlock, self.seccomp),
            (Enforced::Fully, Enforced::Fully)
        ) && self.no_new_privs
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "landlock {}", self.landlock)?;
        if let Some(abi) = self.landlock_abi {
            write!(f, " (abi {abi})")?;
        }
        write!(f, ", seccomp {}", self.seccomp)?;
        let ring = if self.io_uring {
            "restricted"
        } else {
            "none, preadv/pwritev instead"
        };
        write!(f, ", io_uring {ring}")
    }
}

/// Why nothing was enforced: the caller made a mistake, or the system failed. That a kernel knows less than was asked is no
/// error, but said in the [`Report`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// Landlock confines the calling thread and its children only.
    #[error("the process has {0} threads already; confine it before starting any")]
    Threads(usize),
    /// The threads could not be counted.
    #[error("/proc/self/task: {0}")]
    Proc(io::Error),
    /// Landlock failed.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter was refused although it is supported, or could not be built.
    #[error("seccomp: {0}")]
    Seccomp(seccompiler::Error),
}

/// Confines this process for good. Call it with everything open that will be needed, and before the first thread.
///
/// `ring` is the ring that the process will use, if it could be made; it must be made before.
///
/// # Errors
/// [`SandboxError`]; the process may then be confined in part and should exit.
pub fn enforce(allow: &Allow, ring: Option<&RestrictedRing>) -> Result<Report, SandboxError> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(SandboxError::Proc)?
        .count();
    if threads != 1 {
        return Err(SandboxError::Threads(threads));
    }
    let mut report = Report {
        landlock: Enforced::Off,
        landlock_abi: None,
        seccomp: Enforced::Off,
        no_new_privs: false,
        io_uring: ring.is_some(),
    };
    if !allow.files || !allow.syscalls {
        // Others of the same user can then neither trace it nor read its memory.
        let _ =
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        report.no_new_privs = rustix::thread::set_no_new_privs(true).is_ok();
    }
    if !allow.files {
        let status = landlock()?;
        report.landlock = match status.ruleset {
            RulesetStatus::FullyEnforced => Enforced::Fully,
            RulesetStatus::PartiallyEnforced => Enforced::Partially,
            RulesetStatus::NotEnforced => Enforced::No,
        };
        if let LandlockStatus::Available { effective_abi, .. } = status.landlock {
            report.landlock_abi = Some(effective_abi as i32);
        }
    }
    if !allow.syscalls {
        report.seccomp = match filter::install(allow.ioctls) {
            Ok(()) => Enforced::Fully,
            Err(error) if is_missing(&error) => Enforced::No,
            Err(error) => return Err(SandboxError::Seccomp(error)),
        };
    }
    Ok(report)
}

/// A rule set without a rule: everything that it handles is denied.
fn landlock() -> Result<landlock::RestrictionStatus, landlock::RulesetError> {
    let abi = ABI::V6;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()
}

/// Whether the kernel has no seccomp, or the container forbids it.
fn is_missing(error: &seccompiler::Error) -> bool {
    let errno = match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
            error.raw_os_error()
        }
        _ => None,
    };
    matches!(errno, Some(libc::ENOSYS | libc::EPERM | libc::EINVAL))
}
