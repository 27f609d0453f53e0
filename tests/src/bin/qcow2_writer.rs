//! Writes to a qcow2 image at random places, with many requests in flight, until it is killed: `qcow2_writer IMAGE SEED`. Says `ready`
//! when the image is open.

use std::fs::File;
use std::io::Write as _;

use ringfence_blkback::sink::{Disk, DiskIo as _, IoOp, Qcow2};
use ringfence_core::ids::Sector;
use ringfence_tests::crash_rig::Rng;
use ringfence_tests::disk_conformance::{io, next};

/// Requests in flight, as many as there are threads for them and some that wait.
const DEPTH: u16 = 24;
/// Where and how long a request may be.
const PAGE_SECTORS: usize = 8;
const PAGES: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, seed] = &arguments[..] else {
        panic!("an image and a seed");
    };
    let mut random = Rng::new(seed.parse().expect("a number"));
    let image = File::options().read(true).write(true).open(path);
    let image = image.expect("opens").into();
    let disk = Qcow2::new(image, Vec::new(), false).expect("a disk");
    let sectors = usize::try_from(disk.geometry().sectors.get()).expect("a small one");
    let pages = sectors / PAGE_SECTORS;
    let mut disk = Disk::new(Box::new(disk));
    println!("ready");
    std::io::stdout().flush().expect("is read");
    let mut free: Vec<u16> = (0..DEPTH).collect();
    loop {
        while let Some(tag) = free.pop() {
            let page = random.below(pages);
            let count = (1 + random.below(PAGES)).min(pages - page);
            let op = IoOp::Write(Sector::new((page * PAGE_SECTORS) as u64));
            let request = io(tag, op, count * PAGE_SECTORS, page as u64);
            disk.submit(request).expect("room");
        }
        let done = next(&mut disk);
        assert_eq!(done.result, Ok(()));
        free.push(done.io.tag.get());
    }
}
