//! A load that knows what must come back: writes of a pattern and reads at random places with many requests in flight, then
//! everything once more.

mod model;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::nbd::{BlockError, Blocks, SubmitError, Token};
use model::{Model, mix};

/// What `--verify` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifySpec {
    /// The disk's name.
    pub disk: String,
    /// How long.
    pub until: Until,
}

/// When the load ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// When so many bytes are written.
    Bytes(u64),
}

/// The text of `--verify` makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{text}': expected DISK, DISK,SECONDSs or DISK,BYTES[K|M|G], e.g. xvda,10s or xvda,64M")]
pub struct VerifySpecError {
    /// The text.
    text: String,
}

impl FromStr for VerifySpec {
    type Err = VerifySpecError;

    fn from_str(text: &str) -> Result<Self, VerifySpecError> {
        let bad = || VerifySpecError {
            text: text.to_owned(),
        };
        let (disk, until) = match text.split_once(',') {
            None => (text, Until::Bytes(64 << 20)),
            Some((disk, until)) => (disk, parse_until(until).ok_or_else(bad)?),
        };
        if disk.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            disk: disk.to_owned(),
            until,
        })
    }
}

impl fmt::Display for VerifySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.until {
            Until::Time(time) => write!(f, "{},{}s", self.disk, time.as_secs()),
            Until::Bytes(bytes) => write!(f, "{},{bytes}", self.disk),
        }
    }
}

/// A seed that was not used on this disk before: what an earlier run left there must not pass for this one's.
pub fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    mix(now.map_or(0, |now| now.as_nanos() as u64) ^ u64::from(std::process::id()))
}

fn parse_until(text: &str) -> Option<Until> {
    if let Some(seconds) = text.strip_suffix('s') {
        return Some(Until::Time(Duration::from_secs(seconds.parse().ok()?)));
    }
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let unit = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    Some(Until::Bytes(bytes))
}

/// Why a verification ended early. A block that is not as it must be is no reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Nothing can be written.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The disk is gone for good.
    #[error("the disk is gone")]
    Gone,
    /// Waiting failed.
    #[error("poll failed: {0}")]
    Poll(#[from] rustix::io::Errno),
}

/// What was done and found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Writes answered with success.
    pub writes: u64,
    /// Reads answered with success.
    pub reads: u64,
    /// Flushes answered with success.
    pub flushes: u64,
    /// Bytes of those writes.
    pub bytes_written: u64,
    /// Bytes of those reads.
    pub bytes_read: u64,
    /// Blocks of the disk that took part.
    pub blocks: u64,
    /// Blocks that were not as they must be, each time they were read.
    pub mismatches: u64,
    /// The first of them, in words.
    pub first_mismatch: Option<String>,
    /// Requests that the disk failed.
    pub failed: u64,
    /// Requests that were submitted again because their connection ended.
    pub aborted: u64,
    /// The most requests in flight at once.
    pub in_flight: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// Reads what is there before the first write.
    Learn,
    /// Reads and compares.
    Check,
    /// Writes the pattern of this stamp.
    Write(u64),
    Flush,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    work: Work,
    first: u64,
    count: u64,
}

impl Job {
    /// Whether the order of the two would decide what is read or left.
    fn excludes(&self, other: &Self) -> bool {
        let writes = |job: &Self| matches!(job.work, Work::Write(_));
        (writes(self) || writes(other))
            && self.first < other.first + other.count
            && other.first < self.first + self.count
    }
}

/// One run over one disk.
#[derive(Debug)]
pub struct Verifier<'a, B> {
    blocks: &'a mut B,
    model: Model,
    depth: usize,
    block_bytes: u64,
    /// The most blocks of a request.
    longest: u64,
    flush: bool,
    random: u64,
    stamp: u64,
    open: HashMap<u64, Job>,
    next_job: u64,
    redo: VecDeque<Job>,
    report: Report,
    /// Bytes of the writes that were answered, well or not: a disk that fails them all ends the load too.
    written: u64,
    gone: bool,
    /// Looks at the disk that ended without sleep.
    turns: u64,
}

