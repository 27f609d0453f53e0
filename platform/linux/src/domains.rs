//! Which domains there are, and when that changes: for xenstored and for tools in the control domain.
//!
//! Xen's `sysctl` interface has a version and refuses every other; what we use of it has been the same in all of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ringfence_core::{DomId, EvtchnPort, SharedMem};
use rustix::io::Errno;
use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::evtchn::{Evtchn, VIRQ_DOM_EXC};
use crate::privcmd::{Privcmd, SYSCTL};

/// `XEN_SYSCTL_INTERFACE_VERSION` of Xen 4.17, then those around it.
pub const VERSIONS: [u32; 9] = [0x15, 0x16, 0x14, 0x17, 0x13, 0x18, 0x12, 0x19, 0x11];

/// `XEN_SYSCTL_getdomaininfolist`.
const GETDOMAININFOLIST: u32 = 6;

/// Where in the page the answer goes, behind the request.
const ANSWER: usize = 2048;

/// `struct xen_sysctl` of `xen/sysctl.h` with the member `getdomaininfolist`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sysctl {
    cmd: u32,
    interface_version: u32,
    first_domain: u16,
    pad: u16,
    max_domains: u32,
    buffer: u64,
    num_domains: u32,
    /// Up to the size of the union.
    rest: [u8; 108],
}

/// The start of `struct xen_domctl_getdomaininfo` of `xen/domctl.h`, which all versions have in common.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct GetDomainInfo {
    domain: u16,
    pad1: u16,
    flags: u32,
    tot_pages: u64,
    max_pages: u64,
    outstanding_pages: u64,
    shr_pages: u64,
    paged_pages: u64,
    shared_info_frame: u64,
    cpu_time: u64,
    nr_online_vcpus: u32,
    max_vcpu_id: u32,
    ssidref: u32,
    handle: [u8; 16],
    pad2: u32,
}

/// Bits of `flags`, `XEN_DOMINF_*`.
const DYING: u32 = 1 << 0;
const SHUTDOWN: u32 = 1 << 2;
const PAUSED: u32 = 1 << 3;
/// `XEN_DOMINF_shutdownshift`.
const REASON_SHIFT: u32 = 16;

/// Why a domain shut down, `SHUTDOWN_*` of `xen/sched.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ShutdownReason {
    /// It wants to be off.
    Poweroff,
    /// It wants to start again.
    Reboot,
    /// It is ready to be saved.
    Suspend,
    /// It crashed.
    Crash,
    /// Its watchdog ran out.
    Watchdog,
    /// It wants to start again with its memory as it is.
    SoftReset,
    /// A number that is none of the header's.
    Unknown(u8),
}

impl ShutdownReason {
    const fn new(raw: u8) -> Self {
        match raw {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            other => Self::Unknown(other),
        }
    }
}

/// What Xen says about a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainInfo {
    /// Its number.
    pub domid: DomId,
    /// It is being destroyed: its tools are done with it, and it goes as soon as nobody holds a page of its.
    pub dying: bool,
    /// Why it shut down, if it did.
    pub shutdown: Option<ShutdownReason>,
    /// It does not run because somebody paused it.
    pub paused: bool,
    /// Virtual processors that are online.
    pub vcpus: u32,
    /// Pages of 4096 bytes that it has.
    pub pages: u64,
    /// Pages that it may have.
    pub max_pages: u64,
    /// How long its virtual processors have run, all together.
    pub cpu_time: Duration,
    /// Its UUID, as the toolstack chose it.
    pub handle: [u8; 16],
}

impl DomainInfo {
    fn new(raw: &GetDomainInfo) -> Self {
        // The mask is the width of the type.
        let reason = (raw.flags >> REASON_SHIFT) as u8;
        let shut_down = raw.flags & SHUTDOWN != 0;
        Self {
            domid: DomId::new(raw.domain),
            dying: raw.flags & DYING != 0,
            shutdown: shut_down.then(|| ShutdownReason::new(reason)),
            paused: raw.flags & PAUSED != 0,
            vcpus: raw.nr_online_vcpus,
            pages: raw.tot_pages,
            max_pages: raw.max_pages,
            cpu_time: Duration::from_nanos(raw.cpu_time),
            handle: raw.handle,
        }
    }
}

/// Why Xen did not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DomainsError {
    /// Every version of the interface that we know is refused.
    #[error(
        "this Xen's sysctl interface has none of the versions {tried:#x?}, or is not for this domain"
    )]
    Version {
        /// What was tried, in this order.
        tried: &'static [u32],
    },
    /// Asking about domains is not for us.
    #[error("xen refused sysctl getdomaininfolist: errno {errno}")]
    Refused {
        /// The error number.
        errno: i32,
    },
}

/// Asks Xen about domains. Only the control domain may.
#[derive(Debug)]
pub struct Domains {
    privcmd: Privcmd,
    /// The version that was accepted.
    version: Option<u32>,
}

impl Domains {
    /// Asks through `privcmd`.
    pub const fn new(privcmd: Privcmd) -> Self {
        Self {
            privcmd,
            version: None,
        }
    }

    /// The version of the interface that Xen accepted, once it did.
    pub const fn version(&self) -> Option<u32> {
        self.version
    }

    /// All domains, ordered by number, those that are being destroyed among them.
    ///
    /// # Errors
    /// [`DomainsError`].
    pub fn list(&mut self) -> Result<Vec<DomainInfo>, DomainsError> {
        let mut all = Vec::new();
        let mut from = DomId::DOM0;
        // One at a time: the size of an entry is what differs between versions.
        while let Some(info) = self.at_or_after(from)? {
            all.push(info);
            match info.domid.get().checked_add(1) {
                Some(next) => from = DomId::new(next),
                None => break,
            }
        }
        Ok(all)
    }

