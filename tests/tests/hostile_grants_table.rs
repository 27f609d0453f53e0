//! THREATS B on the hypervisor's own grant table, held against both models of it that we have: the simulator's, and the table
//! that processes share. What concerns the second version of tables and frames of the caller's choice has no place there: there
//! is one version, and the private side of a copy is the caller's own memory.

use std::path::Path;

use ringfence_core::platform::{
    Access, GrantCopy, GrantError, GrantStatus, Granted as _, Platform,
};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_hosted::Hosted;
use ringfence_hosted::admin::DomainKind;
use ringfence_sim::{Adversary, Limits, Sim, World};
use ringfence_tests::hosted::Host;

/// A granter, its peer, and a second granter.
type Attack<P> = fn(&P, &P, &P);

/// In both worlds.
fn both(sim: Attack<Sim>, hosted: Attack<Hosted>) {
    let world = World::new();
    let [a, b, c] = [1, 2, 3].map(|domid| world.create(DomId::new(domid)));
    sim(&a, &b, &c);
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")));
    let [a, b, c] = ["a", "b", "c"].map(|name| host.peer(name, DomainKind::Guest));
    hosted(&a.platform, &b.platform, &c.platform);
}

fn bytes<M: SharedMem>(mem: &M) -> Vec<u8> {
    let mut all = vec![0; mem.len()];
    mem.read(0, &mut all);
    all
}

fn page<P: Platform>(owner: &P, peer: &P, access: Access, fill: u8) -> P::Granted {
    let page = owner.alloc(peer.domid(), access).expect("a page");
    page.write(0, &[fill; PAGE]);
    page
}

/// The status of one copy into a peer's page, alone in its batch.
fn write<P: Platform>(by: &P, owner: DomId, gref: GrantRef, at: u16, bytes: &[u8]) -> GrantStatus {
    let mut ops = [GrantCopy::to_peer(gref, at, bytes)];
    by.copy(owner, &mut ops).expect("the platform works");
    ops[0].status
}

fn same_numbers<P: Platform>(a: &P, b: &P, c: &P) {
    let fills = [(a, 0xA0), (c, 0xC0)];
    let pages = fills
        .map(|(owner, fill)| [0, 1, 2].map(|nth| page(owner, b, Access::ReadWrite, fill + nth)));
    let refs = [0, 1].map(|owner: usize| pages[owner].each_ref().map(|page| page.grant_ref()));
    assert_eq!(refs[0], refs[1], "the same numbers, of different domains");
    for round in 0..3u8 {
        for (which, owner) in [a, c].into_iter().enumerate() {
            let [first, second, third] = refs[which];
            let nobodys = GrantRef::new(third.get() + 1000);
            let (mut one, mut two, mut three) = ([0; 16], [0; 16], [0; 16]);
            let mark = [round; 16];
            // In and out of the same pages in turn, with one in between that is nobody's.
            let mut ops = [
                GrantCopy::from_peer(first, 8, &mut one),
                GrantCopy::to_peer(second, 0, &mark),
                GrantCopy::to_peer(nobodys, 0, &mark),
                GrantCopy::from_peer(second, 0, &mut two),
                GrantCopy::from_peer(third, 4080, &mut three),
            ];
            b.copy(owner.domid(), &mut ops).expect("the platform works");
            let bad = GrantStatus::BAD_GNTREF;
            let okay = GrantStatus::OKAY;
            let statuses = ops.each_ref().map(|op| op.status);
            assert_eq!(statuses, [okay, okay, bad, okay, okay]);
            let fill = fills[which].1;
            assert_eq!((one, two, three), ([fill; 16], mark, [fill + 2; 16]));
        }
    }
    for (which, (_, fill)) in fills.iter().enumerate() {
        assert_eq!(bytes(&pages[which][0]), [*fill; PAGE], "never written");
        assert_eq!(bytes(&pages[which][1])[16..], [fill + 1; PAGE - 16]);
    }
}

#[test]
fn grant_table_model_the_same_numbers_of_two_domains_are_not_mixed_up() {
    both(same_numbers, same_numbers);
}

