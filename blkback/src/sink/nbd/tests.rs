//! Servers that do not keep to the protocol.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::vec;

use ringfence_core::ids::Sector;
use ringfence_nbd::wire::{
    EXPORT_HAS_FLAGS, FLAG_FIXED_NEWSTYLE, INFO_EXPORT, INIT_MAGIC, OPTION_MAGIC, OptionCode,
    ReplyType, option_reply, simple_reply,
};

use super::*;
use crate::buffer::Buffer;
use crate::sink::Tag;

/// A server that offers 64 KiB, reads one request and then says `answer`.
fn server(flags: u16, answer: Vec<u8>) -> (OwnedFd, JoinHandle<()>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let serve = move || {
        let mut hello = INIT_MAGIC.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(FLAG_FIXED_NEWSTYLE.to_be_bytes());
        theirs.write_all(&hello).unwrap();
        // Flags, the option, its length, name and question.
        theirs.read_exact(&mut [0; 4 + 16 + 4 + 2 + 2]).unwrap();
        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
        info.extend(65536u64.to_be_bytes());
        info.extend((flags | EXPORT_HAS_FLAGS).to_be_bytes());
        let mut replies = Vec::new();
        option_reply(&mut replies, OptionCode::GO, ReplyType::INFO, &info);
        option_reply(&mut replies, OptionCode::GO, ReplyType::ACK, &[]);
        theirs.write_all(&replies).unwrap();
        if theirs.read_exact(&mut [0; REQUEST_BYTES]).is_ok() {
            let _ = theirs.write_all(&answer);
        }
    };
    (ours.into(), std::thread::spawn(serve))
}

fn read(tag: u16) -> Io {
    let mut buffer = Buffer::with_pages(1);
    buffer.set_len(512);
    Io {
        tag: Tag::new(tag),
        op: IoOp::Read(Sector::new(1)),
        buffer,
    }
}

fn wait(disk: &mut Nbd) -> Result<(), IoError> {
    loop {
        match disk.reap() {
            Some(done) => return done.result,
            None => std::thread::yield_now(),
        }
    }
}

const LOST: fn(i32) -> Result<(), IoError> = |errno| {
    Err(IoError::System {
        op: "nbd reply",
        errno,
    })
};

#[test]
fn a_server_that_lies_is_not_listened_to_any_more() {
    let bad = LOST(Errno::BADMSG.raw_os_error());
    for answer in [
        // Nobody asked that, with a number that we have and one that we do not.
        simple_reply(7, None).to_vec(),
        simple_reply(u64::MAX, None).to_vec(),
        vec![0xff; SIMPLE_REPLY_BYTES],
    ] {
        let (socket, server) = server(0, answer);
        let mut disk = Nbd::new(socket, "", false).unwrap();
        disk.submit(read(1)).unwrap();
        disk.kick();
        assert_eq!(wait(&mut disk), bad);
        // And from then on.
        disk.submit(read(2)).unwrap();
        assert_eq!(wait(&mut disk), bad);
        server.join().unwrap();
    }
}

#[test]
fn what_was_in_flight_when_the_server_went_away_fails() {
    // Half of an answer.
    let (socket, server) = server(0, simple_reply(0, None)[..9].to_vec());
    let mut disk = Nbd::new(socket, "", false).unwrap();
    for tag in 0..3 {
        disk.submit(read(tag)).unwrap();
    }
    disk.kick();
    for _ in 0..3 {
        let gone = wait(&mut disk).unwrap_err();
        assert!(
            matches!(
                gone,
                IoError::System {
                    op: "nbd receive" | "nbd send",
                    ..
                }
            ),
            "{gone}"
        );
    }
    assert!(disk.reap().is_none());
    server.join().unwrap();
}

#[test]
fn errors_of_the_server_are_passed_on() {
    let nospace = simple_reply(0, Some(ringfence_nbd::wire::Errno::NoSpace));
    let (socket, server) = server(0, nospace.to_vec());
    let mut disk = Nbd::new(socket, "", false).unwrap();
    disk.submit(read(1)).unwrap();
    disk.kick();
    let error = IoError::System {
        op: "nbd server",
        errno: 28,
    };
    assert_eq!(wait(&mut disk), Err(error));
    assert!(disk.lost.is_none(), "the connection is fine");
    server.join().unwrap();
}

#[test]
fn a_protected_export_is_no_writable_disk() {
    let (socket, server) = server(EXPORT_READ_ONLY, Vec::new());
    let refused = Nbd::new(socket, "", false).err().unwrap();
    assert!(matches!(refused, NbdError::ReadOnly), "{refused}");
    server.join().unwrap();
}

#[test]
fn an_idle_disk_whose_server_went_away_wakes_nobody() {
    let (socket, server) = server(0, Vec::new());
    let disk = Nbd::new(socket, "", false).unwrap();
    let _ = rustix::net::shutdown(&disk.socket, rustix::net::Shutdown::Write);
    server.join().unwrap();
    let mut fds = [rustix::event::PollFd::new(
        &disk.set,
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::event::Timespec::default();
    assert_eq!(rustix::event::poll(&mut fds, Some(&now)), Ok(0));
}
