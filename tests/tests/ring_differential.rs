//! Our ends against the C macros of `xen/io/ring.h`, over the same memory.
//!
//! One script of steps is played in four worlds: our front and back, ours with the C back, the C front with ours, and both in
//! C. What the steps return - notifications and sleeping included - and every byte of the pages must be the same in all.

#[cfg(not(ring_peer))]
#[test]
fn the_four_worlds_agree() {
    println!("SKIP ring-differential: {}", env!("RING_PEER_MISSING"));
}

#[cfg(ring_peer)]
mod peer;

#[cfg(ring_peer)]
mod differential {
    use super::peer::{Back, CBack, CFront, Front};
    use proptest::prelude::*;
    use ringfence_core::mem::SharedMem;
    use ringfence_ring::layout::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
    use ringfence_ring::{self as ours, RingIndex};
    use ringfence_tests::mem::{Blk64, HeapMem};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u8),
        PublishRequests,
        Take(u8),
        Respond(u8),
        PublishResponses,
        TakeResponse(u8),
        ArmFront,
        ArmBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1u8..9).prop_map(Step::Push),
            3 => Just(Step::PublishRequests),
            3 => (1u8..9).prop_map(Step::Take),
            3 => (1u8..9).prop_map(Step::Respond),
            3 => Just(Step::PublishResponses),
            3 => (1u8..9).prop_map(Step::TakeResponse),
            2 => Just(Step::ArmFront),
            2 => Just(Step::ArmBack),
        ]
    }

    /// What the two ends say, step by step, and the pages they leave.
    fn play(
        front: &mut dyn Front,
        back: &mut dyn Back,
        mem: &HeapMem,
        steps: &[Step],
    ) -> (Vec<u64>, Vec<u8>) {
        let mut said = Vec::new();
        let mut next = 0;
        let mut open = Vec::new();
        for step in steps {
            match step {
                Step::Push(count) => {
                    for _ in 0..*count {
                        let pushed = front.push(next);
                        next += u64::from(pushed);
                        said.push(pushed.into());
                    }
                }
                Step::PublishRequests => said.push(front.publish().into()),
                Step::Take(count) => {
                    for _ in 0..*count {
                        let taken = back.take();
                        open.extend(taken);
                        said.push(taken.unwrap_or(u64::MAX));
                    }
                }
                Step::Respond(count) => {
                    for _ in 0..*count {
                        // Newest first: out of the requests' order.
                        if let Some(id) = open.pop() {
                            back.respond(id);
                        }
                    }
                }
                Step::PublishResponses => said.push(back.publish().into()),
                Step::TakeResponse(count) => {
                    for _ in 0..*count {
                        said.push(front.take().unwrap_or(u64::MAX));
                    }
                }
                Step::ArmFront => said.push(front.arm().into()),
                Step::ArmBack => said.push(back.arm().into()),
            }
        }
        let mut page = vec![0; mem.len()];
        mem.read(0, &mut page);
        (said, page)
    }

    fn ring(pages: usize, start: u32) -> HeapMem {
        let mem = HeapMem::new(pages);
        for (offset, from) in [(REQ_PROD, 0), (REQ_EVENT, 1), (RSP_PROD, 0), (RSP_EVENT, 1)] {
            mem.store_u32(offset, start.wrapping_add(from));
        }
        mem
    }

    fn world(
        c_front: bool,
        c_back: bool,
        pages: usize,
        start: u32,
        steps: &[Step],
    ) -> (Vec<u64>, Vec<u8>) {
        let mem = ring(pages, start);
        let mut front: Box<dyn Front> = if c_front {
            Box::new(CFront::attach(mem.clone(), start))
        } else {
            Box::new(ours::Front::<_, Blk64>::attach(mem.clone()).unwrap())
        };
        let mut back: Box<dyn Back> = if c_back {
            Box::new(CBack::attach(mem.clone(), start))
        } else {
            let index = RingIndex::new(start);
            Box::new(super::peer::Ours::new(
                ours::Back::attach_at(mem.clone(), index).unwrap(),
            ))
        };
        play(&mut *front, &mut *back, &mem, steps)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_four_worlds_agree(
            order in 0u32..5,
            start in prop_oneof![Just(0), any::<u32>(), (0u32..99).prop_map(|before| u32::MAX - before)],
            steps in proptest::collection::vec(step(), 1..300),
        ) {
            let pages = 1 << order;
            let c = world(true, true, pages, start, &steps);
            for (c_front, c_back) in [(false, false), (false, true), (true, false)] {
                let mixed = world(c_front, c_back, pages, start, &steps);
                prop_assert_eq!(&mixed.0, &c.0, "C front {}, C back {}", c_front, c_back);
                prop_assert!(mixed.1 == c.1, "pages differ: C front {}, C back {}", c_front, c_back);
            }
        }
    }

    #[test]
    fn both_initialise_alike() {
        for pages in [1, 2, 4, 8, 16] {
            let (mine, theirs) = (HeapMem::new(pages), HeapMem::new(pages));
            for mem in [&mine, &theirs] {
                mem.write(0, &vec![0xa5; mem.len()]);
            }
            let front = ours::Front::<_, Blk64>::init(mine.clone()).unwrap();
            let peer = CFront::init(theirs.clone());
            assert_eq!(peer.size(), front.size());
            let bytes = |mem: &HeapMem| {
                let mut bytes = vec![0; mem.len()];
                mem.read(0, &mut bytes);
                bytes
            };
            assert!(bytes(&mine) == bytes(&theirs));
        }
    }
}
