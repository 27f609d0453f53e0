//! Guests that attack a block backend by what they do around their requests: nodes rewritten without end, devices that come and
//! go under a reader of statistics, pages in an order of their own, and images that claim to be something else. The oracle is that
//! of `hostile_blkback`.

use std::sync::atomic::{AtomicBool, Ordering};

use ringfence_blkback::service::{Asked, DiskError, Disks as _, Files, Image, Images, Source};
use ringfence_blkback::sink::IoOp;
use ringfence_cli::image;
use ringfence_core::ids::Sector;
use ringfence_core::platform::{Access, Granted, Platform};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_core::{PAGE, SharedMem};
use ringfence_sim::SimGranted;
use ringfence_tests::blkback_rig::{BACK, Rig, request};

#[test]
fn xsa_349_a_node_that_is_rewritten_without_end_costs_one_look() {
    let mut costs = Vec::new();
    for rewrites in [1, 50_000] {
        let mut rig = Rig::new();
        let bystander = rig.connected(8, "w");
        let mut attacker = rig.connected(7, "w");
        let before = rig.world.steps(BACK);
        for _ in 0..rewrites {
            attacker.set("state", "4");
        }
        rig.settle();
        costs.push(rig.world.steps(BACK) - before);
        assert_eq!(rig.state(&attacker), "4");
        rig.recovers(attacker, bystander);
    }
    assert!(costs[0] > 0, "nobody looked");
    assert_eq!(costs[0], costs[1], "each write was looked at");
}

#[test]
fn xsa_528_statistics_are_read_while_devices_come_and_go() {
    const LIVES: u64 = 60;
    let mut rig = Rig::new();
    let mut bystander = rig.connected(8, "w");
    let statistics = rig.service.statistics().clone();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut most) = (0, 0);
            while !over.load(Ordering::Acquire) {
                let total = statistics.total().requests;
                assert!(total >= last, "{total} requests after {last}");
                last = total;
                most = most.max(statistics.snapshot().len());
            }
            most
        });
        for life in 0..LIVES {
            let mut attacker = rig.connected(7, "w");
            attacker.round_trip(&mut rig, life as u8);
            // In the middle of its work, and with its directory gone.
            let gref = attacker.page.grant_ref();
            attacker.push(&request(9, Op::READ, 0, &[(gref, 0, 7)]));
            rig.detach(&attacker);
            attacker.set("state", "6");
            rig.settle();
            for dir in [attacker.dir.clone(), attacker.back_dir.clone()] {
                ringfence_core::store::Store::rm(
                    &mut rig.toolstack,
                    ringfence_core::store::Tx::NONE,
                    &dir,
                )
                .expect("dom0 may");
            }
            rig.settle();
        }
        over.store(true, Ordering::Release);
        assert!(reader.join().expect("it only reads") >= 1);
    });
    assert_eq!(statistics.snapshot().len(), 1, "the bystander's device");
    assert!(statistics.total().requests >= 2 * LIVES);
    bystander.round_trip(&mut rig, 1);
}

/// Pages in the order of a permutation, so that neither the frames nor their numbers are in the order of the data.
fn shuffled(pages: &[SimGranted], step: usize) -> impl Iterator<Item = &SimGranted> {
    (0..pages.len()).map(move |at| &pages[(at * step + 3) % pages.len()])
}

