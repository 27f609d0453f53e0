//! The pages of a read or write.

use alloc::vec::Vec;
use core::ops::Deref;

use ringfence_core::ids::{GrantRef, Sector, SectorCount};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{
    MAX_SEGMENTS_PER_REQUEST, RequestNative, SEGMENTS_PER_INDIRECT_PAGE, SectorUnits, Segment,
};

use super::{Indirect, start};
use crate::error::Refusal;
use crate::sink::Geometry;

/// Bytes of a segment.
pub(super) const BYTES: u16 = size_of::<Segment>() as u16;
/// Segments in a page.
pub(super) const PER_PAGE: u16 = SEGMENTS_PER_INDIRECT_PAGE as u16;

/// The bytes of one granted page that take part: `offset + len` is at most a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The page.
    pub gref: GrantRef,
    /// Where in it, in bytes.
    pub offset: u16,
    /// How many bytes: 512 to 4096.
    pub len: u16,
}

/// The pages of a request in the order of its sectors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Runs {
    /// Of a request that carries its segments: kept in place.
    Direct(heapless::Vec<Run, MAX_SEGMENTS_PER_REQUEST>),
    /// Of an indirect one.
    Indirect(Vec<Run>),
}

impl Runs {
    /// None.
    pub const fn new() -> Self {
        Self::Direct(heapless::Vec::new())
    }

    /// The memory of an indirect request's runs, to be used again.
    pub(crate) fn into_room(self) -> Option<Vec<Run>> {
        match self {
            Self::Direct(_) => None,
            Self::Indirect(runs) => Some(runs),
        }
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Runs {
    type Target = [Run];

    fn deref(&self) -> &[Run] {
        match self {
            Self::Direct(runs) => runs,
            Self::Indirect(runs) => runs,
        }
    }
}

/// Sectors that the disk has, and the pages they travel in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The first.
    pub sector: Sector,
    /// Length in bytes: the sum of the runs, a multiple of 512.
    pub bytes: usize,
    /// The pages.
    pub runs: Runs,
}

/// The segments that a request carries.
pub(super) fn transfer(
    request: &RequestNative,
    disk: &Geometry,
    units: SectorUnits,
) -> Result<Transfer, Refusal> {
    let refused = || Refusal::Segments(request.nr_segments.into());
    let segments = match request.seg.get(..usize::from(request.nr_segments)) {
        Some(segments) if !segments.is_empty() => segments,
        _ if weakened!("blk_nr_segments") => &request.seg,
        _ => return Err(refused()),
    };
    let mut runs = heapless::Vec::new();
    let mut sectors = 0u64;
    for (index, segment) in segments.iter().enumerate() {
        runs.push(run(index, segment, units, &mut sectors)?)
            .map_err(|_| refused())?;
    }
    let sector = start(request.sector_number, units)?;
    finish(sector, sectors, Runs::Direct(runs), disk)
}

/// Checks the segments of an indirect request, copied out of its pages once. `room` is where the runs go; it is cleared first.
///
/// # Errors
/// The first that is wrong, or the range that they add up to.
pub fn parse_indirect(
    indirect: &Indirect,
    segments: &[Segment],
    disk: &Geometry,
    units: SectorUnits,
    mut room: Vec<Run>,
) -> Result<Transfer, Refusal> {
    room.clear();
    room.reserve(segments.len());
    let mut sectors = 0u64;
    for (index, segment) in segments.iter().enumerate() {
        room.push(run(index, segment, units, &mut sectors)?);
    }
    finish(indirect.sector, sectors, Runs::Indirect(room), disk)
}

fn run(
    index: usize,
    segment: &Segment,
    units: SectorUnits,
    sectors: &mut u64,
) -> Result<Run, Refusal> {
    let (first, last) = (segment.first_sect, segment.last_sect);
    let inside = first <= last && last < units.per_page();
    if !(weakened!("blk_segment_in_page") || inside) {
        return Err(Refusal::Segment { index, first, last });
    }
    let unit = units.segment_unit();
    let count = u16::from(last.wrapping_sub(first).wrapping_add(1)).wrapping_mul(unit);
    *sectors = sectors.saturating_add(u64::from(count));
    Ok(Run {
        gref: GrantRef::new(segment.gref),
        offset: u16::from(first).wrapping_mul(unit).wrapping_mul(512),
        len: count.wrapping_mul(512),
    })
}

fn finish(sector: Sector, sectors: u64, runs: Runs, disk: &Geometry) -> Result<Transfer, Refusal> {
    disk.check(sector, SectorCount::new(sectors))?;
    let bytes = runs
        .iter()
        .fold(0usize, |sum, run| sum.saturating_add(usize::from(run.len)));
    Ok(Transfer {
        sector,
        bytes,
        runs,
    })
}
