//! Our frontend against our backend on a disk with sectors of 4096 bytes, counted in each way that is in use, and in two ways
//! that differ.

use ringfence_blkback::sink::IoOp;
use ringfence_blkfront::{Convention, Event, Frontend, Info, IoError, Op, Reason};
use ringfence_core::PAGE;
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_sim::Sim;
use ringfence_tests::blkback_rig::{Guest, Rig, SECTORS};

/// Sectors of 512 bytes in one of the disk's.
const UNIT: u64 = 8;

type Front = Frontend<Sim, 64, 40>;

struct Pair {
    rig: Rig,
    guest: Guest,
    front: Front,
}

impl Pair {
    /// Not connected yet.
    fn new(front: Convention, back: Convention, logical: u32) -> Self {
        let mut rig = Rig::new();
        let guest = rig.attach(7, 51712, "w");
        let disk = rig.disks.of(&guest.back_dir);
        disk.borrow_mut().logical = logical;
        disk.borrow_mut().counted = back;
        let sim = guest.sim.clone();
        let mut own = Front::with_limits(sim, &guest.dir).expect("a short path");
        own.set_sectors(front);
        Self {
            rig,
            guest,
            front: own,
        }
    }

    fn connected(front: Convention, back: Convention, logical: u32) -> (Self, Info) {
        let mut pair = Self::new(front, back, logical);
        let events = pair.settle();
        let [Event::Connected(info)] = events[..] else {
            panic!("{front} at {back}: {events:?}");
        };
        (pair, info)
    }

    fn settle(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..20 {
            self.rig.settle();
            let (front, store) = (&mut self.front, &mut self.guest.store);
            events.extend(std::iter::from_fn(|| front.step(store).expect("a store")));
        }
        events
    }

    fn node(&mut self, name: &'static str) -> String {
        let dir = self.guest.back_dir.clone();
        self.rig.node(&dir, name).unwrap_or_default()
    }

    /// How the one request that is on the ring ends, and what its buffer holds then.
    fn end(&mut self) -> (Result<(), IoError>, Vec<u8>) {
        self.front.kick().expect("a bell");
        self.rig.settle();
        let done = self.front.reap().expect("honest").expect("answered");
        let mut data = vec![0; done.buffer.as_ref().map_or(0, |buffer| buffer.len())];
        if let Some(buffer) = &done.buffer {
            buffer.read_at(0, &mut data).expect("its length");
        }
        (done.result, data)
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> Result<(), IoError> {
        let mut buffer = self.front.buffer(data.len() / PAGE).expect("pages");
        buffer.write_at(0, data).expect("fits");
        let submitted = self.front.submit(Op::Write, Sector::new(sector), buffer);
        submitted.expect("room");
        self.end().0
    }

    fn read(&mut self, sector: u64, pages: usize) -> Vec<u8> {
        let buffer = self.front.buffer(pages).expect("pages");
        let submitted = self.front.submit(Op::Read, Sector::new(sector), buffer);
        submitted.expect("room");
        let (result, data) = self.end();
        assert_eq!(result, Ok(()));
        data
    }

    fn bytes(&self, sector: u64, len: usize) -> Vec<u8> {
        let disk = self.rig.disks.of(&self.guest.back_dir);
        let disk = disk.borrow();
        disk.bytes[sector as usize * 512..][..len].to_vec()
    }
}

fn pattern(pages: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at / 512) as u8 ^ (at as u8) ^ seed;
    (0..pages * PAGE).map(byte).collect()
}

#[test]
fn data_lands_where_it_belongs_in_every_convention() {
    for convention in Convention::ALL {
        let (mut pair, info) = Pair::connected(convention, convention, 4096);
        let told = match convention {
            Convention::Linux => SECTORS,
            _ => SECTORS / UNIT,
        };
        assert_eq!(pair.node("sectors"), told.to_string(), "{convention}");
        assert_eq!(pair.node("sector-size"), "4096");
        assert_eq!((info.sectors.get(), info.sector_size), (SECTORS, 4096));
        // At the start, in the middle, at the very end; one with indirect segments.
        for (sector, pages, seed) in [
            (0, 1, 1),
            (3 * UNIT, 11, 2),
            (320, 40, 3),
            (SECTORS - UNIT, 1, 4),
        ] {
            assert_eq!(pair.write(sector, &pattern(pages, seed)), Ok(()));
            assert_eq!(
                pair.bytes(sector, pages * PAGE),
                pattern(pages, seed),
                "{convention}"
            );
            assert_eq!(
                pair.read(sector, pages),
                pattern(pages, seed),
                "{convention}"
            );
        }
        let past = SectorCount::new(2 * UNIT);
        let past = pair.front.discard(Sector::new(SECTORS - UNIT), past, false);
        assert!(matches!(past, Err(Reason::OutOfRange { .. })), "{past:?}");
        let part = SectorCount::new(UNIT);
        let part = pair.front.discard(Sector::new(UNIT / 2), part, false);
        assert!(matches!(part, Err(Reason::Misaligned { .. })), "{part:?}");
        let disk = pair.rig.disks.of(&pair.guest.back_dir);
        assert_eq!(disk.borrow().seen.len(), 8, "{convention}: nothing else");
    }
}

#[test]
fn a_discard_takes_its_sectors_and_no_others() {
    for convention in Convention::ALL {
        let (mut pair, _) = Pair::connected(convention, convention, 4096);
        let disk = pair.rig.disks.of(&pair.guest.back_dir);
        disk.borrow_mut().bytes.fill(7);
        let (sector, count) = (Sector::new(2 * UNIT), SectorCount::new(3 * UNIT));
        for secure in [false, true] {
            pair.front.discard(sector, count, secure).expect("room");
            assert_eq!(pair.end().0, Ok(()));
            let seen = disk.borrow().seen.last().map(|seen| seen.0);
            let wanted = IoOp::Discard {
                sector,
                count,
                secure,
            };
            assert_eq!(seen, Some(wanted), "{convention}");
        }
        let disk = disk.borrow();
        let (at, end) = (2 * PAGE, 5 * PAGE);
        let zero = |(place, byte): (usize, &u8)| (*byte == 0) == (at..end).contains(&place);
        assert!(disk.bytes.iter().enumerate().all(zero), "{convention}");
    }
}

