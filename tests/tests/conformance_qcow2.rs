//! qcow2 images against the suite of disks, and against QEMU's tools.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ringfence_blkback::sink::{Below, Disk, DiskIo, IoOp, Qcow2, Qcow2Error};
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_tests::disk_conformance::{self as suite, SECTORS, io, one};
use tempfile::TempDir;

/// A directory of its own for images made by QEMU's tools, or `None` where there are none.
struct Images(TempDir);

impl Images {
    fn new() -> Option<Self> {
        match Command::new("qemu-img").arg("--version").output() {
            Ok(_) => {
                // Not where files may be kept in memory: those cannot be opened past the page cache.
                let dir = TempDir::with_prefix_in("qcow2-", env!("CARGO_TARGET_TMPDIR"));
                Some(Self(dir.expect("a directory")))
            }
            Err(error) => {
                println!("SKIP qemu-img: {error}");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An empty raw image to be below others.
    fn base(&self) -> PathBuf {
        let path = self.path("base.raw");
        let file = File::create(&path).expect("a file");
        file.set_len(SECTORS * 512).expect("a size");
        path
    }

    fn create(&self, name: &str, more: &[&str], size: u64) -> PathBuf {
        let path = self.path(name);
        let size = size.to_string();
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]).args(more);
        command.arg(&path);
        // With a backing file the size may be left to it.
        if size != "0" {
            command.arg(size);
        }
        succeeds(&mut command);
        path
    }
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

fn qemu_io(path: &Path, commands: &[&str]) {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "qcow2"]);
    for one in commands {
        command.args(["-c", one]);
    }
    let output = succeeds(command.arg(path));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("failed"), "{said}");
}

fn check(path: &Path) {
    succeeds(
        Command::new("qemu-img")
            .args(["check", "-q", "-f", "qcow2"])
            .arg(path),
    );
}

fn rw(path: &Path) -> OwnedFd {
    let file = File::options().read(true).write(true).open(path);
    file.expect("opens").into()
}

/// Past the page cache.
fn direct(path: &Path, write: bool) -> OwnedFd {
    let mut options = File::options();
    options
        .read(true)
        .write(write)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed());
    options.open(path).expect("opens").into()
}

fn ro(path: &Path) -> OwnedFd {
    File::open(path).expect("opens").into()
}

fn disk(path: &Path, below: Vec<Below>) -> Disk {
    let disk = Qcow2::new(rw(path), below, false).expect("a disk");
    Disk::new(Box::new(disk))
}

fn refused(path: &Path, below: Vec<Below>) -> Qcow2Error {
    match Qcow2::new(rw(path), below, false) {
        Err(error) => error,
        Ok(disk) => panic!("{:?}", disk.geometry()),
    }
}

/// Each check of the suite gets a disk of its own, made under the name given, whose image QEMU finds in order afterwards.
fn pass(images: &Images, name: &str, mut make: impl FnMut(&str) -> Qcow2) {
    let mut made = Vec::new();
    suite::run(&mut || {
        made.push(format!("{name}-{}", made.len()));
        Box::new(make(&made[made.len() - 1]))
    });
    for name in made {
        check(&images.path(&name));
    }
}

#[test]
fn every_cluster_size_and_both_versions() {
    let Some(images) = Images::new() else { return };
    for (number, options) in [
        "compat=1.1",
        "compat=1.1,cluster_size=4096",
        "compat=1.1,lazy_refcounts=on,cluster_size=2M",
        "compat=0.10",
    ]
    .into_iter()
    .enumerate()
    {
        pass(&images, &number.to_string(), |name| {
            let path = images.create(name, &["-o", options], SECTORS * 512);
            Qcow2::new(rw(&path), Vec::new(), false).expect("a disk")
        });
    }
}

/// As driver domains on Xen open them, unless told otherwise.
#[test]
fn images_past_the_page_cache() {
    let Some(images) = Images::new() else { return };
    let base = images.base();
    pass(&images, "top", |name| {
        let top = images.create(name, &["-b", "base.raw", "-F", "raw"], 0);
        let below = vec![Below::Raw(direct(&base, false))];
        Qcow2::new(direct(&top, true), below, false).expect("a disk")
    });
}

