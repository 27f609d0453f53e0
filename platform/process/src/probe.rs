//! What a process can reach, tried from inside it.

use std::fmt;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;

use crate::uring::RestrictedRing;
use io_uring::{IoUring, opcode, types};

/// What to try to reach; all of it exists, and none of it is the process's business.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Targets {
    /// The process that started it.
    pub parent_pid: u32,
    /// The process of another domain.
    pub peer_pid: u32,
    /// A file that the user may read.
    pub file: PathBuf,
    /// A listening Unix socket.
    pub socket: PathBuf,
    /// The name of a listening abstract Unix socket.
    pub abstract_socket: Vec<u8>,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing stopped it.
    Reached,
    /// Stopped with this error number (0: refused without one).
    Denied(i32),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached => f.write_str("REACHED"),
            Self::Denied(0) => f.write_str("denied"),
            Self::Denied(errno) => write!(f, "denied: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// An attempt's name and how it ended.
pub type Attempt = (&'static str, Outcome);

/// How an attempt ended that failed with an error number of the system if at all.
pub fn outcome<T>(result: io::Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Reached,
        Err(error) => Outcome::Denied(error.raw_os_error().unwrap_or(0)),
    }
}

fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

/// Opens a file through a ring.
fn uring_open(ring: &mut IoUring, path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
        .flags(libc::O_RDONLY)
        .build();
    // SAFETY: the path lives until the completion was waited for.
    unsafe { ring.submission().push(&open) }.map_err(|_| io::ErrorKind::ResourceBusy)?;
    ring.submit_and_wait(1)?;
    let result = ring
        .completion()
        .next()
        .map_or(-libc::EIO, |entry| entry.result());
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the kernel just opened it for us.
    drop(unsafe { OwnedFd::from_raw_fd(result) });
    Ok(())
}

/// Asks to run a program that cannot be: an address that is none tells whether the kernel came as far as looking at it.
fn exec() -> io::Result<()> {
    // SAFETY: with a path of NULL nothing is executed, whoever is allowed to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execve,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
        )
    };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

fn trace(pid: u32) -> io::Result<()> {
    let pid = pid as libc::pid_t;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: touches no memory of this process.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, null, null) })?;
    // SAFETY: as above. Only a stopped process can be let go; this one goes with us.
    let _ = unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, null, null) };
    Ok(())
}

fn read_memory(pid: u32) -> io::Result<()> {
    let mut byte = 0u8;
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // An address that is never mapped: EFAULT says that the process itself could be reached.
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(16),
        iov_len: 1,
    };
    // SAFETY: writes one byte at most, into `byte`.
    let result = unsafe { libc::process_vm_readv(pid as libc::pid_t, &local, 1, &remote, 1, 0) };
    match check(result as libc::c_long) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

fn inet() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketType};
    Ok(rustix::net::socket(
        AddressFamily::INET,
        SocketType::STREAM,
        None,
    )?)
}

fn connect_abstract(name: &[u8]) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Tries everything. `ring` is the one that the process serves with, if it has one.
pub fn probe_sandbox(targets: &Targets, ring: Option<&mut RestrictedRing>) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut tried = |name, outcome| attempts.push((name, outcome));
    tried(
        "open a foreign file",
        outcome(std::fs::File::open(&targets.file)),
    );
    if let Some(ring) = ring {
        tried(
            "open it through our io_uring",
            outcome(uring_open(ring.get_mut(), &targets.file)),
        );
    }
    let new_ring = IoUring::new(2).and_then(|mut ring| uring_open(&mut ring, &targets.file));
    tried("open it through a new io_uring", outcome(new_ring));
    let memory = format!("/proc/{}/mem", targets.parent_pid);
    tried(
        "open the parent's memory",
        outcome(std::fs::File::open(memory)),
    );
    tried(
        "read the parent's memory",
        outcome(read_memory(targets.parent_pid)),
    );
    tried("trace a peer", outcome(trace(targets.peer_pid)));
    // SAFETY: signal 0 only asks whether one could be sent.
    let kill = unsafe { libc::kill(targets.peer_pid as libc::pid_t, 0) };
    tried("kill a peer", outcome(check(kill.into())));
    tried("execute a program", outcome(exec()));
    tried("make an IPv4 socket", outcome(inet()));
    tried(
        "connect to an abstract socket",
        outcome(connect_abstract(&targets.abstract_socket)),
    );
    tried(
        "connect to a foreign socket",
        outcome(UnixStream::connect(&targets.socket)),
    );
    attempts
}
