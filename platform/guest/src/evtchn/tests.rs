//! The ports of a guest on a hypervisor of a few lines.

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use core::time::Duration;
use std::rc::Rc;

use platform::Channel as _;
use ringfence_core::store::Store as _;
use ringfence_core::wire::xs_wire::{self, SockMsg};
use ringfence_core::{PAGE, SharedMem as _};
use ringfence_mem::RawPages;
use ringfence_ring::bytes::{ByteWriter, Lane};
use zerocopy::IntoBytes as _;

use super::*;
use crate::boot::{COMMAND_LINE, Ring, Source};
use crate::hypercall::model;
use crate::memory::Translation;
use crate::platform::Machine;
use crate::pool::Pool;
use crate::shared::{SchedPoll, SharedInfo};
use crate::store::{GuestStore, StoreRing, own_domid};
use crate::table::GrantTable;

const PEER: DomId = DomId::new(0);
/// Ports of this hypervisor: 1 to 4.
const PORTS: usize = 4;

#[repr(C, align(4096))]
struct Page([u64; PAGE / 8]);

fn leaked() -> NonNull<u8> {
    NonNull::from(Box::leak(Box::new(Page([0; PAGE / 8])))).cast()
}

/// What the hypervisor knows of the guest's ports, and what somebody else does while one is closed.
#[derive(Default)]
struct Xen {
    open: [bool; PORTS + 1],
    after_close: Option<Box<dyn FnMut(u32)>>,
    /// The ports of each `SCHEDOP_poll`.
    polled: Vec<Vec<u32>>,
}

impl Xen {
    fn free(&mut self) -> Result<u32, Errno> {
        let free = (1..=PORTS).find(|port| !self.open[*port]);
        let port = free.ok_or(Errno::NOSPC)?;
        self.open[port] = true;
        Ok(port as u32)
    }

    fn poll(&mut self, argument: u64) -> Result<u64, Errno> {
        // SAFETY: as the hypervisor: the struct of the operation is at the address, with as many ports as it says.
        let ports = unsafe {
            let poll = &*(argument as *const SchedPoll);
            core::slice::from_raw_parts(poll.ports, poll.nr_ports as usize)
        };
        self.polled.push(ports.to_vec());
        Ok(0)
    }

    fn operate(&mut self, shared: &SharedInfo, op: Op, argument: u64) -> Result<u64, Errno> {
        let argument = argument as *mut u8;
        // SAFETY: as the hypervisor: the struct of the operation is at the address, and nobody else uses it meanwhile.
        unsafe {
            match op {
                Op::ALLOC_UNBOUND => (*argument.cast::<AllocUnbound>()).port = self.free()?,
                Op::BIND_INTERDOMAIN => {
                    (*argument.cast::<BindInterdomain>()).local_port = self.free()?;
                }
                Op::CLOSE => {
                    let port = (*argument.cast::<Port>()).port;
                    self.open[port as usize] = false;
                    shared.clear(EvtchnPort::new(port));
                    if let Some(meanwhile) = &mut self.after_close {
                        meanwhile(port);
                    }
                }
                // To whoever is at the other end.
                Op::SEND => {}
                other => panic!("{other:?}"),
            }
        }
        Ok(0)
    }
}

/// A guest, and its hypervisor.
fn world() -> (Guest, RawPages, Rc<RefCell<Xen>>) {
    let at = leaked();
    // SAFETY: leaked, and reached in no other way.
    let (shared, page) = unsafe { (SharedInfo::new(at), RawPages::new(at, PAGE)) };
    let shared: &'static SharedInfo = Box::leak(Box::new(shared));
    // SAFETY: as above.
    let entries = unsafe { RawPages::new(leaked(), PAGE) };
    let machine = Box::leak(Box::new(Machine {
        domid: Cell::new(DomId::new(1)),
        life: Cell::new(0),
        mapped: Cell::new(0),
        translation: Translation::Pvh,
        source: Source::Pvh,
        shared,
        shared_at: 0,
        frames: RefCell::new(Pool::new(0..0)),
        window: RefCell::new(Pool::new(0..0)),
        table: RefCell::new(GrantTable::over(entries)),
        quarantine: RefCell::default(),
        command_line: [0; COMMAND_LINE],
    }));
    let xen = Rc::new(RefCell::new(Xen::default()));
    let answers = Rc::clone(&xen);
    model::install(Box::new(move |number, [op, argument, ..]| {
        let mut xen = answers.borrow_mut();
        if number == Number::SchedOp {
            return xen.poll(argument);
        }
        assert_eq!(number, Number::EventChannelOp);
        let op = Op(op as u32);
        xen.operate(shared, op, argument)
    }));
    (Guest(machine), page, xen)
}

