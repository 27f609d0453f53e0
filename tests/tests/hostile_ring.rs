//! Replays of the advisories on rings: indices that lie, bytes that change between two looks, padding that leaks.

use ringfence_core::mem::{PAGE, SharedMem};
use ringfence_core::wire::blkif::{Op, RequestNative, ResponseNative, ResponseX86_32, Status};
use ringfence_ring::layout::{HEADER, REQ_PROD, RSP_PROD};
use ringfence_ring::{
    Armed, AttachError, Back, Field, Front, Notify, PeerFault, Protocol, RingIndex,
};
use ringfence_tests::mem::{Blk32, Blk64, CountingMem, FlipMem, HeapMem, Number};
use zerocopy::{FromZeros, IntoBytes};

const STARTS: [u32; 4] = [0, 1, u32::MAX - 16, u32::MAX];

type Counted = CountingMem<HeapMem>;

fn idle(start: u32) -> Counted {
    let mem = HeapMem::new(1);
    mem.store_u32(REQ_PROD, start);
    mem.store_u32(RSP_PROD, start);
    CountingMem::new(mem)
}

/// The backend has answered `answered` requests and holds `open` more.
fn back_at<P: Protocol>(mem: &Counted, start: u32, answered: u32, open: u32) -> Back<Counted, P> {
    let mut back = Back::attach_at(mem.clone(), RingIndex::new(start)).unwrap();
    mem.store_u32(REQ_PROD, start.wrapping_add(answered));
    while let Some(taken) = back.take().unwrap() {
        back.respond(taken, &P::Response::new_zeroed());
    }
    let _ = back.publish();
    mem.store_u32(REQ_PROD, start.wrapping_add(answered + open));
    while back.take().unwrap().is_some() {}
    assert_eq!(back.open(), open);
    mem.reset();
    back
}

/// Whatever is asked, the answer is the fault; nobody sleeps on it, no slot is looked at, not even the index again.
#[track_caller]
fn assert_stopped<P: Protocol>(mem: &Counted, back: &mut Back<Counted, P>) {
    let fault = back.pass().expect_err("a lie must be a fault");
    assert!(matches!(fault, PeerFault::RequestIndex { .. }), "{fault}");
    mem.inner().store_u32(REQ_PROD, back.req_cons().get());
    for _ in 0..3 {
        assert_eq!(back.take().err(), Some(fault));
        assert_eq!(back.pass(), Err(fault));
        assert_eq!(back.arm(), Armed::Again);
    }
    assert_eq!(back.fault(), Some(fault));
    assert_eq!(mem.max_reads(HEADER..PAGE), 0);
    assert_eq!(mem.max_reads(REQ_PROD..REQ_PROD + 4), 1);
}

#[test]
fn cve_2010_4247_huge_request_index() {
    for start in STARTS {
        for ahead in [
            33,
            34,
            1 << 16,
            1 << 31,
            (1 << 31) + 1,
            u32::MAX - 32,
            u32::MAX,
        ] {
            let mem = idle(start);
            let mut back = back_at::<Blk64>(&mem, start, 5, 0);
            mem.store_u32(REQ_PROD, back.req_cons().plus(ahead).get());
            assert_stopped(&mem, &mut back);
        }
    }
}

#[test]
fn cve_2010_4247_index_over_open_requests() {
    for start in STARTS {
        for open in [1, 31, 32] {
            let mem = idle(start);
            let mut back = back_at::<Blk64>(&mem, start, 3, open);
            mem.store_u32(REQ_PROD, back.req_cons().plus(33 - open).get());
            assert_stopped(&mem, &mut back);
        }
    }
}

/// The frontend raises its index whenever the backend has taken something, and never waits for an answer.
#[test]
fn cve_2010_4247_index_raised_while_serving() {
    for start in STARTS {
        let mem = idle(start);
        let mut back = Back::<_, Blk64>::attach(mem.clone()).unwrap();
        let mut taken = 0;
        for step in 0..1000 {
            mem.store_u32(REQ_PROD, start.wrapping_add(step + 1));
            match back.take() {
                Ok(request) => taken += u32::from(request.is_some()),
                Err(_) => break,
            }
        }
        assert_eq!(taken, 32, "a ring holds no more requests than this");
        assert!(back.fault().is_some());
    }
}

#[test]
fn cve_2010_4247_backwards() {
    for start in STARTS {
        for behind in [1, 5, 10] {
            let mem = idle(start);
            let mut back = back_at::<Blk64>(&mem, start, 10, 10);
            mem.store_u32(REQ_PROD, start.wrapping_add(20 - behind));
            assert_stopped(&mem, &mut back);
        }
    }
}

/// A ring of 256 as netback's: the jump stops it once, however often it is asked again.
#[test]
fn xsa_39_index_jumps_over_the_ring() {
    for ahead in [257, 258, 512, 1 << 20] {
        let mem = idle(0);
        let mut back = back_at::<Number<12>>(&mem, 0, 0, 0);
        assert_eq!(back.size(), 256);
        mem.store_u32(REQ_PROD, ahead);
        assert_stopped(&mem, &mut back);
    }
}

