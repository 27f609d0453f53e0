//! Copying one disk to another with many requests in flight, and reading both back.

use std::collections::{HashMap, VecDeque};

use rustix::event::{PollFd, PollFlags, poll};

use crate::nbd::{BlockError, Blocks, SubmitError, Token};

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The disks differ in size.
    #[error("the source has {from} sectors and the target {to}")]
    Size {
        /// Sectors of 512 bytes of the source.
        from: u64,
        /// Sectors of 512 bytes of the target.
        to: u64,
    },
    /// A disk failed a request.
    #[error("{side}: sector {sector}: {error}")]
    Disk {
        /// Which disk.
        side: &'static str,
        /// Where, in units of 512 bytes.
        sector: u64,
        /// Why.
        error: BlockError,
    },
    /// A disk takes no more requests.
    #[error("{side}: {error}")]
    Submit {
        /// Which disk.
        side: &'static str,
        /// Why.
        error: SubmitError,
    },
    /// Reading back brought something else than was written.
    #[error("source and target differ at byte {offset}")]
    Differs {
        /// Bytes from the start of the disks.
        offset: u64,
    },
    /// Waiting failed.
    #[error("poll failed: {0}")]
    Poll(#[from] rustix::io::Errno),
}

/// What a copy took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests answered, of both disks.
    pub requests: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// The most requests that were in flight at once.
    pub in_flight: u64,
    /// Times we went to sleep.
    pub polls: u64,
}

/// One of the two disks, with what it owes us.
struct Side<'a, B> {
    name: &'static str,
    blocks: &'a mut B,
    open: HashMap<u64, (u64, u32)>,
    /// What the end of a connection left undone, and is to be done again.
    redo: VecDeque<(u64, u32)>,
    next_job: u64,
}

impl<'a, B: Blocks> Side<'a, B> {
    fn new(name: &'static str, blocks: &'a mut B) -> Self {
        Self {
            name,
            blocks,
            open: HashMap::new(),
            redo: VecDeque::new(),
            next_job: 0,
        }
    }

    /// `false` when the queue is full.
    fn submit(
        &mut self,
        sector: u64,
        bytes: u32,
        submit: impl FnOnce(&mut B, Token) -> Result<(), SubmitError>,
    ) -> Result<bool, CopyError> {
        let token = Token {
            job: self.next_job,
            piece: 0,
        };
        match submit(self.blocks, token) {
            Ok(()) => {
                self.open.insert(token.job, (sector, bytes));
                self.next_job += 1;
                Ok(true)
            }
            Err(SubmitError::Full) => Ok(false),
            Err(error) => Err(CopyError::Submit {
                side: self.name,
                error,
            }),
        }
    }

    fn read(&mut self, sector: u64, bytes: u32) -> Result<bool, CopyError> {
        self.submit(sector, bytes, |blocks, token| {
            blocks.submit_read(token, sector, bytes)
        })
    }

    /// Whether nothing is on its way and nothing is to be done again.
    fn is_done(&self) -> bool {
        self.open.is_empty() && self.redo.is_empty()
    }

