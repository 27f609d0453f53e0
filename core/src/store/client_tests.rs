//! A store that lies, and a stream that comes in pieces (CVE-2025-37949).

extern crate std;

use std::collections::VecDeque;
use std::vec::Vec;
use std::{format, vec};

use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::wire::xs_wire::{Errno, Op, SockMsg};

fn message(op: Op, req_id: u32, payload: &[u8]) -> Vec<u8> {
    let header = SockMsg {
        op,
        req_id,
        tx_id: 0,
        len: payload.len() as u32,
    };
    [header.as_bytes(), payload].concat()
}

fn ask(client: &mut Client, op: Op) -> u32 {
    let mut out = [0; 64];
    let (id, len) = client
        .encode(op, Tx::NONE, &[b"a", b"\0"], &mut out)
        .unwrap();
    assert_eq!(len, 18);
    assert_eq!(
        &out[..len],
        [
            SockMsg {
                op,
                req_id: id,
                tx_id: 0,
                len: 2
            }
            .as_bytes(),
            b"a\0"
        ]
        .concat()
    );
    id
}

#[test]
fn a_stream_may_break_anywhere() {
    for piece in 1..40 {
        let mut client = Client::<4096, 4>::new();
        let id = ask(&mut client, Op::READ);
        let stream = [
            message(Op::WATCH_EVENT, 0, b"/p\0t\0"),
            message(Op::READ, id, b"value"),
            message(Op::WATCH_EVENT, 0, b"/q\0\0"),
        ]
        .concat();
        let mut seen = Vec::new();
        for mut input in stream.chunks(piece) {
            while let Some(event) = client.receive(&mut input).unwrap() {
                seen.push(format!("{event:?}"));
            }
            assert!(input.is_empty());
        }
        assert_eq!(seen.len(), 3);
        assert!(seen[0].contains("\"/p\"") && seen[2].contains("\"/q\""));
        let expected = Event::Reply {
            req_id: id,
            op: Op::READ,
            result: Ok(b"value"),
        };
        assert_eq!(seen[1], format!("{expected:?}"));
        assert_eq!(client.stats(), ClientStats::default());
    }
}

#[test]
fn cve_2025_37949_replies_to_nothing_are_dropped_and_counted() {
    let mut client = Client::<4096, 4>::new();
    let id = ask(&mut client, Op::READ);
    let stream = [
        message(Op::READ, id + 1, b"not yours"),
        message(Op::ERROR, 0, b"EINVAL\0"),
        message(Op::new(4711), 99, b""),
        message(Op::READ, id, b"yours"),
        message(Op::READ, id, b"again"),
    ]
    .concat();
    let mut input = stream.as_slice();
    let event = client.receive(&mut input).unwrap();
    assert_eq!(
        event,
        Some(Event::Reply {
            req_id: id,
            op: Op::READ,
            result: Ok(b"yours")
        })
    );
    assert_eq!(client.receive(&mut input), Ok(None));
    assert_eq!(client.stats().unknown_replies, 4);
}

#[test]
fn cve_2025_37949_malformed_replies_answer_their_request() {
    let cases: [(Op, &[u8], ReplyError); 7] = [
        (Op::ERROR, b"ENOENT\0", ReplyError::Errno(Errno::NoEnt)),
        (Op::ERROR, b"ENOENT", ReplyError::Malformed),
        (Op::ERROR, b"", ReplyError::Malformed),
        (Op::ERROR, b"EWHAT\0", ReplyError::UnknownErrno),
        (Op::ERROR, b"ENOENT\0\0", ReplyError::UnknownErrno),
        (Op::WRITE, b"OK\0", ReplyError::Malformed),
        (Op::new(99), b"", ReplyError::Malformed),
    ];
    for (op, payload, error) in cases {
        let mut client = Client::<4096, 4>::new();
        let id = ask(&mut client, Op::READ);
        let reply = message(op, id, payload);
        let event = client.receive(&mut reply.as_slice()).unwrap();
        assert_eq!(
            event,
            Some(Event::Reply {
                req_id: id,
                op: Op::READ,
                result: Err(error)
            }),
            "{payload:?}"
        );
    }
}

#[test]
fn cve_2025_37949_malformed_events_are_dropped_and_counted() {
    let mut client = Client::<4096, 4>::new();
    let bad: [&[u8]; 5] = [b"", b"/p", b"/p\0", b"/p\0t", b"\xff\0t\0"];
    for payload in bad {
        let event = message(Op::WATCH_EVENT, 0, payload);
        assert_eq!(
            client.receive(&mut event.as_slice()),
            Ok(None),
            "{payload:?}"
        );
    }
    assert_eq!(client.stats().malformed_events, 5);
    let good = message(Op::WATCH_EVENT, 7, b"/p\0t\0");
    assert!(client.receive(&mut good.as_slice()).unwrap().is_some());
}

