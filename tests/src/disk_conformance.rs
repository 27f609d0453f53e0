//! What every disk promises ([`ringfence_blkback::DiskIo`]), as a suite to run against one.

use ringfence_blkback::buffer::Buffer;
use ringfence_blkback::error::Refusal;
use ringfence_blkback::sink::{Disk, DiskIo, Done, Io, IoOp, Rejected, Tag};
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_core::wire::blkif::Op;

/// The size of the disks under test, in sectors of 512 bytes; no power of two, no multiple of a page.
pub const SECTORS: u64 = 1001;

/// Makes a writable disk of [`SECTORS`] zeros.
pub type Make<'a> = &'a mut dyn FnMut() -> Box<dyn DiskIo>;

/// Runs all checks.
///
/// # Panics
/// When the disk breaks a promise.
pub fn run(make: Make<'_>) {
    geometry(make());
    patterns_at_odd_sectors(make());
    ranges(make());
    read_only(make());
    flush(make());
    discard(make());
    discards_that_are_not_offered(make());
    many_in_flight(make());
}

/// A request of `sectors` sectors whose bytes are made from `seed`.
pub fn io(tag: u16, op: IoOp, sectors: usize, seed: u64) -> Io {
    let mut buffer = Buffer::with_pages((sectors * 512).div_ceil(4096));
    buffer.set_len(sectors * 512);
    pattern(seed, buffer.bytes_mut());
    Io {
        tag: Tag::new(tag),
        op,
        buffer,
    }
}

