//! The process of a domain in the tests of the hosted platform. The first argument says what it does:
//!
//! * `hold SOCKET`: hands its control socket to the test at `SOCKET` and lives until that connection ends or it is killed. The
//!   test then speaks for the domain, while life and death are those of a real process.
//! * `probe on|off BROKER PEER FILE SOCKET ABSTRACT OWNER GREF`: confines itself like a driver domain, or not, shows that it can
//!   still serve, and prints what it can reach, one attempt a line.
//! * `exit CODE`: ends.
//! * `wait`: lives until SIGTERM.

use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use ringfence_core::platform::{Access, Channel as _, Platform as _};
use ringfence_core::store::{Store as _, Tx};
use ringfence_core::{DomId, GrantRef, SharedMem as _};
use ringfence_hosted::probe::{Targets, probe_sandbox};
use ringfence_hosted::sandbox::{Allow, enforce};
use ringfence_hosted::{Hosted, HostedStore, RestrictedRing};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

fn hold(path: &str) {
    let mut test = UnixStream::connect(path).expect("the test listens");
    let control = ringfence_hosted::inherited_socket().expect("started by a broker");
    let fds: [BorrowedFd<'_>; 1] = [control.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    assert!(message.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(
        &test,
        &[IoSlice::new(b"c")],
        &mut message,
        SendFlags::empty(),
    )
    .expect("sent");
    drop(control);
    let _ = test.read(&mut [0]);
}

fn probe(confined: bool, targets: &[&str]) {
    let [broker, peer, file, socket, abstract_socket, owner, gref] = targets else {
        panic!("seven targets, not {targets:?}");
    };
    let targets = Targets {
        broker_pid: broker.parse().unwrap(),
        peer_pid: peer.parse().unwrap(),
        file: file.into(),
        socket: socket.into(),
        abstract_socket: abstract_socket.as_bytes().into(),
        owner: DomId::new(owner.parse().unwrap()),
        gref: GrantRef::new(gref.parse().unwrap()),
    };
    let (platform, mut store) = Hosted::inherited().unwrap();
    let mut ring = confined.then(|| RestrictedRing::new(8).ok()).flatten();
    let allow = if confined {
        Allow::NOTHING
    } else {
        Allow::EVERYTHING
    };
    let report = enforce(&allow, ring.as_ref()).unwrap();
    println!("report\t{report}");
    serve(&platform, &mut store, targets.owner);
    if let Some(ring) = &mut ring {
        ring.check().unwrap();
    }
    for (name, outcome) in probe_sandbox(&platform, &targets, ring.as_mut()) {
        println!("{name}\t{outcome}");
    }
}

/// What a backend does all day, with a new peer, in a new thread.
fn serve(platform: &Hosted, store: &mut HostedStore, peer: DomId) {
    let mut name = [0; 64];
    store.read(Tx::NONE, "name", &mut name).unwrap();
    let clone = platform.clone();
    let served = std::thread::spawn(move || {
        let page = clone.alloc(peer, Access::ReadWrite).unwrap();
        page.store_u32(0, 1);
        let channel = clone.alloc_unbound(peer).unwrap();
        channel.notify().unwrap();
        channel.take_pending().unwrap();
    });
    served.join().unwrap();
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["hold", path] => hold(path),
        ["probe", sandbox, targets @ ..] => probe(*sandbox == "on", targets),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(255)),
        ["wait"] => loop {
            std::thread::park();
        },
        other => {
            eprintln!("hosted_peer: {other:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
