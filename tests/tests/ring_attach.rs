//! Attaching to rings of every size, at every index, without a write by the backend.

use ringfence_core::mem::{PAGE, SharedMem};
use ringfence_ring::layout::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use ringfence_ring::{Armed, AttachError, Back, Front, Notify, RingIndex, mark_of};
use ringfence_tests::mem::{Blk64, CountingMem, HeapMem, Number};

fn header(mem: &HeapMem) -> [u32; 4] {
    [REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT].map(|offset| mem.load_u32(offset))
}

#[test]
fn the_frontend_initialises_as_shared_ring_init() {
    let mem = HeapMem::new(1);
    mem.write(0, &[0xa5; PAGE]);
    let front = Front::<_, Blk64>::init(mem.clone()).unwrap();
    assert_eq!(header(&mem), [0, 1, 0, 1]);
    let mut page = [0; PAGE];
    mem.read(0, &mut page);
    assert_eq!(page[16..64], [0; 48]);
    assert_eq!(page[64..], [0xa5; PAGE - 64]);
    assert_eq!((front.size(), front.free(), front.open()), (32, 32, 0));
}

#[test]
fn the_backend_never_initialises() {
    let mem = CountingMem::new(HeapMem::new(1));
    let mut front = Front::<_, Blk64>::init(mem.inner().clone()).unwrap();
    front.push(&zerocopy::FromZeros::new_zeroed()).unwrap();
    assert_eq!(front.publish(), Notify::Yes);
    let mut back = Back::<_, Blk64>::attach(mem.clone()).unwrap();
    assert_eq!(mem.max_writes(0..PAGE), 0);
    assert_eq!(back.pass(), Ok(1));
    assert_eq!(mem.max_writes(0..PAGE), 0);
}

#[test]
fn a_ring_keeps_its_mark_until_another_is_made_in_its_place() {
    let mem = HeapMem::new(1);
    let mut front = Front::<_, Blk64>::init(mem.clone()).unwrap();
    let mut back = Back::<_, Blk64>::attach(mem.clone()).unwrap();
    assert_eq!(mark_of(&mem), 0);
    back.mark(u64::MAX - 1);
    // Neither end minds.
    assert_eq!(header(&mem), [0, 1, 0, 1]);
    front.push(&zerocopy::FromZeros::new_zeroed()).unwrap();
    assert_eq!(front.publish(), Notify::Yes);
    assert_eq!(back.pass(), Ok(1));
    assert_eq!(mark_of(&mem), u64::MAX - 1);
    drop(front);
    let _ = Front::<_, Blk64>::init(mem.clone()).unwrap();
    assert_eq!(mark_of(&mem), 0);
}

#[test]
fn a_backend_attaches_with_requests_open() {
    let mem = HeapMem::new(1);
    for start in [0, 7, u32::MAX - 15, u32::MAX] {
        mem.store_u32(RSP_PROD, start);
        for open in [0, 1, 31, 32] {
            mem.store_u32(REQ_PROD, start.wrapping_add(open));
            let mut back = Back::<_, Blk64>::attach(mem.clone()).unwrap();
            assert_eq!(back.req_cons(), RingIndex::new(start));
            assert_eq!(back.pass(), Ok(open));
        }
    }
}

#[test]
fn a_frontend_attaches_only_to_an_idle_ring() {
    let mem = HeapMem::new(1);
    mem.store_u32(REQ_PROD, u32::MAX);
    mem.store_u32(RSP_PROD, u32::MAX);
    let front = Front::<_, Blk64>::attach(mem.clone()).unwrap();
    assert_eq!(front.req_prod_pvt(), RingIndex::new(u32::MAX));
    mem.store_u32(REQ_PROD, 0);
    assert!(matches!(
        Front::<_, Blk64>::attach(mem),
        Err(AttachError::Indices { .. })
    ));
}

#[test]
fn sizes_from_one_to_sixteen_pages() {
    for (pages, size) in [(1, 32), (2, 64), (3, 64), (4, 128), (8, 256), (16, 512)] {
        let front = Front::<_, Blk64>::init(HeapMem::new(pages)).unwrap();
        assert_eq!(front.size(), size);
    }
    for pages in [0, 17, 32] {
        let refused = Back::<_, Blk64>::attach(HeapMem::new(pages)).err();
        let (bytes, stride) = (pages * PAGE, 112);
        assert_eq!(refused, Some(AttachError::Memory { bytes, stride }));
    }
    assert!(Front::<_, Number<4036>>::init(HeapMem::new(1)).is_err());
}

