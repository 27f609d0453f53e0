//! A device's journal: whose it is, whether it can be gone on with.

use ringfence_core::platform::{Access, Platform};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{Abi, RequestNative, SectorUnits};
use ringfence_core::{PAGE, Sector};
use ringfence_ring::layout::ring_size;
use ringfence_ring::mark_of;

use super::super::disks::{Disks, Kept};
use super::Device;
use crate::journal::{self, Header, JournalError, QueueHeader, Record};
use crate::negotiate::{Frontend, RingNodes};
use crate::sink::Disk;

/// Recoveries that were begun one after the other and none of which ended: there is no point in another.
const ATTEMPTS: u64 = 5;

/// Why a frontend that is connected is not served.
const UNITS_UNKNOWN: &str = "nobody knows in which units the frontend counts sectors";

/// How the rings of a connection are begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// Nothing was taken from them.
    Fresh,
    /// The frontend is connected, and no journal says what was taken: nothing may be open.
    Unknown,
    /// The frontend is connected with rings that it made while nobody was here: nothing was taken from them.
    Anew {
        /// What the earlier process had offered.
        features: u32,
    },
    /// The journal says what was taken.
    Journal {
        /// What the earlier process had offered.
        features: u32,
    },
}

impl<P: Platform> Device<'_, P> {
    /// Gets the journal, and makes it ready for this connection unless it is to be gone on with. `told`: as of
    /// [`counts_alike`](Self::counts_alike). Says why there can be no connection.
    pub(super) fn keep<D: Disks>(
        &mut self,
        platform: &P,
        disks: &mut D,
        frontend: &Frontend,
        resume: bool,
        told: Option<u64>,
    ) -> Result<Begin, String> {
        let kept = disks.journal(&self.dir);
        self.kept = kept.map_err(|error| format!("journal: {error}"))?;
        let unjournaled = match resume {
            false => Ok(Begin::Fresh),
            true if self.counts_alike(told) => Ok(Begin::Unknown),
            true => Err(UNITS_UNKNOWN.into()),
        };
        let Some(kept) = &self.kept else {
            return unjournaled;
        };
        let mut header = self.header(kept, frontend);
        let record = &kept.record;
        if !resume || journal::is_empty(record) {
            header.prepare(record);
            return unjournaled;
        }
        let (protocol, features) = journal::told(record);
        let Some(found) = self.found(platform, record, &header)? else {
            if protocol >> UNITS != header.protocol >> UNITS && !self.counts_alike(told) {
                return Err(UNITS_UNKNOWN.into());
            }
            // What is said to frontends stays as it is, and so it was said to this one.
            header.features = features;
            header.prepare_untouched(record);
            return Ok(Begin::Anew { features });
        };
        if self.cdrom {
            // Nothing was written to the medium that may have been another, so all can be done again on this one.
            header.image = found.image;
        }
        same(&found, &header).map_err(|field| JournalError::Stranger { field }.to_string())?;
        let attempts = journal::begin_recovery(record);
        if attempts >= ATTEMPTS {
            return Err(format!("journal: {attempts} recoveries did not end"));
        }
        Ok(Begin::Journal { features })
    }

    /// What the journal is for, if it is for the frontend's rings.
    fn found(
        &self,
        platform: &P,
        record: &Record,
        header: &Header,
    ) -> Result<Option<Header>, String> {
        if journal::is_untouched(record) {
            return Ok(None);
        }
        let found = Header::read(record).map_err(|error| error.to_string())?;
        let is_anew = self.is_anew(platform, &found, header)?;
        Ok((!is_anew).then_some(found))
    }

    /// Whether the frontend's rings are others than those that the journal is about. Frontends begin anew without their backend
    /// when they are resumed, bound again, or the next kernel's.
    fn is_anew(&self, platform: &P, found: &Header, header: &Header) -> Result<bool, String> {
        let same_device = (found.frontend, found.vdev) == (header.frontend, header.vdev);
        if !same_device || weakened!("journal_stranger") {
            return Ok(false);
        }
        let layout = |header: &Header| header.protocol & !(u32::MAX << UNITS);
        if found.queues != header.queues || layout(found) != layout(header) {
            return Ok(true);
        }
        if found.generation == 0 {
            return Ok(false);
        }
        for queue in &found.queues {
            let first = queue.refs.get(..1).unwrap_or(&[]);
            let mapping = platform.map(self.id.front, first, Access::ReadOnly);
            let mapping = mapping.map_err(|error| match first {
                [gref, ..] => format!("ring-ref {gref}: {error}"),
                [] => error.to_string(),
            })?;
            if mark_of(&mapping) != found.generation {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All rings are connected: the journal counts.
    pub(super) fn counts(&self, begin: Begin) {
        let Some(kept) = &self.kept else {
            return;
        };
        match begin {
            Begin::Fresh | Begin::Unknown | Begin::Anew { .. } => {
                let generation = journal::generation(&kept.record);
                for queue in &self.queues {
                    queue.engine.mark(generation);
                }
                journal::complete(&kept.record);
            }
            Begin::Journal { .. } => journal::end_recovery(&kept.record),
        }
    }

    /// The most segments of an indirect request that this frontend was offered, maybe by an earlier process.
    pub(super) fn offered(&self, begin: Begin) -> u16 {
        match begin {
            Begin::Journal { features } | Begin::Anew { features } => {
                u16::try_from(features & 0xFFFF).unwrap_or(0)
            }
            _ => self.offer.indirect_segments,
        }
    }

    /// In which units the frontend is to count sectors.
    pub(super) fn units(&self) -> SectorUnits {
        let parts = self.queues.first().map(|queue| queue.engine.disk());
        let disk = self.disk.as_ref().or(parts);
        disk.map_or(SectorUnits::PLAIN, Disk::units)
    }

    /// Whether a frontend that is connected counts sectors as it is to, so far as `told`, which is its `sectors` node, shows.
    /// For where no journal says so.
    pub(super) fn counts_alike(&self, told: Option<u64>) -> bool {
        let Some(geometry) = self.disk.as_ref().map(Disk::geometry) else {
            return true;
        };
        let all_alike = u64::from(geometry.logical) == Sector::BYTES;
        all_alike || (self.units().is_plain() && told == Some(geometry.sectors.get()))
    }

    fn header(&self, kept: &Kept, frontend: &Frontend) -> Header {
        let queue = |ring: &RingNodes| {
            let bytes = ring.refs.len().saturating_mul(PAGE);
            // The number is the same in every layout of requests.
            let slots = ring_size(bytes, size_of::<RequestNative>()).unwrap_or(0);
            QueueHeader {
                port: ring.port,
                refs: ring.refs.iter().copied().collect(),
                slots: u16::try_from(slots).unwrap_or(0),
            }
        };
        Header {
            frontend: self.id.front,
            generation: journal::next_generation(&kept.record),
            vdev: self.id.vdev,
            image: kept.image,
            protocol: protocol(frontend.abi, self.units()),
            features: self.offer.indirect_segments.into(),
            queues: frontend.queues.iter().map(queue).collect(),
        }
    }
}

/// Where in its number for the protocol a journal says how sectors are counted.
const UNITS: u32 = 8;

/// A number for every layout, which the journals of later versions keep, with what tells units of sectors apart from bit 8 on:
/// a request means another place in other units.
const fn protocol(abi: Abi, units: SectorUnits) -> u32 {
    let layout = match abi {
        Abi::Native => 1,
        Abi::X86_32 => 2,
    };
    units.bits() << UNITS | layout
}

/// Whether requests of the rings that both are about mean the same; which field says that they do not.
fn same(found: &Header, wanted: &Header) -> Result<(), &'static str> {
    let fields = [
        ("frontend", found.frontend == wanted.frontend),
        ("vdev", found.vdev == wanted.vdev),
        ("image", found.image == wanted.image),
        ("protocol", found.protocol == wanted.protocol),
    ];
    match fields.iter().find(|(_, same)| !same) {
        Some((field, _)) if !weakened!("journal_stranger") => Err(field),
        _ => Ok(()),
    }
}
