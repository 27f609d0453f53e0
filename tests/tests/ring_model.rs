//! Both ends of a ring against a model that counts with 64 bits and never wraps.

use proptest::prelude::*;
use ringfence_core::mem::SharedMem;
use ringfence_ring::layout::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use ringfence_ring::{Armed, Back, Front, Full, Notify, RingIndex, Slot};
use ringfence_tests::mem::{HeapMem, Number};
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u8),
    PublishRequests,
    Take(u8),
    Respond(u8),
    PublishResponses,
    TakeResponse(u8),
    ArmFront(u8),
    ArmBack(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..40).prop_map(Step::Push),
        3 => Just(Step::PublishRequests),
        4 => (0u8..40).prop_map(Step::Take),
        4 => any::<u8>().prop_map(Step::Respond),
        3 => Just(Step::PublishResponses),
        4 => (0u8..40).prop_map(Step::TakeResponse),
        2 => (0u8..40).prop_map(Step::ArmFront),
        2 => (0u8..40).prop_map(Step::ArmBack),
    ]
}

/// Positions since the birth of the ring, never wrapped.
struct Model {
    size: u64,
    next_value: u32,
    pushed: VecDeque<u32>,
    published: VecDeque<u32>,
    open: Vec<(Slot, u32)>,
    answered: VecDeque<u32>,
    responses: VecDeque<u32>,
    req_prod_pvt: u64,
    req_prod: u64,
    req_cons: u64,
    rsp_prod_pvt: u64,
    rsp_prod: u64,
    rsp_cons: u64,
    req_event: u64,
    rsp_event: u64,
}

struct Pair<const STRIDE: usize> {
    front: Front<HeapMem, Number<STRIDE>>,
    back: Back<HeapMem, Number<STRIDE>>,
    model: Model,
}

impl<const STRIDE: usize> Pair<STRIDE> {
    fn new(pages: usize, start: u32) -> Self {
        let mem = HeapMem::new(pages);
        for (offset, value) in [(REQ_PROD, 0), (RSP_PROD, 0), (REQ_EVENT, 1), (RSP_EVENT, 1)] {
            mem.store_u32(offset, start.wrapping_add(value));
        }
        let front = Front::attach(mem.clone()).unwrap();
        let back = Back::attach(mem).unwrap();
        let at = u64::from(start);
        let model = Model {
            size: u64::from(front.size()),
            next_value: 0,
            pushed: VecDeque::new(),
            published: VecDeque::new(),
            open: Vec::new(),
            answered: VecDeque::new(),
            responses: VecDeque::new(),
            req_prod_pvt: at,
            req_prod: at,
            req_cons: at,
            rsp_prod_pvt: at,
            rsp_prod: at,
            rsp_cons: at,
            req_event: at + 1,
            rsp_event: at + 1,
        };
        Self { front, back, model }
    }

    fn step(&mut self, step: Step) {
        let m = &mut self.model;
        match step {
            Step::Push(count) => {
                for _ in 0..count {
                    let full = m.req_prod_pvt - m.rsp_cons == m.size;
                    let pushed = self.front.push(&m.next_value);
                    assert_eq!(pushed, if full { Err(Full) } else { Ok(()) });
                    if !full {
                        m.pushed.push_back(m.next_value);
                        m.next_value += 1;
                        m.req_prod_pvt += 1;
                    }
                }
            }
            Step::PublishRequests => {
                let crossed = m.req_prod < m.req_event && m.req_event <= m.req_prod_pvt;
                assert_eq!(self.front.publish() == Notify::Yes, crossed);
                m.req_prod = m.req_prod_pvt;
                m.published.append(&mut m.pushed);
            }
            Step::Take(count) => {
                for _ in 0..count {
                    let taken = self.back.take().unwrap();
                    assert_eq!(
                        taken.as_ref().map(|t| *t.request()),
                        m.published.pop_front()
                    );
                    let Some(taken) = taken else { break };
                    assert_eq!(taken.index(), RingIndex::new(m.req_cons as u32));
                    m.req_cons += 1;
                    let (value, slot) = taken.into_parts();
                    m.open.push((slot, value));
                }
            }
            Step::Respond(which) => {
                if !m.open.is_empty() {
                    let (slot, value) = m.open.swap_remove(usize::from(which) % m.open.len());
                    self.back.respond(slot, &!value);
                    m.answered.push_back(!value);
                    m.rsp_prod_pvt += 1;
                }
            }
            Step::PublishResponses => {
                let crossed = m.rsp_prod < m.rsp_event && m.rsp_event <= m.rsp_prod_pvt;
                assert_eq!(self.back.publish() == Notify::Yes, crossed);
                m.rsp_prod = m.rsp_prod_pvt;
                m.responses.append(&mut m.answered);
            }
            Step::TakeResponse(count) => {
                for _ in 0..count {
                    let response = self.front.take_response().unwrap();
                    assert_eq!(response, m.responses.pop_front());
                    m.rsp_cons += u64::from(response.is_some());
                }
            }
            Step::ArmFront(ahead) => {
                let idle = m.rsp_cons == m.rsp_prod;
                let armed = self.front.arm_at(ahead.into());
                assert_eq!(armed == Armed::Sleep, idle);
                if idle {
                    let most = (m.req_prod - m.rsp_cons).max(1);
                    m.rsp_event = m.rsp_cons + u64::from(ahead).clamp(1, most);
                }
            }
            Step::ArmBack(ahead) => {
                let idle = m.req_cons == m.req_prod;
                let armed = self.back.arm_at(ahead.into());
                assert_eq!(armed == Armed::Sleep, idle);
                if idle {
                    m.req_event = m.req_cons + u64::from(ahead).clamp(1, m.size);
                }
            }
        }
        assert_eq!(u64::from(self.front.open()), m.req_prod_pvt - m.rsp_cons);
        assert_eq!(
            u64::from(self.front.free()),
            m.size - (m.req_prod_pvt - m.rsp_cons)
        );
        assert_eq!(self.back.open() as usize, m.open.len());
        assert_eq!(self.back.rsp_prod().get(), m.rsp_prod as u32);
    }

    fn run(pages: usize, start: u32, steps: &[Step]) {
        let mut pair = Self::new(pages, start);
        for step in steps {
            pair.step(*step);
        }
    }
}

fn start() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        any::<u32>(),
        (0u32..200).prop_map(|before| u32::MAX - before)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_entry(start in start(), steps in proptest::collection::vec(step(), 1..200)) {
        Pair::<4032>::run(1, start, &steps);
    }

    #[test]
    fn two_entries(start in start(), steps in proptest::collection::vec(step(), 1..200)) {
        Pair::<2016>::run(1, start, &steps);
    }

    #[test]
    fn stride_of_32_bit_blkif(start in start(), steps in proptest::collection::vec(step(), 1..300)) {
        Pair::<108>::run(1, start, &steps);
    }

    #[test]
    fn many_pages(pages in 1usize..=16, start in start(), steps in proptest::collection::vec(step(), 1..300)) {
        Pair::<112>::run(pages, start, &steps);
    }
}