#[test]
fn cve_2025_37949_an_impossible_length_is_latched() {
    for len in [4097, 1 << 31, u32::MAX] {
        let mut client = Client::<4096, 4>::new();
        let header = SockMsg {
            op: Op::READ,
            req_id: 1,
            tx_id: 0,
            len,
        };
        let error = Err(StoreError::Desynchronised { len });
        assert_eq!(client.receive(&mut header.as_bytes()), error);
        let good = message(Op::WATCH_EVENT, 0, b"/p\0t\0");
        assert_eq!(client.receive(&mut good.as_slice()), error);
    }
}

#[test]
fn a_payload_longer_than_the_buffer_is_skipped() {
    let mut client = Client::<8, 2>::new();
    let (id, _) = client.begin(Op::READ, Tx::NONE, 0).unwrap();
    let stream = [
        message(Op::READ, id, &[b'x'; 4096]),
        message(Op::WATCH_EVENT, 0, b"/long/path\0t\0"),
        message(Op::WATCH_EVENT, 0, b"/p\0t\0"),
    ]
    .concat();
    let mut input = stream.as_slice();
    let result = Err(ReplyError::TooLong { len: 4096 });
    assert_eq!(
        client.receive(&mut input),
        Ok(Some(Event::Reply {
            req_id: id,
            op: Op::READ,
            result
        }))
    );
    assert_eq!(
        client.receive(&mut input),
        Ok(Some(Event::Watch {
            path: "/p",
            token: "t"
        }))
    );
    assert_eq!(client.stats().malformed_events, 1);
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let mut client = Client::<4096, 1>::new();
    let long = vec![0; 4097];
    let refused = client.encode(Op::WRITE, Tx::NONE, &[&long], &mut [0; 8192]);
    assert_eq!(refused, Err(EncodeError::TooLong { len: 4097 }));
    let refused = client.encode(Op::WRITE, Tx::NONE, &[b"ab"], &mut [0; 17]);
    assert_eq!(refused, Err(EncodeError::NoRoom { len: 18, room: 17 }));
    client.begin(Op::READ, Tx::NONE, 0).unwrap();
    assert_eq!(
        client.begin(Op::READ, Tx::NONE, 0),
        Err(EncodeError::Busy { outstanding: 1 })
    );
}

/// Answers each request with the next of `answers`, a few bytes at a time.
#[derive(Default)]
struct Script {
    answers: VecDeque<(Op, Vec<u8>)>,
    request: Vec<u8>,
    out: VecDeque<u8>,
}

