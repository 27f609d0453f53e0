//! Writes to a qcow2 image at random places, with many requests in flight, until it is killed: `qcow2_writer IMAGE SEED`. Says `ready`
//! when the image is open.

use std::fs::File;
use std::io::Write as _;

use ringfence_blkback::sink::{Disk, DiskIo as _, IoOp, Qcow2};
use ringfence_core::ids::Sector;
use ringfence_tests::disk_conformance::{io, next};

/// Requests in flight, as many as there are threads for them and some that wait.
const DEPTH: u16 = 24;
/// Where and how long a request may be.
const PAGE_SECTORS: u64 = 8;
const PAGES: u64 = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, seed] = &arguments[..] else {
        panic!("an image and a seed");
    };
    let mut random: u64 = seed.parse().expect("a number");
    let mut below = |limit: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let image = File::options().read(true).write(true).open(path);
    let image = image.expect("opens").into();
    let disk = Qcow2::new(image, Vec::new(), false).expect("a disk");
    let pages = disk.geometry().sectors.get() / PAGE_SECTORS;
    let mut disk = Disk::new(Box::new(disk));
    println!("ready");
    std::io::stdout().flush().expect("is read");
    let mut free: Vec<u16> = (0..DEPTH).collect();
    loop {
        while let Some(tag) = free.pop() {
            let page = below(pages);
            let count = (1 + below(PAGES)).min(pages - page);
            let op = IoOp::Write(Sector::new(page * PAGE_SECTORS));
            let request = io(tag, op, (count * PAGE_SECTORS) as usize, page);
            disk.submit(request).expect("room");
        }
        let done = next(&mut disk);
        assert_eq!(done.result, Ok(()));
        free.push(done.io.tag.get());
    }
}
