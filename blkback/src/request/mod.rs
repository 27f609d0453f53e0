//! From the bytes of a ring entry to an operation that is safe to do, or the reason why not.

mod segments;

pub use segments::{Run, Runs, Transfer, parse_indirect};

use ringfence_core::ids::{GrantRef, RequestId, Sector, SectorCount};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{
    DISCARD_SECURE, MAX_INDIRECT_PAGES_PER_REQUEST, MAX_INDIRECT_SEGMENTS, Op as WireOp,
    RequestNative, SectorUnits, indirect_pages,
};

use self::segments::transfer;
use crate::error::Refusal;
use crate::sink::Geometry;

/// What a request asks for, checked against the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read sectors into the pages.
    Read(Transfer),
    /// Write the pages to sectors.
    Write(Transfer),
    /// Make durable what was written and answered before.
    Flush,
    /// Make durable what is older, write, make that durable too; without a transfer, only the first.
    Barrier(Option<Transfer>),
    /// Sectors that are no longer needed.
    Discard {
        /// The first.
        sector: Sector,
        /// How many.
        count: SectorCount,
        /// Whether the data must be unrecoverable afterwards.
        secure: bool,
    },
    /// A read or write of which only the number of segments is known: the segments are in the guest's pages, and checked by
    /// [`parse_indirect`] when they are copied.
    Indirect(Indirect),
}

/// Where the segments of an indirect request are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Indirect {
    /// Whether it is a write.
    pub write: bool,
    /// The first sector.
    pub sector: Sector,
    /// Segments: at least one, and no more than was offered.
    pub segments: u16,
    grefs: [u32; MAX_INDIRECT_PAGES_PER_REQUEST],
}

impl Indirect {
    /// The pages that hold them, each with how many bytes of it.
    pub fn pages(&self) -> impl Iterator<Item = (GrantRef, u16)> {
        let mut left = self.segments;
        self.grefs.into_iter().map_while(move |gref| {
            let here = left.min(segments::PER_PAGE);
            left = left.saturating_sub(here);
            (here > 0).then_some((GrantRef::new(gref), here.saturating_mul(segments::BYTES)))
        })
    }

    /// Bytes in all of them together.
    pub const fn bytes(&self) -> usize {
        (self.segments as usize).saturating_mul(segments::BYTES as usize)
    }
}

/// What the response repeats, whatever became of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo {
    /// The frontend's number for the request; never used as a number of ours.
    pub id: RequestId,
    /// The operation as it came; of an indirect request the one inside, which is what Linux's frontend compares with.
    pub operation: WireOp,
}

impl Echo {
    /// Of a request.
    pub const fn of(request: &RequestNative) -> Self {
        Self {
            id: RequestId::new(request.id),
            operation: match request.operation {
                // `indirect_op` lies where other requests have their number of segments.
                WireOp::INDIRECT => WireOp(request.nr_segments),
                operation => operation,
            },
        }
    }
}

/// Checks a private copy of a request, whose sectors are counted in these units. Total: every bytes give an operation or a
/// reason. `most` is how many segments of an indirect request were offered; 0 if none were.
pub fn parse(
    request: &RequestNative,
    disk: &Geometry,
    units: SectorUnits,
    most: u16,
) -> Result<Op, Refusal> {
    match request.operation {
        WireOp::READ => transfer(request, disk, units).map(Op::Read),
        WireOp::WRITE => {
            writable(disk, request.operation)?;
            transfer(request, disk, units).map(Op::Write)
        }
        WireOp::FLUSH_DISKCACHE if !disk.flush => Err(Refusal::Operation(request.operation)),
        // Data in a flush would be lost without a word.
        WireOp::FLUSH_DISKCACHE if request.nr_segments != 0 => {
            Err(Refusal::Segments(request.nr_segments.into()))
        }
        WireOp::FLUSH_DISKCACHE => Ok(Op::Flush),
        WireOp::WRITE_BARRIER if !disk.flush => Err(Refusal::Operation(request.operation)),
        WireOp::WRITE_BARRIER => {
            writable(disk, request.operation)?;
            if request.nr_segments == 0 {
                return Ok(Op::Barrier(None));
            }
            transfer(request, disk, units).map(|transfer| Op::Barrier(Some(transfer)))
        }
        WireOp::DISCARD => discard(request, disk, units),
        WireOp::INDIRECT if most > 0 => indirect(request, disk, units, most).map(Op::Indirect),
        other if weakened!("blk_operation") => {
            writable(disk, other)?;
            transfer(request, disk, units).map(Op::Write)
        }
        other => Err(Refusal::Operation(other)),
    }
}

fn writable(disk: &Geometry, operation: WireOp) -> Result<(), Refusal> {
    if weakened!("blk_read_only") || !disk.read_only {
        return Ok(());
    }
    Err(Refusal::ReadOnly(operation))
}

/// A number of the request in sectors of 512 bytes.
fn counted(field: &'static str, value: u64, units: SectorUnits) -> Result<u64, Refusal> {
    let unit = units.position_unit();
    match units.in_sectors(value) {
        Some(sectors) => Ok(sectors),
        None if weakened!("blk_sector_units") => Ok(value.wrapping_mul(unit)),
        None => Err(Refusal::Units { field, value, unit }),
    }
}

/// Where a request begins.
fn start(sector_number: u64, units: SectorUnits) -> Result<Sector, Refusal> {
    counted("sector_number", sector_number, units).map(Sector::new)
}

