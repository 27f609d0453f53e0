use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use super::*;
use crate::nbd::{Data, Geometry, MemoryBlocks};

const GEOMETRY: Geometry = Geometry {
    sectors: 4096,
    block_bytes: 512,
    request_bytes: 11 * 4096,
    read_only: false,
    flush: true,
    offers: crate::nbd::Offers::NONE,
};

fn disk(seed: u64) -> MemoryBlocks {
    MemoryBlocks::new(GEOMETRY, 16, seed).expect("a descriptor")
}

fn run<B: Blocks>(disk: &mut B, seed: u64) -> (Result<(), VerifyError>, Report) {
    let (stop, _other) = UnixStream::pair().expect("a socket");
    let mut verifier = Verifier::new(disk, seed, 16).expect("writable");
    let result = verifier.run(Until::Bytes(4 << 20), stop.as_fd());
    (result, verifier.report())
}

#[test]
fn an_honest_disk_passes_and_is_loaded() {
    let mut disk = disk(3);
    let (result, report) = run(&mut disk, 7);
    result.expect("it stays");
    assert_eq!(
        (report.mismatches, report.failed, report.aborted),
        (0, 0, 0)
    );
    assert!(report.bytes_written >= 4 << 20);
    assert!(report.bytes_read > 2 * 4096 * 512);
    assert!(report.flushes > 1 && report.flushes == disk.counts().flushes);
    assert_eq!(report.in_flight, 16);
    assert_eq!(report.writes, disk.counts().writes);
}

#[test]
fn the_last_flush_is_made_as_soon_as_there_is_room() {
    let mut disk = disk(3).refusing(3);
    let (stop, _other) = UnixStream::pair().expect("a socket");
    let mut verifier = Verifier::new(&mut disk, 7, 4).expect("writable");
    let result = verifier.run(Until::Bytes(1), stop.as_fd());
    let report = verifier.report();
    result.expect("it stays");
    let counts = disk.counts();
    assert!(report.writes > 0 && report.mismatches == 0);
    assert_eq!((report.flushes, counts.flushes), (1, 1));
    assert_eq!(counts.flushed, counts.writes);
}

/// A disk with one fault.
struct Faulty {
    disk: MemoryBlocks,
    fault: Fault,
    writes: u64,
    reads: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The hundredth write is answered and not done.
    Lost,
    /// The hundredth write goes one sector too far.
    Astray,
    /// The hundredth write loses its last sector.
    Short,
    /// Every read after the three hundredth is answered before it is done.
    Early,
}

impl Blocks for Faulty {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn submit_read(&mut self, token: Token, sector: u64, bytes: u32) -> Result<(), SubmitError> {
        self.disk.submit_read(token, sector, bytes)?;
        self.reads += 1;
        Ok(())
    }
    fn submit_write(&mut self, token: Token, sector: u64, data: &[u8]) -> Result<(), SubmitError> {
        let hundredth = self.writes == 100;
        let end = sector + data.len() as u64 / 512;
        match self.fault {
            Fault::Lost if hundredth => self.disk.submit_flush(token)?,
            Fault::Astray if hundredth && end < GEOMETRY.sectors => {
                self.disk.submit_write(token, sector + 1, data)?;
            }
            Fault::Short if hundredth && data.len() > 512 => {
                self.disk
                    .submit_write(token, sector, &data[..data.len() - 512])?;
            }
            _ => self.disk.submit_write(token, sector, data)?,
        }
        self.writes += 1;
        Ok(())
    }
    fn submit_flush(&mut self, token: Token) -> Result<(), SubmitError> {
        self.disk.submit_flush(token)
    }
    fn kick(&mut self) {
        self.disk.kick();
    }
    fn reap(&mut self, done: &mut dyn FnMut(Token, Result<Data<'_>, BlockError>)) {
        let early = self.fault == Fault::Early && self.reads > 300;
        self.disk.reap(&mut |token, result| match result {
            Ok(_) if early => done(token, Ok(&|_, _: &mut [u8]| {})),
            other => done(token, other),
        });
    }
    fn arm(&mut self) -> bool {
        self.disk.arm()
    }
    fn wake(&self) -> Vec<BorrowedFd<'_>> {
        self.disk.wake()
    }
}

