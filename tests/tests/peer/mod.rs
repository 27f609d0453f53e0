//! The ends of a ring as the differential test sees them: ours, and those of `c/ring_peer.c`.

use ringfence_core::mem::SharedMem;
use ringfence_core::wire::blkif::{Op, RequestNative, ResponseNative, Status};
use ringfence_ring::{self as ours, Armed, Slot};
use ringfence_tests::mem::{Blk64, HeapMem};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use zerocopy::{FromZeros, IntoBytes};

/// A frontend whose requests are known by their id.
pub(crate) trait Front {
    /// Whether there was room.
    fn push(&mut self, id: u64) -> bool;
    /// Whether to notify.
    fn publish(&mut self) -> bool;
    /// The id of the next response.
    fn take(&mut self) -> Option<u64>;
    /// Whether there is work.
    fn arm(&mut self) -> bool;
}

/// A backend whose requests are known by their id.
pub(crate) trait Back {
    /// The id of the next request.
    fn take(&mut self) -> Option<u64>;
    /// Answers a request taken earlier.
    fn respond(&mut self, id: u64);
    /// Whether to notify.
    fn publish(&mut self) -> bool;
    /// Whether there is work.
    fn arm(&mut self) -> bool;
}

/// A request of which every byte depends on the id.
fn request(id: u64) -> RequestNative {
    let mut request = RequestNative::new_zeroed();
    for (at, byte) in request.as_mut_bytes().iter_mut().enumerate() {
        *byte = (id as u8).wrapping_mul(31).wrapping_add(at as u8);
    }
    request.id = id;
    request
}

#[track_caller]
fn id_of(taken: &RequestNative) -> u64 {
    assert_eq!(*taken, request(taken.id), "a request torn on its way");
    taken.id
}

#[track_caller]
fn answered(response: &ResponseNative) -> u64 {
    let status = Status(response.id as i16);
    assert_eq!(
        (response.operation, response.status),
        (Op(response.id as u8), status)
    );
    response.id
}

impl Front for ours::Front<HeapMem, Blk64> {
    fn push(&mut self, id: u64) -> bool {
        self.push(&request(id)).is_ok()
    }
    fn publish(&mut self) -> bool {
        self.publish().is_needed()
    }
    fn take(&mut self) -> Option<u64> {
        self.take_response().unwrap().as_ref().map(answered)
    }
    fn arm(&mut self) -> bool {
        self.arm() == Armed::Again
    }
}

/// Our backend and the right to answer what it has taken.
pub(crate) struct Ours {
    back: ours::Back<HeapMem, Blk64>,
    open: HashMap<u64, Slot>,
}

impl Ours {
    /// With nothing open.
    pub(crate) fn new(back: ours::Back<HeapMem, Blk64>) -> Self {
        let open = HashMap::new();
        Self { back, open }
    }
}

impl Back for Ours {
    fn take(&mut self) -> Option<u64> {
        let (request, slot) = self.back.take().unwrap()?.into_parts();
        let id = id_of(&request);
        self.open.insert(id, slot);
        Some(id)
    }
    fn respond(&mut self, id: u64) {
        let slot = self.open.remove(&id).unwrap();
        let mut response = ResponseNative::new_zeroed();
        response.id = id;
        response.operation = Op(id as u8);
        response.status = Status(id as i16);
        self.back.respond(slot, &response);
    }
    fn publish(&mut self) -> bool {
        self.back.publish().is_needed()
    }
    fn arm(&mut self) -> bool {
        self.back.arm() == Armed::Again
    }
}

/// `peer_front_ring_t` or `peer_back_ring_t`: three 32-bit numbers and a pointer.
#[repr(C)]
struct RawRing {
    indices: [u32; 2],
    nr_ents: u32,
    sring: *mut c_void,
}

impl RawRing {
    const fn empty() -> Self {
        Self {
            indices: [0; 2],
            nr_ents: 0,
            sring: std::ptr::null_mut(),
        }
    }
}

