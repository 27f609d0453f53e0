//! The process of a domain in the tests of the hosted platform. The first argument says what it does:
//!
//! * `hold SOCKET`: hands its control socket to the test at `SOCKET` and lives until that connection ends or it is killed. The
//!   test then speaks for the domain, while life and death are those of a real process.
//! * `exit CODE`: ends.
//! * `wait`: lives until SIGTERM.

use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

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

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["hold", path] => hold(path),
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