#[test]
fn xsa_229_each_segment_is_in_its_page_and_nowhere_else() {
    let mut rig = Rig::new();
    let bystander = rig.connected(8, "w");
    let mut guest = rig.connected(7, "w");
    let pages: Vec<_> = (0..11)
        .map(|_| guest.sim.alloc(BACK, Access::ReadWrite).expect("a page"))
        .collect();
    // Segments of every length that begin and end anywhere: one that is whole between two that are not, and so on.
    let shapes = [
        (0, 7),
        (3, 3),
        (0, 7),
        (0, 7),
        (0, 2),
        (5, 7),
        (0, 7),
        (7, 7),
        (0, 0),
        (1, 6),
        (0, 7),
    ];
    for (to, from) in [(1, 1), (2, 5), (10, 3), (4, 7)] {
        let total: usize = shapes.iter().map(|(first, last)| last - first + 1).sum();
        let mut sector = 0u8;
        let mut segments = Vec::new();
        for (page, (first, last)) in shuffled(&pages, to).zip(shapes) {
            page.write(0, &[0xEE; PAGE]);
            for at in first..=last {
                sector += 1;
                page.write(at * 512, &[sector; 512]);
            }
            segments.push((page.grant_ref(), first as u8, last as u8));
        }
        assert_eq!(usize::from(sector), total);
        let write = request(1, Op::WRITE, 16, &segments);
        assert_eq!(guest.ask(&mut rig, &write), Status::OKAY);
        let disk = rig.disks.of(&guest.back_dir);
        let seen = disk.borrow().seen.last().copied();
        assert_eq!(seen, Some((IoOp::Write(Sector::new(16)), total * 512)));
        for at in 0..total {
            let bytes = &disk.borrow().bytes[(16 + at) * 512..][..512];
            assert_eq!(bytes, [at as u8 + 1; 512], "sector {at}");
        }
        // Back into other pages.
        pages.iter().for_each(|page| page.write(0, &[0xEE; PAGE]));
        let segments: Vec<_> = shuffled(&pages, from)
            .zip(shapes)
            .map(|(page, (first, last))| (page.grant_ref(), first as u8, last as u8))
            .collect();
        let read = request(2, Op::READ, 16, &segments);
        assert_eq!(guest.ask(&mut rig, &read), Status::OKAY);
        let mut sector = 0u8;
        for (page, (first, last)) in shuffled(&pages, from).zip(shapes) {
            let mut bytes = [0; PAGE];
            page.read(0, &mut bytes);
            for (at, bytes) in bytes.chunks(512).enumerate() {
                let expected = if (first..=last).contains(&at) {
                    sector += 1;
                    sector
                } else {
                    0xEE
                };
                assert_eq!(bytes, [expected; 512], "sector {at} of a page");
            }
        }
    }
    rig.recovers(guest, bystander);
}

/// The first bytes of images that name a file of the host.
fn headers() -> [Vec<u8>; 3] {
    // A qcow2 header of version 2: a backing file's name of 11 bytes at 72, clusters of 64 KiB, 1 GiB.
    let mut qcow2 = b"QFI\xfb\0\0\0\x02".to_vec();
    qcow2.extend(72_u64.to_be_bytes());
    qcow2.extend(11_u32.to_be_bytes());
    qcow2.extend(16_u32.to_be_bytes());
    qcow2.extend((1_u64 << 30).to_be_bytes());
    qcow2.resize(72, 0);
    qcow2.extend(b"/etc/passwd");
    let vmdk = b"# Disk DescriptorFile\nRW 2097152 FLAT \"/etc/passwd\" 0\n".to_vec();
    let vhd = b"conectix\0\0\0\x02\0\x01\0\0".to_vec();
    [qcow2, vmdk, vhd]
}

/// What was opened already.
struct Opened(Option<Image>);

impl Images for Opened {
    fn open(&mut self, _: &str) -> Result<Asked<Image>, DiskError> {
        let image = self.0.take().ok_or("opened twice")?;
        Ok(Asked::Open(image))
    }
}

#[test]
fn xsa_258_what_a_guest_writes_into_a_raw_image_stays_raw() {
    let path = std::env::temp_dir().join(format!("ringfence-xsa-258-{}", std::process::id()));
    for header in headers() {
        let mut content = vec![0x5A; 64 << 10];
        content[..header.len()].copy_from_slice(&header);
        std::fs::write(&path, &content).expect("written");
        let text = path.to_str().expect("text");
        let spec = image::parse(text, false, false).expect("a path");
        let open = || {
            let options = std::fs::File::options().read(true).write(true).open(&path);
            options.expect("it is there").into()
        };
        let opened = image::opened(&spec, open(), Vec::new()).expect("an image");
        assert!(matches!(opened.source, Source::Raw(_)));
        let mut disks = Files::new(Opened(Some(opened)), None);
        let disk = disks.open("", false, &Default::default());
        let Ok(Asked::Open(disk)) = disk else {
            panic!("a disk");
        };
        assert_eq!(disk.io.geometry().sectors.get() * 512, content.len() as u64);
    }
    std::fs::remove_file(&path).expect("it goes");
}
