//! What a guest does while its backend is dead: it closes, begins anew in every way that frontends do, is destroyed, and its number
//! is used again. After a death at every step the next process loses nothing, answers nothing twice, and nothing of the dead
//! lands on what was written since.

use std::collections::BTreeSet;

use ringfence_core::PAGE;
use ringfence_core::SharedMem as _;
use ringfence_core::ids::DomId;
use ringfence_core::platform::{Access, Granted, Platform as _};
use ringfence_core::wire::blkif::{Op, Status};
use ringfence_ring::Front;
use ringfence_sim::{Crash, SimGranted};
use ringfence_tests::blkback_rig::{BACK, Guest, Rig, read, request, write};

const FRONT: u16 = 7;
/// Requests in flight at most; each has a page of its own.
const LANES: usize = 5;
/// Places of a page each on the disk.
const BLOCKS: usize = 6;
/// What is in a page that no request has.
const NOBODYS: u64 = u64::MAX;
/// One step of so many is died at: in each test others, all of them in a few seconds.
const STRIDE: u64 = 7;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outage {
    /// It notices nothing.
    Nothing,
    /// It closes, with requests on the ring that it still wants answers to.
    Drains,
    /// It closes and is done.
    Closes,
    /// It closes and waits for the next connection.
    Reopens,
    /// It made another ring and did not wait for the backend, whose state is still 4.
    Rebinds,
    /// The same, and it is on its way to 4.
    Resumes,
    /// Another kernel of the same guest, with another ring in the same places.
    Kexecs,
    /// The toolstack takes its disk away.
    Detached,
    /// It is gone, and its nodes are.
    Destroyed,
    /// The same, and another guest of its number has its disk.
    Replaced,
    /// The same, and nobody touched the backend's nodes.
    Inherited,
}

#[derive(Clone, Copy, Debug)]
enum Open {
    Read(usize),
    Write(usize, u64),
    Flush,
}

fn stamped(stamp: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&stamp.to_le_bytes());
    }
    page
}

fn stamp_of(page: &[u8]) -> u64 {
    let stamp = u64::from_le_bytes(page[..8].try_into().expect("eight bytes"));
    assert!(page == stamped(stamp), "a page of two halves");
    stamp
}

/// A guest that checks all it is told.
struct Scene {
    rig: Rig,
    guest: Guest,
    pages: Vec<SimGranted>,
    open: Vec<Option<Open>>,
    /// What may be at each place: one stamp, or more if somebody died who never heard how a write went.
    places: Vec<BTreeSet<u64>>,
    next: u64,
}

impl Scene {
    fn new() -> Self {
        let mut rig = Rig::new();
        rig.disks.keep_journals();
        let guest = rig.connected(FRONT, "w");
        let mut scene = Self {
            rig,
            guest,
            pages: Vec::new(),
            open: Vec::new(),
            places: vec![BTreeSet::from([0]); BLOCKS],
            next: 0,
        };
        scene.begin_anew();
        scene
    }

    /// Nothing is open, and all pages are fresh ones.
    fn begin_anew(&mut self) {
        self.forget();
        self.pages.clear();
        for _ in 0..LANES {
            let page = self.guest.sim.alloc(BACK, Access::ReadWrite);
            self.pages.push(page.expect("a page"));
        }
        self.wipe();
    }

    /// Nobody waits for an answer any more: writes may have been done or not.
    fn forget(&mut self) {
        for open in std::mem::replace(&mut self.open, vec![None; LANES]) {
            if let Some(Open::Write(block, stamp)) = open {
                self.places[block].insert(stamp);
            }
        }
    }

    fn wipe(&self) {
        for page in &self.pages {
            page.write(0, &stamped(NOBODYS));
        }
    }

    fn send(&mut self, lane: usize, open: Open) {
        assert!(self.open[lane].is_none());
        self.check_page(lane);
        self.open[lane] = Some(open);
        self.post(lane);
    }

    fn write(&mut self, lane: usize, block: usize) {
        self.next += 1;
        self.send(lane, Open::Write(block, self.next));
    }

    fn post(&mut self, lane: usize) {
        let (page, id) = (&self.pages[lane], lane as u64);
        let request = match self.open[lane].expect("one is open") {
            Open::Read(block) => read(id, block as u64 * 8, page.grant_ref()),
            Open::Write(block, stamp) => {
                page.write(0, &stamped(stamp));
                write(id, block as u64 * 8, page.grant_ref())
            }
            Open::Flush => request(id, Op::FLUSH_DISKCACHE, 0, &[]),
        };
        self.guest.push(&request);
    }

