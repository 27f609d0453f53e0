//! Block devices as disks: loop devices, which only root can make.

use std::fs::File as Plain;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use io_uring::IoUring;
use ringfence_blkback::error::Refusal;
use ringfence_blkback::sink::{Disk, DiskIo, File, IoOp, Rejected, Uring};
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_tests::disk_conformance::{self as suite, SECTORS, io, one};
use rustix::fs::{Mode, OFlags, open};

/// A loop device and the file behind it; both are gone with the value.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    /// `None`, with the reason printed, where none can be made.
    fn new(bytes: u64, sector: u32) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("SKIP loop device: not root");
            return None;
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringfence-phy-{}-{number}", std::process::id());
        let file = std::env::temp_dir().join(name);
        Plain::create(&file)
            .and_then(|made| made.set_len(bytes))
            .expect("a file");
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector.to_string()])
            .arg(&file)
            .output();
        let why = match made {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8_lossy(&output.stdout).trim().into();
                return Some(Self { device, file });
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        println!("SKIP loop device: {}", why.trim());
        let _ = std::fs::remove_file(&file);
        None
    }

    fn open(&self, flags: OFlags) -> OwnedFd {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | flags;
        open(&self.device, flags, Mode::empty()).expect("opens")
    }

    /// Room that the file behind it takes, in units of 512 bytes.
    fn room(&self) -> i64 {
        rustix::fs::stat(&self.file).expect("it is there").st_blocks
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        let _ = std::fs::remove_file(&self.file);
    }
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

/// The device by plain system calls, and by io_uring where there is one.
fn both(device: &Loop, flags: OFlags) -> Vec<Box<dyn DiskIo>> {
    let file = File::new(device.open(flags), false, Arc::default());
    let mut all: Vec<Box<dyn DiskIo>> = vec![Box::new(file.expect("a disk"))];
    if let Some(uring) = uring() {
        let disk = uring.disk(device.open(flags), false, Arc::default());
        all.push(Box::new(disk.expect("a disk")));
    }
    all
}

#[test]
fn a_block_device_passes_the_suite_cached_and_direct() {
    let bytes = SECTORS * 512;
    let mut devices = Vec::new();
    for flags in [OFlags::empty(), OFlags::DIRECT] {
        for which in 0..2 {
            let Some(first) = Loop::new(bytes, 512) else {
                return;
            };
            if both(&first, flags).len() <= which {
                continue;
            }
            suite::run(&mut || {
                let device = Loop::new(bytes, 512).expect("there was one before");
                let disk = both(&device, flags).swap_remove(which);
                devices.push(device);
                disk
            });
        }
    }
}

#[test]
fn what_a_device_discards_its_storage_gets_back() {
    let Some(device) = Loop::new(1 << 20, 512) else {
        return;
    };
    for disk in both(&device, OFlags::DIRECT) {
        let mut disk = Disk::new(disk);
        let all = io(1, IoOp::Write(Sector::new(0)), 2048, 3);
        assert_eq!(one(&mut disk, all).result, Ok(()));
        assert_eq!(one(&mut disk, io(2, IoOp::Flush, 0, 0)).result, Ok(()));
        let before = device.room();
        let op = IoOp::Discard {
            sector: Sector::new(1024),
            count: SectorCount::new(1024),
            secure: false,
        };
        assert_eq!(one(&mut disk, io(3, op, 0, 0)).result, Ok(()));
        assert_eq!(before - device.room(), 1024);
        let discard = disk.geometry().discard.expect("offered");
        assert!(!discard.secure, "no loop device can do that");
    }
}

#[test]
fn sectors_of_4096_bytes_are_whole_ones() {
    let Some(device) = Loop::new(1 << 20, 4096) else {
        return;
    };
    for disk in both(&device, OFlags::DIRECT) {
        let mut disk = Disk::new(disk);
        let geometry = *disk.geometry();
        assert_eq!((geometry.logical, geometry.sectors.get()), (4096, 2048));
        assert!(geometry.physical >= 4096);
        let whole = io(1, IoOp::Write(Sector::new(8)), 8, 1);
        assert_eq!(one(&mut disk, whole).result, Ok(()));
        for (sector, sectors) in [(4, 8), (8, 1)] {
            let part = io(1, IoOp::Read(Sector::new(sector)), sectors, 1);
            match disk.submit(part) {
                Err(Rejected::Refused { why, .. }) => {
                    assert!(matches!(why, Refusal::Alignment { .. }), "{why}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_device_that_grows_is_a_larger_disk_when_it_is_looked_at_again() {
    let Some(device) = Loop::new(1 << 20, 512) else {
        return;
    };
    let resize = |path: &Path, bytes| {
        let file = Plain::options().write(true).open(&device.file);
        file.and_then(|file| file.set_len(bytes)).expect("a size");
        let told = Command::new("losetup").arg("-c").arg(path).status();
        assert!(told.expect("it runs").success());
    };
    let mut disks: Vec<Disk> = both(&device, OFlags::empty())
        .into_iter()
        .map(Disk::new)
        .collect();
    resize(&device.device, 2 << 20);
    for disk in &mut disks {
        assert_eq!(disk.geometry().sectors.get(), 2048);
        assert_eq!(disk.refresh().sectors.get(), 4096);
        let end = io(1, IoOp::Write(Sector::new(4088)), 8, 1);
        assert_eq!(one(disk, end).result, Ok(()));
    }
}
