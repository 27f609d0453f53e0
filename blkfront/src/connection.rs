//! One connection: a ring and a port.

use ringfence_core::platform::{Channel, Platform};
use ringfence_core::wire::blkif::{MAX_SEGMENTS_PER_REQUEST, SECTORS_PER_PAGE, SectorUnits};
use ringfence_core::{DomId, Handle};
use ringfence_ring::Front;
use ringfence_ring::blkif::BlkifNative;

use crate::error::Doorbell;
use crate::inflight::Entry;
use crate::negotiate::Info;
use crate::sring::RingPages;
use crate::{Error, Op};

/// How much a request can carry, and how it says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pages of a read or a write.
    pub(crate) segments: u16,
    /// In which units the backend counts sectors.
    pub(crate) units: SectorUnits,
}

impl Limits {
    /// What is in the request itself.
    pub(crate) const DIRECT: Self = Self {
        segments: MAX_SEGMENTS_PER_REQUEST as u16,
        units: SectorUnits::PLAIN,
    };

    /// The same in sectors. There are no indirect barriers.
    pub(crate) fn sectors(self, op: Op) -> u64 {
        let pages = match op {
            Op::Read | Op::Write => self.segments,
            _ => Self::DIRECT.segments,
        };
        u64::from(pages).saturating_mul(SECTORS_PER_PAGE.into())
    }
}

/// One connection: its ring and its port.
pub(crate) struct Connection<P: Platform> {
    pub(crate) ring: Front<RingPages<P::Granted>, BlkifNative>,
    pub(crate) channel: P::Channel,
    pub(crate) peer: DomId,
    pub(crate) limits: Limits,
    /// Whether we told the backend that it may keep our pages mapped.
    pub(crate) persistent: bool,
    /// A doorbell that could not be rung.
    pub(crate) bell_owed: bool,
    /// Set while the states are 4 and 4, or closing.
    pub(crate) info: Option<Info>,
    /// Whether requests are taken: not once we are closing.
    pub(crate) accepting: bool,
}

impl<P: Platform> Connection<P> {
    /// A ring of `2^order` pages.
    pub(crate) fn new(
        platform: &P,
        peer: DomId,
        order: u32,
        persistent: bool,
    ) -> Result<Self, Error> {
        let pages = RingPages::alloc(platform, peer, order)?;
        Ok(Self {
            ring: Front::init(pages)?,
            channel: platform.alloc_unbound(peer)?,
            peer,
            limits: Limits::DIRECT,
            persistent,
            bell_owed: false,
            info: None,
            accepting: false,
        })
    }

    /// Requests are taken from now on.
    pub(crate) fn open(&mut self, info: Info) {
        self.limits = Limits {
            segments: info.max_pages.max(1),
            units: info.units,
        };
        self.info = Some(info);
        self.accepting = true;
    }

    /// Writes the request. There is room: the caller looked.
    pub(crate) fn push<const PAGES: usize>(&mut self, handle: Handle, entry: &mut Entry<P, PAGES>) {
        let pushed = self.ring.push(&entry.request(handle, self.limits));
        debug_assert_eq!(pushed, Ok(()));
    }

    /// Shows what was pushed to the backend, and rings if it asked for that. Returns whether it rang.
    pub(crate) fn publish(&mut self) -> Doorbell<bool> {
        self.bell_owed |= self.ring.publish().is_needed();
        if self.bell_owed {
            self.channel.notify()?;
        }
        Ok(core::mem::take(&mut self.bell_owed))
    }
}
