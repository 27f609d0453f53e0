//! Every disk of the block backend against the suite, and what only files can do.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use io_uring::IoUring;
use ringfence_blkback::Stats;
use ringfence_blkback::error::IoError;
use ringfence_blkback::sink::{
    Disk, DiskIo, File, IoOp, Layers, Memory, Null, OpenError, Uring, UringFile,
};
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_tests::disk_conformance::{self as suite, SECTORS, io, one};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, open};

fn image(bytes: u64) -> OwnedFd {
    let fd = memfd_create("image", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&fd, bytes).expect("truncate");
    fd
}

fn uring() -> Option<Uring> {
    match IoUring::new(64) {
        Ok(ring) => Some(Uring::new(ring)),
        Err(error) => {
            println!("SKIP io_uring: {error}");
            None
        }
    }
}

/// A disk on `fd`, and the same by io_uring where there is one.
fn both(fd: &OwnedFd) -> Vec<Disk> {
    let stats = Arc::<Stats>::default;
    let copy = || fd.try_clone().expect("dup");
    let file = File::new(copy(), false, stats()).expect("a disk");
    let mut all = vec![Disk::new(Box::new(file))];
    if let Some(uring) = uring() {
        let disk = uring.disk(copy(), false, stats()).expect("a disk");
        all.push(Disk::new(Box::new(disk)));
    }
    all
}

#[test]
fn memory() {
    suite::run(&mut || Box::new(Memory::new(SectorCount::new(SECTORS)).expect("room")));
}

/// What stands between a guest and its disk changes nothing that a disk promises.
#[test]
fn layers() {
    for words in [
        "throttle.bps=500M,throttle.iops=100K",
        "throttle.iops-write=2000,throttle.iops-write-burst=8",
        "delay=200us",
        "delay=50us,delay.jitter=1ms",
        "fault.count=0",
        "trace=on",
        "trace=on,delay.jitter=100us,throttle.iops=50K,fault.sectors=1000000",
    ] {
        let layers: Layers = words.parse().expect(words);
        suite::run(&mut || {
            let disk = Memory::new(SectorCount::new(SECTORS)).expect("room");
            layers
                .wrap(Box::new(disk), false, "disk")
                .expect("descriptors")
        });
        let Some(uring) = uring() else { continue };
        suite::run(&mut || {
            let disk = uring.disk(image(SECTORS * 512), false, Arc::default());
            let disk = Box::new(disk.expect("a disk"));
            layers.wrap(disk, false, "disk").expect("descriptors")
        });
    }
}

#[test]
fn a_disk_that_is_protected_takes_neither_writes_nor_discards() {
    let disk = Memory::new(SectorCount::new(SECTORS)).expect("room");
    let layers = Layers::default();
    let disk = layers.wrap(Box::new(disk), true, "disk").expect("no timer");
    let geometry = disk.geometry();
    assert_eq!((geometry.read_only, geometry.discard), (true, None));
    // Also of who does not ask.
    let mut disk = disk;
    for op in [
        IoOp::Write(Sector::new(0)),
        IoOp::Discard {
            sector: Sector::new(0),
            count: SectorCount::new(1),
            secure: false,
        },
    ] {
        disk.submit(io(1, op, 1, 0)).expect("room");
        let done = disk.reap().expect("at once");
        assert_eq!(done.result, Err(IoError::ReadOnly));
    }
    disk.submit(io(1, IoOp::Read(Sector::new(0)), 1, 1))
        .expect("room");
    assert_eq!(disk.reap().expect("at once").result, Ok(()));
}

#[test]
fn a_throttled_disk_is_as_slow_as_it_is_told_to_be() {
    let layers: Layers = "throttle.iops=1000,throttle.iops-burst=1"
        .parse()
        .expect("words");
    let disk = Null::new(SectorCount::new(SECTORS));
    let disk = layers.wrap(Box::new(disk), false, "disk");
    let mut disk = Disk::new(disk.expect("descriptors"));
    let start = std::time::Instant::now();
    for tag in 0..64 {
        disk.submit(io(tag, IoOp::Read(Sector::new(0)), 1, 0))
            .expect("room");
    }
    for _ in 0..64 {
        wait(&mut disk);
    }
    // Two may come at once.
    assert!(start.elapsed() >= std::time::Duration::from_millis(62));
}

