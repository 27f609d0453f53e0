//! From a client's request to requests of the disk and back: cut to size, blocks that are covered in part read first, writes that
//! would undo each other kept apart.

use super::blocks::{BlockError, Blocks, Geometry, SubmitError, Token};
use super::overlap::Overlap;
use super::session::Span;
use super::wire::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;

/// One connection, never used again for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClientId(u64);

impl ClientId {
    /// Wraps the number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
}

/// The answer to one request.
#[derive(Debug)]
pub struct Reply {
    /// Whose request.
    pub client: ClientId,
    /// What the reply repeats.
    pub cookie: u64,
    /// Where the request began, in bytes.
    pub offset: u64,
    /// How long the request was, in bytes.
    pub length: usize,
    /// How it went: the data of a read.
    pub result: Result<Option<Span>, Errno>,
}

/// The piece numbers of the reads that complete the first and the last block of a write.
const FIRST: u32 = u32::MAX - 1;
const LAST: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Read,
    /// Of whole blocks, or of what became whole blocks.
    Write,
    /// The blocks at the edges have to be read first.
    Edges,
    Discard,
    Flush,
}

#[derive(Debug)]
struct Job {
    client: ClientId,
    cookie: u64,
    work: Work,
    sector: u64,
    /// How many a discard has.
    sectors: u64,
    span: Span,
    /// Requests not submitted yet, the next one last.
    todo: Vec<u32>,
    in_flight: u32,
    error: Option<Errno>,
}

impl Job {
    /// Where a piece lies in the span, in bytes.
    fn place(&self, piece: u32, geometry: &Geometry) -> std::ops::Range<usize> {
        let (whole, block) = (self.span.blocks.len(), geometry.block_bytes as usize);
        match piece {
            FIRST => 0..block.min(whole),
            LAST => whole.saturating_sub(block)..whole,
            _ => {
                let size = geometry.request_bytes as usize;
                let start = size.saturating_mul(piece as usize).min(whole);
                start..start.saturating_add(size).min(whole)
            }
        }
    }

    fn pieces(&mut self, geometry: &Geometry) {
        let count = self
            .span
            .blocks
            .len()
            .div_ceil(geometry.request_bytes.max(1) as usize);
        self.todo = (0..count as u32).rev().collect();
    }

    fn fail(&mut self, error: Errno) {
        self.error.get_or_insert(error);
        self.todo.clear();
    }

    /// Takes what a read brought: all of it, or, before a write, only what the write leaves as it is.
    fn take(&mut self, piece: u32, geometry: &Geometry, data: &dyn Fn(usize, &mut [u8])) {
        let place = self.place(piece, geometry);
        let range = match (self.work, piece) {
            (Work::Read, _) => place.clone(),
            (Work::Edges, FIRST) => 0..self.span.head,
            (Work::Edges, LAST) => self.span.range().end..self.span.blocks.len(),
            _ => return,
        };
        let skip = range.start.saturating_sub(place.start);
        if let Some(space) = self.span.blocks.get_mut(range) {
            data(skip, space);
        }
    }
}

/// A disk, and the requests of all clients on their way to it.
#[derive(Debug)]
pub struct Export<B> {
    blocks: B,
    geometry: Geometry,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Jobs with requests to submit, each once; they take turns.
    ready: VecDeque<u64>,
    overlap: Overlap,
    replies: Vec<Reply>,
}

impl<B: Blocks> Export<B> {
    /// Exports a disk.
    pub fn new(blocks: B) -> Self {
        let geometry = blocks.geometry();
        Self {
            blocks,
            geometry,
            jobs: BTreeMap::new(),
            next_job: 0,
            ready: VecDeque::new(),
            overlap: Overlap::default(),
            replies: Vec::new(),
        }
    }

