//! The frontend behind the traits of other crates: bytes, and blocks of 512 of them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use embedded_io::{Error as _, ErrorKind, Read, Seek, SeekFrom, Write};
use embedded_sdmmc_types::{Block, BlockDevice, BlockIdx};
use ringfence_blkback::sink::IoOp;
use ringfence_blkfront::{Blocking, BlockingError, Bytes, Card, Event, Frontend, Reason};
use ringfence_core::Sector;
use ringfence_core::store::{Store, Tx};
use ringfence_sim::Sim;
use ringfence_tests::blkback_rig::{Guest, Rig, SECTORS};

const DEPTH: usize = 4;
const PAGES: usize = 3;
type Front = Frontend<Sim, DEPTH, PAGES>;
type World = Rc<RefCell<(Rig, Guest)>>;

fn settle(world: &World, front: &mut Front) {
    let mut world = world.borrow_mut();
    let (rig, guest) = &mut *world;
    for _ in 0..8 {
        rig.settle();
        while let Some(event) = front.step(&mut guest.store).expect("a store") {
            assert!(!matches!(event, Event::Failed(_)), "{event:?}");
        }
    }
}

fn connected() -> (World, Front) {
    let mut rig = Rig::new();
    let guest = rig.attach(7, 51712, "w");
    let mut front = Front::with_limits(guest.sim.clone(), &guest.dir).expect("a short path");
    let world = Rc::new(RefCell::new((rig, guest)));
    settle(&world, &mut front);
    (world, front)
}

/// Time passes only when somebody waits.
fn blocking(
    world: &World,
    front: Front,
) -> Blocking<Sim, impl FnMut(&mut Front) -> Result<(), Infallible> + use<>, DEPTH, PAGES> {
    let world = Rc::clone(world);
    Blocking::new(front, move |front: &mut Front| {
        settle(&world, front);
        Ok(())
    })
}

/// The requests that reached the disk since the last question: how many, and bytes.
fn seen(world: &World) -> Vec<(IoOp, usize)> {
    let world = world.borrow();
    let disk = world.0.disks.of(&world.1.back_dir);
    std::mem::take(&mut disk.borrow_mut().seen)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 512) as u8 ^ (at as u8) ^ seed)
        .collect()
}

#[test]
fn what_is_written_is_read_in_requests_as_large_as_buffers() {
    let (world, front) = connected();
    let mut disk = blocking(&world, front);
    let data = pattern(7 * 4096 + 512, 3);
    disk.write(Sector::new(5), &data).expect("written");
    assert_eq!(seen(&world).len(), 3, "3 pages, 3 pages, and the rest");
    let mut back = vec![0; data.len()];
    disk.read(Sector::new(5), &mut back).expect("read");
    assert!(back == data);
    disk.flush().expect("flushed");
    assert_eq!(seen(&world).last(), Some(&(IoOp::Flush, 0)));
    let beyond = disk.read(Sector::new(SECTORS), &mut [0; 512]);
    let reason = beyond.expect_err("beyond the end");
    assert!(
        matches!(reason, BlockingError::Rejected(Reason::OutOfRange { .. })),
        "{reason}"
    );
    // The buffer of what was refused is not lost for the next.
    disk.read(Sector::new(5), &mut back).expect("read");
}

#[test]
fn after_a_restore_pages_are_granted_anew() {
    let (world, front) = connected();
    let mut disk = blocking(&world, front);
    let data = pattern(4096, 9);
    disk.write(Sector::new(8), &data).expect("written");
    {
        // The toolstack of where the guest comes to makes its nodes anew.
        let mut world = world.borrow_mut();
        let (rig, guest) = &mut *world;
        for node in ["ring-page-order", "ring-ref", "event-channel"] {
            let path = format!("{}/{node}", guest.dir);
            // Not all of them are there.
            let _ = rig.toolstack.rm(Tx::NONE, &path);
        }
        rig.set(&guest.dir.clone(), "state", "1");
    }
    disk.front().resume().expect("a short path");
    let mut back = vec![0; 4096];
    let error = disk.read(Sector::new(8), &mut back).expect_err("not yet");
    assert_eq!(error, BlockingError::Rejected(Reason::NotConnected));
    settle(&world, disk.front());
    // The buffer that was kept is of the time before.
    disk.read(Sector::new(8), &mut back).expect("read");
    assert!(back == data);
    disk.write(Sector::new(16), &data).expect("written");
    assert_eq!(seen(&world).len(), 3);
}

#[test]
fn bytes_anywhere() {
    let (world, front) = connected();
    let mut bytes = Bytes::new(blocking(&world, front));
    let mut model = vec![0; SECTORS as usize * 512];
    for (at, len, seed) in [
        (0, 512, 1),
        (100, 50, 2),
        (500, 24, 3),
        (1000, 9000, 4),
        (4096, 4096, 5),
        (SECTORS * 512 - 3, 3, 6),
    ] {
        let data = pattern(len, seed);
        bytes.seek(SeekFrom::Start(at)).expect("a place");
        bytes.write_all(&data).expect("written");
        model[at as usize..][..len].copy_from_slice(&data);
    }
    bytes.flush().expect("flushed");
    bytes.rewind().expect("a place");
    let mut back = vec![0; model.len()];
    bytes.read_exact(&mut back).expect("read");
    assert!(back == model);
    for (at, len) in [(1, 1), (511, 2), (513, 1023), (999, 5000)] {
        bytes.seek(SeekFrom::Start(at)).expect("a place");
        let mut part = vec![0; len];
        bytes.read_exact(&mut part).expect("read");
        assert!(part == model[at as usize..][..len], "{len} at {at}");
    }
    // The end is an end, and nothing is before the beginning.
    assert_eq!(bytes.seek(SeekFrom::End(0)), Ok(SECTORS * 512));
    assert_eq!(bytes.read(&mut [0; 10]), Ok(0));
    assert_eq!(bytes.write(&[1; 10]), Ok(0));
    assert_eq!(bytes.seek(SeekFrom::Current(i64::MIN)), Ok(0));
    let error = bytes.disk().read(Sector::new(SECTORS), &mut [0; 512]);
    assert_eq!(error.expect_err("beyond").kind(), ErrorKind::InvalidInput);
}

#[test]
fn blocks_go_together() {
    let (world, front) = connected();
    let card = Card::new(blocking(&world, front));
    assert_eq!(u64::from(card.num_blocks().expect("connected").0), SECTORS);
    let mut blocks: Vec<Block> = (0..50).map(|_| Block::new()).collect();
    for (number, block) in (0u8..).zip(&mut blocks) {
        block.contents.copy_from_slice(&pattern(512, number));
    }
    card.write(&blocks, BlockIdx(77)).expect("written");
    assert_eq!(seen(&world).len(), 3, "24 blocks, 24 blocks, 2");
    let mut back: Vec<Block> = (0..50).map(|_| Block::new()).collect();
    card.read(&mut back, BlockIdx(77)).expect("read");
    for (one, other) in blocks.iter().zip(&back) {
        assert_eq!(one.contents, other.contents);
    }
    let last = u32::try_from(SECTORS).expect("small");
    assert!(card.read(&mut back, BlockIdx(last - 49)).is_err());
}