#[test]
fn an_overlay_passes_the_suite_too() {
    let Some(images) = Images::new() else { return };
    let base = images.base();
    pass(&images, "top", |name| {
        let middle = format!("middle-{name}");
        let path = images.create(&middle, &["-b", "base.raw", "-F", "raw"], 0);
        let top = images.create(name, &["-b", &middle, "-F", "qcow2"], 0);
        let below = vec![Below::Qcow2(ro(&path)), Below::Raw(ro(&base))];
        Qcow2::new(rw(&top), below, false).expect("a disk")
    });
    let bytes = std::fs::read(&base).expect("reads");
    assert!(bytes.iter().all(|byte| *byte == 0), "nothing below changed");
}

/// What is answered is in the file: nothing is flushed or closed before another process looks.
#[test]
fn an_answered_write_is_seen_by_who_opens_the_file_then() {
    let Some(images) = Images::new() else { return };
    let path = images.create("image", &[], 64 << 20);
    let mut ours = disk(&path, Vec::new());
    let mut expected = Vec::new();
    for (seed, sector) in (1..).zip([0u64, 129, 8191, 65536]) {
        let done = one(&mut ours, io(1, IoOp::Write(Sector::new(sector)), 8, seed));
        assert_eq!(done.result, Ok(()));
        expected.push((sector, done.io.buffer.bytes().to_vec()));
        let raw = images.path("raw");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-U", "-f", "qcow2", "-O", "raw"]);
        succeeds(convert.arg(&path).arg(&raw));
        let all = std::fs::read(&raw).expect("reads");
        for (sector, bytes) in &expected {
            let at = usize::try_from(sector * 512).expect("small");
            assert!(all[at..at + bytes.len()] == bytes[..], "sector {sector}");
        }
    }
}

#[test]
fn qemu_reads_what_we_write_and_we_read_what_qemu_writes() {
    let Some(images) = Images::new() else { return };
    let path = images.create("image", &[], 8 << 20);
    qemu_io(&path, &["write -P 0x5a 3584 70000", "flush"]);
    let mut ours = disk(&path, Vec::new());
    let read = |disk: &mut Disk, sector, count| {
        let done = one(disk, io(1, IoOp::Read(Sector::new(sector)), count, 0));
        assert_eq!(done.result, Ok(()));
        done.io.buffer.bytes().to_vec()
    };
    let seen = read(&mut ours, 6, 140);
    assert!(seen[..512].iter().all(|byte| *byte == 0));
    assert!(seen[512..512 + 70000].iter().all(|byte| *byte == 0x5a));
    assert!(seen[512 + 70000..].iter().all(|byte| *byte == 0));
    let mut fill = io(1, IoOp::Write(Sector::new(1001)), 77, 0);
    fill.buffer.bytes_mut().fill(0xa5);
    assert_eq!(one(&mut ours, fill).result, Ok(()));
    let op = IoOp::Discard {
        sector: Sector::new(0),
        count: SectorCount::new(128),
        secure: false,
    };
    assert_eq!(one(&mut ours, io(2, op, 0, 0)).result, Ok(()));
    assert_eq!(one(&mut ours, io(3, IoOp::Flush, 0, 0)).result, Ok(()));
    drop(ours);
    check(&path);
    let at = 1001 * 512;
    qemu_io(
        &path,
        &[
            &format!("read -P 0xa5 {at} {}", 77 * 512),
            &format!("read -P 0 {} 512", at + 77 * 512),
            "read -P 0 0 65536",
            "read -P 0x5a 65536 8048",
        ],
    );
}

#[test]
fn a_protected_image_and_those_below_are_not_written_to() {
    let Some(images) = Images::new() else { return };
    let path = images.create("image", &[], 1 << 20);
    let before = std::fs::read(&path).expect("reads");
    let disk = Qcow2::new(ro(&path), Vec::new(), true).expect("a disk");
    let geometry = disk.geometry();
    assert_eq!((geometry.read_only, geometry.discard), (true, None));
    let mut disk = Disk::new(Box::new(disk));
    assert_eq!(
        one(&mut disk, io(1, IoOp::Read(Sector::new(9)), 8, 3)).result,
        Ok(())
    );
    drop(disk);
    assert!(std::fs::read(&path).expect("reads") == before);
}

