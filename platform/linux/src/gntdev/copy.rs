//! Batched grant copy.

use std::os::fd::OwnedFd;

use ringfence_core::platform::{GrantCopy, GrantStatus, Local, PlatformError};
use ringfence_core::wire::grant_table::{GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF};
use ringfence_core::{DomId, PAGE};
use zerocopy::{FromZeros, IntoBytes};

use crate::ioctl::{call, failed, number};

const GRANT_COPY: u32 = number(b'G', 8, size_of::<Argument>());

/// Elements in one call: as many as a request with indirect segments seldom exceeds, in 1.5 KiB of stack.
const BATCH: usize = 64;

/// `source` and `dest` of `struct gntdev_grant_copy_segment`, member `foreign`.
#[derive(Clone, Copy, IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct Foreign {
    gref: u32,
    offset: u16,
    domid: u16,
}

/// `struct gntdev_grant_copy_segment`. Either side is the address of a private buffer, or a [`Foreign`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros)]
#[repr(C)]
struct Segment {
    source: u64,
    dest: u64,
    len: u16,
    flags: u16,
    status: i16,
    pad: u16,
}

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
struct Argument {
    count: u32,
    segments: *mut Segment,
}

/// The element as the kernel takes it, or `None` if it leaves the page: the kernel would refuse the whole batch for that.
fn segment(peer: DomId, op: &mut GrantCopy<'_>) -> Option<Segment> {
    let len = op.len();
    if usize::from(op.offset).checked_add(len)? > PAGE {
        return None;
    }
    let foreign = Foreign {
        gref: op.gref.get(),
        offset: op.offset,
        domid: peer.get(),
    };
    let mut there = 0u64;
    there.as_mut_bytes().copy_from_slice(foreign.as_bytes());
    let (source, dest, flags) = match &mut op.local {
        // The kernel only reads from there.
        Local::ToPeer(bytes) => (address(bytes.as_ptr()), there, GNTCOPY_DEST_GREF),
        Local::FromPeer(bytes) => (there, address(bytes.as_mut_ptr()), GNTCOPY_SOURCE_GREF),
    };
    Some(Segment {
        source,
        dest,
        len: u16::try_from(len).ok()?,
        flags,
        status: GrantStatus::GENERAL_ERROR.get(),
        pad: 0,
    })
}

fn address(pointer: *const u8) -> u64 {
    pointer.expose_provenance() as u64
}