    /// One domain, or `None` if there is none of that number.
    ///
    /// # Errors
    /// [`DomainsError`].
    pub fn get(&mut self, domid: DomId) -> Result<Option<DomainInfo>, DomainsError> {
        let found = self.at_or_after(domid)?;
        Ok(found.filter(|info| info.domid == domid))
    }

    /// The first domain from this number on.
    fn at_or_after(&mut self, domid: DomId) -> Result<Option<DomainInfo>, DomainsError> {
        if domid >= DomId::FIRST_RESERVED {
            return Ok(None);
        }
        if let Some(version) = self.version() {
            return self
                .ask(version, domid)
                .map_err(|errno| DomainsError::Refused {
                    errno: errno.raw_os_error(),
                });
        }
        for version in VERSIONS {
            match self.ask(version, domid) {
                Ok(found) => {
                    self.version = Some(version);
                    return Ok(found);
                }
                // What Xen answers to a version that it does not have.
                Err(Errno::ACCESS) => {}
                Err(errno) => {
                    return Err(DomainsError::Refused {
                        errno: errno.raw_os_error(),
                    });
                }
            }
        }
        Err(DomainsError::Version { tried: &VERSIONS })
    }

    fn ask(&mut self, version: u32, domid: DomId) -> Result<Option<DomainInfo>, Errno> {
        let page = self.privcmd.page();
        let mut request = Sysctl::new_zeroed();
        request.cmd = GETDOMAININFOLIST;
        request.interface_version = version;
        request.first_domain = domid.get();
        request.max_domains = 1;
        request.buffer = self.privcmd.address(ANSWER);
        page.write(0, request.as_bytes());
        // SAFETY: Xen reads and writes the request, and one entry at `buffer`, of 112 bytes in 4.17 and of no more than the 2048
        // that are left of the page in any version.
        unsafe { self.privcmd.hypercall(SYSCTL, self.privcmd.address(0))? };
        let request: Sysctl = page.read_value(0);
        if request.num_domains == 0 {
            return Ok(None);
        }
        Ok(Some(DomainInfo::new(&page.read_value(ANSWER))))
    }
}

/// Rings when a domain was created, shut down or destroyed (`VIRQ_DOM_EXC`). Only one in the system can have it: xenstored, as a
/// rule; others watch `@introduceDomain` and `@releaseDomain`.
#[derive(Debug)]
pub struct Changes {
    evtchn: Evtchn,
    port: EvtchnPort,
}

impl Changes {
    /// Binds it on a fresh descriptor of `/dev/xen/evtchn`.
    ///
    /// # Errors
    /// `EEXIST` if somebody has it.
    pub fn new(device: OwnedFd) -> Result<Self, Errno> {
        let evtchn = Evtchn::new(device)?;
        let port = evtchn.bind_virq(VIRQ_DOM_EXC)?;
        Ok(Self { evtchn, port })
    }

    /// Whether something has changed since the last call. Look at [`Domains::list`] after this, not before.
    ///
    /// # Errors
    /// As `read(2)` and `write(2)`.
    pub fn take(&self) -> Result<bool, Errno> {
        let changed = self.evtchn.pending()?.any(|port| port == self.port);
        if changed {
            self.evtchn.unmask(self.port)?;
        }
        Ok(changed)
    }
}

/// Readable when something has changed.
impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn layouts_are_those_of_the_headers() {
        // As a C compiler has them from `xen/sysctl.h` and `xen/domctl.h` of 4.17.
        assert_eq!(size_of::<Sysctl>(), 136);
        assert_eq!(offset_of!(Sysctl, first_domain), 8);
        assert_eq!(offset_of!(Sysctl, max_domains), 12);
        assert_eq!(offset_of!(Sysctl, buffer), 16);
        assert_eq!(offset_of!(Sysctl, num_domains), 24);
        assert_eq!(offset_of!(GetDomainInfo, flags), 4);
        assert_eq!(offset_of!(GetDomainInfo, max_pages), 16);
        assert_eq!(offset_of!(GetDomainInfo, paged_pages), 40);
        assert_eq!(offset_of!(GetDomainInfo, cpu_time), 56);
        assert_eq!(offset_of!(GetDomainInfo, nr_online_vcpus), 64);
        assert_eq!(offset_of!(GetDomainInfo, handle), 76);
    }

    #[test]
    fn flags_are_told_apart() {
        let mut raw = GetDomainInfo::new_zeroed();
        (raw.domain, raw.flags) = (5, PAUSED | 3 << REASON_SHIFT);
        let info = DomainInfo::new(&raw);
        assert_eq!((info.domid, info.paused), (DomId::new(5), true));
        assert_eq!((info.dying, info.shutdown), (false, None));
        raw.flags = DYING | SHUTDOWN | 3 << REASON_SHIFT;
        let info = DomainInfo::new(&raw);
        assert_eq!((info.dying, info.paused), (true, false));
        assert_eq!(info.shutdown, Some(ShutdownReason::Crash));
        raw.flags = SHUTDOWN | 0xFF << REASON_SHIFT;
        let reason = DomainInfo::new(&raw).shutdown;
        assert_eq!(reason, Some(ShutdownReason::Unknown(0xFF)));
    }

    #[test]
    fn what_is_no_privcmd_is_refused_with_its_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut domains = Domains::new(Privcmd::new(null.into(), None).unwrap());
        let refused = DomainsError::Refused {
            errno: libc::ENOTTY,
        };
        assert_eq!(domains.list(), Err(refused));
        assert_eq!(domains.version(), None);
        assert_eq!(domains.get(DomId::FIRST_RESERVED), Ok(None));
    }
}