fn read_only<P: Platform>(a: &P, b: &P, _: &P) {
    let closed = page(a, b, Access::ReadOnly, 0x11);
    let open = page(a, b, Access::ReadWrite, 0x22);
    let (closed_ref, open_ref) = (closed.grant_ref(), open.grant_ref());
    let refused = |what: &str| {
        let status = write(b, a.domid(), closed_ref, 0, b"scribble");
        assert!(!status.is_okay(), "{what}: {status}");
        let mapped = b.map(a.domid(), &[open_ref, closed_ref], Access::ReadWrite);
        let refused = mapped.err();
        let named = matches!(refused, Some(GrantError::Refused { gref, .. }) if gref == closed_ref);
        assert!(named, "{what}: {refused:?}");
        assert_eq!(bytes(&closed), [0x11; PAGE], "{what}");
    };
    refused("alone");
    let reading = b.map(a.domid(), &[closed_ref], Access::ReadOnly);
    let reading = reading.expect("for reading it is granted");
    refused("while it is mapped for reading");
    // The permission of one page is not that of the next in the batch, nor that of the one before.
    let mut ops = [open_ref, closed_ref, open_ref].map(|gref| GrantCopy::to_peer(gref, 0, b"x"));
    b.copy(a.domid(), &mut ops).expect("the platform works");
    let okay = ops.each_ref().map(|op| op.status.is_okay());
    assert_eq!(okay, [true, false, true]);
    drop(reading);
    refused("afterwards");
    // A page that may be written may be mapped for reading, and is written by a copy all the same.
    let reading = b.map(a.domid(), &[open_ref], Access::ReadOnly);
    let reading = reading.expect("granted");
    assert!(write(b, a.domid(), open_ref, 1, b"y").is_okay());
    assert_eq!(bytes(&reading)[..3], *b"xy\x22");
}

#[test]
fn grant_table_model_what_is_granted_for_reading_is_never_written() {
    both(read_only, read_only);
}

fn lengths<P: Platform>(a: &P, b: &P, _: &P) {
    let page = page(a, b, Access::ReadWrite, 0x33);
    let gref = page.grant_ref();
    let long = vec![0x44; PAGE + 1];
    for (offset, len, fits) in [
        (0, 0, true),
        (4096, 0, true),
        (4097, 0, false),
        (u16::MAX, 0, false),
        (4095, 1, true),
        (4095, 2, false),
        (4096, 1, false),
        (0, 4096, true),
        (1, 4096, false),
        (0, 4097, false),
        (u16::MAX, 1, false),
    ] {
        page.write(0, &[0x33; PAGE]);
        let mut back = vec![0x55; len];
        let mut ops = [
            GrantCopy::from_peer(gref, offset, &mut back),
            GrantCopy::to_peer(gref, offset, &long[..len]),
        ];
        b.copy(a.domid(), &mut ops).expect("the platform works");
        let expected = if fits {
            GrantStatus::OKAY
        } else {
            GrantStatus::BAD_COPY_ARG
        };
        let statuses = ops.each_ref().map(|op| op.status);
        assert_eq!(statuses, [expected; 2], "{len} bytes at {offset}");
        let mut now = vec![0x33; PAGE];
        if fits {
            now[usize::from(offset)..][..len].fill(0x44);
        }
        assert_eq!(bytes(&page), now, "{len} bytes at {offset}");
        let read = if fits { 0x33 } else { 0x55 };
        assert!(back.iter().all(|byte| *byte == read), "{len} at {offset}");
    }
    let nobodys = GrantRef::new(gref.get() + 1000);
    let status = write(b, a.domid(), nobodys, 0, &[]);
    assert_eq!(status, GrantStatus::BAD_GNTREF, "also of no bytes");
}

#[test]
fn grant_table_model_copies_end_with_the_page() {
    both(lengths, lengths);
}