/// Sleeps on the disk's descriptor until something is finished.
fn wait(disk: &mut Disk) {
    disk.kick();
    while disk.reap().is_none() {
        // SAFETY: the disk owns the descriptor and is borrowed.
        sleep(unsafe { BorrowedFd::borrow_raw(disk.wake().expect("a timer")) });
    }
}

/// Sleeps until this can be read.
fn sleep(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let ready = poll(&mut fds, Some(&patience)).expect("poll");
    assert_eq!(ready, 1, "woken when a request may have ended");
}

#[test]
fn what_one_disk_finds_for_another_on_its_ring_is_told_once() {
    let Some(uring) = uring() else { return };
    let disk = || uring.disk(image(SECTORS * 512), false, Arc::default());
    let (mut one, mut other) = (disk().expect("a disk"), disk().expect("a disk"));
    let submit = |disk: &mut UringFile| {
        let read = io(1, IoOp::Read(Sector::new(0)), 8, 0);
        disk.submit(read).expect("room");
        disk.kick();
        sleep(uring.as_fd());
    };
    submit(&mut one);
    assert!(other.reap().is_none());
    assert!(uring.moved(), "and nothing can be read from the ring");
    assert!(!uring.moved(), "it was told");
    assert!(one.reap().is_some());
    // Who looks afterwards by itself needs no telling.
    submit(&mut one);
    assert!(other.reap().is_none());
    assert!(one.reap().is_some() && one.reap().is_none());
    assert!(!uring.moved());
    // Nor does who finds its own.
    submit(&mut one);
    assert!(one.reap().is_some());
    assert!(!uring.moved());
}

#[test]
fn who_found_no_room_on_a_ring_is_told_when_there_is_some() {
    let Ok(ring) = IoUring::new(1) else {
        println!("SKIP io_uring");
        return;
    };
    let uring = Uring::new(ring);
    let disk = || uring.disk(image(SECTORS * 512), false, Arc::default());
    let (mut one, mut other) = (disk().expect("a disk"), disk().expect("a disk"));
    let read = || io(1, IoOp::Read(Sector::new(0)), 8, 0);
    let mut given = 0;
    while one.submit(read()).is_ok() {
        given += 1;
    }
    uring.moved();
    assert!(other.submit(read()).is_err());
    one.kick();
    while given > 0 {
        match one.reap() {
            Some(_) => given -= 1,
            None => sleep(uring.as_fd()),
        }
    }
    assert!(uring.moved());
    assert!(other.submit(read()).is_ok());
}

#[test]
fn a_file_that_grows_is_a_larger_disk_when_it_is_looked_at_again() {
    let fd = image(100 * 512);
    for mut disk in both(&fd) {
        ftruncate(&fd, 100 * 512).expect("truncate");
        disk.refresh();
        let read = |sector| io(1, IoOp::Read(Sector::new(sector)), 8, 0);
        assert!(disk.submit(read(100)).is_err());
        ftruncate(&fd, 108 * 512 + 100).expect("truncate");
        assert_eq!(disk.refresh().sectors.get(), 108);
        assert_eq!(one(&mut disk, read(100)).result, Ok(()));
        ftruncate(&fd, 50 * 512).expect("truncate");
        assert_eq!(disk.refresh().sectors.get(), 50);
        assert!(disk.submit(read(100)).is_err());
    }
}

#[test]
fn null() {
    suite::run(&mut || Box::new(Null::new(SectorCount::new(SECTORS))));
}

#[test]
fn file() {
    suite::run(&mut || {
        Box::new(File::new(image(SECTORS * 512), false, Arc::default()).expect("a disk"))
    });
}

#[test]
fn file_by_io_uring() {
    let Some(uring) = uring() else { return };
    suite::run(&mut || {
        let disk = uring.disk(image(SECTORS * 512), false, Arc::default());
        Box::new(disk.expect("a disk"))
    });
}

