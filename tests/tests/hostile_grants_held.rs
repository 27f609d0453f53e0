//! THREATS B: peers that hold what was granted for long, in large numbers, in parts, or from many threads at the same time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ringfence_core::platform::{
    Access, GrantCopy, GrantError, GrantStatus, Granted as _, Platform, PlatformError,
};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_hosted::Hosted;
use ringfence_hosted::admin::DomainKind;
use ringfence_sim::{Adversary, Limits, Sim, World};
use ringfence_tests::hosted::{Host, Peer};

fn host() -> (Host, Peer, Peer) {
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")));
    let guest = host.peer("guest", DomainKind::Guest);
    let blk = host.peer("blk0", DomainKind::DriverDomain);
    (host, guest, blk)
}

/// Grants all there is, has the peer map it, and lets go of it while it is mapped; then the peer lets go.
fn hold_everything<P: Platform>(owner: &P, peer: &P, all: u32) {
    let full = GrantError::Exhausted {
        peer: peer.domid(),
        limit: all,
    };
    let alloc = || owner.alloc(peer.domid(), Access::ReadWrite);
    for _ in 0..2 {
        let pages: Vec<_> = (0..all).map(|_| alloc().expect("a page")).collect();
        assert_eq!(alloc().err(), Some(full));
        for page in &pages {
            page.store_u32(0, 0x5EC2_E700);
        }
        let refs: Vec<GrantRef> = pages.iter().map(|page| page.grant_ref()).collect();
        let held = peer.map(owner.domid(), &refs, Access::ReadOnly);
        let held = held.expect("granted");
        drop(pages);
        // What is in quarantine counts, and nobody gets it.
        for _ in 0..1000 {
            assert_eq!(alloc().err(), Some(full));
        }
        assert_eq!(held.load_u32(held.len() - PAGE), 0x5EC2_E700);
        drop(held);
    }
    // Again all of it: nothing was lost.
    let pages: Vec<_> = (0..all).map(|_| alloc().expect("a page")).collect();
    assert_eq!(alloc().err(), Some(full));
    assert!(pages.iter().all(|page| page.load_u32(0) == 0));
}

#[test]
fn cve_2023_54081_a_peer_that_holds_everything_in_the_simulator() {
    const ALL: u32 = 4000;
    let limits = Limits {
        grants: ALL,
        ..Limits::DEFAULT
    };
    let world = World::with(0, Adversary::EXACT, limits);
    let (owner, peer) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    hold_everything(&owner, &peer, ALL);
    assert_eq!(world.usage(DomId::new(1)).quarantined, 0);
}

#[test]
fn cve_2023_54081_a_peer_that_holds_everything_of_a_process() {
    let (_host, guest, blk) = host();
    // 64 MiB, less the table.
    let all = 16384 - 64;
    hold_everything(&guest.platform, &blk.platform, all);
}

fn parts<P: Platform>(owner: &P, peer: &P) {
    let mut pages: Vec<_> = (0..7)
        .map(|_| owner.alloc(peer.domid(), Access::ReadWrite))
        .map(|page| page.expect("a page"))
        .collect();
    let closed = owner.alloc(peer.domid(), Access::ReadOnly);
    let mut closed = closed.expect("a page");
    let refs: Vec<_> = pages.iter().map(|page| page.grant_ref()).collect();
    let nobodys = GrantRef::new(refs[6].get() + 1000);
    // All that is wrong with the batch is at its end, in the middle, at its beginning.
    for bad in [closed.grant_ref(), nobodys] {
        for at in [7, 3, 0] {
            let mut batch = refs.clone();
            batch.insert(at, bad);
            batch.reverse();
            let error = peer.map(owner.domid(), &batch, Access::ReadWrite).err();
            let named = matches!(error, Some(GrantError::Refused { gref, .. }) if gref == bad);
            assert!(named, "{error:?}");
        }
    }
    let kept = peer.map(owner.domid(), &[refs[5], refs[1]], Access::ReadWrite);
    let kept = kept.expect("granted");
    for (nth, page) in pages.iter_mut().enumerate() {
        assert_eq!(
            page.try_revoke().is_ok(),
            nth != 5 && nth != 1,
            "page {nth}"
        );
    }
    closed.try_revoke().expect("never mapped");
    drop(kept);
    pages[5].try_revoke().expect("unmapped");
    pages[1].try_revoke().expect("unmapped");
}

#[test]
fn cve_2022_50257_a_map_that_fails_in_part_keeps_nothing() {
    let world = World::new();
    let (owner, peer) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    parts::<Sim>(&owner, &peer);
    assert_eq!(world.usage(DomId::new(2)).mapped, 0);
    let (_host, guest, blk) = host();
    parts::<Hosted>(&guest.platform, &blk.platform);
}

