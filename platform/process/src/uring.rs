//! An io_uring that can do what a disk needs and nothing else.
//!
//! io_uring opens files and sockets without any system call that a seccomp filter could see. So a ring is made disabled,
//! restricted, and only then enabled, before the filter takes `io_uring_setup` away.

use std::fmt;
use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode};

/// What a restricted ring may do.
const OPS: [u8; 5] = [
    opcode::Nop::CODE,
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// A ring that reads, writes, flushes and discards, with descriptors of the process, and refuses everything else: no fixed files, no
/// flags, and nothing can be registered with it any more.
pub struct RestrictedRing(IoUring);

impl fmt::Debug for RestrictedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestrictedRing")
    }
}

impl RestrictedRing {
    /// Makes a ring with `entries` submission entries, a power of two.
    ///
    /// # Errors
    /// `EPERM` or `ENOSYS` where the kernel or the container allows no io_uring; callers then use `preadv` and `pwritev`.
    pub fn new(entries: u32) -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().build(entries)?;
        let mut allowed: Vec<Restriction> = OPS.iter().map(|op| Restriction::sqe_op(*op)).collect();
        ring.submitter().register_restrictions(&mut allowed)?;
        ring.submitter().register_enable_rings()?;
        Ok(Self(ring))
    }

    /// The ring itself.
    pub fn into_inner(self) -> IoUring {
        self.0
    }

    /// Shows that the ring works, by an operation that is allowed and does nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn check(&mut self) -> io::Result<()> {
        let nop = opcode::Nop::new().build();
        // SAFETY: refers to no memory.
        unsafe { self.0.submission().push(&nop) }.map_err(|_| io::ErrorKind::ResourceBusy)?;
        self.0.submit_and_wait(1)?;
        match self.0.completion().next().map(|entry| entry.result()) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The ring itself, for a probe.
    pub const fn get_mut(&mut self) -> &mut IoUring {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::{squeue, types};
    use rustix::io::Errno;

    #[test]
    fn a_ring_does_what_disks_need_and_nothing_else() {
        let mut ring = match RestrictedRing::new(4) {
            Ok(ring) => ring,
            Err(error) => {
                println!("SKIP io_uring: {error}");
                return;
            }
        };
        ring.check().expect("it works");
        let fd = types::Fd(-1);
        let (nothing, something) = (std::ptr::null(), std::ptr::null_mut());
        let refused: [squeue::Entry; 5] = [
            opcode::Readv::new(fd, nothing, 0).build(),
            opcode::Writev::new(fd, nothing, 0).build(),
            opcode::PollAdd::new(fd, 1).build(),
            opcode::AsyncCancel::new(7).build(),
            opcode::OpenAt::new(fd, nothing.cast()).build(),
        ];
        let allowed = [
            opcode::Read::new(fd, something, 0).build(),
            opcode::Write::new(fd, nothing.cast(), 0).build(),
            opcode::Fsync::new(fd).build(),
            opcode::Fallocate::new(fd, 1).build(),
        ];
        let mut outcome = |entry: &squeue::Entry| {
            // SAFETY: of no descriptor and no memory.
            unsafe { ring.0.submission().push(entry) }.expect("room");
            ring.0.submit_and_wait(1).expect("submitted");
            let ended = ring.0.completion().next();
            ended.map_or(0, |entry| -entry.result())
        };
        assert_eq!(
            refused.each_ref().map(&mut outcome),
            [Errno::ACCESS.raw_os_error(); 5]
        );
        assert_eq!(
            allowed.each_ref().map(&mut outcome),
            [Errno::BADF.raw_os_error(); 4]
        );
    }
}
