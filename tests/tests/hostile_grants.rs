//! THREATS B, as far as a platform is concerned: one test per way in which a peer's grants went wrong.

use ringfence_core::platform::{
    Access, GrantCopy, GrantError, GrantStatus, Granted as _, Platform as _,
};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_sim::{Fault, Sim, SimGranted, World};

const FRONT: DomId = DomId::new(1);
const BACK: DomId = DomId::new(2);
/// `BLKIF_MAX_SEGMENTS_PER_REQUEST`
const SEGMENTS: usize = 11;

fn world() -> (World, Sim, Sim) {
    let world = World::new();
    let (front, back) = (world.domain(FRONT), world.domain(BACK));
    (world, front, back)
}

fn pages(front: &Sim, count: usize) -> Vec<SimGranted> {
    (0..count)
        .map(|_| front.alloc(BACK, Access::ReadWrite).expect("a page"))
        .collect()
}

fn refs(pages: &[SimGranted]) -> Vec<GrantRef> {
    pages.iter().map(|page| page.grant_ref()).collect()
}

fn bytes<M: SharedMem>(mem: &M) -> Vec<u8> {
    let mut all = vec![0; mem.len()];
    mem.read(0, &mut all);
    all
}

/// Maps a batch that must be refused because of `gref`, and nothing may be left of it.
fn refused(world: &World, back: &Sim, refs: &[GrantRef], gref: GrantRef, status: GrantStatus) {
    let mapped = world.usage(BACK).mapped;
    let error = back.map(FRONT, refs, Access::ReadWrite).err();
    let expected = GrantError::Refused {
        peer: FRONT,
        gref,
        status,
    };
    assert_eq!(error, Some(expected));
    assert_eq!(world.usage(BACK).mapped, mapped, "pages are left mapped");
}

const BAD: GrantRef = GrantRef::new(0x00F0_0000);

#[test]
fn xsa_361_a_bad_reference_anywhere_in_a_batch_leaves_nothing_mapped() {
    for bad in [
        vec![0],
        vec![5],
        vec![10],
        vec![3, 7],
        (0..SEGMENTS).collect(),
    ] {
        let (world, front, back) = world();
        let mut pages = pages(&front, SEGMENTS);
        let mut batch = refs(&pages);
        for at in &bad {
            batch[*at] = BAD;
        }
        refused(&world, &back, &batch, BAD, GrantStatus::BAD_GNTREF);
        for page in &mut pages {
            page.try_revoke().expect("nobody has it mapped");
        }
    }
}

#[test]
fn xsa_361_a_failed_batch_unmaps_only_what_it_mapped() {
    let (world, front, back) = world();
    let pages = pages(&front, SEGMENTS);
    let mut batch = refs(&pages);
    let ring = back.map(FRONT, &batch[..2], Access::ReadWrite);
    let ring = ring.expect("mapped");
    batch[4] = BAD;
    refused(&world, &back, &batch, BAD, GrantStatus::BAD_GNTREF);
    pages[1].write(0, b"still there");
    assert_eq!(bytes(&ring)[PAGE..PAGE + 11], *b"still there");
}

#[test]
fn xsa_361_a_recoverable_failure_of_one_element_fails_the_batch() {
    let (world, front, back) = world();
    let pages = pages(&front, SEGMENTS);
    let batch = refs(&pages);
    for status in [GrantStatus::EAGAIN, GrantStatus::NO_SPACE] {
        for (at, nth) in (0..SEGMENTS).zip(0..) {
            world.inject(Fault::Map { nth, status });
            refused(&world, &back, &batch, batch[at], status);
            assert_eq!(world.faults_waiting(), 0);
        }
    }
    // And the next one goes through.
    drop(back.map(FRONT, &batch, Access::ReadWrite).expect("mapped"));
    assert_eq!(world.usage(BACK).mapped, 0);
}

#[test]
fn xsa_361_a_grant_revoked_after_the_request_was_read_fails_the_batch() {
    let (world, front, back) = world();
    let mut pages = pages(&front, 3);
    let batch = refs(&pages);
    pages[1].try_revoke().expect("not mapped");
    refused(&world, &back, &batch, batch[1], GrantStatus::BAD_GNTREF);
    drop(pages.remove(1));
    refused(&world, &back, &batch, batch[1], GrantStatus::BAD_GNTREF);
}

