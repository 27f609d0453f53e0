//! A device's journal: whose it is, whether it can be gone on with.

use ringfence_core::platform::Platform;
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{Abi, RequestNative, SectorUnits};
use ringfence_core::{PAGE, Sector};
use ringfence_ring::layout::ring_size;

use super::super::disks::{Disks, Kept};
use super::Device;
use crate::journal::{self, Header, JournalError, QueueHeader, Record};
use crate::negotiate::{Frontend, RingNodes};
use crate::sink::Disk;

/// Recoveries that were begun one after the other and none of which ended: there is no point in another.
const ATTEMPTS: u64 = 5;

/// Why a frontend that is connected is not served.
const UNITS_UNKNOWN: &str = "nobody knows in which units the frontend counts sectors";

/// Whether an earlier process was connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Earlier {
    Nobody,
    /// With these rings, as far as is known.
    These,
    /// With others: the frontend has made these since.
    Others,
}

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
        /// What its rings are marked with.
        marked: Option<u64>,
    },
}

impl<P: Platform> Device<'_, P> {
    /// Gets the journal, and makes it ready for this connection unless it is to be gone on with. `told`: as of
    /// [`counts_alike`](Self::counts_alike). Says why there can be no connection.
    pub(super) fn keep<D: Disks>(
        &mut self,
        disks: &mut D,
        frontend: &Frontend,
        earlier: Earlier,
        told: Option<u64>,
    ) -> Result<Begin, String> {
        let kept = disks.journal(&self.dir);
        self.kept = kept.map_err(|error| format!("journal: {error}"))?;
        let unjournaled = match earlier {
            Earlier::Nobody => Ok(Begin::Fresh),
            _ if self.counts_alike(told) => Ok(Begin::Unknown),
            _ => Err(UNITS_UNKNOWN.into()),
        };
        let Some(kept) = &self.kept else {
            return unjournaled;
        };
        let mut header = self.header(kept, frontend);
        let record = &kept.record;
        if earlier == Earlier::Nobody || journal::is_empty(record) {
            header.prepare(record);
            return unjournaled;
        }
        let (protocol, features) = journal::told(record);
        let found = match earlier {
            Earlier::Others => None,
            _ => Self::found(record, &header)?,
        };
        let Some(found) = found else {
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
        let marked = (found.generation != 0).then_some(found.generation);
        Ok(Begin::Journal { features, marked })
    }

    /// What the journal is for, if it is for rings that are laid out as the frontend's.
    fn found(record: &Record, header: &Header) -> Result<Option<Header>, String> {
        if journal::is_untouched(record) {
            return Ok(None);
        }
        let found = Header::read(record).map_err(|error| error.to_string())?;
        let same_device = (found.frontend, found.vdev) == (header.frontend, header.vdev);
        let layout = |header: &Header| header.protocol & !(u32::MAX << UNITS);
        let same_rings = found.queues == header.queues && layout(&found) == layout(header);
        let may_be = same_rings || !same_device || weakened!("journal_stranger");
        Ok(may_be.then_some(found))
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
            Begin::Journal { features, .. } | Begin::Anew { features } => {
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
