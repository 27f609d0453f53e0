//! Tries every device on real Xen, in the control domain, with that domain as its own peer. Prints a line for each thing that
//! works and `probe: all` at the end; panics at the first that does not.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringfence_core::platform::{
    Access, Channel as _, EvtchnError, GrantCopy, GrantError, GrantStatus, Granted as _,
    Platform as _,
};
use ringfence_core::store::{Store, StoreError, Tx, WatchEvent};
use ringfence_core::wire::xs_wire::Errno as StoreErrno;
use ringfence_core::{DomId, EvtchnPort, GrantRef, PAGE, SharedMem as _};
use ringfence_linux::domains::{Changes, Domains};
use ringfence_linux::evtchn::Evtchn;
use ringfence_linux::privcmd::Privcmd;
use ringfence_linux::{ByPath, Channel, DeviceFiles as _, Linux, LinuxStore, open_store, store};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

fn main() {
    let linux = Linux::open().expect("a domain of Xen's");
    let us = linux.domid();
    if let Some([port, gref]) = child_arguments() {
        return child(&linux, port, gref);
    }
    println!("probe: {linux:?}");
    grants(&linux);
    refusals(&linux);
    copies(&linux);
    unmap_notify(&linux);
    channels(&linux);
    restriction(us);
    death(&linux);
    let mut socket = open_store().expect("a store");
    round_trip(&mut socket, 4096);
    if !socket.transport().is_device() {
        let mut options = std::fs::File::options();
        let device = options.read(true).write(true).open(store::DEVICES[0]);
        let device = device.expect("the device");
        let mut device = store::from_fd(device.into()).expect("a store");
        assert!(device.transport().is_device());
        round_trip(&mut device, 4080);
        watches_of_the_kernel(&mut device);
    }
    domains();
    println!("probe: all");
}

/// The bytes of a page.
fn bytes<M: ringfence_core::SharedMem>(mem: &M) -> Vec<u8> {
    let mut all = vec![0; mem.len()];
    mem.read(0, &mut all);
    all
}

fn grants(linux: &Linux) {
    let us = linux.domid();
    let pages: Vec<_> = (0..3)
        .map(|_| linux.alloc(us, Access::ReadWrite).expect("a page"))
        .collect();
    assert!(bytes(&pages[0]).iter().all(|byte| *byte == 0));
    let refs: Vec<_> = pages.iter().map(|page| page.grant_ref()).collect();
    for (page, value) in pages.iter().zip(1..) {
        page.write(0, &[value; PAGE]);
    }
    let mapping = linux.map(us, &refs, Access::ReadWrite).expect("mapped");
    let expected: Vec<u8> = (1..=3).flat_map(|value| [value; PAGE]).collect();
    assert_eq!(bytes(&mapping), expected);
    mapping.store_u32(2 * PAGE + 8, 0x0102_0304);
    assert_eq!(pages[2].load_u32(8), 0x0102_0304);
    // Twice in one batch, and once more beside it.
    let twice = [refs[1], refs[1]];
    let twice = linux.map(us, &twice, Access::ReadOnly).expect("twice");
    pages[1].write(0, b"both");
    assert_eq!(bytes(&twice)[..4], *b"both");
    assert_eq!(bytes(&twice)[PAGE..PAGE + 4], *b"both");
    // A page that goes while it is mapped is not given out again.
    let gref = refs[0];
    drop(pages);
    for _ in 0..64 {
        let page = linux.alloc(us, Access::ReadWrite).expect("a page");
        assert_ne!(page.grant_ref(), gref);
        page.write(0, &[9; PAGE]);
    }
    assert_eq!(bytes(&mapping)[..8], [1; 8]);
    drop((mapping, twice));
    println!("probe: granted and mapped {refs:?}");
}

fn refused(linux: &Linux, refs: &[GrantRef], access: Access) -> (GrantRef, GrantStatus) {
    match linux.map(linux.domid(), refs, access) {
        Err(GrantError::Refused { gref, status, .. }) => (gref, status),
        other => panic!("{refs:?} {access:?}: {other:?}"),
    }
}