#[test]
fn cve_2026_98900_so_many_bytes_and_no_more_are_made_for_a_caller() {
    let (_host, guest, blk) = host();
    let refused = PlatformError {
        op: "statistics",
        errno: rustix::io::Errno::INVAL.raw_os_error(),
    };
    for platform in [&guest.platform, &blk.platform] {
        for bytes in [0, (64 << 20) + 1, u32::MAX - 4095, u32::MAX] {
            let made = platform.statistics(bytes);
            assert_eq!(made.err(), Some(refused), "{bytes} bytes");
        }
        let made = platform.statistics(8192).expect("so much there is");
        assert_eq!(made.len(), 1024);
    }
    let nobodys = guest
        .platform
        .record("/local/domain/1/backend/vbd/2/51712", u32::MAX);
    assert!(nobodys.is_err(), "of a disk that is none of its own");
}

/// Pages that are taken back and granted again while others use them.
const MOVING: usize = 4;
/// Pages that stay.
const STEADY: usize = 4;
/// Rounds of each thread.
const ROUNDS: u32 = 300;

/// One thread of the peer's: maps and copies in every combination. Returns how often a page was there.
fn user<P: Platform>(peer: &P, owner: DomId, refs: &[GrantRef], seed: u32) -> u32 {
    let mut met = 0;
    for round in 0..ROUNDS {
        let at = |salt: u32| ((round * 7 + seed * 3 + salt) % refs.len() as u32) as usize;
        let batch = [at(0), at(1)].map(|at| refs[at]);
        if let Ok(mapping) = peer.map(owner, &batch, Access::ReadWrite) {
            met += 1;
            for (nth, gref) in batch.iter().enumerate() {
                // As long as it is mapped it is this page and no other.
                check(mapping.load_u32(nth * PAGE), *gref);
            }
        }
        let mut word = [0; 4];
        let gref = refs[at(2)];
        let mut ops = [GrantCopy::from_peer(gref, 0, &mut word)];
        peer.copy(owner, &mut ops).expect("the platform works");
        let [op] = ops;
        match op.status {
            GrantStatus::OKAY => check(u32::from_ne_bytes(word), gref),
            status => assert_eq!(status, GrantStatus::BAD_GNTREF),
        }
    }
    met
}

/// A page says its number, as soon as its owner has written that.
fn check(word: u32, gref: GrantRef) {
    assert!(word == 0 || word == gref.get(), "{word:#x} in page {gref}");
}

fn crowd<P: Platform + Sync>(owner: &P, peer: &P) {
    let grant = || {
        let page = owner.alloc(peer.domid(), Access::ReadWrite);
        page.expect("a page")
    };
    let mut pages: Vec<_> = (0..STEADY + MOVING).map(|_| grant()).collect();
    for page in &pages {
        page.store_u32(0, page.grant_ref().get());
    }
    let refs: Vec<_> = pages.iter().map(|page| page.grant_ref()).collect();
    let over = AtomicBool::new(false);
    let domid = owner.domid();
    let mut taken_back = 0;
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..4)
            .map(|seed| {
                let refs = &refs;
                scope.spawn(move || user(peer, domid, refs, seed))
            })
            .collect();
        let watch = scope.spawn(|| {
            let met: Vec<u32> = users
                .into_iter()
                .map(|user| user.join().expect("no panic"))
                .collect();
            over.store(true, Ordering::Release);
            met
        });
        loop {
            let last = over.load(Ordering::Acquire);
            for page in &mut pages[STEADY..] {
                let same = page.grant_ref();
                if page.try_revoke().is_ok() {
                    // Nobody may see this: it is the owner's alone now.
                    page.store_u32(0, u32::MAX);
                    taken_back += 1;
                    let other = grant();
                    other.store_u32(0, other.grant_ref().get());
                    assert_ne!(other.grant_ref(), same, "that is still held");
                    *page = other;
                }
            }
            if last {
                break;
            }
        }
        let met = watch.join().expect("no panic");
        assert!(met.iter().all(|met| *met > 0), "{met:?}");
    });
    assert!(taken_back > 0, "nothing ever moved");
    for page in &mut pages {
        page.try_revoke().expect("nobody has it mapped any more");
    }
}

#[test]
fn xsa_406_many_threads_map_and_unmap_at_the_same_time() {
    let world = World::new();
    let (owner, peer) = (world.create(DomId::new(1)), world.create(DomId::new(2)));
    crowd::<Sim>(&owner, &peer);
    assert_eq!(world.usage(DomId::new(2)).mapped, 0);
    let (_host, guest, blk) = host();
    crowd::<Hosted>(&guest.platform, &blk.platform);
}