/// Between two flushes, so many requests.
const FLUSH_EVERY: u64 = 64;

impl<'a, B: Blocks> Verifier<'a, B> {
    /// A run that is the same for the same `seed` and the same order of answers, with up to `depth` requests in flight.
    ///
    /// # Errors
    /// The disk is read-only.
    pub fn new(blocks: &'a mut B, seed: u64, depth: usize) -> Result<Self, VerifyError> {
        let geometry = blocks.geometry();
        if geometry.read_only {
            return Err(VerifyError::ReadOnly);
        }
        let model = Model::new(seed, geometry.sectors, geometry.block_bytes);
        Ok(Self {
            report: Report {
                blocks: model.blocks(),
                ..Report::default()
            },
            model,
            depth,
            block_bytes: geometry.block_bytes.into(),
            longest: u64::from(geometry.request_bytes / geometry.block_bytes).max(1),
            flush: geometry.flush,
            random: seed,
            stamp: 0,
            open: HashMap::new(),
            next_job: 0,
            redo: VecDeque::new(),
            written: 0,
            gone: false,
            turns: 0,
            blocks,
        })
    }

    /// What was done and found so far.
    pub fn report(&self) -> Report {
        self.report.clone()
    }

    /// Learns what is there, loads the disk until `until` or until `stop` is readable, flushes, and reads everything back.
    ///
    /// # Errors
    /// The disk went away, or waiting failed.
    pub fn run(&mut self, until: Until, stop: BorrowedFd<'_>) -> Result<(), VerifyError> {
        self.sweep(Work::Learn)?;
        let start = Instant::now();
        let mut stopped = false;
        while !stopped
            && match until {
                Until::Time(time) => start.elapsed() < time,
                Until::Bytes(bytes) => self.written < bytes,
            }
        {
            while self.open.len() + self.redo.len() < self.depth {
                let job = self.choose();
                let busy = |other: &Job| other.excludes(&job);
                if self.open.values().any(busy)
                    || self.redo.iter().any(busy)
                    || !self.submit(job)?
                {
                    break;
                }
            }
            stopped = self.turn(Some(stop))?;
        }
        self.drain()?;
        if self.flush {
            while !self.submit(FLUSH)? {
                self.turn(None)?;
            }
            self.drain()?;
        }
        self.sweep(Work::Check)
    }

    /// The next request.
    fn choose(&mut self) -> Job {
        if self.flush && self.next_job % FLUSH_EVERY == FLUSH_EVERY - 1 {
            return FLUSH;
        }
        let work = if self.random() % 8 < 5 {
            self.stamp += 1;
            Work::Write(self.stamp)
        } else {
            Work::Check
        };
        let first = self.random() % self.model.blocks().max(1);
        // Short ones are as frequent as long ones.
        let most = (self.longest >> (self.random() % 8)).max(1);
        let wanted = 1 + self.random() % most;
        let count = self.model.together(first, wanted);
        Job { work, first, count }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }

