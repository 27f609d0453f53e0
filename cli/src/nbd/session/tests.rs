use super::super::wire::REQUEST_MAGIC;
use super::*;

const GEOMETRY: Geometry = Geometry {
    sectors: 8,
    block_bytes: 512,
    request_bytes: 4096,
    read_only: false,
    flush: true,
    offers: crate::nbd::Offers::NONE,
};

fn request(flags: u16, command: Command, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.0.to_be_bytes());
    bytes.extend(7_u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// All events of a stream that comes in parts of `size` bytes, and the bytes left over.
fn events(geometry: Geometry, stream: &[u8], size: usize) -> (Vec<Event>, usize) {
    let mut session = Session::new(geometry, Replies::Simple);
    let (mut events, mut input) = (Vec::new(), Vec::new());
    for part in stream.chunks(size) {
        input.extend(part);
        loop {
            let (taken, event) = session.step(&input);
            input.drain(..taken);
            if taken == 0 && event.is_none() {
                break;
            }
            events.extend(event);
        }
    }
    (events, input.len())
}

fn one(geometry: Geometry, stream: &[u8]) -> Event {
    for size in [1, 7, stream.len()] {
        let (events, left) = events(geometry, stream, size);
        assert_eq!((events.len(), left), (1, 0), "{events:?}");
    }
    events(geometry, stream, stream.len()).0.remove(0)
}

fn refused(error: Errno) -> Event {
    Event::Refuse { cookie: 7, error }
}

#[test]
fn a_write_takes_its_payload_to_its_place_in_the_blocks() {
    let mut stream = request(0, Command::WRITE, 510, 600);
    stream.extend([0xab; 600]);
    let Event::Write {
        cookie,
        offset,
        span,
    } = one(GEOMETRY, &stream)
    else {
        panic!("not a write");
    };
    assert_eq!((cookie, offset), (7, 510));
    assert_eq!((span.head, span.length, span.tail()), (510, 600, 426));
    assert!(span.blocks[..510].iter().all(|byte| *byte == 0));
    assert!(span.blocks[span.range()].iter().all(|byte| *byte == 0xab));
}

#[test]
fn ranges_end_with_the_disk() {
    let read = |offset, length| one(GEOMETRY, &request(0, Command::READ, offset, length));
    assert_eq!(
        read(4095, 1),
        Event::Read {
            cookie: 7,
            offset: 4095,
            length: 1
        }
    );
    assert_eq!(read(4095, 2), refused(Errno::Inval));
    assert_eq!(read(4096, 1), refused(Errno::Inval));
    assert_eq!(read(u64::MAX, 2), refused(Errno::Inval));
    assert_eq!(read(0, 0), refused(Errno::Inval));
    assert_eq!(read(0, REQUEST_MAX + 1), refused(Errno::Inval));
}

#[test]
fn a_refused_write_loses_its_payload_and_nothing_else() {
    let write = |geometry, flags, offset, length: u32| {
        let mut stream = request(flags, Command::WRITE, offset, length);
        stream.extend(vec![0; length as usize]);
        stream.extend(request(0, Command::DISC, 0, 0));
        let (mut events, left) = events(geometry, &stream, 13);
        assert_eq!((events.len(), left), (2, 0));
        assert_eq!(events.pop(), Some(Event::Close));
        events.remove(0)
    };
    let read_only = Geometry {
        read_only: true,
        ..GEOMETRY
    };
    assert_eq!(write(read_only, 0, 0, 512), refused(Errno::Perm));
    assert_eq!(write(GEOMETRY, 0, 4095, 2), refused(Errno::NoSpace));
    assert_eq!(write(GEOMETRY, 0, u64::MAX, 2), refused(Errno::NoSpace));
    assert_eq!(write(GEOMETRY, 0, 0, 0), refused(Errno::Inval));
    assert_eq!(write(GEOMETRY, 1, 0, 512), refused(Errno::Inval), "FUA");
    let mut session = Session::new(GEOMETRY, Replies::Simple);
    let (announced, _) = session.step(&request(0, Command::WRITE, 0, u32::MAX));
    assert_eq!(announced, REQUEST_BYTES, "and takes no memory");
}

#[test]
fn commands_that_were_not_offered_are_invalid() {
    for command in 4..10 {
        let stream = request(0, Command(command), 0, 512);
        assert_eq!(one(GEOMETRY, &stream), refused(Errno::Inval));
    }
    let flush = request(0, Command::FLUSH, 0, 0);
    assert_eq!(one(GEOMETRY, &flush), Event::Flush { cookie: 7 });
    let no_cache = Geometry {
        flush: false,
        ..GEOMETRY
    };
    assert_eq!(one(no_cache, &flush), refused(Errno::Inval));
}

#[test]
fn after_a_wrong_magic_nothing_counts() {
    let mut stream = request(0, Command::READ, 0, 512);
    stream[0] ^= 1;
    stream.extend(request(0, Command::READ, 0, 512));
    assert_eq!(one(GEOMETRY, &stream), Event::Close);
}

#[test]
fn what_is_offered_is_served() {
    let geometry = Geometry {
        offers: crate::nbd::Offers {
            trim: true,
            zeroes: true,
            durable: true,
        },
        ..GEOMETRY
    };
    let trim = |durable| Event::Trim {
        cookie: 7,
        offset: 100,
        length: 3000,
        durable,
    };
    for (flags, durable) in [(0, false), (COMMAND_FUA, true)] {
        let stream = request(flags, Command::TRIM, 100, 3000);
        assert_eq!(one(geometry, &stream), trim(durable));
        let stream = request(flags | COMMAND_NO_HOLE, Command::WRITE_ZEROES, 510, 600);
        let Event::Write { offset, span, .. } = one(geometry, &stream) else {
            panic!("zeros are no write");
        };
        assert_eq!((offset, span.length, span.durable), (510, 600, durable));
        assert!(span.blocks.iter().all(|byte| *byte == 0));
        let mut stream = request(flags, Command::WRITE, 0, 512);
        stream.extend([1; 512]);
        let Event::Write { span, .. } = one(geometry, &stream) else {
            panic!("not a write");
        };
        assert_eq!(span.durable, durable);
    }
    for (command, flags, offset, length, error) in [
        (Command::TRIM, 0, 0, 0, Errno::Inval),
        (Command::TRIM, 2, 0, 512, Errno::Inval),
        (Command::TRIM, 0, 4095, 2, Errno::NoSpace),
        (Command::WRITE_ZEROES, 1 << 4, 0, 512, Errno::Inval),
        (Command::WRITE_ZEROES, 0, 0, ZEROES_MAX + 1, Errno::Inval),
        (Command::WRITE_ZEROES, 0, u64::MAX, 512, Errno::NoSpace),
        (Command::READ, COMMAND_FUA, 0, 512, Errno::Inval),
    ] {
        let stream = request(flags, command, offset, length);
        assert_eq!(one(geometry, &stream), refused(error), "{command:?}");
    }
    let protected = Geometry {
        read_only: true,
        ..geometry
    };
    for command in [Command::TRIM, Command::WRITE_ZEROES] {
        let stream = request(0, command, 0, 512);
        assert_eq!(one(protected, &stream), refused(Errno::Perm));
    }
}

#[test]
fn a_read_in_one_piece_needs_structured_replies() {
    let stream = request(COMMAND_DF, Command::READ, 0, 512);
    assert_eq!(one(GEOMETRY, &stream), refused(Errno::Inval));
    let read = Event::Read {
        cookie: 7,
        offset: 0,
        length: 512,
    };
    let mut session = Session::new(GEOMETRY, Replies::Structured);
    assert_eq!(session.step(&stream), (REQUEST_BYTES, Some(read)));
}