fn refusals(linux: &Linux) {
    let us = linux.domid();
    let page = linux.alloc(us, Access::ReadWrite).expect("a page");
    let sealed = linux.alloc(us, Access::ReadOnly).expect("a page");
    let (good, read_only) = (page.grant_ref(), sealed.grant_ref());
    let none = GrantRef::new(u32::MAX);
    for refs in [[none, good], [good, none]] {
        let told = refused(linux, &refs, Access::ReadWrite);
        assert_eq!(told, (none, GrantStatus::BAD_GNTREF));
    }
    let told = refused(linux, &[good, read_only], Access::ReadWrite);
    assert_eq!(told, (read_only, GrantStatus::GENERAL_ERROR));
    let mapping = linux.map(us, &[good, read_only], Access::ReadOnly);
    drop(mapping.expect("to read"));
    let other = linux.alloc(DomId::new(77), Access::ReadWrite);
    let other = other.expect("a page for a domain that may come");
    let (gref, status) = refused(linux, &[other.grant_ref()], Access::ReadOnly);
    assert_eq!(gref, other.grant_ref());
    println!("probe: refused {told:?}; for another domain {status}");
    let nobody = linux.map(DomId::new(77), &[good], Access::ReadOnly);
    println!(
        "probe: of a domain that is not there: {}",
        nobody.unwrap_err()
    );
    let gref = page.grant_ref();
    drop(page);
    let (_, status) = refused(linux, &[gref], Access::ReadOnly);
    println!("probe: of a page that was dropped: {status}");
}

fn copies(linux: &Linux) {
    let us = linux.domid();
    let page = linux.alloc(us, Access::ReadWrite).expect("a page");
    let sealed = linux.alloc(us, Access::ReadOnly).expect("a page");
    let (gref, none) = (page.grant_ref(), GrantRef::new(u32::MAX));
    sealed.write(PAGE - 4, b"tail");
    let (mut tail, mut past, long) = ([0; 4], [0; 4], [7; PAGE + 1]);
    let mut ops = [
        GrantCopy::to_peer(gref, 0, b"first"),
        GrantCopy::to_peer(none, 0, b"nobody"),
        GrantCopy::from_peer(sealed.grant_ref(), 4092, &mut tail),
        GrantCopy::from_peer(sealed.grant_ref(), 4093, &mut past),
        GrantCopy::to_peer(sealed.grant_ref(), 0, b"sealed"),
        GrantCopy::to_peer(gref, 0, &long),
        GrantCopy::to_peer(gref, 4092, b"last"),
    ];
    linux.copy(us, &mut ops).expect("copied");
    let statuses = ops.each_ref().map(|op| op.status);
    let (okay, bad) = (GrantStatus::OKAY, GrantStatus::BAD_COPY_ARG);
    assert_eq!([statuses[0], statuses[2], statuses[6]], [okay; 3]);
    assert_eq!([statuses[3], statuses[5]], [bad; 2]);
    assert_eq!(statuses[1], GrantStatus::BAD_GNTREF);
    assert!(!statuses[4].is_okay(), "{statuses:?}");
    assert_eq!((&tail, &past), (b"tail", &[0; 4]));
    assert_eq!(bytes(&page)[..6], *b"first\0");
    assert_eq!(bytes(&page)[4092..], *b"last");
    // More than one call takes, from and to buffers that cross pages of ours, the bad ones scattered.
    let source: Vec<u8> = (0..200u32 * 13).map(|n| (n % 251) as u8).collect();
    let mut ops: Vec<_> = source
        .chunks(13)
        .enumerate()
        .map(|(n, piece)| {
            let gref = if n % 7 == 3 { none } else { gref };
            GrantCopy::to_peer(gref, (n * 13) as u16, piece)
        })
        .collect();
    linux.copy(us, &mut ops).expect("copied");
    let there = bytes(&page);
    for (n, op) in ops.iter().enumerate() {
        let at = n * 13..n * 13 + 13;
        if n % 7 == 3 {
            assert_eq!(op.status, GrantStatus::BAD_GNTREF, "element {n}");
        } else {
            assert_eq!(op.status, okay, "element {n}");
            assert_eq!(there[at.clone()], source[at], "element {n}");
        }
    }
    let mut whole = vec![0; 3 * PAGE];
    let middle = &mut whole[1000..1000 + PAGE];
    let mut ops = [GrantCopy::from_peer(gref, 0, middle)];
    linux.copy(us, &mut ops).expect("copied");
    assert_eq!(ops[0].status, okay);
    assert_eq!(whole[1000..1000 + PAGE], there);
    println!("probe: copied; statuses {statuses:?}");
}