#[test]
fn an_empty_publish_is_silent_and_arming_twice_is_idle() {
    let mem = HeapMem::new(1);
    let mut front = Front::<_, Blk64>::init(mem.clone()).unwrap();
    let mut back = Back::<_, Blk64>::attach(mem).unwrap();
    assert_eq!(front.publish(), Notify::No);
    assert_eq!(back.publish(), Notify::No);
    assert_eq!((front.arm(), back.arm()), (Armed::Sleep, Armed::Sleep));
    assert_eq!((front.arm(), back.arm()), (Armed::Sleep, Armed::Sleep));
    assert!(back.take().unwrap().is_none());
    assert!(front.take_response().unwrap().is_none());
}

#[test]
fn batching_wakes_at_the_nth() {
    let mem = HeapMem::new(1);
    let mut front = Front::<_, Number<112>>::init(mem.clone()).unwrap();
    let mut back = Back::<_, Number<112>>::attach(mem).unwrap();
    assert_eq!(back.arm_at(3), Armed::Sleep);
    for (value, notify) in [
        (1, Notify::No),
        (2, Notify::No),
        (3, Notify::Yes),
        (4, Notify::No),
    ] {
        front.push(&value).unwrap();
        assert_eq!(front.publish(), notify);
    }
    assert_eq!(back.arm_at(3), Armed::Again);
    assert_eq!(back.pass(), Ok(4));
    // Only four responses can come, so asking for the ninth must not mean for ever.
    assert_eq!(front.arm_at(9), Armed::Sleep);
    for left in (0..4).rev() {
        let taken = back.take().unwrap().unwrap();
        back.respond(taken, &0);
        assert_eq!(back.publish().is_needed(), left == 0);
    }
}

/// One index read, one slot read, one barrier per batch: what a request costs on the shared page.
#[test]
fn a_batch_reads_each_index_once_and_fences_once() {
    let mem = CountingMem::new(HeapMem::new(1));
    let mut front = Front::<_, Blk64>::init(mem.inner().clone()).unwrap();
    let mut back = Back::<_, Blk64>::attach(mem.clone()).unwrap();
    for _ in 0..32 {
        front.push(&zerocopy::FromZeros::new_zeroed()).unwrap();
    }
    assert_eq!(front.publish(), Notify::Yes);
    mem.reset();
    for _ in 0..back.pass().unwrap() {
        let taken = back.take().unwrap().unwrap();
        back.respond(taken, &zerocopy::FromZeros::new_zeroed());
    }
    assert_eq!(back.publish(), Notify::Yes);
    assert_eq!(mem.max_reads(REQ_PROD..REQ_PROD + 4), 1);
    assert_eq!(
        mem.max_reads(RSP_PROD..RSP_PROD + 4),
        0,
        "what we published is not read back"
    );
    assert_eq!(mem.min_reads(64..64 + 32 * 112), 1);
    mem.assert_no_double_fetch(0..PAGE);
    assert_eq!(mem.max_writes(RSP_PROD..RSP_PROD + 4), 1);
    assert_eq!(mem.fences(), 1);
}

#[test]
fn a_backend_goes_on_with_what_an_earlier_process_took() {
    let mem = HeapMem::new(1);
    for start in [0, u32::MAX - 3] {
        let at = |n| RingIndex::new(start).plus(n);
        mem.store_u32(RSP_PROD, at(2).get());
        mem.store_u32(REQ_PROD, at(7).get());
        let mut back = Back::<_, Blk64>::resume(mem.clone(), at(5)).unwrap();
        assert_eq!((back.open(), back.req_cons()), (3, at(5)));
        let slots: Vec<_> = (2..5).map_while(|n| back.reopen(at(n))).collect();
        assert_eq!(slots.len(), 3);
        assert!(back.reopen(at(2)).is_none(), "no more than were open");
        assert_eq!(back.pass(), Ok(2));
        let response = zerocopy::FromZeros::new_zeroed();
        slots
            .into_iter()
            .for_each(|slot| back.respond(slot, &response));
        let _ = back.publish();
        assert_eq!(mem.load_u32(RSP_PROD), at(5).get());
    }
}

#[test]
fn what_was_taken_cannot_be_taken_back() {
    let mem = HeapMem::new(1);
    for (rsp_prod, req_prod, req_cons) in [(0, 4, 5), (0, 33, 5), (3, 4, 2), (9, 8, 9)] {
        mem.store_u32(RSP_PROD, rsp_prod);
        mem.store_u32(REQ_PROD, req_prod);
        let refused = Back::<_, Blk64>::resume(mem.clone(), RingIndex::new(req_cons));
        let error = AttachError::Resumed {
            req_prod: RingIndex::new(req_prod),
            req_cons: RingIndex::new(req_cons),
            rsp_prod: RingIndex::new(rsp_prod),
            size: 32,
        };
        assert_eq!(refused.err(), Some(error));
    }
}