#[test]
fn xsa_39_open_requests_can_be_answered_after_the_fault() {
    let mem = idle(0);
    let mut back = Back::<_, Number<12>>::attach(mem.clone()).unwrap();
    mem.store_u32(REQ_PROD, 2);
    let open = [(); 2].map(|()| back.take().unwrap().unwrap());
    mem.store_u32(REQ_PROD, 1 << 20);
    assert!(back.take().is_err());
    for taken in open {
        back.respond(taken, &7);
    }
    let _ = back.publish();
    assert_eq!((mem.load_u32(RSP_PROD), back.open()), (2, 0));
}

#[test]
fn xsa_39_attach_refuses_impossible_indices() {
    for start in STARTS {
        for ahead in [33, 1 << 31, u32::MAX] {
            let mem = idle(start);
            mem.store_u32(REQ_PROD, start.wrapping_add(ahead));
            let refused = Back::<_, Blk64>::attach(mem.clone()).err();
            assert!(matches!(refused, Some(AttachError::Indices { .. })));
            assert_eq!(mem.max_reads(0..PAGE), 1);
        }
    }
}

#[test]
fn xsa_376_more_responses_than_requests() {
    for start in STARTS {
        for open in [0, 1, 32] {
            for lie in [open + 1, open + 33, 1 << 31, u32::MAX - 40, u32::MAX] {
                let mem = idle(start);
                let mut front = Front::<_, Blk64>::attach(mem.clone()).unwrap();
                for _ in 0..open {
                    front.push(&RequestNative::new_zeroed()).unwrap();
                }
                let _ = front.publish();
                mem.reset();
                mem.inner().store_u32(RSP_PROD, start.wrapping_add(lie));
                let fault = front.take_response().expect_err("a lie must be a fault");
                assert!(matches!(fault, PeerFault::ResponseIndex { .. }), "{fault}");
                mem.inner().store_u32(RSP_PROD, start);
                assert_eq!(front.pass(), Err(fault));
                assert_eq!(front.take_response(), Err(fault));
                assert_eq!(front.arm(), Armed::Again);
                assert_eq!(front.fault(), Some(fault));
                assert_eq!(mem.max_reads(HEADER..PAGE), 0);
                assert_eq!(mem.max_reads(RSP_PROD..RSP_PROD + 4), 1);
            }
        }
    }
}

#[test]
fn xsa_376_backwards() {
    let mem = idle(0);
    let mut front = Front::<_, Blk64>::attach(mem.clone()).unwrap();
    for _ in 0..20 {
        front.push(&RequestNative::new_zeroed()).unwrap();
    }
    let _ = front.publish();
    mem.store_u32(RSP_PROD, 10);
    while front.take_response().unwrap().is_some() {}
    mem.store_u32(RSP_PROD, 9);
    assert!(front.take_response().is_err());
}

/// What is pushed and not published cannot have been answered.
#[test]
fn xsa_376_answers_to_what_was_not_shown() {
    let mem = idle(0);
    let mut front = Front::<_, Blk64>::attach(mem.clone()).unwrap();
    front.push(&RequestNative::new_zeroed()).unwrap();
    let _ = front.publish();
    front.push(&RequestNative::new_zeroed()).unwrap();
    mem.store_u32(RSP_PROD, 2);
    assert!(front.take_response().is_err());
}

#[test]
fn xsa_155_back_index_is_read_once() {
    let mem = idle(0);
    mem.store_u32(REQ_PROD, 4);
    let flip = FlipMem::new(mem.clone(), REQ_PROD, 1, &(1u32 << 31).to_ne_bytes());
    let mut back = Back::<_, Blk64>::attach_at(flip.clone(), RingIndex::new(0)).unwrap();
    assert_eq!(back.pass(), Ok(4));
    assert!(flip.flipped());
    for _ in 0..4 {
        assert!(back.take().unwrap().is_some());
    }
    assert_eq!(mem.max_reads(REQ_PROD..REQ_PROD + 4), 1);
}

#[test]
fn xsa_155_front_index_is_read_once() {
    let mem = idle(0);
    let flip = FlipMem::new(mem.clone(), RSP_PROD, 1, &(1u32 << 31).to_ne_bytes());
    let mut front = Front::<_, Blk64>::attach_at(flip.clone(), RingIndex::new(0)).unwrap();
    for _ in 0..4 {
        front.push(&RequestNative::new_zeroed()).unwrap();
    }
    let _ = front.publish();
    mem.store_u32(RSP_PROD, 4);
    assert_eq!(front.pass(), Ok(4));
    assert!(flip.flipped());
    for _ in 0..4 {
        assert!(front.take_response().unwrap().is_some());
    }
    assert_eq!(mem.max_reads(RSP_PROD..RSP_PROD + 4), 1);
}