pub(super) fn copy(
    device: &OwnedFd,
    peer: DomId,
    ops: &mut [GrantCopy<'_>],
) -> Result<(), PlatformError> {
    for ops in ops.chunks_mut(BATCH) {
        batch(peer, ops, |segments| {
            let mut argument = Argument {
                count: segments.len() as u32,
                segments: segments.as_mut_ptr(),
            };
            // The kernel splits private buffers at their pages, and tries again itself while a page of the peer's is paged out.
            // SAFETY: `segments` has as many elements as it says. Each private side is a buffer that `ops` borrows, mutably where
            // the kernel writes, with `len` bytes; the other side the kernel reaches by its reference.
            unsafe { call(device, GRANT_COPY, (&raw mut argument).cast()) }
                .map(|_| ())
                .map_err(|errno| failed("IOCTL_GNTDEV_GRANT_COPY", errno))
        })?;
    }
    Ok(())
}

/// At most [`BATCH`] elements.
fn batch(
    peer: DomId,
    ops: &mut [GrantCopy<'_>],
    run: impl FnOnce(&mut [Segment]) -> Result<(), PlatformError>,
) -> Result<(), PlatformError> {
    let mut segments = [Segment::new_zeroed(); BATCH];
    // Of each segment, whose it is.
    let mut places = [0usize; BATCH];
    let mut count = 0usize;
    for (place, op) in ops.iter_mut().enumerate() {
        op.status = GrantStatus::BAD_COPY_ARG;
        let slots = (segments.get_mut(count), places.get_mut(count));
        if let (Some(segment), (Some(slot), Some(of))) = (segment(peer, op), slots) {
            (*slot, *of) = (segment, place);
            count = count.saturating_add(1);
        }
    }
    let segments = segments.get_mut(..count).unwrap_or_default();
    if segments.is_empty() {
        return Ok(());
    }
    run(segments)?;
    for (segment, place) in segments.iter().zip(places) {
        if let Some(op) = ops.get_mut(place) {
            op.status = GrantStatus::new(segment.status);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::GrantRef;
    use std::mem::offset_of;

    #[test]
    fn numbers_and_layouts_are_those_of_the_header() {
        // As a C compiler has them from Linux's `xen/gntdev.h`.
        assert_eq!(GRANT_COPY, 0x0010_4708);
        assert_eq!(size_of::<Segment>(), 24);
        assert_eq!(offset_of!(Segment, dest), 8);
        assert_eq!(offset_of!(Segment, len), 16);
        assert_eq!(offset_of!(Segment, flags), 18);
        assert_eq!(offset_of!(Segment, status), 20);
        assert_eq!(offset_of!(Foreign, offset), 4);
        assert_eq!(offset_of!(Foreign, domid), 6);
        assert_eq!(offset_of!(Argument, segments), 8);
    }

    #[test]
    fn elements_that_leave_the_page_stay_out_and_the_rest_keep_their_places() {
        let peer = DomId::new(0x1234);
        let (whole, long, mut tail) = ([1; PAGE], [1; PAGE + 1], [0; 4]);
        let gref = GrantRef::new(0x0506_0708);
        let mut ops = [
            GrantCopy::to_peer(gref, 1, &whole),
            GrantCopy::to_peer(gref, 0, &whole),
            GrantCopy::to_peer(gref, 0, &long),
            GrantCopy::from_peer(gref, 4092, &mut tail),
            GrantCopy::from_peer(gref, u16::MAX, &mut []),
        ];
        let at = |op: &GrantCopy<'_>| match &op.local {
            Local::ToPeer(bytes) => bytes.as_ptr().addr() as u64,
            Local::FromPeer(bytes) => bytes.as_ptr().addr() as u64,
        };
        let [to, from] = [at(&ops[1]), at(&ops[3])];
        batch(peer, &mut ops, |segments| {
            let [first, second] = segments else {
                panic!("{segments:?}");
            };
            let foreign = |word: u64| {
                let bytes = word.to_ne_bytes();
                let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
                let gref = u32::from_ne_bytes(bytes[..4].try_into().unwrap());
                (gref, half(4), half(6))
            };
            assert_eq!((first.source, first.len, first.flags), (to, 4096, 2));
            assert_eq!(foreign(first.dest), (0x0506_0708, 0, 0x1234));
            assert_eq!((second.dest, second.len, second.flags), (from, 4, 1));
            assert_eq!(foreign(second.source), (0x0506_0708, 4092, 0x1234));
            (first.status, second.status) = (0, GrantStatus::BAD_GNTREF.get());
            Ok(())
        })
        .unwrap();
        let bad = GrantStatus::BAD_COPY_ARG;
        assert_eq!(
            ops.each_ref().map(|op| op.status),
            [bad, GrantStatus::OKAY, bad, GrantStatus::BAD_GNTREF, bad]
        );
    }

    #[test]
    fn many_elements_go_in_several_calls() {
        // No device of Xen's: the first call fails, and with nothing to do there is none.
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let peer = DomId::new(1);
        let long = [0; PAGE + 1];
        let mut bad: Vec<_> = (0..BATCH + 1)
            .map(|_| GrantCopy::to_peer(GrantRef::new(8), 0, &long))
            .collect();
        assert_eq!(copy(&null, peer, &mut bad), Ok(()));
        assert!(bad.iter().all(|op| op.status == GrantStatus::BAD_COPY_ARG));
        let mut last = bad;
        last[BATCH] = GrantCopy::to_peer(GrantRef::new(8), 0, b"x");
        let error = copy(&null, peer, &mut last).unwrap_err();
        assert_eq!(error.errno, libc::ENOTTY);
    }
}