#[test]
fn sectors_of_512_bytes_are_counted_alike() {
    for front in Convention::ALL {
        for back in Convention::ALL {
            let (mut pair, info) = Pair::connected(front, back, 512);
            assert_eq!(pair.node("sectors"), SECTORS.to_string());
            assert_eq!(info.sectors.get(), SECTORS);
            assert_eq!(pair.write(991, &pattern(1, 9)), Ok(()));
            assert_eq!(pair.bytes(991, PAGE), pattern(1, 9), "{front} at {back}");
        }
    }
}

#[test]
fn a_disk_that_grows_is_told_in_the_units_of_its_frontend() {
    for convention in Convention::ALL {
        let (mut pair, _) = Pair::connected(convention, convention, 4096);
        let told = pair.node("sectors").parse::<u64>().expect("a number");
        let disk = pair.rig.disks.of(&pair.guest.back_dir);
        disk.borrow_mut().sectors = 2 * SECTORS;
        disk.borrow_mut()
            .bytes
            .resize(2 * SECTORS as usize * 512, 0);
        pair.rig.service.refresh().expect("the store lives");
        assert_eq!(pair.node("sectors"), (2 * told).to_string());
        let events = pair.settle();
        let [Event::Resized(info)] = events[..] else {
            panic!("{convention}: {events:?}");
        };
        assert_eq!(info.sectors.get(), 2 * SECTORS);
        let last = 2 * SECTORS - UNIT;
        assert_eq!(pair.write(last, &pattern(1, 5)), Ok(()));
        assert_eq!(pair.bytes(last, PAGE), pattern(1, 5), "{convention}");
    }
}

#[test]
fn what_does_not_fill_a_sector_is_told_to_nobody_and_is_no_news() {
    for convention in [Convention::FreeBsd, Convention::Qemu, Convention::MiniOs] {
        let mut pair = Pair::new(convention, convention, 4096);
        let disk = pair.rig.disks.of(&pair.guest.back_dir);
        disk.borrow_mut().sectors = SECTORS + 5;
        let events = pair.settle();
        let [Event::Connected(info)] = events[..] else {
            panic!("{convention}: {events:?}");
        };
        assert_eq!(info.sectors.get(), SECTORS);
        // Whoever writes the size again writes over this.
        let dir = pair.guest.back_dir.clone();
        pair.rig.set(&dir, "sectors", "77");
        pair.rig.service.refresh().expect("the store lives");
        assert_eq!(pair.node("sectors"), "77", "{convention}");
    }
}

#[test]
fn only_the_convention_of_qemu_says_that_all_is_counted_in_sectors() {
    for convention in Convention::ALL {
        let (mut pair, _) = Pair::connected(convention, convention, 4096);
        let dir = pair.guest.dir.clone();
        let said = pair.rig.node(&dir, "feature-large-sector-size");
        let wanted = (convention == Convention::Qemu).then(|| "1".to_owned());
        assert_eq!(said, wanted, "{convention}");
    }
}

/// Where the units of two conventions differ.
fn differ(one: Convention, other: Convention) -> (bool, bool) {
    let of_position = |of| matches!(of, Convention::FreeBsd | Convention::Qemu);
    let of_segments = |of| of == Convention::Qemu;
    (
        of_position(one) != of_position(other),
        of_segments(one) != of_segments(other),
    )
}

#[test]
fn two_conventions_end_in_errors_and_never_beyond_a_request_or_the_disk() {
    for front in Convention::ALL {
        for back in Convention::ALL.into_iter().filter(|back| *back != front) {
            let (mut pair, info) = Pair::connected(front, back, 4096);
            let disk = pair.rig.disks.of(&pair.guest.back_dir);
            let (positions, segments) = differ(front, back);
            let mut failed = 0;
            let places = info.sectors.get() / UNIT;
            for place in 0..places {
                let result = pair.write(place * UNIT, &pattern(1, 1));
                assert!(
                    matches!(result, Ok(()) | Err(IoError::Failed)),
                    "{result:?}"
                );
                failed += u64::from(result.is_err());
                let (first, count) = (Sector::new(place * UNIT), SectorCount::new(UNIT));
                pair.front.discard(first, count, false).expect("room");
                let _ = pair.end();
            }
            for (op, len) in &disk.borrow().seen {
                let (sector, sectors) = match op {
                    IoOp::Write(sector) => (sector.get(), *len as u64 / 512),
                    IoOp::Discard { sector, count, .. } => (sector.get(), count.get()),
                    other => panic!("{front} at {back}: {other:?}"),
                };
                assert!(sector + sectors <= SECTORS, "{front} at {back}: {op:?}");
                assert!(*len <= PAGE, "{front} at {back}: {op:?}");
            }
            if segments {
                assert_eq!(failed, places, "{front} at {back}: none fits");
            } else if positions && info.sectors.get() >= SECTORS {
                assert!(
                    failed > places / 2,
                    "{front} at {back}: {failed} of {places}"
                );
            } else if info.sectors.get() > SECTORS {
                assert_eq!(
                    failed,
                    places - SECTORS / UNIT,
                    "{front} at {back}: those beyond"
                );
            }
            assert_eq!(pair.rig.state(&pair.guest), "4", "and goes on");
        }
    }
}