impl Transport for Script {
    type Error = &'static str;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        let len = bytes.len().min(7);
        self.request.extend_from_slice(&bytes[..len]);
        if let Ok((header, rest)) = SockMsg::read_from_prefix(&self.request)
            && rest.len() == header.len as usize
        {
            self.request.clear();
            let (op, payload) = self.answers.pop_front().ok_or("the script ended")?;
            self.out.extend(message(op, header.req_id, &payload));
        }
        Ok(len)
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, Self::Error> {
        let len = self.out.len().min(room.len()).min(5);
        for (to, from) in room.iter_mut().zip(self.out.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }

    fn wait(&mut self, _: Interest, _: Option<Duration>) -> Result<(), Self::Error> {
        if self.out.is_empty() {
            Err("nothing will come")
        } else {
            Ok(())
        }
    }
}

fn scripted(answers: &[(Op, &[u8])]) -> Connection<Script> {
    let answers = answers
        .iter()
        .map(|(op, payload)| (*op, payload.to_vec()))
        .collect();
    Connection::new(Script {
        answers,
        ..Script::default()
    })
}

#[test]
fn a_transaction_is_tried_again_after_a_conflict_and_not_for_ever() {
    let round: [(Op, &[u8]); 3] = [
        (Op::TRANSACTION_START, b"5\0"),
        (Op::WRITE, b"OK\0"),
        (Op::ERROR, b"EAGAIN\0"),
    ];
    let mut script = round.repeat(2);
    script.extend([
        round[0],
        round[1],
        (Op::TRANSACTION_END, b"OK\0".as_slice()),
    ]);
    let mut store = scripted(&script);
    let mut tries = 0;
    let result = store.transaction(|store, tx| {
        tries += 1;
        assert_eq!(tx, Tx::new(5));
        store.write_u32(tx, "dir", "ring-ref", 8)
    });
    assert_eq!((result, tries), (Ok(()), 3));

    let mut store = scripted(&round.repeat(TRANSACTION_RETRIES as usize));
    let result = store.transaction(|store, tx| store.write_u32(tx, "dir", "ring-ref", 8));
    assert_eq!(
        result,
        Err(StoreError::Contended {
            tries: TRANSACTION_RETRIES
        })
    );
}

#[test]
fn a_body_that_fails_aborts_its_transaction() {
    let mut store = scripted(&[
        (Op::TRANSACTION_START, b"9\0"),
        (Op::ERROR, b"EACCES\0"),
        (Op::TRANSACTION_END, b"OK\0"),
        (Op::MKDIR, b"OK\0"),
    ]);
    let result = store.transaction(|store, tx| store.rm(tx, "x"));
    assert_eq!(result, Err(StoreError::Denied));
    assert_eq!(store.mkdir(Tx::NONE, "y"), Ok(()));
}

#[test]
fn fields_name_what_is_wrong_with_them() {
    let mut store = scripted(&[
        (Op::READ, b"12"),
        (Op::READ, b"4\0"),
        (Op::ERROR, b"ENOENT\0"),
        (Op::ERROR, b"EACCES\0"),
        (Op::READ, b"-1"),
        (Op::READ, b"4294967296"),
        (Op::READ, &[b'9'; 600]),
        (Op::READ, b""),
    ]);
    let none = Tx::NONE;
    assert_eq!(store.read_u32(none, "d", "ring-ref"), Ok(12));
    assert_eq!(store.read_state(none, "d"), Ok(4));
    assert_eq!(store.read_opt::<u64>(none, "d", "sectors"), Ok(None));
    assert_eq!(
        store.read_u32(none, "d", "mode"),
        Err(FieldError::Denied { field: "mode" })
    );
    for text in ["-1", "4294967296", "(too long)", ""] {
        let error = FieldError::garbage("event-channel", text.as_bytes());
        assert_eq!(store.read_u32(none, "d", "event-channel"), Err(error));
    }
    let error = FieldError::garbage("state", b"fo\0o\xff");
    assert_eq!(format!("{error}"), "state: bad value \"fo?o?\"");
}

#[test]
fn answers_that_do_not_parse_are_errors() {
    let mut store = scripted(&[
        (Op::TRANSACTION_START, b"0\0"),
        (Op::TRANSACTION_START, b"x"),
        (Op::GET_PERMS, b"q1\0"),
        (Op::GET_PERMS, &b"n1\0".repeat(17)),
        (Op::READ, b"longer than that"),
        (Op::ERROR, b"ENOTHING\0"),
    ]);
    assert!(matches!(
        store.transaction_start(),
        Err(StoreError::Malformed { .. })
    ));
    assert!(matches!(
        store.transaction_start(),
        Err(StoreError::Malformed { .. })
    ));
    assert!(matches!(
        store.get_perms(Tx::NONE, "x"),
        Err(StoreError::Malformed { .. })
    ));
    assert!(matches!(
        store.get_perms(Tx::NONE, "x"),
        Err(StoreError::Malformed { .. })
    ));
    assert_eq!(
        store.read(Tx::NONE, "x", &mut [0; 4]),
        Err(StoreError::TooLong { len: 16, room: 4 })
    );
    assert_eq!(store.mkdir(Tx::NONE, "x"), Err(StoreError::UnknownErrno));
    assert_eq!(
        store.mkdir(Tx::NONE, "a\0b"),
        Err(StoreError::Unsendable { len: 3 })
    );
    assert_eq!(store.mkdir(Tx::NONE, "x"), Err(StoreError::Transport));
    assert_eq!(store.transport_error(), Some(&"the script ended"));
    assert_eq!(store.next_watch(), Err(StoreError::Transport));
}

#[test]
fn a_long_listing_is_put_together_and_starts_again_when_it_changes() {
    let mut store = scripted(&[
        (Op::ERROR, b"E2BIG\0"),
        (Op::DIRECTORY_PART, b"7\0old\0"),
        (Op::DIRECTORY_PART, b"8\0er\0\0"),
        (Op::DIRECTORY_PART, b"8\0a\0bc\0"),
        (Op::DIRECTORY_PART, b"8\0d\0\0"),
        (Op::ERROR, b"E2BIG\0"),
        (Op::DIRECTORY_PART, b"9\0\0"),
    ]);
    let mut buf = [0; 64];
    let names: Vec<_> = store.directory(Tx::NONE, "x", &mut buf).unwrap().collect();
    assert_eq!(names, ["a", "bc", "d"]);
    assert_eq!(store.directory(Tx::NONE, "x", &mut buf).unwrap().count(), 0);
}
