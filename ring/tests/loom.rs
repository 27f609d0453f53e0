//! The event protocol under a model checker: two ends on two threads, over a ring of two entries.
//!
//! The ring is the shipped one; only the memory is the model's. Of the two full barriers either can be left out, and then the
//! model must find the lost wake-up: that is what shows that the other tests look at the right thing.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;
use ringfence_ring::layout::{HEADER, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use ringfence_ring::{Armed, Back, Field, Front, Notify, Protocol, RingIndex, RingMem};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Two entries fit into a page.
struct Two;

impl Protocol for Two {
    type Request = u32;
    type Response = u32;
    const STRIDE: usize = 2016;
    const RESPONSE_FIELDS: &'static [Field] = &[Field::new(0, 4)];
}

struct Page {
    header: [AtomicU32; 4],
    entries: [AtomicU32; 2],
    /// How often each end was notified.
    to_back: AtomicU32,
    to_front: AtomicU32,
}

impl Page {
    fn new(start: u32) -> Self {
        let header = [0, 1, 0, 1].map(|from| AtomicU32::new(start.wrapping_add(from)));
        Self {
            header,
            entries: [AtomicU32::new(0), AtomicU32::new(0)],
            to_back: AtomicU32::new(0),
            to_front: AtomicU32::new(0),
        }
    }
}

/// One end's view of the page, with or without its full barrier.
#[derive(Clone)]
struct LoomMem {
    page: Arc<Page>,
    fenced: bool,
}

impl LoomMem {
    fn word(&self, offset: usize) -> &AtomicU32 {
        match offset {
            REQ_PROD | REQ_EVENT | RSP_PROD | RSP_EVENT => &self.page.header[offset / 4],
            entry => &self.page.entries[(entry - HEADER) / Two::STRIDE],
        }
    }
}

impl RingMem for LoomMem {
    fn len(&self) -> usize {
        4096
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }
    fn read(&self, offset: usize, dst: &mut [u8]) {
        dst.copy_from_slice(&self.word(offset).load(Ordering::Relaxed).to_ne_bytes());
    }
    fn write(&self, offset: usize, src: &[u8]) {
        let value = u32::from_ne_bytes(src.try_into().expect("one word"));
        self.word(offset).store(value, Ordering::Relaxed);
    }
    fn fence(&self) {
        if self.fenced {
            fence(Ordering::SeqCst);
        }
    }
}

/// A doorbell is a system call: a read-modify-write that both ends agree on the order of.
fn ring(doorbell: &AtomicU32) {
    doorbell.fetch_add(1, Ordering::AcqRel);
}

/// Whether it was rung since the last look: the wake-up is used up.
fn answer(doorbell: &AtomicU32) -> bool {
    doorbell.swap(0, Ordering::AcqRel) > 0
}

/// Every interleaving with at most three preemptions, and every stale value that the memory model lets a load see.
fn explore(world: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(world);
}

/// The frontend publishes two requests one by one, the backend takes what it sees and goes to sleep. When both are done, a
/// request that the sleeping backend did not see must have rung its doorbell.
fn requests(start: u32, front_fenced: bool, back_fenced: bool) {
    explore(move || {
        let page = Arc::new(Page::new(start));
        let mem = |fenced| LoomMem {
            page: page.clone(),
            fenced,
        };
        let index = RingIndex::new(start);
        let mut front = Front::<_, Two>::attach_at(mem(front_fenced), index).expect("front");
        let mut back = Back::<_, Two>::attach_at(mem(back_fenced), index).expect("back");
        let pushing = thread::spawn(move || {
            for value in [7, 8] {
                front.push(&value).expect("room for two");
                if front.publish() == Notify::Yes {
                    ring(&front.mem().page.to_back);
                }
            }
        });
        let mut taken = 0;
        loop {
            while let Some(request) = back.take().expect("an honest peer") {
                assert_eq!(
                    *request.request(),
                    7 + taken,
                    "a request torn or out of order"
                );
                taken += 1;
                let (_, slot) = request.into_parts();
                assert_eq!(slot.index(), RingIndex::new(start).plus(taken - 1));
            }
            if back.arm() == Armed::Sleep && !answer(&page.to_back) {
                break;
            }
        }
        pushing.join().expect("the pushing thread");
        assert!(taken == 2 || answer(&page.to_back), "lost wake-up");
    });
}

/// The same for responses: two requests are open, the backend answers them one by one.
fn responses(start: u32, front_fenced: bool, back_fenced: bool) {
    explore(move || {
        let page = Arc::new(Page::new(start));
        let mem = |fenced| LoomMem {
            page: page.clone(),
            fenced,
        };
        let index = RingIndex::new(start);
        let mut front = Front::<_, Two>::attach_at(mem(front_fenced), index).expect("front");
        let mut back = Back::<_, Two>::attach_at(mem(back_fenced), index).expect("back");
        for value in [7, 8] {
            front.push(&value).expect("room for two");
        }
        assert_eq!(front.publish(), Notify::Yes);
        let answering = thread::spawn(move || {
            while let Some(taken) = back.take().expect("an honest peer") {
                let value = *taken.request();
                back.respond(taken, &!value);
                if back.publish() == Notify::Yes {
                    ring(&back.mem().page.to_front);
                }
            }
        });
        let mut taken = 0;
        loop {
            while let Some(response) = front.take_response().expect("an honest peer") {
                assert_eq!(response, !(7 + taken), "a response torn or out of order");
                taken += 1;
            }
            if front.arm() == Armed::Sleep && !answer(&page.to_front) {
                break;
            }
        }
        answering.join().expect("the answering thread");
        assert!(taken == 2 || answer(&page.to_front), "lost wake-up");
    });
}

fn finds_a_lost_wake_up(model: impl FnOnce()) {
    let outcome = catch_unwind(AssertUnwindSafe(model));
    let panic = outcome.expect_err("the model must fail without the barrier");
    let text = panic.downcast_ref::<&str>().copied();
    assert_eq!(text, Some("lost wake-up"));
}

#[test]
fn no_request_is_missed() {
    requests(0, true, true);
    requests(u32::MAX, true, true);
}

#[test]
fn no_response_is_missed() {
    responses(0, true, true);
    responses(u32::MAX, true, true);
}

/// Here the frontend only publishes and the backend only arms, so each end's barrier is one particular of the two.
#[test]
fn without_the_barrier_of_publish_a_wake_up_is_lost() {
    finds_a_lost_wake_up(|| requests(0, false, true));
    finds_a_lost_wake_up(|| responses(0, true, false));
}

#[test]
fn without_the_barrier_of_arm_a_wake_up_is_lost() {
    finds_a_lost_wake_up(|| requests(0, true, false));
    finds_a_lost_wake_up(|| responses(0, false, true));
}
