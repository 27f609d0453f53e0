//! An export whose process has no descriptor left. The limit is the process's, so this test has one of its own.

use ringfence_cli::nbd::{Geometry, Listener, MemoryBlocks, Server, serve};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const GEOMETRY: Geometry = Geometry {
    sectors: 2048,
    block_bytes: 512,
    request_bytes: 11 * 4096,
    read_only: false,
    flush: true,
    offers: ringfence_cli::nbd::Offers::NONE,
};

/// Nothing takes so long.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// What a server says first.
fn greeted(client: &mut UnixStream) -> bool {
    let mut greeting = [0; 18];
    client.read_exact(&mut greeting).expect("a greeting");
    greeting.starts_with(b"NBDMAGIC")
}

/// Asks for what no server knows, and hears that.
fn is_answered(client: &mut UnixStream) {
    let mut option = b"IHAVEOPT".to_vec();
    option.extend(99_u32.to_be_bytes());
    option.extend(0_u32.to_be_bytes());
    client.write_all(&option).expect("sent");
    let mut header = [0; 20];
    client.read_exact(&mut header).expect("an answer");
    let [.., a, b, c, d] = header;
    let mut words = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    client.read_exact(&mut words).expect("its words");
}

#[test]
fn who_cannot_be_let_in_waits_and_others_are_served() {
    let dir = tempfile::TempDir::with_prefix("ringfence-descriptors-").expect("a directory");
    let path = dir.path().join("sock");
    let blocks = MemoryBlocks::new(GEOMETRY, 32, 1).expect("an eventfd");
    let mut servers = [Server::new(
        Listener::bind(&path).expect("a socket"),
        "xvda",
        blocks,
    )];
    let (stop, stopped) = UnixStream::pair().expect("a pair");
    let mut first = UnixStream::connect(&path).expect("a server");
    first.set_read_timeout(PATIENCE).expect("a limit");
    let second = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(&mut servers, stopped.as_fd()));
        assert!(greeted(&mut first));
        first.write_all(&3_u32.to_be_bytes()).expect("flags");
        is_answered(&mut first);

        let free = rustix::io::dup(&second).expect("the lowest").as_raw_fd();
        let before = getrlimit(Resource::Nofile);
        let mut none = before;
        none.current = u64::try_from(free).ok();
        setrlimit(Resource::Nofile, none).expect("less");
        connect(&second, &SocketAddrUnix::new(&path).expect("a short path")).expect("a server");
        // Meanwhile the server has slept, and tried to let the second one in.
        for _ in 0..1000 {
            is_answered(&mut first);
        }
        setrlimit(Resource::Nofile, before).expect("as before");

        let mut second = UnixStream::from(second);
        second.set_read_timeout(PATIENCE).expect("a limit");
        assert!(greeted(&mut second));
        drop(stop);
        serving.join().expect("no panic").expect("it serves");
    });
}