    /// Reads all blocks in order.
    fn sweep(&mut self, work: Work) -> Result<(), VerifyError> {
        let mut first = 0;
        while first < self.model.blocks() || !self.is_done() {
            while first < self.model.blocks() && self.open.len() + self.redo.len() < self.depth {
                let count = self.model.together(first, self.longest);
                if !self.submit(Job { work, first, count })? {
                    break;
                }
                first += count;
            }
            self.turn(None)?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), VerifyError> {
        while !self.is_done() {
            self.turn(None)?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.open.is_empty() && self.redo.is_empty()
    }

    /// `false` when the queue is full.
    fn submit(&mut self, job: Job) -> Result<bool, VerifyError> {
        let token = Token {
            job: self.next_job,
            piece: 0,
        };
        let sector = self.model.sector(job.first);
        let result = match job.work {
            Work::Learn | Work::Check => {
                let bytes = u32::try_from(job.count * self.block_bytes).unwrap_or(u32::MAX);
                self.blocks.submit_read(token, sector, bytes)
            }
            Work::Write(stamp) => {
                let data = self.model.pattern(job.first..job.first + job.count, stamp);
                let result = self.blocks.submit_write(token, sector, &data);
                if result.is_ok() {
                    // Nothing else touches these blocks before the answer.
                    self.model.expect(job.first, job.count, Some(&data));
                }
                result
            }
            Work::Flush => self.blocks.submit_flush(token),
        };
        match result {
            Ok(()) => {
                self.open.insert(token.job, job);
                self.next_job += 1;
                self.report.in_flight = self.report.in_flight.max(self.open.len());
                Ok(true)
            }
            Err(SubmitError::Full) => Ok(false),
            Err(SubmitError::Gone) => Err(VerifyError::Gone),
        }
    }

    /// Takes what is there, or sleeps until something is; `true` if `stop` is readable.
    fn turn(&mut self, stop: Option<BorrowedFd<'_>>) -> Result<bool, VerifyError> {
        while let Some(job) = self.redo.front().copied() {
            if !self.submit(job)? {
                break;
            }
            self.redo.pop_front();
        }
        self.blocks.kick();
        if self.reap()? || !self.blocks.arm() {
            self.turns += 1;
            // A disk that always has something to say must not keep us from hearing that it is time to end.
            return match stop.filter(|_| self.turns.is_multiple_of(1024)) {
                None => Ok(false),
                Some(stop) => {
                    let mut fds = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
                    Ok(poll(&mut fds, Some(&Timespec::default()))? > 0)
                }
            };
        }
        let mut fds: Vec<_> = stop
            .into_iter()
            .chain(self.blocks.wake())
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let first = fds.first().filter(|_| stop.is_some());
        Ok(first.is_some_and(|fd| !fd.revents().is_empty()))
    }

    /// `true` if anything came back.
    fn reap(&mut self) -> Result<bool, VerifyError> {
        let Self {
            blocks,
            model,
            open,
            redo,
            report,
            written,
            gone,
            block_bytes,
            ..
        } = self;
        let mut any = false;
        blocks.reap(&mut |token, result| {
            any = true;
            let Some(job) = open.remove(&token.job) else {
                return;
            };
            let bytes = job.count * *block_bytes;
            match (result, job.work) {
                (Ok(_), Work::Write(_)) => {
                    report.writes += 1;
                    report.bytes_written += bytes;
                    *written += bytes;
                }
                (Ok(_), Work::Flush) => report.flushes += 1,
                (Ok(data), Work::Learn | Work::Check) => {
                    let mut content = vec![0; usize::try_from(bytes).unwrap_or(0)];
                    data(0, &mut content);
                    report.reads += 1;
                    report.bytes_read += bytes;
                    if job.work == Work::Learn {
                        model.expect(job.first, job.count, Some(&content));
                    }
                    for (block, found) in model.wrong(job.first, &content) {
                        report.mismatches += 1;
                        report.first_mismatch.get_or_insert_with(|| {
                            format!("block {block}, sector {}: {found}", model.sector(block))
                        });
                    }
                }
                (Err(BlockError::Aborted), _) => {
                    report.aborted += 1;
                    redo.push_back(job);
                }
                (Err(BlockError::Gone), _) => *gone = true,
                (Err(BlockError::Failed), work) => {
                    report.failed += 1;
                    if matches!(work, Work::Write(_)) {
                        model.expect(job.first, job.count, None);
                        *written += bytes;
                    }
                }
            }
        });
        if *gone {
            return Err(VerifyError::Gone);
        }
        Ok(any)
    }
}

const FLUSH: Job = Job {
    work: Work::Flush,
    first: 0,
    count: 0,
};

#[cfg(test)]
mod tests;