fn again_and_again<P: Platform>(a: &P, b: &P, c: &P) {
    let mut page = page(a, b, Access::ReadWrite, 0x66);
    let gref = page.grant_ref();
    let mut held = Vec::new();
    for power in 0..9 {
        let access = [Access::ReadOnly, Access::ReadWrite][power % 2];
        let mapping = b.map(a.domid(), &vec![gref; 1 << power], access);
        held.push(mapping.expect("granted"));
        page.try_revoke().expect_err("in use");
    }
    for mapping in &held {
        assert!(bytes(mapping).iter().all(|byte| *byte == 0x66));
    }
    // Refused attempts undo nothing but what they did themselves.
    let nobodys = GrantRef::new(gref.get() + 1000);
    b.map(a.domid(), &[gref, gref, nobodys], Access::ReadWrite)
        .map(|_| ())
        .expect_err("one of them is nobody's");
    c.map(a.domid(), &[gref], Access::ReadOnly)
        .map(|_| ())
        .expect_err("not for this domain");
    while !held.is_empty() {
        page.try_revoke().expect_err("in use");
        held.swap_remove(held.len() / 2);
    }
    page.try_revoke().expect("unmapped as often as mapped");
    let gone = b.map(a.domid(), &[gref], Access::ReadOnly).map(|_| ());
    gone.expect_err("nothing is granted any more");
}

#[test]
fn grant_table_model_a_page_is_in_use_as_often_as_it_is_mapped() {
    both(again_and_again, again_and_again);
}

fn parts<P: Platform>(a: &P, b: &P, _: &P) {
    let mut pages = [1, 2, 3, 4].map(|fill| page(a, b, Access::ReadWrite, fill));
    let refs = pages.each_ref().map(|page| page.grant_ref());
    let [one, two, three, four] = refs;
    let whole = b.map(a.domid(), &refs, Access::ReadWrite).expect("granted");
    // Neither neighbours nor in order.
    let part = b.map(a.domid(), &[four, two], Access::ReadOnly);
    let part = part.expect("granted");
    drop(whole);
    let free = |pages: &mut [P::Granted; 4]| {
        let mut free = Vec::new();
        for page in pages {
            if page.try_revoke().is_ok() {
                free.push(page.grant_ref());
            }
        }
        free
    };
    assert_eq!(
        free(&mut pages),
        [one, three],
        "the others are still mapped"
    );
    assert_eq!(bytes(&part)[..PAGE], [4; PAGE]);
    assert_eq!(bytes(&part)[PAGE..], [2; PAGE]);
    drop(part);
    pages[1].try_revoke().expect("unmapped");
    pages[3].try_revoke().expect("unmapped");
}

#[test]
fn grant_table_model_unmapping_a_part_undoes_that_part() {
    both(parts, parts);
}

#[test]
fn grant_table_model_an_old_handle_unmaps_nothing() {
    let world = World::new();
    let (a, mut b) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    let mut page = page(&a, &b, Access::ReadWrite, 0x77);
    let map = |b: &Sim| b.map(a.domid(), &[page.grant_ref()], Access::ReadWrite);
    let old = map(&b).expect("granted");
    world.kill(b.domid());
    b = world.domain(b.domid());
    // The first handle of this process has the number that the old one's had.
    let new = map(&b).expect("granted");
    drop(old);
    assert_eq!(world.usage(b.domid()).mapped, 1);
    page.try_revoke().expect_err("mapped");
    new.write(0, b"still there");
    drop(new);
    page.try_revoke().expect("unmapped");
}

#[test]
fn grant_table_model_what_can_be_mapped_has_an_end() {
    const MAPS: u32 = 1 << 10;
    let limits = Limits {
        maps: MAPS,
        ..Limits::DEFAULT
    };
    let world = World::with(0, Adversary::EXACT, limits);
    let (a, b) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    let mut page = page(&a, &b, Access::ReadWrite, 0);
    let gref = page.grant_ref();
    let mut held = Vec::new();
    for power in 0..10 {
        let mapping = b.map(a.domid(), &vec![gref; 1 << power], Access::ReadOnly);
        held.push(mapping.expect("there is room"));
    }
    let status = GrantStatus::NO_SPACE;
    let peer = a.domid();
    let full = GrantError::Refused { peer, gref, status };
    for more in [2, 1 << 10] {
        let mapped = b.map(peer, &vec![gref; more], Access::ReadOnly);
        assert_eq!(mapped.err(), Some(full));
        assert_eq!(world.usage(b.domid()).mapped as u32, MAPS - 1);
    }
    held.push(b.map(peer, &[gref], Access::ReadOnly).expect("the last"));
    drop(held);
    assert_eq!(world.usage(b.domid()).mapped, 0);
    page.try_revoke().expect("unmapped as often as mapped");
}