    /// The shape of the disk.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Starts a read of a range within the disk.
    pub fn read(&mut self, client: ClientId, cookie: u64, offset: u64, length: u32) {
        let span = Span::new(offset, length, self.geometry.block_bytes);
        let mut job = self.job(client, cookie, Work::Read, offset, span);
        job.pieces(&self.geometry);
        self.start(job);
    }

    /// Starts a write of a range within the disk.
    pub fn write(&mut self, client: ClientId, cookie: u64, offset: u64, span: Span) {
        let block = self.geometry.block_bytes as usize;
        let mut job = self.job(client, cookie, Work::Write, offset, span);
        let (first, last) = (job.span.head > 0, job.span.tail() > 0);
        match (first, last) {
            (false, false) => job.pieces(&self.geometry),
            _ => {
                job.work = Work::Edges;
                // One block can be both edges; it is then read twice, which is simpler and rare.
                job.todo.extend(first.then_some(FIRST));
                job.todo.extend(last.then_some(LAST));
            }
        }
        let blocks = (job.span.blocks.len() / block.max(1)) as u64;
        let sectors = blocks.saturating_mul(block as u64 / 512);
        let range = job.sector..job.sector.saturating_add(sectors);
        let id = self.next_job;
        if self.overlap.enter(id, range, first || last) {
            self.start(job);
        } else {
            self.jobs.insert(id, job);
            self.next_job = id.wrapping_add(1);
        }
    }

    /// Starts a flush of everything answered so far.
    pub fn flush(&mut self, client: ClientId, cookie: u64) {
        let span = Span {
            blocks: Vec::new(),
            head: 0,
            length: 0,
            durable: false,
        };
        let mut job = self.job(client, cookie, Work::Flush, 0, span);
        job.todo.push(0);
        self.start(job);
    }

    /// Starts to discard what whole blocks there are in a range within the disk, in bytes.
    pub fn trim(
        &mut self,
        client: ClientId,
        cookie: u64,
        range: std::ops::Range<u64>,
        durable: bool,
    ) {
        let block = u64::from(self.geometry.block_bytes.max(512));
        let start = range.start.div_ceil(block).saturating_mul(block);
        let end = range.end - range.end % block;
        let span = Span {
            blocks: Vec::new(),
            head: 0,
            length: 0,
            durable,
        };
        let mut job = self.job(client, cookie, Work::Discard, start, span);
        job.sectors = end.saturating_sub(start) / 512;
        if job.sectors == 0 {
            self.replies.push(Reply {
                client,
                cookie,
                offset: range.start,
                length: 0,
                result: Ok(None),
            });
            return;
        }
        job.todo.push(0);
        self.start(job);
    }

    /// Submits what fits, reaps what is there. Appends answers to `replies`; `true` if anything came back.
    pub fn pump(&mut self, replies: &mut Vec<Reply>) -> bool {
        self.submit();
        let before = replies.len();
        let reaped = self.reap();
        if reaped {
            self.submit();
        }
        replies.append(&mut self.replies);
        reaped || replies.len() > before
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// See [`Blocks::arm`].
    pub fn arm(&mut self) -> bool {
        self.blocks.arm()
    }

    /// The disk.
    pub fn blocks(&self) -> &B {
        &self.blocks
    }

    /// The disk, for a test that does something to it.
    #[cfg(test)]
    pub(crate) fn blocks_mut(&mut self) -> &mut B {
        &mut self.blocks
    }

    /// See [`Blocks::wake`].
    pub fn wake(&self) -> Vec<BorrowedFd<'_>> {
        self.blocks.wake()
    }

    /// The disk.
    pub fn into_blocks(self) -> B {
        self.blocks
    }

    fn job(&self, client: ClientId, cookie: u64, work: Work, offset: u64, span: Span) -> Job {
        // The start of the block that `offset` lies in.
        let sector = offset.saturating_sub(span.head as u64) / 512;
        Job {
            client,
            cookie,
            work,
            sector,
            sectors: 0,
            span,
            todo: Vec::new(),
            in_flight: 0,
            error: None,
        }
    }