/// Bytes that differ from sector to sector and from seed to seed.
pub fn pattern(seed: u64, bytes: &mut [u8]) {
    for (index, word) in bytes.chunks_mut(8).enumerate() {
        let value = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ index as u64;
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Waits for the next finished request. Nothing that was submitted may be lost, so this ends.
pub fn next(disk: &mut Disk) -> Done {
    disk.kick();
    loop {
        if let Some(done) = disk.reap() {
            return done;
        }
        assert!(
            disk.wake().is_some(),
            "a disk without descriptor finishes at once"
        );
        std::thread::yield_now();
    }
}

fn submit(disk: &mut Disk, io: Io) {
    if let Err(error) = disk.submit(io) {
        panic!("an empty disk takes a request: {error}");
    }
}

/// Runs one request to its end.
pub fn one(disk: &mut Disk, io: Io) -> Done {
    let (tag, op, len) = (io.tag, io.op, io.buffer.len());
    submit(disk, io);
    let done = next(disk);
    assert_eq!(
        (done.io.tag, done.io.op, done.io.buffer.len()),
        (tag, op, len),
        "the request comes back as it went"
    );
    done
}

fn read(disk: &mut Disk, sector: u64, sectors: usize) -> Vec<u8> {
    let done = one(disk, io(1, IoOp::Read(Sector::new(sector)), sectors, 77));
    assert_eq!(done.result, Ok(()), "read of {sectors} at {sector}");
    done.io.buffer.bytes().to_vec()
}

fn write(disk: &mut Disk, sector: u64, sectors: usize, seed: u64) {
    let done = one(disk, io(2, IoOp::Write(Sector::new(sector)), sectors, seed));
    assert_eq!(done.result, Ok(()), "write of {sectors} at {sector}");
}

fn geometry(io: Box<dyn DiskIo>) {
    let geometry = io.geometry();
    assert_eq!(geometry.sectors.get(), SECTORS);
    assert!(geometry.logical.is_power_of_two() && geometry.logical >= 512);
    assert!(geometry.physical.is_multiple_of(geometry.logical));
    assert!(!geometry.read_only);
}

fn patterns_at_odd_sectors(io: Box<dyn DiskIo>) {
    let mut disk = Disk::new(io);
    let places = [(7, 1), (13, 3), (101, 88), (301, 8), (SECTORS - 1, 1)];
    for (seed, (sector, count)) in (0..).zip(places) {
        write(&mut disk, sector, count, seed);
    }
    if !disk.touches_data() {
        return;
    }
    let mut expected = vec![0; SECTORS as usize * 512];
    for (seed, (sector, count)) in (0..).zip(places) {
        let start = sector as usize * 512;
        pattern(seed, &mut expected[start..start + count * 512]);
    }
    // In pieces that begin and end elsewhere than the writes did.
    for sector in (0..SECTORS).step_by(11) {
        let count = (SECTORS - sector).min(11) as usize;
        let start = sector as usize * 512;
        assert!(
            read(&mut disk, sector, count) == expected[start..start + count * 512],
            "{count} sectors at {sector}"
        );
    }
    let snapshot = disk.stats().snapshot();
    assert_eq!(snapshot.writes, places.len() as u64);
    assert_eq!(snapshot.write_bytes, 101 * 512);
    assert_eq!(snapshot.read_bytes, SECTORS * 512);
}

fn ranges(make: Box<dyn DiskIo>) {
    let mut disk = Disk::new(make);
    let beyond = [
        (SECTORS, 1),
        (SECTORS - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 1, 3),
        (1 << 63, 8),
        ((1 << 55) + 1, 1),
    ];
    for (sector, count) in beyond {
        for op in [IoOp::Read, IoOp::Write].map(|op| op(Sector::new(sector))) {
            match disk.submit(io(3, op, count, 5)) {
                Err(Rejected::Refused {
                    io,
                    why: Refusal::Range { .. },
                }) => assert_eq!(io.op, op),
                other => panic!("{op:?} of {count}: {other:?}"),
            }
        }
    }
    if disk.touches_data() {
        assert!(
            read(&mut disk, SECTORS - 8, 8)
                .iter()
                .all(|byte| *byte == 0),
            "nothing was written"
        );
    }
}

fn read_only(make: Box<dyn DiskIo>) {
    let mut disk = Disk::new(make).read_only();
    match disk.submit(io(4, IoOp::Write(Sector::new(0)), 1, 5)) {
        Err(Rejected::Refused {
            why: Refusal::ReadOnly(_),
            ..
        }) => {}
        other => panic!("write to a read-only disk: {other:?}"),
    }
    if disk.touches_data() {
        assert!(read(&mut disk, 0, 1).iter().all(|byte| *byte == 0));
    }
}

fn flush(make: Box<dyn DiskIo>) {
    let mut disk = Disk::new(make);
    if !disk.geometry().flush {
        return;
    }
    write(&mut disk, 5, 2, 9);
    assert_eq!(one(&mut disk, io(5, IoOp::Flush, 0, 0)).result, Ok(()));
    assert_eq!(disk.stats().snapshot().flushes, 1);
}

/// What is discarded reads as it was or as zeros, sector by sector; its neighbours stay, and it can be written again.
fn discard(make: Box<dyn DiskIo>) {
    let mut disk = Disk::new(make);
    let Some(offer) = disk.geometry().discard else {
        return;
    };
    assert!(
        offer
            .granularity
            .is_multiple_of(disk.geometry().logical.max(1))
    );
    write(&mut disk, 0, 88, 21);
    write(&mut disk, 88, 88, 22);
    let before = if disk.touches_data() {
        read(&mut disk, 0, 176)
    } else {
        Vec::new()
    };
    for secure in [false, true] {
        if secure && !offer.secure {
            continue;
        }
        let op = IoOp::Discard {
            sector: Sector::new(5),
            count: SectorCount::new(120),
            secure,
        };
        assert_eq!(one(&mut disk, io(6, op, 0, 0)).result, Ok(()));
        if disk.touches_data() {
            let after = read(&mut disk, 0, 176);
            for (sector, (old, new)) in before.chunks(512).zip(after.chunks(512)).enumerate() {
                let gone = (5..125).contains(&sector);
                let zero = new.iter().all(|byte| *byte == 0);
                let kept = new == old && !(gone && secure);
                assert!(kept || (gone && zero), "sector {sector}");
            }
        }
        write(&mut disk, 5, 60, 23);
        write(&mut disk, 5, 83, 21);
        write(&mut disk, 88, 88, 22);
        write(&mut disk, 0, 88, 21);
    }
    let done = disk.stats().snapshot();
    let times = 1 + u64::from(offer.secure);
    assert_eq!(
        (done.discards, done.discarded_bytes),
        (times, times * 120 * 512)
    );
}

fn discards_that_are_not_offered(make: Box<dyn DiskIo>) {
    let mut disk = Disk::new(make);
    let offer = disk.geometry().discard;
    let mut refused = |sector, count, secure| {
        let op = IoOp::Discard {
            sector: Sector::new(sector),
            count: SectorCount::new(count),
            secure,
        };
        match disk.submit(io(7, op, 0, 0)) {
            Err(Rejected::Refused { io, why }) => {
                assert_eq!(io.op, op);
                why
            }
            other => panic!("{op:?}: {other:?}"),
        }
    };
    if offer.is_none_or(|offer| !offer.secure) {
        assert_eq!(refused(0, 8, true), Refusal::Operation(Op::DISCARD));
    }
    if offer.is_none() {
        assert_eq!(refused(0, 8, false), Refusal::Operation(Op::DISCARD));
        return;
    }
    let all = SECTORS;
    for (sector, count) in [
        (all, 1),
        (all - 1, 2),
        (0, all + 1),
        (0, 0),
        (1, u64::MAX),
        (u64::MAX, 1),
    ] {
        let why = refused(sector, count, false);
        assert!(matches!(why, Refusal::Range { .. }), "{sector} {count}");
    }
    let mut disk = disk.read_only();
    let op = IoOp::Discard {
        sector: Sector::new(0),
        count: SectorCount::new(8),
        secure: false,
    };
    match disk.submit(io(8, op, 0, 0)) {
        Err(Rejected::Refused {
            why: Refusal::ReadOnly(Op::DISCARD),
            ..
        }) => {}
        other => panic!("discard on a read-only disk: {other:?}"),
    }
}

/// Fills the disk's queue, twice: every tag comes back once, in whatever order, and what did not fit comes back unharmed.
fn many_in_flight(make: Box<dyn DiskIo>) {
    let mut disk = Disk::new(make);
    let place = |tag: u16| (u64::from(tag) * 3) % (SECTORS - 3);
    for round in 0..2u64 {
        let mut in_flight = Vec::new();
        for tag in 0..300u16 {
            // Tags that share sectors are never in flight together.
            let op = IoOp::Write(Sector::new(place(tag)));
            match disk.submit(io(tag, op, 3, u64::from(tag) + round)) {
                Ok(()) => in_flight.push(tag),
                Err(Rejected::Busy(io)) => {
                    assert_eq!((io.tag, io.op), (Tag::new(tag), op));
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(in_flight.len() >= 32, "a ring's worth of requests");
        let mut open = in_flight.clone();
        while !open.is_empty() {
            let done = next(&mut disk);
            assert_eq!(done.result, Ok(()));
            let tag = done.io.tag.get();
            let position = open.iter().position(|other| *other == tag);
            open.swap_remove(position.expect("every tag comes back once"));
        }
        assert!(disk.reap().is_none(), "and nothing else");
        if !disk.touches_data() {
            continue;
        }
        for tag in in_flight {
            let mut expected = [0; 3 * 512];
            pattern(u64::from(tag) + round, &mut expected);
            assert!(read(&mut disk, place(tag), 3) == expected, "tag {tag}");
        }
    }
}
