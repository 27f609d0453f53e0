//! The NBD server's replies byte by byte, simple and structured, to clients that share its disk.

use ringfence_cli::nbd::wire::{
    COMMAND_FUA, Command, OPTION_MAGIC, Request, SIMPLE_REPLY_BYTES, be, parse_simple_reply,
};
use ringfence_cli::nbd::{Geometry, Listener, MemoryBlocks, Offers, Server};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

const GEOMETRY: Geometry = Geometry {
    sectors: 2048,
    block_bytes: 512,
    request_bytes: 8192,
    read_only: false,
    flush: true,
    offers: Offers {
        trim: true,
        zeroes: true,
        durable: true,
    },
};

/// A server on a thread, in a directory of its own.
struct Served {
    dir: PathBuf,
    stop: UnixStream,
    thread: JoinHandle<MemoryBlocks>,
}

impl Served {
    fn start(test: &str, blocks: MemoryBlocks) -> Self {
        let dir = std::env::temp_dir().join(format!("ringfence-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let listener = Listener::bind(&dir.join("sock")).expect("a socket");
        let (stop, stopped) = UnixStream::pair().expect("a pair");
        let thread = thread::spawn(move || {
            let mut server = Server::new(listener, "xvda", blocks);
            server.run(stopped.as_fd()).expect("serves");
            server.into_blocks()
        });
        Self { dir, stop, thread }
    }

    fn client(&self, structured: bool) -> Client {
        Client::connect(&self.dir.join("sock"), structured)
    }

    fn stop(self) -> MemoryBlocks {
        drop(self.stop);
        let blocks = self.thread.join().expect("the server ends well");
        std::fs::remove_dir_all(&self.dir).expect("the directory goes");
        blocks
    }
}

struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path, structured: bool) -> Self {
        let mut client = Self(UnixStream::connect(socket).expect("it listens"));
        client.take(18);
        client.send(&[0, 0, 0, 3]);
        if structured {
            client.option(8, &[]);
            client.take(20);
        }
        // Size and flags, block sizes, and that it is done.
        client.option(7, &[0; 6]);
        client.take(20 + 12 + 20 + 14 + 20);
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it reads");
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("it answers");
        bytes
    }

    fn option(&mut self, code: u32, data: &[u8]) {
        self.send(&OPTION_MAGIC.to_be_bytes());
        self.send(&code.to_be_bytes());
        self.send(&(data.len() as u32).to_be_bytes());
        self.send(data);
    }

    fn ask(&mut self, command: Command, flags: u16, offset: u64, length: u32) {
        let request = Request {
            flags,
            command,
            cookie: 77,
            offset,
            length,
        };
        self.send(&request.to_bytes());
    }

    /// The error of a simple reply.
    fn simple(&mut self) -> u32 {
        let bytes = self.take(SIMPLE_REPLY_BYTES);
        let header = bytes.first_chunk().expect("its length");
        let (cookie, error) = parse_simple_reply(header).expect("a simple reply");
        assert_eq!(cookie, 77);
        error
    }

    /// Type and payload of the only chunk of a reply.
    fn chunk(&mut self) -> (u16, Vec<u8>) {
        let header = self.take(20);
        assert_eq!(header[..6], [0x66, 0x8e, 0x33, 0xef, 0, 1]);
        assert_eq!(be!(header, 8, u64), 77);
        let payload = self.take(be!(header, 16, u32) as usize);
        (be!(header, 6, u16), payload)
    }

    fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        self.ask(Command::WRITE, flags, offset, data.len() as u32);
        self.send(data);
        self.simple()
    }
}

fn memory(seed: u64) -> MemoryBlocks {
    MemoryBlocks::new(GEOMETRY, 8, seed).expect("an eventfd")
}

#[test]
fn a_read_is_data_a_hole_or_an_error() {
    let served = Served::start("chunks", memory(1).failing(100..101));
    let mut client = served.client(true);
    assert_eq!(client.write(0, 1000, &[0xAA; 20_000]), 0);
    client.ask(Command::READ, 4, 999, 20_002);
    let (kind, payload) = client.chunk();
    assert_eq!((kind, be!(payload, 0, u64)), (1, 999));
    let mut expected = vec![0xAA; 20_002];
    (expected[0], expected[20_001]) = (0, 0);
    assert!(payload[8..] == expected);
    client.ask(Command::READ, 0, 21_003, 9001);
    let (kind, payload) = client.chunk();
    assert_eq!((kind, payload.len()), (2, 12));
    assert_eq!((be!(payload, 0, u64), be!(payload, 8, u32)), (21_003, 9001));
    for (command, offset, errno) in [
        (Command::READ, 51_200, 5),
        (Command::READ, 1 << 20, 22),
        (Command::TRIM, 1 << 20, 28),
    ] {
        client.ask(command, 0, offset, 512);
        let (kind, payload) = client.chunk();
        assert_eq!((kind, payload.len()), (0x8001, 6));
        assert_eq!(be!(payload, 0, u32), errno);
    }
    served.stop();
}

#[test]
fn who_does_not_ask_gets_no_chunks() {
    let served = Served::start("simple", memory(2));
    let mut client = served.client(false);
    client.ask(Command::READ, 0, 3, 5000);
    assert_eq!(client.simple(), 0);
    assert_eq!(client.take(5000), [0; 5000]);
    client.ask(Command::READ, 4, 0, 512);
    assert_eq!(client.simple(), 22);
    served.stop();
}

#[test]
fn a_flush_covers_what_was_answered_on_any_connection() {
    let served = Served::start("flush", memory(3));
    let mut clients = [false, true, false].map(|structured| served.client(structured));
    for (number, client) in clients.iter_mut().enumerate() {
        for block in 0..10 {
            let offset = (number as u64 * 10 + block) * 512;
            assert_eq!(client.write(0, offset, &[1; 512]), 0);
        }
    }
    clients[1].ask(Command::FLUSH, 0, 0, 0);
    assert_eq!(clients[1].simple(), 0);
    assert_eq!(clients[2].write(COMMAND_FUA, 99 * 512, &[2; 512]), 0);
    let counts = served.stop().counts();
    assert_eq!((counts.writes, counts.flushed, counts.flushes), (31, 31, 2));
}

#[test]
fn a_flush_alone_leaves_what_came_after_it() {
    let served = Served::start("later", memory(4));
    let (mut one, mut other) = (served.client(false), served.client(false));
    assert_eq!(one.write(0, 0, &[1; 512]), 0);
    other.ask(Command::FLUSH, 0, 0, 0);
    assert_eq!(other.simple(), 0);
    assert_eq!(one.write(0, 0, &[2; 512]), 0);
    let counts = served.stop().counts();
    assert_eq!((counts.writes, counts.flushed), (2, 1));
}