    fn check_page(&self, lane: usize) {
        let mut bytes = [0; PAGE];
        self.pages[lane].read(0, &mut bytes);
        assert_eq!(stamp_of(&bytes), NOBODYS, "a page of lane {lane} was used");
    }

    /// Takes the answers.
    fn look(&mut self) {
        if self.guest.ring.is_none() {
            return;
        }
        for answer in self.guest.answers() {
            let lane = usize::try_from(answer.id).expect("a lane");
            let open = self.open[lane].take().expect("one answer for each");
            assert_eq!(answer.status, Status::OKAY, "{open:?}");
            let mut bytes = [0; PAGE];
            self.pages[lane].read(0, &mut bytes);
            self.pages[lane].write(0, &stamped(NOBODYS));
            match open {
                Open::Read(block) => {
                    let stamp = stamp_of(&bytes);
                    let may = std::mem::replace(&mut self.places[block], BTreeSet::from([stamp]));
                    assert!(may.contains(&stamp), "{stamp} at {block}: {may:?}");
                }
                Open::Write(block, stamp) => self.places[block] = BTreeSet::from([stamp]),
                Open::Flush => {}
            }
        }
    }

    fn settle(&mut self) {
        self.rig.settle();
        self.look();
    }

    fn finish(&mut self) {
        self.guest.kick();
        self.settle();
        let open = self.open.iter().flatten().collect::<Vec<_>>();
        assert!(open.is_empty(), "no answer to {open:?}");
    }

    /// Requests of a connected guest, in the midst of which its backend may die. Whether it did.
    fn traffic(&mut self, hold: bool, step: u64) -> bool {
        let disk = self.rig.disks.of(&self.guest.back_dir);
        self.rig.world.die_after(BACK, step);
        let mut alive = true;
        for round in 0..2 {
            disk.borrow_mut().hold = hold || round == 1;
            for lane in 0..LANES {
                match (lane, self.open[lane]) {
                    (_, Some(_)) => {}
                    (0, None) => self.send(0, Open::Read(round)),
                    (4, None) => self.send(4, Open::Flush),
                    (lane, None) => self.write(lane, lane + round),
                }
            }
            self.guest.kick();
            alive = Crash::catch(|| self.rig.settle()).is_some();
            self.look();
            if alive && hold {
                disk.borrow_mut().release();
                alive = Crash::catch(|| self.rig.settle()).is_some();
                self.look();
            }
            if !alive {
                break;
            }
        }
        self.rig.world.kill(BACK);
        disk.borrow_mut().hold = false;
        !alive
    }

    fn happens(&mut self, outage: Outage) {
        match outage {
            Outage::Nothing => {}
            Outage::Drains => self.guest.set("state", "5"),
            Outage::Closes => {
                self.forget();
                self.guest.set("state", "6");
            }
            Outage::Reopens => {
                self.begin_anew();
                (self.guest.ring, self.guest.channel) = (None, None);
                self.guest.set("state", "1");
            }
            Outage::Rebinds => {
                self.begin_anew();
                self.guest.publish();
                self.guest.set("state", "4");
                self.greet();
            }
            Outage::Resumes => {
                self.guest.publish();
                self.guest.set("state", "3");
                for lane in 0..LANES {
                    if self.open[lane].is_some() {
                        self.post(lane);
                    }
                }
                self.guest.kick();
            }
            Outage::Kexecs => {
                self.forget();
                self.wipe();
                let ring = self.guest.ring.take().expect("a ring");
                self.guest.ring = Some(Front::init(ring.into_mem()).expect("a ring"));
                self.greet();
            }
            Outage::Detached => {
                self.rig.detach(&self.guest);
                self.guest.set("state", "5");
            }
            Outage::Destroyed | Outage::Replaced | Outage::Inherited => self.destroyed(outage),
        }
    }

    /// What every kernel does first, with numbers and pages as every kernel has them.
    fn greet(&mut self) {
        self.send(0, Open::Read(0));
        for lane in 1..4 {
            self.write(lane, lane);
        }
        self.guest.kick();
    }

    fn destroyed(&mut self, outage: Outage) {
        self.forget();
        let domid = DomId::new(FRONT);
        (self.guest.ring, self.guest.channel) = (None, None);
        self.rig.world.destroy(domid);
        self.pages.clear();
        if outage == Outage::Destroyed {
            self.rig.remove(&self.guest);
            return;
        }
        let _ = self.rig.world.create(domid);
        self.guest = self.rig.attach(FRONT, 51712, "w");
        if outage == Outage::Inherited {
            self.guest.publish();
            self.begin_anew();
            self.guest.set("state", "4");
            let back_dir = self.guest.back_dir.clone();
            self.rig.set(&back_dir, "state", "4");
            self.greet();
        } else {
            self.begin_anew();
        }
    }