    /// Reads again what is to be done again, as far as there is room.
    fn again(&mut self) -> Result<(), CopyError> {
        while let Some((sector, bytes)) = self.redo.front().copied() {
            if !self.read(sector, bytes)? {
                break;
            }
            self.redo.pop_front();
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> Result<bool, CopyError> {
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.submit(sector, bytes, |blocks, token| {
            blocks.submit_write(token, sector, data)
        })
    }

    /// Every answer that is there: where it was, and what was read if `data`.
    fn reap(&mut self, data: bool, counts: &mut Counts) -> Result<Vec<(u64, Vec<u8>)>, CopyError> {
        let mut done = Vec::new();
        let mut failed = None;
        let (open, redo, name) = (&mut self.open, &mut self.redo, self.name);
        self.blocks.reap(&mut |token, result| {
            let Some((sector, bytes)) = open.remove(&token.job) else {
                return;
            };
            match result {
                Ok(read) => {
                    counts.requests += 1;
                    counts.bytes += u64::from(bytes);
                    let mut private = vec![0; if data { bytes as usize } else { 0 }];
                    if data {
                        read(0, &mut private);
                    }
                    done.push((sector, private));
                }
                Err(BlockError::Aborted) => redo.push_back((sector, bytes)),
                Err(error) => {
                    failed = failed.take().or(Some(CopyError::Disk {
                        side: name,
                        sector,
                        error,
                    }))
                }
            }
        });
        failed.map_or(Ok(done), Err)
    }
}

/// Chunks of a disk, in order.
struct Chunks {
    next: u64,
    end: u64,
    sectors: u32,
}

impl Chunks {
    fn peek(&self) -> Option<(u64, u32)> {
        let left = self.end - self.next;
        (left > 0).then(|| (self.next, u64::from(self.sectors).min(left) as u32 * 512))
    }

    fn advance(&mut self, bytes: u32) {
        self.next += u64::from(bytes / 512);
    }
}

/// Copies all of `from` to `to` with up to `depth` requests in flight on each, flushes, and compares what both hold.
/// `progress` hears how much of the whole is done, in bytes, and the whole.
///
/// # Errors
/// Where the first request failed, or the first byte that differs.
pub fn copy<A: Blocks, B: Blocks>(
    from: &mut A,
    to: &mut B,
    depth: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Counts, CopyError> {
    let (source, target) = (from.geometry(), to.geometry());
    if source.sectors != target.sectors {
        return Err(CopyError::Size {
            from: source.sectors,
            to: target.sectors,
        });
    }
    let chunk = source.request_bytes.min(target.request_bytes) / 512;
    let chunks = || Chunks {
        next: 0,
        end: source.sectors,
        sectors: chunk,
    };
    let whole = source.sectors * 512 * 4;
    let mut counts = Counts::default();
    let mut from = Side::new("source", from);
    let mut to = Side::new("target", to);
    transfer(
        &mut from,
        &mut to,
        chunks(),
        depth,
        &mut counts,
        &mut |done| progress(done, whole),
    )?;
    if target.flush {
        flush(&mut to, &mut counts)?;
    }
    compare(
        &mut from,
        &mut to,
        [chunks(), chunks()],
        depth,
        &mut counts,
        &mut |done| progress(done, whole),
    )?;
    Ok(counts)
}

fn transfer<A: Blocks, B: Blocks>(
    from: &mut Side<'_, A>,
    to: &mut Side<'_, B>,
    mut chunks: Chunks,
    depth: usize,
    counts: &mut Counts,
    progress: &mut dyn FnMut(u64),
) -> Result<(), CopyError> {
    let mut read: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    while chunks.peek().is_some() || !(from.is_done() && to.is_done() && read.is_empty()) {
        // What was to be written is not kept: it is read again.
        from.redo.append(&mut to.redo);
        while let Some((sector, data)) = read.front() {
            if to.open.len() >= depth || !to.write(*sector, data)? {
                break;
            }
            read.pop_front();
        }
        while from.open.len() + read.len() < depth
            && let Some((sector, bytes)) = from.redo.front().copied().or(chunks.peek())
        {
            if !from.read(sector, bytes)? {
                break;
            }
            if from.redo.pop_front().is_none() {
                chunks.advance(bytes);
            }
        }
        from.blocks.kick();
        to.blocks.kick();
        counts.in_flight = counts
            .in_flight
            .max((from.open.len() + to.open.len()) as u64);
        let brought = from.reap(true, counts)?;
        let written = to.reap(false, counts)?;
        if brought.is_empty() && written.is_empty() {
            sleep(from, to, counts)?;
        }
        read.extend(brought);
        progress(counts.bytes);
    }
    Ok(())
}

fn flush<B: Blocks>(to: &mut Side<'_, B>, counts: &mut Counts) -> Result<(), CopyError> {
    // A disk whose backend is away has no room; and what it left undone is to be done again.
    let mut wanted = true;
    while wanted || !to.is_done() {
        if (wanted || !to.redo.is_empty())
            && to.submit(0, 0, |blocks, token| blocks.submit_flush(token))?
        {
            wanted = false;
            to.redo.clear();
            to.blocks.kick();
        }
        if to.reap(false, counts)?.is_empty() && to.blocks.arm() {
            counts.polls += 1;
            wait(to.blocks.wake())?;
        }
    }
    Ok(())
}

fn compare<A: Blocks, B: Blocks>(
    from: &mut Side<'_, A>,
    to: &mut Side<'_, B>,
    [mut left, mut right]: [Chunks; 2],
    depth: usize,
    counts: &mut Counts,
    progress: &mut dyn FnMut(u64),
) -> Result<(), CopyError> {
    let mut unmatched: HashMap<u64, Vec<u8>> = HashMap::new();
    while left.peek().is_some() || right.peek().is_some() || !(from.is_done() && to.is_done()) {
        from.again()?;
        to.again()?;
        // Neither side runs ahead of the other by more than what may be in flight, so little is kept.
        let room = depth.saturating_sub(unmatched.len() / 2);
        while let Some((sector, bytes)) = left.peek().filter(|(sector, _)| *sector <= right.next) {
            if from.open.len() >= room.max(1) || !from.read(sector, bytes)? {
                break;
            }
            left.advance(bytes);
        }
        while let Some((sector, bytes)) = right.peek().filter(|(sector, _)| *sector <= left.next) {
            if to.open.len() >= room.max(1) || !to.read(sector, bytes)? {
                break;
            }
            right.advance(bytes);
        }
        from.blocks.kick();
        to.blocks.kick();
        counts.in_flight = counts
            .in_flight
            .max((from.open.len() + to.open.len()) as u64);
        let mut brought = from.reap(true, counts)?;
        brought.extend(to.reap(true, counts)?);
        if brought.is_empty() {
            sleep(from, to, counts)?;
        }
        for (sector, data) in brought {
            match unmatched.remove(&sector) {
                None => {
                    unmatched.insert(sector, data);
                }
                Some(other) if other == data => {}
                Some(other) => {
                    let at = other.iter().zip(&data).take_while(|(a, b)| a == b).count();
                    return Err(CopyError::Differs {
                        offset: sector * 512 + at as u64,
                    });
                }
            }
        }
        progress(counts.bytes);
    }
    Ok(())
}

fn sleep<A: Blocks, B: Blocks>(
    from: &mut Side<'_, A>,
    to: &mut Side<'_, B>,
    counts: &mut Counts,
) -> Result<(), CopyError> {
    // Both are armed before either is slept on; something that is there already keeps us awake.
    let (from_quiet, to_quiet) = (from.blocks.arm(), to.blocks.arm());
    if from_quiet && to_quiet {
        counts.polls += 1;
        let mut fds = from.blocks.wake();
        fds.extend(to.blocks.wake());
        wait(fds)?;
    }
    Ok(())
}

fn wait(fds: Vec<std::os::fd::BorrowedFd<'_>>) -> Result<(), CopyError> {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::{Geometry, MemoryBlocks};

    fn disk(sectors: u64) -> MemoryBlocks {
        let geometry = Geometry {
            sectors,
            block_bytes: 512,
            request_bytes: 11 * 4096,
            read_only: false,
            flush: true,
            offers: crate::nbd::Offers::NONE,
        };
        MemoryBlocks::new(geometry, 32, sectors).expect("a descriptor")
    }

    fn fill(disk: &mut MemoryBlocks) {
        for sector in 0..disk.geometry().sectors {
            let data: Vec<u8> = (0..512_u64)
                .map(|i| ((sector * 512 + i).wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect();
            let token = Token {
                job: sector,
                piece: 0,
            };
            disk.submit_write(token, sector, &data).expect("room");
            disk.kick();
            let mut open = true;
            while open {
                disk.reap(&mut |_, result| open = result.is_err());
            }
        }
    }

    #[test]
    fn a_disk_of_an_odd_length_arrives_whole() {
        let (mut from, mut to) = (disk(1001), disk(1001));
        fill(&mut from);
        let counts = copy(&mut from, &mut to, 32, &mut |_, _| {}).expect("copy");
        assert_eq!(counts.bytes, 4 * 512 * 1001);
        assert!(to.bytes().iter().any(|byte| *byte != 0));
        assert!(from.bytes() == to.bytes());
        assert_eq!(to.counts().flushes, 1);
    }

    #[test]
    fn many_requests_are_in_flight() {
        let (mut from, mut to) = (disk(16 * 1024), disk(16 * 1024));
        let counts = copy(&mut from, &mut to, 32, &mut |_, _| {}).expect("copy");
        assert!(counts.in_flight >= 32, "{}", counts.in_flight);
        assert!(to.counts().deepest > 1);
    }

    #[test]
    fn what_a_broken_connection_left_undone_is_done_again() {
        for seed in 0..10 {
            let geometry = disk(1).geometry();
            let sectors = 3001;
            let make = || {
                let geometry = Geometry {
                    sectors,
                    ..geometry
                };
                MemoryBlocks::new(geometry, 32, seed).expect("a descriptor")
            };
            let mut from = make();
            fill(&mut from);
            // Of the reads some, and of the writes, the flush and the reading back.
            let (mut from, mut to) = (from.aborting(40), make().aborting(99));
            copy(&mut from, &mut to, 8, &mut |_, _| {}).expect("copy");
            assert!(from.bytes() == to.bytes(), "seed {seed}");
        }
    }

    #[test]
    fn a_flush_without_room_is_not_left_out() {
        let (mut from, to) = (disk(100), disk(100));
        fill(&mut from);
        let mut to = to.refusing(3);
        copy(&mut from, &mut to, 4, &mut |_, _| {}).expect("copy");
        let counts = to.counts();
        assert_eq!((counts.flushes, counts.flushed), (1, counts.writes));
    }

    #[test]
    fn a_failed_read_is_named() {
        let (from, mut to) = (disk(100), disk(100));
        let error = copy(&mut from.failing(88..89), &mut to, 4, &mut |_, _| {}).expect_err("fails");
        assert_eq!(
            error.to_string(),
            "source: sector 88: the disk failed the request"
        );
    }

    #[test]
    fn disks_of_different_length_are_refused() {
        let result = copy(&mut disk(2), &mut disk(1), 1, &mut |_, _| {});
        assert!(matches!(result, Err(CopyError::Size { from: 2, to: 1 })));
    }
}
