//! Real processes under a broker: who they are, what they share, how they die.

use std::path::Path;

use ringfence_core::platform::{
    Access, Channel as _, EvtchnError, GrantCopy, GrantError, GrantStatus, Granted as _,
    Platform as _,
};
use ringfence_core::store::{Store as _, StoreError, StoreExt as _, Tx};
use ringfence_core::{DomId, EvtchnPort, GrantRef, PAGE, SharedMem as _};
use ringfence_hosted::admin::{AdminError, ClientError, DomainKind, Exit, RestartPolicy};
use ringfence_tests::hosted::{Host, Peer};

fn host() -> Host {
    Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")))
}

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
fn pages_are_shared_and_counted() {
    let host = host();
    let (guest, blk) = pair(&host);
    let third = host.peer("third", DomainKind::Guest);
    let mut page = guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap();
    let gref = page.grant_ref();
    page.write(100, b"from the guest");
    let mapping = blk
        .platform
        .map(guest.domid, &[gref], Access::ReadWrite)
        .unwrap();
    let mut text = [0; 14];
    mapping.read(100, &mut text);
    assert_eq!(&text, b"from the guest");
    mapping.store_u32(0, 42);
    assert_eq!(page.load_u32(0), 42);
    // No third domain reaches it, also not one that the guest granted something else to.
    let _other = guest
        .platform
        .alloc(third.domid, Access::ReadWrite)
        .unwrap();
    assert_eq!(
        third
            .platform
            .map(guest.domid, &[gref], Access::ReadOnly)
            .unwrap_err(),
        refused(gref, guest.domid, GrantStatus::BAD_GNTREF)
    );
    assert!(page.try_revoke().is_err());
    // Not given out again while it is mapped, although its owner is gone.
    drop(page);
    let mut others = Vec::new();
    for _ in 0..100 {
        others.push(guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap());
        assert_ne!(others.last().unwrap().grant_ref(), gref);
    }
    assert_eq!(
        blk.platform
            .map(guest.domid, &[gref], Access::ReadOnly)
            .unwrap_err(),
        refused(gref, guest.domid, GrantStatus::BAD_GNTREF)
    );
    drop(mapping);
    let again = guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap();
    assert_eq!(again.grant_ref(), gref);
    assert_eq!(again.load_u32(0), 0);
    again.read(100, &mut text);
    assert_eq!(text, [0; 14]);
}

#[test]
fn scattered_pages_are_mapped_in_their_order() {
    let host = host();
    let (guest, blk) = pair(&host);
    let pages: Vec<_> = (0..6)
        .map(|n| {
            let access = if n % 2 == 0 {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            };
            let page = guest.platform.alloc(blk.domid, access).unwrap();
            page.store_u32(0, n);
            page
        })
        .collect();
    let order = [3, 0, 5, 1, 4, 2];
    let refs: Vec<_> = order.iter().map(|n| pages[*n].grant_ref()).collect();
    let mapping = blk
        .platform
        .map(guest.domid, &refs, Access::ReadOnly)
        .unwrap();
    assert_eq!(mapping.len(), 6 * PAGE);
    for (at, n) in order.iter().enumerate() {
        assert_eq!(mapping.load_u32(at * PAGE), *n as u32);
    }
    // One read-only page spoils a batch for writing, and nothing of it stays in use.
    assert_eq!(
        blk.platform
            .map(guest.domid, &refs, Access::ReadWrite)
            .unwrap_err(),
        refused(refs[0], guest.domid, GrantStatus::PERMISSION_DENIED)
    );
    drop(mapping);
    for mut page in pages {
        page.try_revoke().unwrap();
    }
}

