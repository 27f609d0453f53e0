//! A guest in miniature: both ends of a ring, the store's numbers, a xenbus state and the life of a disk's frontend, with no
//! library below them. Ends with 0 if everything went as it should, else with the number of what did not.
#![no_std]
#![no_main]

mod below;
mod disk;
mod island;
mod nodes;
mod page;

use page::Page;
use ringfence_core::wire::blkif::{Op, RequestNative, ResponseNative, Status};
use ringfence_core::wire::vbd::Vdev;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_ring::{Armed, Back, Field, Front, Protocol};
use zerocopy::FromZeros;

struct Blkif;

impl Protocol for Blkif {
    type Request = RequestNative;
    type Response = ResponseNative;
    const STRIDE: usize = size_of::<RequestNative>();
    const RESPONSE_FIELDS: &'static [Field] =
        &[Field::new(0, 8), Field::new(8, 1), Field::new(10, 2)];
}

/// `None` where something is not as it should be.
fn ring() -> Option<()> {
    let page = Page::zeroed();
    let mut front = Front::<_, Blkif>::init(&page).ok()?;
    let mut back = Back::<_, Blkif>::attach(&page).ok()?;
    let vdev: Vdev = "xvda".parse().ok()?;
    for id in 0..100 {
        let mut request = RequestNative::new_zeroed();
        request.operation = Op::FLUSH_DISKCACHE;
        request.handle = u16::try_from(vdev.get()).ok()?;
        request.id = id;
        front.push(&request).ok()?;
        if !front.publish().is_needed() {
            return None;
        }
        let (taken, slot) = back.take().ok()??.into_parts();
        let mut response = ResponseNative::new_zeroed();
        response.id = taken.id;
        response.operation = taken.operation;
        response.status = Status::OKAY;
        back.respond(slot, &response);
        if !back.publish().is_needed() || !matches!(back.arm(), Armed::Sleep) {
            return None;
        }
        let answer = front.take_response().ok()??;
        let asleep = matches!(front.arm(), Armed::Sleep);
        if answer.id != id || answer.status != Status::OKAY || !asleep {
            return None;
        }
    }
    (XenbusState::parse(b"4") == Ok(XenbusState::Connected)).then_some(())
}

/// Called by `_start` with an aligned stack.
extern "C" fn start() -> ! {
    if ring().is_none() {
        below::exit(1);
    }
    if disk::life().is_none() {
        below::exit(2);
    }
    below::exit(0)
}