#[test]
fn nothing_is_opened_that_the_configuration_does_not_name() {
    let Some(images) = Images::new() else { return };
    let base = images.create("base", &[], 1 << 20);
    let top = images.create("top", &["-b", "base", "-F", "qcow2"], 0);
    match refused(&top, Vec::new()) {
        Qcow2Error::Unnamed { name } => assert_eq!(name, "base"),
        other => panic!("{other}"),
    }
    let unexpected = refused(&base, vec![Below::Qcow2(ro(&base))]);
    assert!(matches!(unexpected, Qcow2Error::Unexpected), "{unexpected}");
    let below_raw = vec![Below::Raw(ro(&base)), Below::Raw(ro(&base))];
    let below_raw = refused(&top, below_raw);
    assert!(matches!(below_raw, Qcow2Error::BelowRaw), "{below_raw}");
    let data = images.path("data");
    let option = format!("data_file={}", data.to_str().expect("text"));
    let external = images.create("external", &["-o", &option], 1 << 20);
    let external = refused(&external, Vec::new());
    assert!(matches!(external, Qcow2Error::External), "{external}");
    let raw = images.path("raw");
    std::fs::write(&raw, [0; 4096]).expect("writes");
    let raw = refused(&raw, Vec::new());
    assert!(matches!(raw, Qcow2Error::Open(_)), "{raw}");
}

/// Which sectors hold what: a number of the write that made them, `None` where anything may be.
struct Model(Vec<Option<u64>>);

impl Model {
    /// What a sector holds that was written so.
    fn sector(of: u64) -> [u8; 512] {
        let mut bytes = [0; 512];
        if of > 0 {
            suite::pattern(of, &mut bytes);
        }
        bytes
    }

    fn check(&self, first: usize, bytes: &[u8], when: &str) {
        for (sector, bytes) in (first..).zip(bytes.chunks(512)) {
            if let Some(of) = self.0[sector] {
                assert!(bytes == Self::sector(of), "{when}: sector {sector}");
            }
        }
    }
}

/// Many requests at once, often in one cluster, never two in one place: whatever the threads do to each other is seen.
fn all_at_once(images: &Images, name: &str, sectors: usize, mut disk: Disk, seed: u64) {
    const DEPTH: usize = 64;
    let mut random = seed;
    let mut below = move |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as usize
    };
    let mut model = Model(vec![Some(0); sectors]);
    let mut open: Vec<Option<(IoOp, usize, usize, u64)>> = vec![None; DEPTH];
    let mut left = 6000u64;
    while left > 0 || open.iter().any(Option::is_some) {
        while left > 0
            && let Some(tag) = open.iter().position(Option::is_none)
        {
            let most = if below(8) == 0 { 256 } else { 16 };
            let count = 1 + below(most);
            let first = below(sectors - count);
            let clear = |one: &Option<(IoOp, usize, usize, u64)>| {
                one.is_none_or(|(_, other, long, _)| {
                    first + count <= other || other + long <= first
                })
            };
            if !open.iter().all(clear) {
                break;
            }
            let sector = Sector::new(first as u64);
            let (op, long) = match below(16) {
                0 => (IoOp::Flush, 0),
                1 => {
                    let count = SectorCount::new(count as u64);
                    let secure = false;
                    (
                        IoOp::Discard {
                            sector,
                            count,
                            secure,
                        },
                        count.get() as usize,
                    )
                }
                2..8 => (IoOp::Read(sector), count),
                _ => (IoOp::Write(sector), count),
            };
            let moves = if matches!(op, IoOp::Discard { .. }) {
                0
            } else {
                long
            };
            let mut request = io(tag as u16, op, moves, 0);
            for sector in request.buffer.bytes_mut().chunks_mut(512) {
                sector.copy_from_slice(&Model::sector(left));
            }
            disk.submit(request).expect("room");
            open[tag] = Some((op, first, long, left));
            left -= 1;
        }
        let done = suite::next(&mut disk);
        assert_eq!(done.result, Ok(()));
        let tag = usize::from(done.io.tag.get());
        let (op, first, long, of) = open[tag].take().expect("in flight");
        let places = &mut model.0[first..first + long];
        match op {
            IoOp::Read(_) => model.check(first, done.io.buffer.bytes(), "read"),
            IoOp::Write(_) => places.fill(Some(of)),
            IoOp::Discard { .. } => places.fill(None),
            IoOp::Flush => {}
        }
    }
    drop(disk);
    let path = images.path(name);
    check(&path);
    let raw = images.path(&format!("{name}.raw"));
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "qcow2", "-O", "raw"]);
    succeeds(convert.arg(&path).arg(&raw));
    model.check(0, &std::fs::read(&raw).expect("reads"), "at the end");
}