#[test]
fn copies_have_a_status_each() {
    let host = host();
    let (guest, blk) = pair(&host);
    let rw = guest.platform.alloc(blk.domid, Access::ReadWrite).unwrap();
    let ro = guest.platform.alloc(blk.domid, Access::ReadOnly).unwrap();
    ro.write(0, b"read only");
    let mut text = [0; 9];
    let mut over = [0; 2];
    let mut ops = [
        GrantCopy::to_peer(rw.grant_ref(), 4090, b"to end"),
        GrantCopy::to_peer(ro.grant_ref(), 0, b"no"),
        GrantCopy::from_peer(ro.grant_ref(), 0, &mut text),
        GrantCopy::from_peer(rw.grant_ref(), 4095, &mut over),
        GrantCopy::to_peer(GrantRef::new(u32::MAX), 0, b"no"),
        GrantCopy::to_peer(GrantRef::new(0), 0, b"the table"),
    ];
    blk.platform.copy(guest.domid, &mut ops).unwrap();
    let statuses = ops.each_ref().map(|op| op.status);
    use GrantStatus as S;
    assert_eq!(
        statuses,
        [
            S::OKAY,
            S::PERMISSION_DENIED,
            S::OKAY,
            S::BAD_COPY_ARG,
            S::BAD_GNTREF,
            S::BAD_GNTREF
        ]
    );
    assert_eq!(&text, b"read only");
    let mut end = [0; 6];
    rw.read(4090, &mut end);
    assert_eq!(&end, b"to end");
}

#[test]
fn a_closed_port_cannot_be_bound_also_when_both_sides_are_quick() {
    let host = host();
    let (guest, blk) = pair(&host);
    for _ in 0..200 {
        let channel = guest.platform.alloc_unbound(blk.domid).unwrap();
        let port = channel.port();
        let back = blk.platform.bind(guest.domid, port).unwrap();
        drop(back);
        let back = blk.platform.bind(guest.domid, port).unwrap();
        assert!(blk.platform.bind(guest.domid, port).is_err());
        drop(channel);
        drop(back);
        assert_eq!(
            blk.platform.bind(guest.domid, port).unwrap_err(),
            EvtchnError::Refused {
                peer: guest.domid,
                port
            }
        );
    }
    let zero = EvtchnPort::new(0);
    assert!(blk.platform.bind(guest.domid, zero).is_err());
}

#[test]
fn the_store_knows_who_asks() {
    let host = host();
    let (mut guest, mut blk) = pair(&host);
    let home = format!("/local/domain/{}", guest.domid);
    let mut buf = [0; 64];
    assert_eq!(
        guest.store.read(Tx::NONE, "name", &mut buf).unwrap(),
        b"guest"
    );
    guest
        .store
        .write_str(Tx::NONE, &home, "data/x", "1")
        .unwrap();
    assert_eq!(
        guest.store.write(Tx::NONE, "name", b"other").unwrap_err(),
        StoreError::Denied
    );
    let theirs = format!("{home}/data/x");
    assert_eq!(
        blk.store.write(Tx::NONE, &theirs, b"2").unwrap_err(),
        StoreError::Denied
    );
}

#[test]
fn a_failing_process_is_started_again_and_a_finished_one_is_not() {
    let host = host();
    let client = host.client();
    let finished = host.create(Host::domain("done", DomainKind::Guest, &["exit", "0"]));
    assert_eq!(
        client.wait_exit(&finished.to_string()).unwrap(),
        Exit::Code(0)
    );
    let mut peer = Host::domain("fails", DomainKind::DriverDomain, &["wait"]);
    peer.restart = RestartPolicy::OnFailure;
    host.create(peer);
    let find = || {
        client
            .domains()
            .unwrap()
            .into_iter()
            .find(|domain| domain.name == "fails")
            .unwrap()
    };
    let first = find();
    client.signal("fails", 9).unwrap();
    let mut second = find();
    while second.pid.is_none() || second.pid == first.pid {
        std::thread::yield_now();
        second = find();
    }
    assert_eq!((second.domid, second.restarts), (first.domid, 1));
    let mut once = Host::domain("once", DomainKind::Guest, &["exit", "3"]);
    once.destroy_on_exit = true;
    let once = host.create(once);
    assert_eq!(client.wait_exit(&once.to_string()).unwrap(), Exit::Code(3));
    assert!(matches!(
        client.destroy_domain("once"),
        Err(ClientError::Refused(AdminError::NoDomain(_)))
    ));
}

#[test]
fn a_dead_brokers_sockets_are_replaced_and_a_living_one_is_an_error() {
    use ringfence_hosted::broker::{Broker, BrokerError};
    let host = host();
    let living = Broker::new(host.run_dir().clone());
    assert!(matches!(living, Err(BrokerError::Running { .. })));
    let dir = ringfence_hosted::RunDir::resolve(Some(&host.path("stale"))).unwrap();
    dir.create().unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.control()).unwrap());
    drop(Broker::new(dir).unwrap());
}
