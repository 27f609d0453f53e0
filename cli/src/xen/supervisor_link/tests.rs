//! The process's end, against a supervisor that says what it is told to.

use std::fs::File;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::*;

/// Asks while `answers` are given one after the other; what was asked.
fn ask<R>(
    answers: Vec<(Answer, Vec<OwnedFd>)>,
    asking: impl FnOnce(Arc<Link>) -> R,
) -> (R, Vec<Ask>) {
    let kind = SocketType::SEQPACKET;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.unwrap();
    std::thread::scope(|scope| {
        let supervisor = scope.spawn(move || {
            let mut asked = Vec::new();
            for (answer, fds) in answers {
                match packet::recv(ours.as_fd(), RecvFlags::empty()).unwrap() {
                    Received::Message(ask, _) => asked.push(ask),
                    other => panic!("{other:?}"),
                }
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                packet::send(ours.as_fd(), &answer, &fds, SendFlags::empty()).unwrap();
            }
            asked
        });
        let result = asking(Arc::new(Link::new(theirs)));
        (result, supervisor.join().unwrap())
    })
}

fn null() -> Vec<OwnedFd> {
    vec![File::open("/dev/null").unwrap().into()]
}

fn refused(words: &str, errno: i32) -> (Answer, Vec<OwnedFd>) {
    let words = words.to_owned();
    (Answer::Refused { words, errno }, Vec::new())
}

#[test]
fn each_device_is_asked_for_by_its_name() {
    let answers = (0..3).map(|_| (Answer::Device, null())).collect();
    let (given, asked) = ask(answers, |link| {
        [link.evtchn(), link.gntdev(), link.xenbus()].map(|fd| fd.is_ok())
    });
    assert_eq!(given, [true; 3]);
    let devices = [Device::Evtchn, Device::Gntdev, Device::Xenbus];
    assert_eq!(asked, devices.map(Ask::Device));
}

#[test]
fn the_words_of_a_refusal_are_those_of_the_error_node() {
    let words = "/images/a: no such file";
    let dir = "/local/domain/3/backend/vbd/7/51712";
    let (error, asked) = ask(vec![refused(words, 0)], |link| {
        FromSupervisor(link).open(dir).unwrap_err().to_string()
    });
    assert_eq!(error, words);
    let backend_dir = dir.to_owned();
    assert_eq!(asked, [Ask::OpenImage { backend_dir }]);
}

#[test]
fn a_device_that_is_gone_is_named_and_nothing_is_answered() {
    let backend_dir = "/local/domain/3/backend/vbd/7/51712".to_owned();
    let (_link, asked) = ask(vec![(Answer::Device, null())], |link| {
        FromSupervisor(Arc::clone(&link)).forget(&backend_dir);
        link
    });
    assert_eq!(asked, [Ask::Gone { backend_dir }]);
}

#[test]
fn an_image_comes_with_what_the_configuration_forbids() {
    for read_only in [false, true] {
        let spec = ImageSpec::raw("/x", read_only);
        let answer = (Answer::Image { spec }, null());
        let (image, _) = ask(vec![answer], |link| {
            FromSupervisor(link).open("/x").unwrap()
        });
        let Asked::Open(image) = image else {
            panic!("{image:?}");
        };
        assert_eq!(image.read_only, read_only);
    }
}

#[test]
fn an_image_that_a_dead_process_still_uses_is_none_yet() {
    let open = |answer| {
        let (image, _) = ask(vec![(answer, Vec::new())], |link| {
            FromSupervisor(link).open("/x").unwrap()
        });
        image
    };
    assert!(matches!(open(Answer::Later), Asked::Later));
    assert!(matches!(open(Answer::Moving), Asked::Moving));
}

#[test]
fn a_device_that_fails_fails_with_its_number() {
    let errno = rustix::io::Errno::NODEV.raw_os_error();
    let (error, _) = ask(vec![refused("gone", errno)], |link| {
        link.gntdev().unwrap_err()
    });
    assert_eq!(error.raw_os_error(), Some(errno));
}

#[test]
fn an_answer_without_its_descriptor_or_to_another_question_is_none() {
    let spec = ImageSpec::raw("/x", false);
    let answers = vec![
        (Answer::Device, Vec::new()),
        (Answer::Image { spec }, null()),
    ];
    let (errors, _) = ask(answers, |link| {
        [link.evtchn(), link.evtchn()].map(|given| given.unwrap_err().kind())
    });
    assert_eq!(errors, [io::ErrorKind::InvalidData; 2]);
}

#[test]
fn nobody_grants_pages_through_this_and_nobody_waits_for_a_dead_supervisor() {
    let (kinds, _) = ask(Vec::new(), |link| {
        let grants = link.gntalloc().unwrap_err().kind();
        // The supervisor's end closes with its thread: one of the two fails, which one is a matter of time.
        let gone = link.evtchn().unwrap_err().kind();
        (grants, gone)
    });
    assert_eq!(kinds.0, io::ErrorKind::Unsupported);
    let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(gone.contains(&kinds.1), "{:?}", kinds.1);
}