#[test]
fn what_a_file_discards_takes_no_room_any_more() {
    let fd = image(64 * 4096);
    for mut disk in both(&fd) {
        let all = io(1, IoOp::Write(Sector::new(0)), 64 * 8, 3);
        assert_eq!(one(&mut disk, all).result, Ok(()));
        let blocks = || rustix::fs::fstat(&fd).expect("fstat").st_blocks;
        let before = blocks();
        let op = IoOp::Discard {
            sector: Sector::new(8),
            count: SectorCount::new(32 * 8),
            secure: false,
        };
        assert_eq!(one(&mut disk, io(2, op, 0, 0)).result, Ok(()));
        assert_eq!(before - blocks(), 32 * 8, "in units of 512 bytes");
        let unit = disk.geometry().discard.expect("offered").granularity;
        assert_eq!(unit, 4096);
    }
}

#[test]
fn one_io_uring_serves_many_disks_with_one_call_per_batch() {
    let Some(uring) = uring() else { return };
    let stats: Vec<Arc<Stats>> = (0..3).map(|_| Arc::default()).collect();
    let mut disks: Vec<Disk> = stats
        .iter()
        .map(|stats| {
            let disk = uring.disk(image(64 * 512), false, stats.clone());
            Disk::with_stats(Box::new(disk.expect("a disk")), stats.clone())
        })
        .collect();
    for (seed, disk) in (0..).zip(&mut disks) {
        for sector in 0..8 {
            let op = IoOp::Write(Sector::new(sector));
            disk.submit(io(sector as u16, op, 1, seed * 8 + sector))
                .expect("room");
        }
    }
    // The first kick tells the kernel of all three disks' requests.
    for disk in &mut disks {
        disk.kick();
    }
    let calls: u64 = stats
        .iter()
        .map(|stats| stats.snapshot().sys_io_uring_enter)
        .sum();
    assert_eq!(calls, 1);
    for (seed, disk) in (0..).zip(&mut disks) {
        for _ in 0..8 {
            assert_eq!(suite::next(disk).result, Ok(()));
        }
        for sector in 0..8 {
            let done = one(disk, io(9, IoOp::Read(Sector::new(sector)), 1, 0));
            let mut expected = [0; 512];
            suite::pattern(seed * 8 + sector, &mut expected);
            assert!(
                done.io.buffer.bytes() == expected,
                "disk {seed}, sector {sector}"
            );
        }
    }
}

#[test]
fn a_file_that_lost_its_end_fails_what_is_gone_and_serves_the_rest() {
    let fd = image(SECTORS * 512);
    for mut disk in both(&fd) {
        ftruncate(&fd, 100 * 512 + 300).expect("truncate");
        let read = |sector| io(1, IoOp::Read(Sector::new(sector)), 8, 0);
        assert_eq!(one(&mut disk, read(92)).result, Ok(()));
        let cut = Err(IoError::EndOfFile {
            done: 4 * 512 + 300,
            len: 4096,
        });
        assert_eq!(one(&mut disk, read(96)).result, cut);
        let gone = Err(IoError::EndOfFile { done: 0, len: 4096 });
        assert_eq!(one(&mut disk, read(500)).result, gone);
        assert_eq!(one(&mut disk, read(0)).result, Ok(()));
    }
}

#[test]
fn what_is_no_disk_is_refused_with_the_reason() {
    let refused = |fd, read_only| match File::new(fd, read_only, Arc::default()) {
        Err(error) => error,
        Ok(disk) => panic!("{:?}", disk.geometry()),
    };
    assert_eq!(
        refused(image(0), false),
        OpenError::Size {
            bytes: 0,
            unit: 512
        }
    );
    assert_eq!(
        refused(image(1000), false),
        OpenError::Size {
            bytes: 1000,
            unit: 512
        }
    );
    let path = |path: &str, flags| open(path, flags, Mode::empty()).expect("opens");
    let directory = path("/", OFlags::RDONLY | OFlags::DIRECTORY);
    assert_eq!(
        refused(directory, true),
        OpenError::Kind { kind: "directory" }
    );
    let device = path("/dev/null", OFlags::RDWR);
    assert_eq!(
        refused(device, false),
        OpenError::Kind {
            kind: "character device"
        }
    );
    let executable = std::env::current_exe().expect("a program");
    let readable = open(&executable, OFlags::RDONLY, Mode::empty()).expect("opens");
    assert_eq!(refused(readable, false), OpenError::Access);
}