fn unmap_notify(linux: &Linux) {
    let us = linux.domid();
    let page = linux.alloc(us, Access::ReadWrite).expect("a page");
    let mapping = linux.map(us, &[page.grant_ref()], Access::ReadWrite);
    let mapping = mapping.expect("mapped");
    page.write(5, &[1]);
    mapping.set_unmap_notify(Some(5), None).expect("set");
    drop(mapping);
    until("the byte is cleared", || bytes(&page)[5] == 0);
    println!("probe: notified of an unmap");
}

/// Waits until `holds`, at most ten seconds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not yet");
        std::thread::yield_now();
    }
}

/// Whether the channel's descriptor becomes readable soon, and is pending then; unmasks it.
fn rung(channel: &Channel) -> bool {
    let soon = Timespec::try_from(Duration::from_millis(200)).expect("short");
    let mut fds = [PollFd::new(channel, PollFlags::IN)];
    let readable = rustix::event::poll(&mut fds, Some(&soon)).expect("polled") == 1;
    assert_eq!(channel.take_pending().expect("read"), readable);
    channel.unmask().expect("unmasked");
    readable
}

fn channels(linux: &Linux) {
    let us = linux.domid();
    let ours = linux.alloc_unbound(us).expect("a port");
    let theirs = linux.bind(us, ours.port()).expect("bound");
    assert!(rung(&theirs), "pending after the bind");
    assert!(!rung(&theirs) && !rung(&ours));
    for count in [1, 2, 100] {
        for _ in 0..count {
            ours.notify().expect("rung");
        }
        assert!(rung(&theirs), "{count} notifications");
        // The kernel took the first at once, and the rest are one more.
        assert_eq!(rung(&theirs), count > 1, "{count} notifications");
        assert!(!rung(&theirs) && !rung(&ours), "{count} notifications");
        theirs.notify().expect("rung");
        assert!(rung(&ours), "rung back");
        assert!(!rung(&ours) && !rung(&theirs), "rung back");
    }
    for port in [ours.port().get(), 0, u32::MAX] {
        match linux.bind(us, EvtchnPort::new(port)) {
            Err(EvtchnError::Refused { .. }) => {}
            other => panic!("port {port}: {other:?}"),
        }
    }
    let nobody = linux.bind(DomId::new(77), ours.port());
    println!(
        "probe: of a domain that is not there: {}",
        nobody.unwrap_err()
    );
    drop(theirs);
    ours.notify().expect("nobody is there, and that is fine");
    let theirs = linux.bind(us, ours.port()).expect("unbound again");
    assert!(rung(&theirs));
    let port = ours.port();
    drop(ours);
    theirs.notify().expect("nobody is there, and that is fine");
    linux.bind(us, port).expect_err("closed");
    println!("probe: rung both ways");
}

fn restriction(us: DomId) {
    let evtchn = Evtchn::new(ByPath.evtchn().expect("the device")).expect("flags");
    let port = evtchn.bind_unbound(us).expect("a port");
    let other = Evtchn::new(ByPath.evtchn().expect("the device")).expect("flags");
    other.restrict(DomId::new(1)).expect("restricted");
    assert_eq!(other.bind_interdomain(us, port), Err(Errno::ACCESS));
    println!("probe: restricted");
}

fn child_arguments() -> Option<[u32; 2]> {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|arg| arg.parse().expect("a number"));
    Some([numbers.next()?, numbers.next()?])
}

/// Binds, maps, says so, and waits for its end.
fn child(linux: &Linux, port: u32, gref: u32) {
    let us = linux.domid();
    let channel = linux.bind(us, EvtchnPort::new(port)).expect("bound");
    assert!(rung(&channel), "pending after the bind");
    let mapping = linux.map(us, &[GrantRef::new(gref)], Access::ReadWrite);
    let mapping = mapping.expect("mapped");
    mapping.store_u32(0, mapping.load_u32(0) + 1);
    channel.notify().expect("rung");
    println!("ready");
    loop {
        std::thread::park();
    }
}

