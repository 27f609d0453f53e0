//! The platform contracts with real processes.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use ringfence_core::platform::{
    Access, Channel as _, EvtchnError, GrantError, GrantStatus, Granted as _, Platform as _,
};
use ringfence_core::store::{Store as _, StoreError, Tx, WatchEvent};
use ringfence_core::{DomId, GrantRef, SharedMem as _};
use ringfence_hosted::admin::DomainKind;
use ringfence_hosted::{Hosted, HostedStore, StoreSocket};
use ringfence_tests::conformance::{Who, World};
use ringfence_tests::hosted::{Host, Peer};
use ringfence_tests::platform_conformance;

fn host() -> Host {
    Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")))
}

/// Three domains, each with a process that lets the test speak for it.
struct Processes {
    platforms: [Hosted; 3],
    stores: RefCell<[Option<HostedStore>; 3]>,
    _processes: [std::os::unix::net::UnixStream; 3],
    host: Host,
}

impl Processes {
    fn new() -> Self {
        let host = host();
        let peers = ["a", "b", "c"].map(|name| host.peer(name, DomainKind::Guest));
        let platforms = peers.each_ref().map(|peer| peer.platform.clone());
        let (mut stores, mut processes) = (Vec::new(), Vec::new());
        for peer in peers {
            stores.push(Some(peer.store));
            processes.push(peer.process);
        }
        Self {
            platforms,
            stores: RefCell::new(stores.try_into().unwrap()),
            _processes: processes.try_into().unwrap(),
            host,
        }
    }
}

impl World for Processes {
    type Platform = Hosted;

    fn domain(&self, who: Who) -> Hosted {
        self.platforms[who as usize].clone()
    }

    fn store(&self, who: Who) -> HostedStore {
        self.stores.borrow_mut()[who as usize]
            .take()
            .expect("a process has one connection")
    }

    fn dom0_store(&self) -> HostedStore {
        HostedStore::new(StoreSocket::connect(&self.host.run_dir().xenstored()).unwrap())
    }
}

platform_conformance!(handles Processes::new());

fn pair(host: &Host) -> (Peer, Peer) {
    (
        host.peer("guest", DomainKind::Guest),
        host.peer("blk0", DomainKind::DriverDomain),
    )
}

fn refused(gref: GrantRef, peer: DomId, status: GrantStatus) -> GrantError {
    GrantError::Refused { peer, gref, status }
}

#[test]
fn d1() {
    let host = host();
    let (guest, blk) = pair(&host);
    let mut page = guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap();
    let ours = guest.platform.alloc_unbound(blk.domid).unwrap();
    let refs = [page.grant_ref(); 2];
    let mapping = blk
        .platform
        .map(guest.domid, &refs, Access::ReadWrite)
        .unwrap();
    let theirs = blk.platform.bind(guest.domid, ours.port()).unwrap();
    std::mem::forget((mapping, theirs));
    page.try_revoke().unwrap_err();
    let domid = blk.domid;
    host.kill(blk);
    ours.notify().unwrap();
    page.try_revoke().unwrap();
    let blk = host.restart("blk0", domid);
    blk.platform.bind(guest.domid, ours.port()).unwrap();
}

#[test]
fn d2() {
    let host = host();
    let (guest, blk) = pair(&host);
    let ours = guest.platform.alloc_unbound(blk.domid).unwrap();
    let page = guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap();
    page.store_u32(8, 7);
    let (port, gref, domid) = (ours.port(), page.grant_ref(), guest.domid);
    let theirs = blk.platform.bind(domid, port).unwrap();
    let mapping = blk.platform.map(domid, &[gref], Access::ReadWrite).unwrap();
    std::mem::forget((ours, page));
    host.kill(guest);
    assert_eq!(mapping.load_u32(8), 7);
    drop(blk.platform.map(domid, &[gref], Access::ReadWrite).unwrap());
    theirs.notify().unwrap();

    let guest = host.restart("guest", domid);
    assert_eq!(guest.platform.domid(), domid);
    let ours = guest.platform.adopt_port(port).unwrap();
    assert!(ours.take_pending().unwrap(), "rung before it was there");
    let mut page = guest.platform.adopt_grant(blk.domid, gref).unwrap();
    assert_eq!((page.grant_ref(), page.load_u32(8)), (gref, 7));
    assert!(
        guest.platform.adopt_grant(blk.domid, gref).is_err(),
        "only once"
    );
    let other = guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap();
    assert_ne!(other.grant_ref(), gref);
    assert!(theirs.take_pending().unwrap());
    ours.notify().unwrap();
    assert!(theirs.take_pending().unwrap());
    assert!(page.try_revoke().is_err());
    drop(mapping);
    page.try_revoke().unwrap();
}

#[test]
fn d3() {
    let host = host();
    let (guest, mut blk) = pair(&host);
    let page = guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap();
    let ours = guest.platform.alloc_unbound(blk.domid).unwrap();
    for life in 0..3 {
        let mapping = blk
            .platform
            .map(guest.domid, &[page.grant_ref()], Access::ReadWrite)
            .unwrap();
        assert_eq!(mapping.load_u32(0), life);
        mapping.store_u32(0, life + 1);
        let theirs = blk.platform.bind(guest.domid, ours.port()).unwrap();
        assert!(theirs.take_pending().unwrap() && !theirs.take_pending().unwrap());
        theirs.notify().unwrap();
        assert!(ours.take_pending().unwrap() && !ours.take_pending().unwrap());
        std::mem::forget((mapping, theirs));
        let domid = blk.domid;
        host.kill(blk);
        blk = host.restart("blk0", domid);
    }
    assert_eq!(page.load_u32(0), 3);
}

#[test]
fn d4() {
    let host = host();
    let (guest, blk) = pair(&host);
    let channel = blk.platform.alloc_unbound(guest.domid).unwrap();
    let page = blk.platform.alloc(guest.domid, Access::ReadWrite).unwrap();
    let known = guest
        .platform
        .map(blk.domid, &[page.grant_ref()], Access::ReadWrite)
        .unwrap();
    drop(known);
    let mut dom0 = ringfence_hosted::HostedStore::new(
        ringfence_hosted::StoreSocket::connect(&host.run_dir().xenstored()).unwrap(),
    );
    dom0.watch("@releaseDomain", "gone").unwrap();
    // The first comes of setting the watch, though not always with the answer.
    while dom0.next_watch().unwrap().is_none() {
        dom0.wait(Some(Duration::from_secs(10))).unwrap();
    }
    host.client().destroy_domain("blk0").unwrap();
    loop {
        match dom0.next_watch().unwrap() {
            Some(WatchEvent::Changed(event)) => break assert_eq!(event.path, "@releaseDomain"),
            _ => dom0.wait(Some(Duration::from_secs(10))).unwrap(),
        }
    }
    assert_eq!(
        guest
            .platform
            .map(blk.domid, &[page.grant_ref()], Access::ReadOnly)
            .unwrap_err(),
        refused(page.grant_ref(), blk.domid, GrantStatus::BAD_DOMAIN)
    );
    assert_eq!(
        guest.platform.bind(blk.domid, channel.port()).unwrap_err(),
        EvtchnError::NoDomain { peer: blk.domid }
    );
    let home = format!("/local/domain/{}", blk.domid);
    assert_eq!(
        dom0.read(Tx::NONE, &home, &mut [0; 8]).unwrap_err(),
        StoreError::Missing
    );
}