#[test]
fn xsa_361_the_copies_after_a_bad_one_are_done_and_say_so() {
    let (world, front, back) = world();
    let pages = pages(&front, SEGMENTS);
    let injected = GrantStatus::EAGAIN;
    world.inject(Fault::Copy {
        nth: 6,
        status: injected,
    });
    let source = [[0x5A; 512]; SEGMENTS];
    let mut ops: Vec<_> = refs(&pages)
        .into_iter()
        .zip(&source)
        .map(|(gref, bytes)| GrantCopy::to_peer(gref, 0, bytes))
        .collect();
    ops[2].gref = BAD;
    ops[4].offset = 4096 - 511;
    back.copy(FRONT, &mut ops).expect("the platform works");
    for (at, (op, page)) in ops.iter().zip(&pages).enumerate() {
        let expected = match at {
            2 => GrantStatus::BAD_GNTREF,
            4 => GrantStatus::BAD_COPY_ARG,
            6 => injected,
            _ => GrantStatus::OKAY,
        };
        assert_eq!(op.status, expected, "element {at}");
        let copied = bytes(page).iter().any(|byte| *byte != 0);
        assert_eq!(copied, expected.is_okay(), "element {at}");
    }
}

#[test]
fn xsa_396_revoking_while_the_peer_has_the_page_fails_and_changes_nothing() {
    let (world, front, back) = world();
    let mut page = front.alloc(BACK, Access::ReadWrite).expect("a page");
    let batch = [page.grant_ref()];
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mapping = back.map(FRONT, &batch, access).expect("mapped");
        for _ in 0..3 {
            page.try_revoke().expect_err("the peer has it mapped");
            page.write(0, b"shared");
            assert_eq!(bytes(&mapping)[..6], *b"shared");
        }
        // A second mapping, taken between two attempts, holds as well.
        let second = back.map(FRONT, &batch, access).expect("still granted");
        drop(mapping);
        page.try_revoke().expect_err("the peer has it mapped");
        drop(second);
    }
    page.try_revoke().expect("nobody has it mapped");
    refused(&world, &back, &batch, batch[0], GrantStatus::BAD_GNTREF);
}

#[test]
fn xsa_396_a_page_dropped_while_mapped_stays_in_quarantine() {
    let (world, front, back) = world();
    let page = front.alloc(BACK, Access::ReadWrite).expect("a page");
    let gref = page.grant_ref();
    let mapping = back.map(FRONT, &[gref], Access::ReadWrite);
    let mapping = mapping.expect("mapped");
    drop(page);
    assert_eq!(world.usage(FRONT).quarantined, 1);
    assert_eq!(world.usage(FRONT).granted, 0);
    let other = front.alloc(BACK, Access::ReadWrite).expect("a page");
    assert_ne!(other.grant_ref(), gref);
    mapping.write(0, b"late write of the peer");
    assert!(bytes(&other).iter().all(|byte| *byte == 0));
    drop(mapping);
    assert_eq!(world.usage(FRONT).quarantined, 0);
    // Now it is used again, and clean.
    let again = front.alloc(BACK, Access::ReadWrite).expect("a page");
    assert_eq!(again.grant_ref(), gref);
    assert!(bytes(&again).iter().all(|byte| *byte == 0));
}

#[test]
fn xsa_396_the_death_of_the_peer_ends_the_quarantine() {
    for destroy in [false, true] {
        let (world, front, back) = world();
        let pages = pages(&front, 4);
        let batch = [refs(&pages), refs(&pages)].concat();
        let mapping = back.map(FRONT, &batch, Access::ReadOnly).expect("mapped");
        drop(pages);
        assert_eq!(world.usage(FRONT).quarantined, 4);
        if destroy {
            world.destroy(BACK);
        } else {
            world.kill(BACK);
        }
        assert_eq!(world.usage(FRONT).quarantined, 0);
        drop(mapping);
        assert_eq!(world.usage(FRONT).quarantined, 0);
    }
}

#[test]
fn xsa_403_a_page_that_was_used_before_shows_the_peer_nothing_of_it() {
    let (_, front, back) = world();
    let secret = vec![0xA5; PAGE];
    for page in pages(&front, SEGMENTS) {
        page.write(0, &secret);
    }
    let pages = pages(&front, SEGMENTS);
    let mapping = back.map(FRONT, &refs(&pages), Access::ReadOnly);
    let seen = bytes(&mapping.expect("mapped"));
    assert!(seen.iter().all(|byte| *byte == 0));
}
