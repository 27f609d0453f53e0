use super::super::wire::{OPTION_MAGIC, REPLY_MAGIC};
use super::*;

fn offer() -> Offer {
    Offer {
        name: "xvda".into(),
        geometry: Geometry {
            sectors: 8,
            block_bytes: 512,
            request_bytes: 4096,
            read_only: true,
            flush: true,
            offers: crate::nbd::Offers::NONE,
        },
    }
}

fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn go_data(name: &[u8], requests: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name);
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|r| r.to_be_bytes()));
    data
}

/// Feeds `input` after the client's flags; the answers after the greeting.
fn negotiate(flags: u32, input: &[u8]) -> (usize, Step, Vec<u8>) {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(offer(), &mut out);
    assert_eq!(out, b"NBDMAGICIHAVEOPT\0\x03");
    out.clear();
    let mut stream = flags.to_be_bytes().to_vec();
    stream.extend(input);
    let (taken, step) = handshake.step(&stream, &mut out);
    // One byte after the other leads to the same.
    let (mut slow, mut bytes) = (Vec::new(), Vec::new());
    let mut handshake = Handshake::new(offer(), &mut slow);
    slow.clear();
    let (mut slow_taken, mut slow_step) = (0, Step::More);
    for byte in &stream {
        bytes.push(*byte);
        let (taken, step) = handshake.step(&bytes, &mut slow);
        bytes.drain(..taken);
        slow_taken += taken;
        slow_step = step;
    }
    assert_eq!((slow_taken, slow_step, &slow), (taken, step, &out));
    (taken - 4.min(taken), step, out)
}

/// The type of each reply in `out`.
fn types(mut out: &[u8]) -> Vec<ReplyType> {
    let mut types = Vec::new();
    while !out.is_empty() {
        assert_eq!(be!(out, 0, u64), REPLY_MAGIC);
        types.push(ReplyType(be!(out, 12, u32)));
        out = &out[20 + be!(out, 16, u32) as usize..];
    }
    types
}

#[test]
fn go_describes_the_export_and_starts() {
    let input = option(7, &go_data(b"xvda", &[3]));
    let (taken, step, out) = negotiate(3, &input);
    assert_eq!((taken, step), (input.len(), Step::Transmission));
    assert_eq!(
        types(&out),
        [ReplyType::INFO, ReplyType::INFO, ReplyType::ACK]
    );
    // NBD_INFO_EXPORT: 4096 bytes; has flags, read-only, flush, several connections.
    assert_eq!(out[20..32], [0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 1, 7]);
}

#[test]
fn what_follows_the_choice_is_left_to_the_session() {
    let mut input = option(7, &go_data(b"", &[]));
    let length = input.len();
    input.extend([0x25; 40]);
    let (taken, step, _) = negotiate(3, &input);
    assert_eq!((taken, step), (length, Step::Transmission));
}

#[test]
fn export_name_pads_unless_told_not_to() {
    let input = option(1, b"xvda");
    let (_, step, out) = negotiate(1, &input);
    assert_eq!((step, out.len()), (Step::Transmission, 10 + 124));
    let (_, step, out) = negotiate(3, &input);
    assert_eq!((step, out.len()), (Step::Transmission, 10));
    let (_, step, out) = negotiate(3, &option(1, b"xvdb"));
    assert_eq!((step, out.len()), (Step::Close, 0));
}

#[test]
fn an_option_that_is_not_served_is_answered_and_the_next_one_taken() {
    // NBD_OPT_STARTTLS, NBD_OPT_SET_META_CONTEXT, a list, and leaving.
    let mut input = option(5, b"");
    input.extend(option(10, b""));
    input.extend(option(3, b""));
    input.extend(option(3, b"x"));
    input.extend(option(2, b""));
    let (taken, step, out) = negotiate(3, &input);
    assert_eq!((taken, step), (input.len(), Step::Close));
    assert_eq!(
        types(&out),
        [
            ReplyType::ERR_UNSUP,
            ReplyType::ERR_UNSUP,
            ReplyType::SERVER,
            ReplyType::ACK,
            ReplyType::ERR_INVALID,
            ReplyType::ACK,
        ]
    );
}

#[test]
fn lengths_that_do_not_add_up_are_invalid() {
    let good = go_data(b"xvda", &[0, 3]);
    for length in 0..good.len() {
        let (_, step, out) = negotiate(3, &option(7, &good[..length]));
        assert_eq!(step, Step::More);
        assert_eq!(types(&out), [ReplyType::ERR_INVALID], "{length} bytes");
    }
    let mut huge = good.clone();
    huge[..4].fill(0xff);
    let (_, _, out) = negotiate(3, &option(6, &huge));
    assert_eq!(types(&out), [ReplyType::ERR_INVALID]);
    let (_, step, out) = negotiate(3, &option(7, &go_data(b"xvdb", &[])));
    assert_eq!(
        (step, types(&out)),
        (Step::More, vec![ReplyType::ERR_UNKNOWN])
    );
}

#[test]
fn a_long_option_is_skipped_and_refused() {
    let mut input = option(9, &vec![0; OPTION_DATA_MAX + 1]);
    input.extend(option(2, b""));
    let (taken, step, out) = negotiate(3, &input);
    assert_eq!((taken, step), (input.len(), Step::Close));
    assert_eq!(types(&out), [ReplyType::ERR_TOO_BIG, ReplyType::ACK]);
    let (_, step, _) = negotiate(3, &option(1, &vec![0; OPTION_DATA_MAX + 1]));
    assert_eq!(step, Step::Close);
}

#[test]
fn what_is_no_negotiation_closes() {
    let (_, step, out) = negotiate(4, &option(3, b""));
    assert_eq!((step, out.len()), (Step::Close, 0), "an unknown flag");
    let (_, step, out) = negotiate(3, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!((step, out.len()), (Step::Close, 0));
}

#[test]
fn structured_replies_are_for_who_asks() {
    let mut input = option(8, b"x");
    input.extend(option(8, b""));
    input.extend(option(7, &go_data(b"", &[])));
    let (_, step, out) = negotiate(3, &input);
    assert_eq!(step, Step::Transmission);
    assert_eq!(
        types(&out),
        [
            ReplyType::ERR_INVALID,
            ReplyType::ACK,
            ReplyType::INFO,
            ReplyType::INFO,
            ReplyType::ACK
        ]
    );
    // The flags of the export say besides that a read may be asked for in one piece.
    assert_eq!(out[40 + 30..][..2], [1, 0x87]);
    for (asks, replies) in [(false, Replies::Simple), (true, Replies::Structured)] {
        let mut handshake = Handshake::new(offer(), &mut Vec::new());
        let mut stream = vec![0, 0, 0, 3];
        if asks {
            stream.extend(option(8, b""));
        }
        handshake.step(&stream, &mut Vec::new());
        assert_eq!(handshake.replies(), replies);
    }
}