fn discard(request: &RequestNative, disk: &Geometry, units: SectorUnits) -> Result<Op, Refusal> {
    if disk.discard.is_none() {
        return Err(Refusal::Operation(request.operation));
    }
    writable(disk, request.operation)?;
    let discard = request.discard();
    // A flag that nobody defined may ask for more than we would do.
    let known = discard.flag & !DISCARD_SECURE == 0;
    if !(known || weakened!("blk_discard_flag")) {
        return Err(Refusal::DiscardFlag(discard.flag));
    }
    let sector = start(discard.sector_number, units)?;
    let count = counted("nr_sectors", discard.nr_sectors, units).map(SectorCount::new)?;
    let secure = discard.flag & DISCARD_SECURE != 0;
    disk.check_discard(sector, count, secure)?;
    Ok(Op::Discard {
        sector,
        count,
        secure,
    })
}

fn indirect(
    request: &RequestNative,
    disk: &Geometry,
    units: SectorUnits,
    most: u16,
) -> Result<Indirect, Refusal> {
    let request = request.indirect();
    let write = match request.indirect_op {
        WireOp::READ => false,
        WireOp::WRITE => true,
        _ if weakened!("blk_indirect_op") => true,
        other => return Err(Refusal::IndirectOperation(other)),
    };
    if write {
        writable(disk, request.indirect_op)?;
    }
    let segments = request.nr_segments;
    let most = usize::from(most).min(MAX_INDIRECT_SEGMENTS);
    let fits = (1..=most).contains(&usize::from(segments));
    if !(fits || weakened!("blk_indirect_segments")) {
        return Err(Refusal::Segments(segments));
    }
    if indirect_pages(segments) > MAX_INDIRECT_PAGES_PER_REQUEST {
        return Err(Refusal::Segments(segments));
    }
    Ok(Indirect {
        write,
        sector: start(request.sector_number, units)?,
        segments,
        grefs: request.indirect_grefs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::wire::blkif::{Convention, Segment};
    use zerocopy::FromZeros;

    fn request(operation: WireOp, sector: u64, segments: &[(u8, u8)]) -> RequestNative {
        let mut request = RequestNative::new_zeroed();
        request.operation = operation;
        request.sector_number = sector;
        request.nr_segments = u8::try_from(segments.len()).unwrap();
        for (to, (first, last)) in request.seg.iter_mut().zip(segments) {
            *to = Segment {
                gref: 9,
                first_sect: *first,
                last_sect: *last,
                pad: [0; 2],
            };
        }
        request
    }

    const DISK: Geometry = Geometry::new(SectorCount::new(100));

    fn parsed(request: &RequestNative, disk: &Geometry) -> Result<Op, Refusal> {
        parse(request, disk, SectorUnits::PLAIN, 0)
    }

    #[test]
    fn the_runs_add_up() {
        let op = parsed(&request(WireOp::READ, 86, &[(2, 7), (0, 7)]), &DISK).unwrap();
        let Op::Read(transfer) = op else {
            panic!("{op:?}")
        };
        assert_eq!(transfer.bytes, 14 * 512);
        let run = |offset, len| Run {
            gref: GrantRef::new(9),
            offset,
            len,
        };
        assert_eq!(transfer.runs[..], [run(1024, 3072), run(0, 4096)]);
    }

    #[test]
    fn logical_sectors_are_whole() {
        let disk = Geometry {
            logical: 4096,
            ..DISK
        };
        assert!(parsed(&request(WireOp::READ, 8, &[(0, 7)]), &disk).is_ok());
        for bad in [
            request(WireOp::READ, 4, &[(0, 7)]),
            request(WireOp::READ, 8, &[(0, 3)]),
        ] {
            assert!(matches!(
                parsed(&bad, &disk),
                Err(Refusal::Alignment { .. })
            ));
        }
    }

    #[test]
    fn sectors_are_counted_in_the_units_of_the_frontend() {
        let disk = Geometry {
            logical: 4096,
            ..DISK
        };
        for (convention, number, last) in [
            (Convention::Linux, 16, 7),
            (Convention::FreeBsd, 2, 7),
            (Convention::Qemu, 2, 0),
            (Convention::MiniOs, 16, 7),
        ] {
            let units = SectorUnits::new(convention, 4096);
            let asked = request(WireOp::READ, number, &[(0, last), (0, last)]);
            let Ok(Op::Read(transfer)) = parse(&asked, &disk, units, 0) else {
                panic!("{convention}");
            };
            assert_eq!((transfer.sector, transfer.bytes), (Sector::new(16), 8192));
            let whole = |run: &Run| (run.offset, run.len) == (0, 4096);
            assert!(transfer.runs.iter().all(whole), "{convention}");
        }
    }

    #[test]
    fn the_answer_to_an_indirect_request_names_what_it_was_for() {
        let mut inner = request(WireOp::INDIRECT, 0, &[]);
        inner.nr_segments = WireOp::WRITE.0;
        assert_eq!(Echo::of(&inner).operation, WireOp::WRITE);
        assert_eq!(
            Echo::of(&request(WireOp::READ, 0, &[(0, 7)])).operation,
            WireOp::READ
        );
    }

    #[test]
    fn a_flush_carries_nothing() {
        assert_eq!(
            parsed(&request(WireOp::FLUSH_DISKCACHE, u64::MAX, &[]), &DISK),
            Ok(Op::Flush)
        );
        let with_data = parsed(&request(WireOp::FLUSH_DISKCACHE, 0, &[(0, 0)]), &DISK);
        assert_eq!(with_data, Err(Refusal::Segments(1)));
        let disk = Geometry {
            flush: false,
            ..DISK
        };
        let refused = parsed(&request(WireOp::FLUSH_DISKCACHE, 0, &[]), &disk);
        assert_eq!(
            refused.unwrap_err().status(),
            ringfence_core::wire::blkif::Status::EOPNOTSUPP
        );
    }
}
