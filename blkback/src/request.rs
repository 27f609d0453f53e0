//! From the bytes of a ring entry to an operation that is safe to do, or the reason why not.

use heapless::Vec;
use ringfence_core::ids::{GrantRef, RequestId, Sector, SectorCount};
use ringfence_core::wire::blkif::{
    MAX_SEGMENTS_PER_REQUEST, Op as WireOp, RequestNative, SECTORS_PER_PAGE,
};

use crate::error::Refusal;
use crate::sink::Geometry;

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
pub type Runs = Vec<Run, MAX_SEGMENTS_PER_REQUEST>;

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

/// What a request asks for, checked against the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read sectors into the pages.
    Read(Transfer),
    /// Write the pages to sectors.
    Write(Transfer),
    /// Make durable what was written and answered before.
    Flush,
}

/// What the response repeats, whatever became of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo {
    /// The frontend's number for the request; never used as a number of ours.
    pub id: RequestId,
    /// The operation as it came.
    pub operation: WireOp,
}

impl Echo {
    /// Of a request.
    pub const fn of(request: &RequestNative) -> Self {
        Self {
            id: RequestId::new(request.id),
            operation: request.operation,
        }
    }
}

/// Checks a private copy of a request. Total: every bytes give an operation or a reason.
pub fn parse(request: &RequestNative, disk: &Geometry) -> Result<Op, Refusal> {
    match request.operation {
        WireOp::READ => transfer(request, disk).map(Op::Read),
        WireOp::WRITE => {
            if cfg!(ringfence_weaken = "blk_read_only") || !disk.read_only {
                transfer(request, disk).map(Op::Write)
            } else {
                Err(Refusal::ReadOnly(request.operation))
            }
        }
        WireOp::FLUSH_DISKCACHE if !disk.flush => Err(Refusal::Operation(request.operation)),
        // Data in a flush would be lost without a word.
        WireOp::FLUSH_DISKCACHE if request.nr_segments != 0 => {
            Err(Refusal::Segments(request.nr_segments))
        }
        WireOp::FLUSH_DISKCACHE => Ok(Op::Flush),
        other => Err(Refusal::Operation(other)),
    }
}

fn transfer(request: &RequestNative, disk: &Geometry) -> Result<Transfer, Refusal> {
    let segments = match request.seg.get(..usize::from(request.nr_segments)) {
        Some(segments) if !segments.is_empty() => segments,
        _ if cfg!(ringfence_weaken = "blk_nr_segments") => &request.seg,
        _ => return Err(Refusal::Segments(request.nr_segments)),
    };
    let mut runs = Runs::new();
    let mut sectors = 0u64;
    for (index, segment) in segments.iter().enumerate() {
        let (first, last) = (segment.first_sect, segment.last_sect);
        let inside = first <= last && last < SECTORS_PER_PAGE;
        if !(cfg!(ringfence_weaken = "blk_segment_in_page") || inside) {
            return Err(Refusal::Segment { index, first, last });
        }
        let count = u16::from(last.wrapping_sub(first).wrapping_add(1));
        let run = Run {
            gref: GrantRef::new(segment.gref),
            offset: u16::from(first).wrapping_mul(512),
            len: count.wrapping_mul(512),
        };
        if runs.push(run).is_err() {
            return Err(Refusal::Segments(request.nr_segments));
        }
        sectors = sectors.saturating_add(u64::from(count));
    }
    let sector = Sector::new(request.sector_number);
    let count = SectorCount::new(sectors);
    disk.check(sector, count)?;
    let bytes = runs
        .iter()
        .fold(0usize, |sum, run| sum.saturating_add(usize::from(run.len)));
    Ok(Transfer {
        sector,
        bytes,
        runs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::wire::blkif::Segment;
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

    #[test]
    fn the_runs_add_up() {
        let op = parse(&request(WireOp::READ, 86, &[(2, 7), (0, 7)]), &DISK).unwrap();
        let Op::Read(transfer) = op else {
            panic!("{op:?}")
        };
        assert_eq!(transfer.bytes, 14 * 512);
        let run = |offset, len| Run {
            gref: GrantRef::new(9),
            offset,
            len,
        };
        assert_eq!(transfer.runs, [run(1024, 3072), run(0, 4096)]);
    }

    #[test]
    fn logical_sectors_are_whole() {
        let disk = Geometry {
            logical: 4096,
            ..DISK
        };
        assert!(parse(&request(WireOp::READ, 8, &[(0, 7)]), &disk).is_ok());
        for bad in [
            request(WireOp::READ, 4, &[(0, 7)]),
            request(WireOp::READ, 8, &[(0, 3)]),
        ] {
            assert!(matches!(parse(&bad, &disk), Err(Refusal::Alignment { .. })));
        }
    }

    #[test]
    fn a_flush_carries_nothing() {
        assert_eq!(
            parse(&request(WireOp::FLUSH_DISKCACHE, u64::MAX, &[]), &DISK),
            Ok(Op::Flush)
        );
        let with_data = parse(&request(WireOp::FLUSH_DISKCACHE, 0, &[(0, 0)]), &DISK);
        assert_eq!(with_data, Err(Refusal::Segments(1)));
        let disk = Geometry {
            flush: false,
            ..DISK
        };
        let refused = parse(&request(WireOp::FLUSH_DISKCACHE, 0, &[]), &disk);
        assert_eq!(
            refused.unwrap_err().status(),
            ringfence_core::wire::blkif::Status::EOPNOTSUPP
        );
    }
}