    /// The next process is there.
    fn goes_on(mut self, outage: Outage, again: Option<u64>) {
        self.rig = self.rig.restarted();
        if let Some(step) = again {
            self.rig.world.die_after(BACK, step);
            if Crash::catch(|| self.rig.settle()).is_none() {
                self.look();
                self.rig = self.rig.restarted();
            }
            self.rig.world.die_after(BACK, u64::MAX);
        }
        self.rig.settle();
        let state = self.rig.state(&self.guest);
        if outage == Outage::Destroyed || outage == Outage::Detached {
            let usage = self.rig.usage();
            assert_eq!((usage.mapped, usage.ports), (0, 0));
            assert!(outage == Outage::Destroyed || state == "6");
            return;
        }
        assert_eq!(self.rig.error(&self.guest), "");
        match outage {
            Outage::Nothing | Outage::Rebinds | Outage::Kexecs | Outage::Inherited => {
                assert_eq!(state, "4");
            }
            Outage::Resumes => {
                assert_eq!(state, "4");
                self.guest.set("state", "4");
            }
            Outage::Drains => {
                assert_eq!(state, "5");
                self.finish();
                self.guest.set("state", "6");
                self.rig.settle();
                self.reopens();
            }
            Outage::Closes => {
                assert_eq!(state, "6");
                self.reopens();
            }
            Outage::Reopens | Outage::Replaced => {
                assert_eq!(state, "2");
                self.guest.connect(&mut self.rig);
            }
            Outage::Detached | Outage::Destroyed => {}
        }
        self.finish();
        for block in 0..BLOCKS {
            self.send(0, Open::Read(block));
            self.finish();
        }
        for lane in 0..LANES {
            self.check_page(lane);
            self.write(lane, lane);
        }
        self.finish();
        let disk = self.rig.disks.of(&self.guest.back_dir);
        for (block, may) in self.places.iter().enumerate() {
            let stamp = stamp_of(&disk.borrow().bytes[block * PAGE..][..PAGE]);
            assert!(may.contains(&stamp), "{stamp} at {block}: {may:?}");
        }
    }

    fn reopens(&mut self) {
        self.begin_anew();
        (self.guest.ring, self.guest.channel) = (None, None);
        self.guest.set("state", "1");
        self.guest.connect(&mut self.rig);
    }
}

/// At every so many steps of the traffic, a death; then the outage, and at every second one another death in what follows.
fn sampled(outage: Outage) {
    for hold in [false, true] {
        let seed = outage as u64 * 2 + u64::from(hold);
        let mut deaths = 0;
        for step in (seed % STRIDE..).step_by(STRIDE as usize) {
            let again = step.is_multiple_of(2).then_some(step * 5 % 70);
            let run = || {
                let mut scene = Scene::new();
                let died = scene.traffic(hold, step);
                scene.happens(outage);
                scene.goes_on(outage, again);
                died
            };
            match std::panic::catch_unwind(run) {
                Ok(true) => deaths += 1,
                Ok(false) => break,
                Err(_) => panic!("{outage:?}, seed {seed}, step {step}, then {again:?}"),
            }
        }
        assert!(deaths > 100 / STRIDE, "{deaths} deaths");
    }
}

#[test]
fn a_guest_that_does_nothing_notices_nothing() {
    sampled(Outage::Nothing);
}

#[test]
fn a_guest_that_closes_gets_its_answers_first() {
    sampled(Outage::Drains);
}

#[test]
fn a_guest_that_closed_is_let_go() {
    sampled(Outage::Closes);
}

#[test]
fn a_guest_that_waits_for_another_connection_gets_it() {
    sampled(Outage::Reopens);
}

#[test]
fn a_guest_that_bound_its_driver_again_has_its_disk() {
    sampled(Outage::Rebinds);
}

#[test]
fn a_guest_that_was_resumed_has_its_disk_and_its_answers() {
    sampled(Outage::Resumes);
}

#[test]
fn the_next_kernel_of_a_guest_has_its_disk() {
    sampled(Outage::Kexecs);
}

#[test]
fn a_disk_that_is_detached_is_given_back() {
    sampled(Outage::Detached);
}

#[test]
fn a_guest_that_was_destroyed_leaves_nothing() {
    sampled(Outage::Destroyed);
}

#[test]
fn another_guest_of_its_number_gets_nothing_of_it() {
    sampled(Outage::Replaced);
    sampled(Outage::Inherited);
}