#[test]
fn every_fault_is_found() {
    for fault in [Fault::Lost, Fault::Astray, Fault::Short, Fault::Early] {
        let mut faulty = Faulty {
            disk: disk(5),
            fault,
            writes: 0,
            reads: 0,
        };
        let (result, report) = run(&mut faulty, 11);
        result.expect("it stays");
        assert!(report.mismatches > 0);
        assert!(report.first_mismatch.is_some());
    }
}

#[test]
fn what_a_broken_connection_left_undone_is_done_again() {
    let mut disk = disk(8).aborting(301);
    let (result, report) = run(&mut disk, 2);
    result.expect("it stays");
    assert_eq!((report.mismatches, report.failed), (0, 0));
    assert_eq!(report.aborted, 301);
}

#[test]
fn a_failed_write_is_counted_and_leaves_nothing_to_expect() {
    let mut disk = disk(8).failing(100..101);
    let (result, report) = run(&mut disk, 2);
    result.expect("it stays");
    assert!(report.failed > 0);
    assert_eq!(report.mismatches, 0);
}

#[test]
fn a_disk_that_fails_everything_comes_to_an_end() {
    let mut disk = disk(8).failing(0..u64::MAX);
    let (result, report) = run(&mut disk, 2);
    result.expect("it stays");
    assert_eq!((report.writes, report.bytes_written), (0, 0));
    assert!(report.failed > 0);
}

#[test]
fn a_disk_that_goes_is_an_error() {
    let mut disk = disk(8);
    disk.vanish();
    let (result, _) = run(&mut disk, 2);
    assert!(matches!(result, Err(VerifyError::Gone)));
}

#[test]
fn stop_ends_the_load_and_still_reads_back() {
    let mut disk = disk(1);
    let (stop, other) = UnixStream::pair().expect("a socket");
    drop(other);
    let mut verifier = Verifier::new(&mut disk, 1, 16).expect("writable");
    verifier
        .run(Until::Time(Duration::from_secs(3600)), stop.as_fd())
        .expect("it stays");
    assert!(verifier.report().bytes_read >= 2 * 4096 * 512);
}

#[test]
fn a_read_only_disk_is_refused() {
    let geometry = Geometry {
        read_only: true,
        ..GEOMETRY
    };
    let mut disk = MemoryBlocks::new(geometry, 1, 1).expect("a descriptor");
    assert!(matches!(
        Verifier::new(&mut disk, 1, 1),
        Err(VerifyError::ReadOnly)
    ));
}

#[test]
fn texts() {
    let spec = |text: &str| {
        text.parse::<VerifySpec>()
            .map(|spec| (spec.disk, spec.until))
    };
    let disk = || "xvda".to_owned();
    assert_eq!(spec("xvda"), Ok((disk(), Until::Bytes(64 << 20))));
    let ten = Until::Time(Duration::from_secs(10));
    assert_eq!(spec("xvda,10s"), Ok((disk(), ten)));
    assert_eq!(spec("xvda,5M"), Ok((disk(), Until::Bytes(5 << 20))));
    assert_eq!(spec("xvda,4096"), Ok((disk(), Until::Bytes(4096))));
    for text in ["xvda,10s", "xvda,4096"] {
        let spec: VerifySpec = text.parse().expect("a spec");
        assert_eq!(spec.to_string(), text);
    }
    for bad in ["", ",5", "xvda,", "xvda,5T", "xvda,-1", "xvda,99999999999G"] {
        assert!(spec(bad).is_err(), "{bad}");
    }
}