/// Where the pending bits begin.
const PENDING: usize = 2048;

#[test]
fn cve_2024_26687_what_is_pending_after_the_close_is_somebody_elses() {
    let (guest, page, xen) = world();
    let channel = alloc_unbound(guest, PEER).unwrap();
    let port = channel.port();
    page.store_u32(PENDING, 1 << port.get());
    // The toolstack allocates the same number for this domain at once, and it is rung.
    xen.borrow_mut().after_close = Some(Box::new(move |port| {
        page.store_u32(PENDING, 1 << port);
    }));
    drop(channel);
    assert!(guest.shared().take(port), "the event of the next one");
}

#[test]
fn cve_2024_26687_nothing_that_was_pending_is_left_to_the_next_one() {
    let (guest, page, _xen) = world();
    let channel = alloc_unbound(guest, PEER).unwrap();
    page.store_u32(PENDING, 1 << channel.port().get());
    assert!(channel.take_pending().unwrap(), "and masked by that");
    page.store_u32(PENDING, 1 << channel.port().get());
    drop(channel);
    let next = alloc_unbound(guest, PEER).unwrap();
    assert!(!next.take_pending().unwrap());
    page.store_u32(PENDING, 1 << next.port().get());
    assert!(next.take_pending().unwrap(), "not masked any more");
}

#[test]
fn xsa_496_without_a_free_port_nothing_happens() {
    let (guest, page, xen) = world();
    let all: Vec<Channel> = (0..PORTS)
        .map(|_| alloc_unbound(guest, PEER).unwrap())
        .collect();
    page.store_u32(PENDING, 0b11110);
    let before: Vec<u32> = (0..PAGE).step_by(4).map(|at| page.load_u32(at)).collect();
    let remote = EvtchnPort::new(9);
    assert_eq!(
        bind(guest, PEER, remote).err(),
        Some(EvtchnError::Exhausted)
    );
    assert_eq!(
        alloc_unbound(guest, PEER).err(),
        Some(EvtchnError::Exhausted)
    );
    let after: Vec<u32> = (0..PAGE).step_by(4).map(|at| page.load_u32(at)).collect();
    assert_eq!(before, after);
    assert_eq!(xen.borrow().open, [false, true, true, true, true]);
    for channel in &all {
        assert!(channel.take_pending().unwrap());
    }
}

#[test]
fn an_event_that_came_with_an_answer_is_not_waited_for() {
    let (guest, _, xen) = world();
    // SAFETY: leaked, and reached only by the two ends of the ring.
    let (page, ours) = unsafe {
        let at = leaked();
        (RawPages::new(at, PAGE), at)
    };
    let ring = Ring {
        page: ours,
        port: EvtchnPort::new(1),
    };
    // SAFETY: as above.
    let ring = unsafe { StoreRing::new(ring, guest.shared()) }.unwrap();
    let mut store = GuestStore::new(ring);
    let mut said = ByteWriter::attach(page, Lane::XENSTORE_RSP).unwrap();
    let mut say = |op, req_id, payload: &[u8]| {
        let header = SockMsg {
            op,
            req_id,
            tx_id: 0,
            len: payload.len() as u32,
        };
        for part in [header.as_bytes(), payload] {
            assert_eq!(said.write(part), Ok(part.len()));
        }
    };
    let wait = |store: &GuestStore| guest.wait_with_store(store, &[], Some(Duration::from_secs(1)));
    wait(&store).unwrap();
    assert_eq!(xen.borrow().polled, [[1].to_vec()]);

    say(xs_wire::Op::WATCH_EVENT, 0, b"path\0token\0");
    say(xs_wire::Op::READ, 1, b"7");
    assert_eq!(own_domid(&mut store).unwrap(), DomId::new(7));
    wait(&store).unwrap();
    assert_eq!(
        xen.borrow().polled.len(),
        1,
        "the event is here: Xen is not asked"
    );
    assert!(store.next_watch().unwrap().is_some());
    wait(&store).unwrap();
    assert_eq!(xen.borrow().polled.len(), 2);
}