    fn start(&mut self, job: Job) {
        let id = self.next_job;
        self.next_job = id.wrapping_add(1);
        self.jobs.insert(id, job);
        self.ready.push_back(id);
    }

    fn submit(&mut self) {
        let mut queued = false;
        while let Some(id) = self.ready.pop_front() {
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            let Some(piece) = job.todo.pop() else {
                continue;
            };
            let token = Token { job: id, piece };
            let place = job.place(piece, &self.geometry);
            let sector = job.sector.saturating_add((place.start / 512) as u64);
            let result = match job.work {
                Work::Read | Work::Edges => {
                    self.blocks.submit_read(token, sector, place.len() as u32)
                }
                Work::Write => self.blocks.submit_write(
                    token,
                    sector,
                    job.span.blocks.get(place).unwrap_or_default(),
                ),
                Work::Discard => self.blocks.submit_discard(token, job.sector, job.sectors),
                Work::Flush => self.blocks.submit_flush(token),
            };
            match result {
                Ok(()) => {
                    queued = true;
                    job.in_flight = job.in_flight.saturating_add(1);
                    if !job.todo.is_empty() {
                        self.ready.push_back(id);
                    }
                }
                Err(SubmitError::Full) => {
                    job.todo.push(piece);
                    self.ready.push_front(id);
                    break;
                }
                Err(SubmitError::Gone) => {
                    job.fail(Errno::Shutdown);
                    self.settle(id);
                }
            }
        }
        if queued {
            self.blocks.kick();
        }
    }

    fn reap(&mut self) -> bool {
        let Self {
            blocks,
            jobs,
            geometry,
            ready,
            ..
        } = self;
        let mut settled = Vec::new();
        let mut again = Vec::new();
        let mut any = false;
        blocks.reap(&mut |token, result| {
            any = true;
            let Some(job) = jobs.get_mut(&token.job) else {
                return;
            };
            match result {
                Ok(data) => job.take(token.piece, geometry, data),
                // Doing it again makes it done. Its client has no answer yet, so any order with others of its time is right.
                Err(BlockError::Aborted) if job.error.is_none() => {
                    job.todo.push(token.piece);
                    again.push(token.job);
                }
                Err(BlockError::Failed | BlockError::Aborted) => job.fail(Errno::Io),
                Err(BlockError::Gone) => job.fail(Errno::Shutdown),
            }
            job.in_flight = job.in_flight.saturating_sub(1);
            if job.in_flight == 0 && job.todo.is_empty() {
                settled.push(token.job);
            }
        });
        for id in again {
            if !ready.contains(&id) {
                ready.push_back(id);
            }
        }
        for id in settled {
            self.settle(id);
        }
        any
    }

    /// A job has nothing in flight and nothing to submit: it goes on to its write, or it is answered.
    fn settle(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if job.in_flight > 0 {
            return;
        }
        if job.work == Work::Edges && job.error.is_none() {
            job.work = Work::Write;
            job.pieces(&self.geometry);
            self.ready.push_back(id);
            return;
        }
        let (writes, flushes) = (
            matches!(job.work, Work::Write | Work::Edges),
            job.error.is_none() && std::mem::take(&mut job.span.durable),
        );
        if flushes {
            job.work = Work::Flush;
            job.todo.push(0);
        }
        let ready = &mut self.ready;
        if writes {
            self.overlap.leave(id, |next| ready.push_back(next));
        }
        if flushes {
            ready.push_back(id);
            return;
        }
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let (head, length) = (job.span.head as u64, job.span.length);
        let offset = job.sector.saturating_mul(512).saturating_add(head);
        let data = (job.work == Work::Read).then_some(job.span);
        let result = job.error.map_or(Ok(data), Err);
        self.replies.push(Reply {
            client: job.client,
            cookie: job.cookie,
            offset,
            length,
            result,
        });
    }
}

#[cfg(test)]
mod tests;
