//! The system calls that serving a disk needs. Everything else is answered with `EPERM`.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

type Error = seccompiler::Error;

/// Without conditions.
const PLAIN: &[libc::c_long] = &[
    // Data.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    // A qcow2 image grows; the alignment of its file system is asked for.
    libc::SYS_ftruncate,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_io_uring_enter,
    // The control socket and the store's: connected, and no other can be made.
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_pipe2,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Itself.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getrandom,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Answered with ENOSYS by the other filter, so that the C library uses `clone`, whose arguments can be looked at.
    libc::SYS_clone3,
];

#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];

/// Requests of `ioctl` about the size of block devices and about terminals.
const IOCTLS: &[u64] = &[
    0x1268,      // BLKSSZGET
    0x127b,      // BLKPBSZGET
    0x8008_1272, // BLKGETSIZE64
    0x1277,      // BLKDISCARD
    0x127d,      // BLKSECDISCARD
    0x127f,      // BLKZEROOUT
    0x5401,      // TCGETS: standard output asks once whether it is a terminal
    0x5421,      // FIONBIO
];

/// Commands of `fcntl`: nothing about locks, owners and signals.
const FCNTLS: &[i32] = &[
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_DUPFD_CLOEXEC,
];

fn rule(argument: u8, op: Op, value: u64) -> Result<SeccompRule, Error> {
    let condition = SeccompCondition::new(argument, Len::Dword, op, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn rules(more: &[u64]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN
        .iter()
        .chain(OLD)
        .map(|number| (*number, Vec::new()))
        .collect();
    let ioctls = IOCTLS
        .iter()
        .chain(more)
        .map(|request| rule(1, Op::Eq, *request));
    rules.insert(libc::SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    let fcntls = FCNTLS
        .iter()
        .map(|command| rule(1, Op::Eq, *command as u64));
    rules.insert(libc::SYS_fcntl, fcntls.collect::<Result<_, _>>()?);
    let not_executable = || rule(2, Op::MaskedEq(libc::PROT_EXEC as u64), 0);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(
        libc::SYS_clone,
        vec![rule(0, Op::MaskedEq(thread), thread)?],
    );
    rules.insert(
        libc::SYS_prctl,
        vec![rule(0, Op::Eq, libc::PR_SET_NAME as u64)?],
    );
    // `fstat` of newer C libraries and of Rust's; with the flag a path may still be given, which tells of a file's size and age at most,
    // and landlock cannot forbid that anyway.
    let empty = libc::AT_EMPTY_PATH as u64;
    rules.insert(
        libc::SYS_newfstatat,
        vec![rule(3, Op::MaskedEq(empty), empty)?],
    );
    rules.insert(libc::SYS_statx, vec![rule(2, Op::MaskedEq(empty), empty)?]);
    // `abort` and `panic = "abort"` send a signal to a thread of this very process.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(0, Op::Eq, own)?]);
    Ok(rules)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?)
}

/// Installs both filters, on all threads; `ioctls` are requests allowed beyond those of disks.
pub(super) fn install(ioctls: &[u64]) -> Result<(), Error> {
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let nosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let first = program(clone3, SeccompAction::Allow, nosys)?;
    let second = program(
        rules(ioctls)?,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
    )?;
    seccompiler::apply_filter_all_threads(&first)?;
    seccompiler::apply_filter_all_threads(&second)
}
