use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use ringfence_core::Words;
use ringfence_core::ids::{DomId, EvtchnPort, GrantRef};
use ringfence_core::wire::blkif::{Op, RequestNative, Status};
use ringfence_ring::RingIndex;
use zerocopy::FromZeros;

use super::layout::{self, AT_COMPLETE, AT_QUEUES, AT_VERSION, HEAD_PORT};
use super::{
    BYTES, Found, Header, Journal, JournalError, Queue, QueueHeader, complete, is_flush_lost,
};

struct Heap(Vec<AtomicU64>);

impl Heap {
    fn new() -> Self {
        Self((0..BYTES / 8).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Words for Heap {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load(&self, at: usize) -> u64 {
        self.0
            .get(at)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }
    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(value, Ordering::Release);
        }
    }
}

const SIZE: u16 = 4;

fn header() -> Header {
    let queue = |port| QueueHeader {
        port: EvtchnPort::new(port),
        refs: [8, 9, 10].map(GrantRef::new).into_iter().collect(),
        slots: SIZE,
    };
    Header {
        frontend: DomId::new(7),
        generation: 3,
        vdev: 51712,
        image: [0xFD00, 99],
        protocol: 1,
        features: 6,
        queues: [queue(4), queue(5)].into_iter().collect(),
    }
}

fn request(id: u64) -> RequestNative {
    let mut request = RequestNative::new_zeroed();
    request.operation = Op::WRITE;
    request.id = id;
    request.seg[10].gref = 0xABCD;
    request
}

/// A queue that stands at an index from which the fourth request wraps around.
fn queue(words: &Heap) -> (Queue<&Heap>, RingIndex) {
    header().prepare(words);
    complete(words);
    let mut queue = Queue::new(words, 1);
    let start = RingIndex::new(u32::MAX - 2);
    queue.start(start);
    (queue, start)
}

fn found(words: &Heap) -> Found {
    Found::read(words, 1, SIZE)
}

#[test]
fn a_header_is_read_as_it_was_written() {
    let words = Heap::new();
    assert_eq!(Header::read(&words), Err(JournalError::Incomplete));
    header().prepare(&words);
    assert_eq!(Header::read(&words), Err(JournalError::Incomplete));
    complete(&words);
    assert_eq!(Header::read(&words), Ok(header()));
}

#[test]
fn a_header_that_cannot_be_is_refused_by_its_field() {
    let words = Heap::new();
    let head = layout::head(1) + HEAD_PORT;
    for (at, value, error) in [
        (AT_COMPLETE, 2, JournalError::Incomplete),
        (0, 1, JournalError::Magic(1)),
        (AT_VERSION, 2, JournalError::Version(2)),
        (3, 0x1_0000, JournalError::Frontend(0x1_0000)),
        (AT_QUEUES, 17, JournalError::Queues(17)),
        (AT_QUEUES, u64::MAX, JournalError::Queues(u64::MAX)),
        (
            head,
            17 << 32 | 4 << 48,
            JournalError::Pages {
                queue: 1,
                pages: 17,
            },
        ),
        (
            head,
            1 << 32 | 3 << 48,
            JournalError::Slots { queue: 1, slots: 3 },
        ),
        (
            head,
            1 << 32 | 1024 << 48,
            JournalError::Slots {
                queue: 1,
                slots: 1024,
            },
        ),
    ] {
        header().prepare(&words);
        complete(&words);
        words.store(at, value);
        assert_eq!(Header::read(&words), Err(error), "word {at}");
    }
}

#[test]
fn a_failed_flush_is_known_for_as_long_as_the_image_is_the_same() {
    let words = Heap::new();
    let (mut queue, _) = queue(&words);
    queue.flush_lost();
    // Only the last of these connections is made.
    for _ in 0..2 {
        header().prepare(&words);
        assert!(is_flush_lost(&words));
    }
    complete(&words);
    let other = Header {
        image: [0xFD00, 100],
        ..header()
    };
    other.prepare(&words);
    assert!(!is_flush_lost(&words));
}

#[test]
fn what_was_not_committed_does_not_exist() {
    let words = Heap::new();
    let (mut queue, start) = queue(&words);
    let _ = queue.take(2, start, &request(1));
    let plan = found(&words).plan(start).expect("a plan");
    assert_eq!((plan.stale, plan.replay.len()), (vec![2], 0));
}

#[test]
fn the_unanswered_are_done_again_in_the_order_of_the_ring() {
    let words = Heap::new();
    let (mut queue, start) = queue(&words);
    for (nth, number) in [3, 0, 2, 1].into_iter().enumerate() {
        let index = start.plus(nth as u32);
        let slot = queue.take(number, index, &request(nth as u64));
        if number == 2 {
            queue.wait(&slot, 1);
            queue.restart(&slot);
        }
        if number == 1 {
            queue.wait(&slot, 1);
        }
    }
    queue.commit(start.plus(4));
    let plan = found(&words).plan(start).expect("a plan");
    let of: Vec<_> = plan.replay.iter().map(|entry| entry.number).collect();
    assert_eq!(of, [3, 0, 2, 1]);
    let crashes =
        |plan: &super::Plan| -> Vec<_> { plan.replay.iter().map(|it| it.crashes).collect() };
    assert_eq!(crashes(&plan), [1, 1, 2, 1]);
    assert_eq!(plan.replay[2].request, request(2));
    assert!(plan.stale.is_empty() && plan.republish.is_empty());

    // The process was killed, which nothing it did is to blame for.
    words.store(layout::AT_KILLED, 1);
    let plan = found(&words).plan(start).expect("a plan");
    assert_eq!(crashes(&plan), [0, 0, 1, 1]);
}

#[test]
fn an_answer_that_nobody_saw_is_shown_and_one_that_was_seen_is_dropped() {
    let words = Heap::new();
    let (mut queue, start) = queue(&words);
    let slots: Vec<_> = (0..3)
        .map(|nth| queue.take(nth, start.plus(nth.into()), &request(nth.into())))
        .collect();
    queue.commit(start.plus(3));
    queue.answer(&slots[2], start, Status::OKAY);
    queue.answer(&slots[0], start.plus(1), Status::ERROR);
    queue.publish(start, start.plus(2));
    let plan = found(&words).plan(start).expect("not yet published");
    let of: Vec<_> = plan
        .republish
        .iter()
        .map(|entry| (entry.number, entry.answer))
        .collect();
    assert_eq!(
        of,
        [
            (2, Some((start, Status::OKAY))),
            (0, Some((start.plus(1), Status::ERROR)))
        ]
    );
    assert_eq!(plan.replay.len(), 1);
    let plan = found(&words).plan(start.plus(2)).expect("published");
    assert_eq!(plan.stale, [0, 2]);
    assert_eq!((plan.republish.len(), plan.replay.len()), (0, 1));
    assert_eq!(
        found(&words).plan(start.plus(1)),
        Err(JournalError::ResponseIndex {
            rsp_prod: start.plus(1),
            old: start,
            new: start.plus(2)
        })
    );
}

#[test]
fn entries_that_cannot_be_are_refused() {
    let words = Heap::new();
    let fresh = || {
        let (mut queue, start) = queue(&words);
        let slot = queue.take(0, start, &request(0));
        queue.commit(start.plus(1));
        (queue, start, slot)
    };
    let plan = |start| found(&words).plan(start).map(|plan| plan.replay.len());

    let (mut queue, start, _slot) = fresh();
    assert_eq!(plan(start), Ok(1));
    let _ = queue.take(1, start, &request(9));
    assert_eq!(plan(start), Err(JournalError::Twice { index: start }));

    let (mut queue, start, _slot) = fresh();
    let index = start.plus(0u32.wrapping_sub(9));
    let _ = queue.take(1, index, &request(9));
    let req_cons = start.plus(1);
    assert_eq!(
        plan(start),
        Err(JournalError::Index {
            number: 1,
            index,
            req_cons
        })
    );

    let (mut queue, start, slot) = fresh();
    let answer = start.plus(1);
    queue.answer(&slot, answer, Status::OKAY);
    assert_eq!(
        plan(start),
        Err(JournalError::Answer {
            number: 0,
            answer,
            rsp_prod: start
        })
    );

    let (mut queue, start, slot) = fresh();
    queue.clear(slot);
    assert_eq!(
        plan(start),
        Err(JournalError::Count {
            entries: 0,
            open: 1
        })
    );

    let (mut queue, start, _slot) = fresh();
    queue.publish(start, start.plus(5));
    assert_eq!(
        plan(start),
        Err(JournalError::Publish {
            old: start,
            new: start.plus(5),
            size: 4
        })
    );
}

#[test]
fn any_words_give_a_plan_or_a_reason() {
    let words = Heap::new();
    let mut seed = 7u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed >> 20
    };
    let mut reasons = 0;
    for _ in 0..2000 {
        let (mut queue, start) = queue(&words);
        for nth in 0..SIZE {
            let slot = queue.take(nth, start.plus(nth.into()), &request(nth.into()));
            queue.commit(start.plus(u32::from(nth) + 1));
            if nth % 2 == 0 {
                queue.answer(&slot, start.plus(u32::from(nth) / 2), Status::OKAY);
            }
        }
        let place = match next() % 2 {
            0 => layout::head(1) + next() as usize % 11,
            _ => layout::entry(1, (next() % 4) as u16) + next() as usize % 2,
        };
        let value = next() ^ next() << 30;
        words.store(place, value);
        let rsp_prod = start.plus((next() % 3) as u32);
        let read = Header::read(&words).is_err();
        reasons += usize::from(read || found(&words).plan(rsp_prod).is_err());
    }
    assert!(reasons > 1000, "{reasons} of 2000 were noticed");
}
