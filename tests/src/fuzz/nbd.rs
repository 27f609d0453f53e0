//! An NBD client: its negotiation, its requests, and what they do to a disk.

use ringfence_cli::nbd::export::{ClientId, Export};
use ringfence_cli::nbd::handshake::{Handshake, Offer, Step};
use ringfence_cli::nbd::session::{Event, Replies, Session};
use ringfence_cli::nbd::wire::{OPTION_MAGIC, REQUEST_MAGIC};
use ringfence_cli::nbd::{Geometry, MemoryBlocks, Offers};

const CLIENT: ClientId = ClientId::new(1);

/// The negotiation takes `data` whole and byte by byte and must come to the same; then `data` is a stream of requests, again
/// both ways, and every one of them is answered once by a disk that checks the ranges it is given. Magic numbers are put in
/// where a stream needs one, as no mutation finds them.
pub fn nbd_client(data: &[u8]) {
    // Longer streams repeat themselves, and byte by byte they take their time.
    let data = data.get(..512).unwrap_or(data);
    let geometry = Geometry {
        sectors: 64,
        block_bytes: 512,
        request_bytes: 1024,
        read_only: data.first().is_some_and(|byte| byte % 4 == 0),
        flush: true,
        offers: Offers {
            trim: true,
            zeroes: true,
            durable: true,
        },
    };
    for stream in [data.to_vec(), options(data)] {
        let whole = negotiate(geometry, &stream, stream.len().max(1));
        assert_eq!(negotiate(geometry, &stream, 1), whole);
    }
    let replies = match data.first() {
        Some(byte) if byte % 8 < 4 => Replies::Structured,
        _ => Replies::Simple,
    };
    for stream in [data.to_vec(), requests(data)] {
        let whole = events(geometry, replies, &stream, stream.len().max(1));
        assert_eq!(events(geometry, replies, &stream, 1), whole);
        execute(geometry, whole);
    }
}

fn negotiate(geometry: Geometry, stream: &[u8], size: usize) -> (Vec<u8>, usize, Step) {
    let offer = Offer {
        name: "xvda".into(),
        geometry,
    };
    let mut out = Vec::new();
    let mut handshake = Handshake::new(offer, &mut out);
    let (mut input, mut total, mut last) = (Vec::new(), 0, Step::More);
    for part in stream.chunks(size) {
        input.extend_from_slice(part);
        let (taken, step) = handshake.step(&input, &mut out);
        input.drain(..taken);
        total += taken;
        last = step;
    }
    (out, total, last)
}

fn events(geometry: Geometry, replies: Replies, stream: &[u8], size: usize) -> Vec<Event> {
    let mut session = Session::new(geometry, replies);
    let (mut events, mut input) = (Vec::new(), Vec::new());
    for part in stream.chunks(size) {
        input.extend_from_slice(part);
        loop {
            let (taken, event) = session.step(&input);
            input.drain(..taken);
            if taken == 0 && event.is_none() {
                break;
            }
            events.extend(event);
        }
    }
    events
}

fn execute(geometry: Geometry, events: Vec<Event>) {
    let disk = MemoryBlocks::new(geometry, 4, events.len() as u64).expect("an eventfd");
    let mut export = Export::new(disk);
    let mut asked = 0;
    for event in events {
        asked += 1;
        match event {
            Event::Read {
                cookie,
                offset,
                length,
            } => export.read(CLIENT, cookie, offset, length),
            Event::Write {
                cookie,
                offset,
                span,
            } => export.write(CLIENT, cookie, offset, span),
            Event::Trim {
                cookie,
                offset,
                length,
                durable,
            } => export.trim(CLIENT, cookie, offset..offset + u64::from(length), durable),
            Event::Flush { cookie } => export.flush(CLIENT, cookie),
            Event::Refuse { .. } | Event::Close => asked -= 1,
        }
    }
    let mut replies = Vec::new();
    for _ in 0..100_000 {
        export.pump(&mut replies);
        if export.is_idle() {
            break;
        }
    }
    assert_eq!(replies.len(), asked, "not every request has its answer");
    assert!(replies.iter().all(|reply| reply.result.is_ok()));
}

/// `data` as options: the client's flags, then each 16 bytes an option with up to 15 bytes of data.
fn options(data: &[u8]) -> Vec<u8> {
    let mut stream = 3_u32.to_be_bytes().to_vec();
    for piece in data.chunks(16) {
        let (code, rest) = piece.split_at(1);
        stream.extend(OPTION_MAGIC.to_be_bytes());
        stream.extend(u32::from(code[0] % 12).to_be_bytes());
        stream.extend((rest.len() as u32).to_be_bytes());
        stream.extend(rest);
    }
    stream
}

/// `data` as requests, 8 bytes each: mostly within the disk, with a payload where one belongs.
fn requests(data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for piece in data.as_chunks::<8>().0 {
        let [flags, command, a, b, c, d, cookie, fill] = *piece;
        let offset = u64::from(u16::from_be_bytes([a, b])) % 33_000;
        let length = u32::from(u16::from_be_bytes([c, d])) % 5000;
        stream.extend(REQUEST_MAGIC.to_be_bytes());
        stream.extend(u16::from(flags / 128).to_be_bytes());
        stream.extend(u16::from(command % 7).to_be_bytes());
        stream.extend(u64::from(cookie).to_be_bytes());
        stream.extend(offset.to_be_bytes());
        stream.extend(length.to_be_bytes());
        if command % 7 == 1 {
            stream.extend(std::iter::repeat_n(fill, length as usize));
        }
    }
    stream
}
