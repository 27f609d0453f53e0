//! What a request still needs after it was taken: the segments of an indirect one, and a buffer.

use ringfence_core::PAGE;
use ringfence_core::platform::{GrantCopy, GrantStatus, Platform};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::Segment;
use zerocopy::FromBytes;

use super::Engine;
use crate::buffer::{Buffer, NoBuffer};
use crate::error::Refusal;
use crate::grants::Staged;
use crate::journal::Journal;
use crate::request::{Indirect, Runs, parse_indirect};
use crate::sink::{Io, IoOp, Tag};
use crate::ticket::Ticket;

/// Pages of segments in one call.
const PAGES: usize = 32;

/// A request that has been taken and cannot be started yet. Nothing more is taken while there are any.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) want: Want,
}

/// What it waits for.
pub(super) enum Want {
    /// Its segments, which are in the guest's pages.
    Segments(Indirect),
    /// A buffer of so many bytes.
    Buffer(IoOp, usize),
}

impl<P: Platform, J: Journal> Engine<P, J> {
    /// Gives those that wait what they need, as far as there is enough of it, and in their order.
    pub(super) fn gather(&mut self) {
        self.read_segments();
        while self.fetch_segments() {}
        while let Some(Waiting { ticket, want }) = self.waiting.pop_front() {
            let Want::Buffer(op, bytes) = want else {
                self.waiting.push_front(Waiting { ticket, want });
                break;
            };
            match self.pool.get(bytes) {
                Ok(buffer) => self.stage(ticket, op, buffer),
                Err(NoBuffer::Now) => {
                    self.waiting.push_front(Waiting { ticket, want });
                    break;
                }
                Err(NoBuffer::Ever) => self.refused.push((ticket, Refusal::Exhausted)),
            }
        }
    }

    pub(super) fn stage(&mut self, ticket: Ticket, op: IoOp, buffer: Buffer) {
        let tag = Tag::new(ticket.entry.number());
        let len = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(len);
        self.fresh.push(Staged {
            ticket,
            io: Io { tag, op, buffer },
            outcome: Ok(()),
            moved: false,
        });
    }

    /// Reads the segments of those that wait through pages that stay mapped, each once, and checks what was read. Those whose pages
    /// are not to be had so go on waiting.
    fn read_segments(&mut self) {
        if self.persistent.is_none() {
            return;
        }
        // Each comes by once and goes back to its place.
        for _ in 0..self.waiting.len() {
            let Some(entry) = self.waiting.pop_front() else {
                break;
            };
            let found = match entry.want {
                Want::Segments(indirect) => self.mapped_segments(&indirect),
                Want::Buffer(..) => None,
            };
            let entry = match found {
                Some(found) => self.with_segments(entry, found),
                None => Some(entry),
            };
            self.waiting.extend(entry);
        }
    }

    /// What the mapped pages say; `None` if they are not mapped.
    fn mapped_segments(&mut self, indirect: &Indirect) -> Option<Result<(Want, Runs), Refusal>> {
        let mut buffer = self.pool.get(indirect.bytes()).ok()?;
        let persistent = self.persistent.as_mut()?;
        let (platform, peer, stats) = (&self.platform, self.peer, &self.stats);
        let mut pages = indirect.pages().zip(buffer.bytes_mut().chunks_mut(PAGE));
        let read =
            pages.all(|((gref, _), page)| persistent.read(platform, peer, gref, page, stats));
        let found = read.then(|| self.parse_segments(indirect, &buffer));
        self.pool.put(buffer);
        found
    }

    /// One that waited for its segments has them, or is over.
    fn with_segments(
        &mut self,
        mut entry: Waiting,
        found: Result<(Want, Runs), Refusal>,
    ) -> Option<Waiting> {
        match found {
            Ok((want, runs)) => {
                entry.ticket.runs = runs;
                entry.want = want;
                Some(entry)
            }
            Err(why) => {
                self.refused.push((entry.ticket, why));
                None
            }
        }
    }

    /// Copies the segments of as many requests as one call takes, each once, and checks the copy. Whether there was any.
    fn fetch_segments(&mut self) -> bool {
        let mut copies = heapless::Vec::<(Indirect, Buffer), PAGES>::new();
        let mut pages = 0usize;
        for waiting in &self.waiting {
            let Want::Segments(indirect) = waiting.want else {
                continue;
            };
            pages = pages.saturating_add(indirect.pages().count());
            if pages > PAGES {
                break;
            }
            let Ok(buffer) = self.pool.get(indirect.bytes()) else {
                break;
            };
            // Each has at least one page, so there is a place.
            let _ = copies.push((indirect, buffer));
        }
        if copies.is_empty() {
            return false;
        }
        let result = {
            let mut ops = heapless::Vec::<GrantCopy<'_>, PAGES>::new();
            for (indirect, buffer) in &mut copies {
                for ((gref, len), page) in indirect.pages().zip(buffer.bytes_mut().chunks_mut(PAGE))
                {
                    debug_assert_eq!(usize::from(len), page.len());
                    let _ = ops.push(GrantCopy::from_peer(gref, 0, page));
                }
            }
            self.stats.grant_copies.add(1);
            self.stats
                .grant_copy_ops
                .add(u64::try_from(ops.len()).unwrap_or(u64::MAX));
            let result = self.platform.copy(self.peer, &mut ops);
            let statuses: heapless::Vec<GrantStatus, PAGES> =
                ops.iter().map(|op| op.status).collect();
            result.map(|()| statuses)
        };
        let mut done = copies.into_iter();
        let mut at = 0usize;
        // Each comes by once and goes back to its place.
        for _ in 0..self.waiting.len() {
            let Some(entry) = self.waiting.pop_front() else {
                break;
            };
            if let Want::Segments(indirect) = entry.want
                && let Some((_, buffer)) = done.next()
            {
                let end = at.saturating_add(indirect.pages().count());
                let checked = match &result {
                    Ok(statuses) => check(statuses.get(at..end).unwrap_or_default()),
                    Err(error) => Err((*error).into()),
                };
                at = end;
                let found = checked.and_then(|()| self.parse_segments(&indirect, &buffer));
                self.pool.put(buffer);
                let entry = self.with_segments(entry, found);
                self.waiting.extend(entry);
            } else {
                self.waiting.push_back(entry);
            }
        }
        true
    }

    fn parse_segments(
        &mut self,
        indirect: &Indirect,
        buffer: &Buffer,
    ) -> Result<(Want, Runs), Refusal> {
        let segments = <[Segment]>::ref_from_bytes(buffer.bytes());
        let segments = segments.map_err(|_| Refusal::Segments(indirect.segments))?;
        let room = self.rooms.pop().unwrap_or_default();
        let (geometry, units) = (self.disk.geometry(), self.disk.units());
        let transfer = parse_indirect(indirect, segments, geometry, units, room)?;
        let op = if indirect.write {
            IoOp::Write(transfer.sector)
        } else {
            IoOp::Read(transfer.sector)
        };
        Ok((Want::Buffer(op, transfer.bytes), transfer.runs))
    }
}

/// All pages of a request must have been copied: one that was not holds what the buffer's last user left (XSA-365).
fn check(statuses: &[GrantStatus]) -> Result<(), Refusal> {
    if weakened!("blk_indirect_status") {
        return Ok(());
    }
    match (0..).zip(statuses).find(|(_, status)| !status.is_okay()) {
        Some((index, status)) => Err(Refusal::IndirectGrant {
            index,
            status: *status,
        }),
        None => Ok(()),
    }
}