#[test]
fn requests_that_are_done_at_once_do_not_meet() {
    const BYTES: usize = 4 << 20;
    let Some(images) = Images::new() else { return };
    let base = images.path("base.raw");
    std::fs::write(&base, vec![0; BYTES]).expect("written");
    for seed in 1..=6u64 {
        let cluster = ["cluster_size=64k", "cluster_size=4k", "cluster_size=512"];
        let options = format!("compat=1.1,{}", cluster[(seed % 3) as usize]);
        let (name, cached) = (format!("image-{seed}"), seed > 3);
        let over = ["-o", &options, "-b", "base.raw", "-F", "raw"];
        let path = images.create(&name, &over, 0);
        let open = |path: &Path, write| match (cached, write) {
            (true, true) => rw(path),
            (true, false) => ro(path),
            (false, write) => direct(path, write),
        };
        let below = vec![Below::Raw(open(&base, false))];
        let disk = Qcow2::new(open(&path, true), below, false).expect("a disk");
        let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        all_at_once(&images, &name, BYTES / 512, Disk::new(Box::new(disk)), seed);
    }
}

/// Where a big-endian field of the header, or of a table, is, and what it says.
fn field(bytes: &[u8], at: usize) -> usize {
    let field = bytes[at..].first_chunk().expect("its length");
    (u64::from_be_bytes(*field) & 0x00ff_ffff_ffff_fe00) as usize
}

/// Has every table of a small image count as free, as when a process ended before it wrote the count.
fn count_tables_as_free(path: &Path, bits: usize, cluster: usize) {
    let mut bytes = std::fs::read(path).expect("reads");
    let (l1, blocks) = (field(&bytes, 40), field(&bytes, 48));
    let (table, block) = (field(&bytes, l1), field(&bytes, blocks));
    for place in [0, l1, blocks, table, block] {
        let bit = place / cluster * bits;
        for bit in bit..bit + bits {
            // The bits of a byte from the lowest on; of more than one all are cleared.
            bytes[block + bit / 8] &= !(1 << (bit % 8));
        }
    }
    std::fs::write(path, &bytes).expect("writes");
}

#[test]
fn tables_that_count_as_free_are_counted_before_anything_is_allocated() {
    let Some(images) = Images::new() else { return };
    let mut number = 0;
    for bits in [1, 2, 8, 16, 64] {
        for cluster in [4096, 65536] {
            number += 1;
            let options = format!("refcount_bits={bits},cluster_size={cluster}");
            let path = images.create(&format!("counts-{number}"), &["-o", &options], 1 << 20);
            qemu_io(&path, &["write -P 5 0 64k"]);
            count_tables_as_free(&path, bits, cluster);
            let cached = number % 3 == 0;
            let image = if cached {
                rw(&path)
            } else {
                direct(&path, true)
            };
            let disk = Qcow2::new(image, Vec::new(), false).expect("a disk");
            let mut disk = Disk::new(Box::new(disk));
            for nth in 2..12u64 {
                let sector = Sector::new(nth * 128);
                let done = one(&mut disk, io(1, IoOp::Write(sector), 8, nth));
                assert_eq!(done.result, Ok(()));
            }
            drop(disk);
            check(&path);
            qemu_io(&path, &["read -P 5 0 64k"]);
        }
    }
}