/// Every byte of a request that a backend decides on, flipped between the first and the second look.
#[test]
fn xsa_155_back_slot_is_copied_once() {
    for byte in 0..112 {
        let mem = idle(0);
        mem.store_u32(REQ_PROD, 1);
        mem.write(HEADER, &[1; 112]);
        let flip = FlipMem::new(mem.clone(), HEADER + byte, 1, &[0xff]);
        let mut back = Back::<_, Blk64>::attach(flip.clone()).unwrap();
        let taken = back.take().unwrap().unwrap();
        assert!(flip.flipped());
        assert_eq!(taken.request().as_bytes(), [1; 112]);
        mem.assert_no_double_fetch(HEADER..PAGE);
        assert_eq!(mem.min_reads(HEADER..HEADER + 112), 1);
    }
}

#[test]
fn xsa_155_back_slot_of_108_bytes_is_copied_once() {
    let mem = idle(0);
    mem.store_u32(REQ_PROD, 32);
    let mut back = Back::<_, Blk32>::attach(mem.clone()).unwrap();
    while back.take().unwrap().is_some() {}
    mem.assert_no_double_fetch(HEADER..PAGE);
    assert_eq!(mem.min_reads(HEADER..HEADER + 32 * 108), 1);
}

#[test]
fn xsa_155_front_slot_is_copied_once() {
    for byte in 0..16 {
        let mem = idle(0);
        let flip = FlipMem::new(mem.clone(), HEADER + byte, 1, &[0xff]);
        let mut front = Front::<_, Blk64>::attach(flip.clone()).unwrap();
        front.push(&RequestNative::new_zeroed()).unwrap();
        let _ = front.publish();
        mem.write(HEADER, &[1; 16]);
        mem.store_u32(RSP_PROD, 1);
        let response = front.take_response().unwrap().unwrap();
        assert!(flip.flipped());
        assert_eq!(response.as_bytes(), [1; 16]);
        mem.assert_no_double_fetch(HEADER..PAGE);
    }
}

/// netfront once read its own request back from the page, where the backend had changed it.
#[test]
fn xsa_155_what_we_wrote_is_not_read_back() {
    let mem = idle(0);
    let mut front = Front::<_, Blk64>::attach(mem.clone()).unwrap();
    mem.reset();
    for _ in 0..32 {
        front.push(&RequestNative::new_zeroed()).unwrap();
    }
    assert_eq!(front.publish(), Notify::No, "req_event is 0, long passed");
    assert_eq!(mem.max_reads(HEADER..PAGE), 0);
    assert_eq!(mem.max_reads(REQ_PROD..REQ_PROD + 4), 0);
}

/// A thousand answers on a page full of 0xa5, the padding of each full of what must not get out.
fn answers_write_only<P: Protocol>(mut response: P::Response, fields: &[Field], meaning: &[usize])
where
    P::Request: Clone,
{
    assert_eq!(P::RESPONSE_FIELDS, fields);
    for byte in 0..size_of::<P::Response>() {
        if !meaning.contains(&byte) {
            response.as_mut_bytes()[byte] = 0x5e;
        }
    }
    let mem = HeapMem::new(1);
    let mut front = Front::<_, P>::init(mem.clone()).unwrap();
    let mut back = Back::<_, P>::attach(mem.clone()).unwrap();
    mem.write(HEADER, &[0xa5; PAGE - HEADER]);
    let mut request = P::Request::new_zeroed();
    request.as_mut_bytes().fill(0xa5);
    for nth in 0..1000 {
        front.push(&request).unwrap();
        let _ = front.publish();
        let taken = back.take().unwrap().unwrap();
        back.respond(taken, &response);
        let _ = back.publish();
        assert!(front.take_response().unwrap().is_some());
        let mut page = [0; PAGE];
        mem.read(0, &mut page);
        let slot = HEADER + nth % 32 * P::STRIDE;
        for (offset, byte) in page.iter().enumerate().skip(HEADER) {
            let in_entry = (offset - HEADER) % P::STRIDE;
            let written = offset < HEADER + 32 * P::STRIDE && meaning.contains(&in_entry);
            assert!(written || *byte == 0xa5, "byte {offset} of answer {nth}");
        }
        for byte in meaning {
            assert_eq!(page[slot + byte], response.as_bytes()[*byte]);
        }
    }
}

const MEANING: [usize; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11];
const FIELDS: [Field; 2] = [Field::new(0, 9), Field::new(10, 2)];

#[test]
fn xsa_216_padding_of_64_bit_responses() {
    let mut response = ResponseNative::new_zeroed();
    response.id = 0x1122_3344_5566_7788;
    response.operation = Op::WRITE;
    response.status = Status::ERROR;
    answers_write_only::<Blk64>(response, &FIELDS, &MEANING);
}

#[test]
fn xsa_216_padding_of_32_bit_responses() {
    let mut response = ResponseX86_32::new_zeroed();
    response.operation = Op::WRITE;
    response.status = Status::ERROR;
    answers_write_only::<Blk32>(response, &FIELDS, &MEANING);
}