#[link(name = "ring_peer", kind = "static")]
unsafe extern "C" {
    fn peer_front_init(ring: *mut RawRing, pages: *mut u8, bytes: u32);
    fn peer_front_attach(ring: *mut RawRing, pages: *mut u8, index: u32, bytes: u32);
    fn peer_front_push(ring: *mut RawRing, request: *const RequestNative) -> c_int;
    fn peer_front_publish(ring: *mut RawRing) -> c_int;
    fn peer_front_take(ring: *mut RawRing, response: *mut ResponseNative) -> c_int;
    fn peer_front_arm(ring: *mut RawRing) -> c_int;
    fn peer_back_attach(ring: *mut RawRing, pages: *mut u8, index: u32, bytes: u32);
    fn peer_back_take(ring: *mut RawRing, request: *mut RequestNative) -> c_int;
    fn peer_back_respond(ring: *mut RawRing, id: u64, operation: u8, status: i16);
    fn peer_back_publish(ring: *mut RawRing) -> c_int;
    fn peer_back_arm(ring: *mut RawRing) -> c_int;
}

/// The frontend of the C macros.
pub(crate) struct CFront {
    raw: RawRing,
    /// Keeps the pages alive.
    _mem: HeapMem,
}

impl CFront {
    /// `XEN_FRONT_RING_INIT`.
    pub(crate) fn init(mem: HeapMem) -> Self {
        let mut raw = RawRing::empty();
        // SAFETY: `raw` is a `peer_front_ring_t`, the pages are `mem.len()` bytes of atomics that live as long as `mem`, which
        // is kept beside `raw`; only this thread touches them.
        unsafe { peer_front_init(&mut raw, mem.as_ptr(), mem.len() as u32) };
        Self { raw, _mem: mem }
    }

    /// `FRONT_RING_ATTACH`.
    pub(crate) fn attach(mem: HeapMem, index: u32) -> Self {
        let mut raw = RawRing::empty();
        // SAFETY: as in `init`.
        unsafe { peer_front_attach(&mut raw, mem.as_ptr(), index, mem.len() as u32) };
        Self { raw, _mem: mem }
    }

    /// `RING_SIZE`.
    pub(crate) fn size(&self) -> u32 {
        self.raw.nr_ents
    }
}

impl Front for CFront {
    fn push(&mut self, id: u64) -> bool {
        // SAFETY: the ring is attached to pages that `self` keeps alive; the request is a whole `struct peer_request`.
        unsafe { peer_front_push(&mut self.raw, &request(id)) != 0 }
    }
    fn publish(&mut self) -> bool {
        // SAFETY: the ring is attached to pages that `self` keeps alive.
        unsafe { peer_front_publish(&mut self.raw) != 0 }
    }
    fn take(&mut self) -> Option<u64> {
        let mut response = ResponseNative::new_zeroed();
        // SAFETY: the ring is attached to pages that `self` keeps alive; the response has room for a `struct peer_response`.
        let some = unsafe { peer_front_take(&mut self.raw, &mut response) != 0 };
        some.then(|| answered(&response))
    }
    fn arm(&mut self) -> bool {
        // SAFETY: the ring is attached to pages that `self` keeps alive.
        unsafe { peer_front_arm(&mut self.raw) != 0 }
    }
}

/// The backend of the C macros.
pub(crate) struct CBack {
    raw: RawRing,
    /// Keeps the pages alive.
    _mem: HeapMem,
}

impl CBack {
    /// `BACK_RING_ATTACH`.
    pub(crate) fn attach(mem: HeapMem, index: u32) -> Self {
        let mut raw = RawRing::empty();
        // SAFETY: `raw` is a `peer_back_ring_t`, the pages are `mem.len()` bytes of atomics that live as long as `mem`, which
        // is kept beside `raw`; only this thread touches them.
        unsafe { peer_back_attach(&mut raw, mem.as_ptr(), index, mem.len() as u32) };
        Self { raw, _mem: mem }
    }
}

impl Back for CBack {
    fn take(&mut self) -> Option<u64> {
        let mut request = RequestNative::new_zeroed();
        // SAFETY: the ring is attached to pages that `self` keeps alive; the request has room for a `struct peer_request`.
        let some = unsafe { peer_back_take(&mut self.raw, &mut request) != 0 };
        some.then(|| id_of(&request))
    }
    fn respond(&mut self, id: u64) {
        // SAFETY: the ring is attached to pages that `self` keeps alive.
        unsafe { peer_back_respond(&mut self.raw, id, id as u8, id as i16) };
    }
    fn publish(&mut self) -> bool {
        // SAFETY: the ring is attached to pages that `self` keeps alive.
        unsafe { peer_back_publish(&mut self.raw) != 0 }
    }
    fn arm(&mut self) -> bool {
        // SAFETY: the ring is attached to pages that `self` keeps alive.
        unsafe { peer_back_arm(&mut self.raw) != 0 }
    }
}