fn death(linux: &Linux) {
    let us = linux.domid();
    let ours = linux.alloc_unbound(us).expect("a port");
    let page = linux.alloc(us, Access::ReadWrite).expect("a page");
    for life in 1..=3 {
        let mut process = Command::new(std::env::current_exe().expect("our name"))
            .args([ours.port().get(), page.grant_ref().get()].map(|n| n.to_string()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let out = process.stdout.take().expect("piped");
        let line = BufReader::new(out).lines().next().expect("a line");
        assert_eq!(line.expect("read"), "ready");
        assert!(rung(&ours), "rung in life {life}");
        assert_eq!(page.load_u32(0), life);
        linux.bind(us, ours.port()).expect_err("bound by the child");
        process.kill().expect("killed");
        process.wait().expect("reaped");
        ours.notify().expect("nobody is there, and that is fine");
    }
    println!("probe: outlived three processes");
}

fn next_event(store: &mut LinuxStore) -> Option<WatchEvent> {
    for _ in 0..20 {
        if let Some(event) = store.next_watch().expect("the store works") {
            return Some(event);
        }
        let soon = Some(Duration::from_millis(100));
        store.wait(soon).expect("the store works");
    }
    None
}

fn round_trip(store: &mut LinuxStore, payload: usize) {
    let (dir, node) = ("/tool/ringfence-probe", "/tool/ringfence-probe/node");
    let mut room = vec![0; 4096];
    store.watch(dir, "token").expect("watched");
    assert!(next_event(store).is_some(), "once when it is set");
    assert_eq!(store.next_watch(), Ok(None));
    let longest = vec![b'v'; payload - node.len() - 1];
    for value in [&b""[..], b"value", &longest] {
        store.write(Tx::NONE, node, value).expect("written");
        assert_eq!(store.read(Tx::NONE, node, &mut room), Ok(value));
    }
    match next_event(store) {
        Some(WatchEvent::Changed(event)) => assert_eq!(event.path.as_str(), node),
        other => panic!("{other:?}"),
    }
    let longer = vec![b'v'; payload - node.len()];
    let error = store.write(Tx::NONE, node, &longer).expect_err("too long");
    println!("probe: {} bytes too many: {error}", longer.len());
    let missing = store.read(Tx::NONE, "/tool/ringfence-probe/none", &mut room);
    assert_eq!(missing, Err(StoreError::Missing));
    // A conflict, and a transaction that goes through.
    let mut other = open_store().expect("a store");
    let tx = store.transaction_start().expect("started");
    store.read(tx, node, &mut room).expect("read");
    store.write(tx, dir, b"in").expect("written");
    other.write(Tx::NONE, node, b"outside").expect("written");
    let error = store.transaction_end(tx, true).expect_err("a conflict");
    assert!(error.is_conflict(), "{error}");
    store
        .transaction(|store, tx| store.write(tx, node, b"inside"))
        .expect("nobody interferes");
    assert_eq!(other.read(Tx::NONE, node, &mut room), Ok(&b"inside"[..]));
    let names = store.directory(Tx::NONE, dir, &mut room).expect("listed");
    assert!(names.into_iter().eq(["node"]));
    store.unwatch(dir, "token").expect("set");
    // The kernel, which keeps watches itself, does not mind.
    let missing = Err(StoreError::Missing);
    let device = store.transport().is_device();
    let twice = store.unwatch(dir, "token");
    assert_eq!(twice, if device { Ok(()) } else { missing });
    store.rm(Tx::NONE, dir).expect("removed");
    let way = store.transport();
    println!("probe: store, device {}", way.is_device());
    assert!(way.as_fd().try_clone_to_owned().is_ok());
}

fn watches_of_the_kernel(store: &mut LinuxStore) {
    store.watch("@releaseDomain", "gone").expect("watched");
    assert!(next_event(store).is_some(), "once when it is set");
    // A path that is none: whatever the kernel answers, the connection goes on.
    let error = store.watch("/tool/no spaces allowed", "bad");
    println!("probe: watch of a bad path: {error:?}");
    let invalid = StoreError::Refused(StoreErrno::Inval);
    assert_eq!(error, Err(invalid));
    store.unwatch("@releaseDomain", "gone").expect("set");
}

fn domains() {
    let mut domains = Domains::new(Privcmd::open().expect("the devices"));
    let all = domains.list().expect("we are the control domain");
    let dom0 = all.first().expect("we are there");
    assert_eq!(dom0.domid, DomId::DOM0);
    assert!(!dom0.dying && dom0.shutdown.is_none() && !dom0.paused);
    assert!(dom0.vcpus > 0 && dom0.pages > 0);
    assert_eq!(
        domains.get(DomId::DOM0).as_ref().map(Option::is_some),
        Ok(true)
    );
    assert_eq!(domains.get(DomId::new(0x7000)), Ok(None));
    println!("probe: version {:x?}: {all:x?}", domains.version());
    let taken = Changes::new(ByPath.evtchn().expect("the device"));
    println!("probe: VIRQ_DOM_EXC: {:?}", taken.map(|_| ()));
}
