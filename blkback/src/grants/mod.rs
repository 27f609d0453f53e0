//! Between the guest's pages and our buffers: many requests in one call, or through pages that stay mapped.

pub mod persistent;

use heapless::Vec;
use ringfence_core::ids::DomId;
use ringfence_core::platform::{GrantCopy, GrantStatus, Platform};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::MAX_SEGMENTS_PER_REQUEST;

use self::persistent::Persistent;
use crate::error::Refusal;
use crate::negotiate::MAX_INDIRECT;
use crate::sink::{Io, IoOp};
use crate::stats::Stats;
use crate::ticket::Ticket;

/// Pages in one call: what a ring of one page holds, or the largest indirect request.
const PAGES: usize = 32 * MAX_SEGMENTS_PER_REQUEST;
const _: () = assert!(PAGES >= MAX_INDIRECT as usize);

/// A request with its buffer, before or after the disk has seen it.
pub(crate) struct Staged {
    pub(crate) ticket: Ticket,
    pub(crate) io: Io,
    pub(crate) outcome: Result<(), Refusal>,
    /// Whether its data is where it belongs already.
    pub(crate) moved: bool,
}

/// Which requests to copy, and hence which way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    /// Data of finished reads to the guest.
    Reads,
    /// Data of writes from the guest.
    Writes,
}

impl Staged {
    fn takes_part(&self, copy: Copy) -> bool {
        self.outcome.is_ok()
            && !self.moved
            && match self.io.op {
                IoOp::Read(_) => copy == Copy::Reads,
                IoOp::Write(_) => copy == Copy::Writes,
                IoOp::Flush | IoOp::Discard { .. } => false,
            }
    }

    /// One element per page, in order.
    fn push_ops<'a>(&'a mut self, copy: Copy, ops: &mut Vec<GrantCopy<'a>, PAGES>) {
        let mut rest = self.io.buffer.bytes_mut();
        for run in self.ticket.runs.iter() {
            let Some((bytes, after)) = rest.split_at_mut_checked(usize::from(run.len)) else {
                return;
            };
            rest = after;
            let op = match copy {
                Copy::Reads => GrantCopy::to_peer(run.gref, run.offset, bytes),
                Copy::Writes => GrantCopy::from_peer(run.gref, run.offset, bytes),
            };
            // There is room: `split` saw to it.
            let _ = ops.push(op);
        }
    }
}

/// As many requests from the front as one call takes, at least one; and the others.
fn split(staged: &mut [Staged], which: Copy) -> (&mut [Staged], &mut [Staged]) {
    let mut pages = 0usize;
    let fit = staged.iter().take_while(|request| {
        if request.takes_part(which) {
            pages = pages.saturating_add(request.ticket.runs.len());
        }
        pages <= PAGES
    });
    let at = fit.count().clamp(1, staged.len().max(1));
    staged.split_at_mut_checked(at).unwrap_or_default()
}

/// Copies the pages of all requests that take part. One that has a bad page fails alone, whichever page it is (XSA-361).
pub(crate) fn copy<P: Platform>(
    platform: &P,
    peer: DomId,
    staged: &mut [Staged],
    which: Copy,
    stats: &Stats,
    persistent: Option<&mut Persistent<P::Mapping>>,
) {
    if let Some(persistent) = persistent {
        for request in staged.iter_mut() {
            if request.takes_part(which) {
                request.moved = persistent.move_data(platform, peer, request, which, stats);
            }
        }
    }
    let mut rest = staged;
    while !rest.is_empty() {
        let chunk;
        (chunk, rest) = split(rest, which);
        let mut statuses = Vec::<GrantStatus, PAGES>::new();
        let result = {
            let mut ops = Vec::<GrantCopy<'_>, PAGES>::new();
            for request in chunk.iter_mut().filter(|request| request.takes_part(which)) {
                request.push_ops(which, &mut ops);
            }
            if ops.is_empty() {
                continue;
            }
            stats.grant_copies.add(1);
            stats
                .grant_copy_ops
                .add(u64::try_from(ops.len()).unwrap_or(u64::MAX));
            let result = platform.copy(peer, &mut ops);
            statuses.extend(ops.iter().map(|op| op.status));
            result
        };
        let mut statuses = statuses.iter();
        for request in chunk.iter_mut().filter(|request| request.takes_part(which)) {
            let mut outcome = match result {
                Ok(()) => Ok(()),
                Err(_) if weakened!("blk_grant_copy_error") => Ok(()),
                Err(error) => Err(error.into()),
            };
            // All of this request's statuses are consumed, also behind a bad one.
            let pages = statuses.by_ref().take(request.ticket.runs.len());
            for (index, status) in pages.enumerate() {
                // After a failed call no status means anything, whatever it says.
                let unchecked = weakened!("blk_grant_copy_error") && result.is_err();
                let okay = unchecked || weakened!("blk_grant_status") || status.is_okay();
                if !okay && outcome.is_ok() {
                    outcome = Err(Refusal::Grant {
                        index,
                        status: *status,
                    });
                }
            }
            request.outcome = outcome;
        }
    }
}
