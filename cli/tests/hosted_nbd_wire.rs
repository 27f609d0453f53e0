//! The NBD server over a disk in memory, driven by programs that none of us wrote.

use ringfence_cli::nbd::{Geometry, Listener, MemoryBlocks, REQUEST_MAX, Server, serve};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

const GEOMETRY: Geometry = Geometry {
    sectors: 32 << 11,
    block_bytes: 512,
    request_bytes: 11 * 4096,
    read_only: false,
    flush: true,
    offers: ringfence_cli::nbd::Offers::NONE,
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

    fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///xvda?socket={}", self.socket().display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Stops the server; the disk as it was left.
    fn stop(self) -> MemoryBlocks {
        drop(self.stop);
        let blocks = self.thread.join().expect("the server ends well");
        assert!(!self.dir.join("sock").exists(), "the socket stays");
        std::fs::remove_dir_all(&self.dir).expect("the directory goes");
        blocks
    }
}

fn memory(geometry: Geometry, seed: u64) -> MemoryBlocks {
    MemoryBlocks::new(geometry, 32, seed).expect("an eventfd")
}

/// Whether the tools are there; says so if not.
fn have(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIP {test}: {tool} is not installed");
            return false;
        }
    }
    true
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .expect("it starts")
}

fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}",
        output.status
    );
    text
}

/// Content in which no two blocks are alike.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend(state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

#[test]
fn nbdinfo_sees_size_flags_and_block_sizes() {
    if !have("nbdinfo_sees_size_flags_and_block_sizes", &["nbdinfo"]) {
        return;
    }
    let served = Served::start("info", memory(GEOMETRY, 1));
    let mode = std::fs::metadata(served.socket())
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "others could connect");
    let text = succeed("nbdinfo", &[&served.uri()]);
    for line in [
        "export-size: 33554432",
        "is_read_only: false",
        "can_flush: true",
        "can_multi_conn: true",
        "can_fua: false",
        "using structured packets",
        "can_df: true",
        "block_size_minimum: 1",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    let list = succeed(
        "nbdinfo",
        &["--list", &served.uri().replace("/xvda?", "/?")],
    );
    assert!(list.contains("export=\"xvda\""), "{list}");
    let wrong = run("nbdinfo", &[&served.uri().replace("xvda", "xvdb")]);
    assert!(!wrong.status.success(), "an export that is not there");
    served.stop();
}

#[test]
fn an_image_copied_both_ways_is_bit_identical() {
    if !have(
        "an_image_copied_both_ways_is_bit_identical",
        &["nbdcopy", "qemu-img"],
    ) {
        return;
    }
    let served = Served::start("copy", memory(GEOMETRY, 2));
    let (source, back) = (served.file("source"), served.file("back"));
    let content = noise(GEOMETRY.sectors as usize * 512);
    std::fs::write(&source, &content).expect("written");
    let (source, back) = (source.to_string_lossy(), back.to_string_lossy());
    succeed("nbdcopy", &["--flush", &source, &served.uri()]);
    succeed("nbdcopy", &[&served.uri(), &back]);
    assert_eq!(std::fs::read(&*back).expect("read"), content);
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &source, &served.uri()],
    );
    // Requests as long as a request can be.
    let sizes = format!("--request-size={REQUEST_MAX}");
    succeed("nbdcopy", &[&sizes, "-C", "1", &served.uri(), &back]);
    assert_eq!(std::fs::read(&*back).expect("read"), content);
    let blocks = served.stop();
    assert_eq!(blocks.bytes(), content);
    let counts = blocks.counts();
    assert!(counts.flushes > 0, "nbdcopy --flush flushes");
    assert_eq!(counts.deepest, 32, "the queue was never full");
}

#[test]
fn qemu_io_patterns_hold_at_odd_offsets() {
    if !have("qemu_io_patterns_hold_at_odd_offsets", &["qemu-io"]) {
        return;
    }
    for (seed, block_bytes) in [(3, 512), (4, 4096)] {
        let geometry = Geometry {
            block_bytes,
            ..GEOMETRY
        };
        let served = Served::start(&format!("odd-{block_bytes}"), memory(geometry, seed));
        let mut arguments: Vec<String> = vec!["-f".into(), "raw".into()];
        // Neighbours that share a block, and a write over several requests; then many at once.
        for command in [
            "write -P 0x11 0 1M",
            "write -P 0x22 513 1",
            "write -P 0x33 700 4000",
            "write -P 0x44 65537 131071",
            "write -P 0x55 1048575 3",
            "aio_write -P 0x61 2097152 777",
            "aio_write -P 0x62 2097929 777",
            "aio_write -P 0x63 2098706 45056",
            "aio_write -P 0x64 2143762 1",
            "aio_flush",
            "read -P 0x11 0 513",
            "read -P 0x22 513 1",
            "read -P 0x11 514 186",
            "read -P 0x33 700 4000",
            "read -P 0x11 4700 60837",
            "read -P 0x44 65537 131071",
            "read -P 0x11 196608 851967",
            "read -P 0x55 1048575 3",
            "read -P 0x00 1048578 1048574",
            "read -P 0x61 2097152 777",
            "read -P 0x62 2097929 777",
            "read -P 0x63 2098706 45056",
            "read -P 0x64 2143762 1",
            "read -P 0x00 2143763 511",
            "flush",
        ] {
            arguments.extend(["-c".into(), command.into()]);
        }
        arguments.push(served.uri());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let text = succeed("qemu-io", &arguments);
        assert!(!text.contains("verification failed"), "{text}");
        // As the disk has it, past the reads of the server.
        let blocks = served.stop();
        let bytes = blocks.bytes();
        assert!(bytes[1_048_575..1_048_578].iter().all(|b| *b == 0x55));
        assert_eq!((bytes[512], bytes[513], bytes[514]), (0x11, 0x22, 0x11));
    }
}

#[test]
fn fio_verifies_what_it_wrote_at_random() {
    if !have("fio_verifies_what_it_wrote_at_random", &["fio"]) {
        return;
    }
    if !succeed("fio", &["--enghelp"]).contains("nbd") {
        println!("SKIP fio_verifies_what_it_wrote_at_random: fio has no nbd engine");
        return;
    }
    let served = Served::start("fio", memory(GEOMETRY, 5));
    for (size, align) in [("4k", "4096"), ("997-70001", "1")] {
        let text = Command::new("fio")
            .current_dir(&served.dir)
            .args([
                "--name=verify",
                "--ioengine=nbd",
                "--rw=randwrite",
                "--iodepth=32",
                "--size=16m",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_backlog=64",
                "--norandommap=0",
                "--randrepeat=1",
                &format!("--uri={}", served.uri()),
            ])
            .args(if align == "1" {
                vec![
                    format!("--bsrange={size}"),
                    "--bs_unaligned=1".into(),
                    "--rw=write".into(),
                ]
            } else {
                vec![format!("--bs={size}")]
            })
            .output()
            .expect("fio starts");
        assert!(
            text.status.success(),
            "{}{}",
            String::from_utf8_lossy(&text.stdout),
            String::from_utf8_lossy(&text.stderr)
        );
    }
    let counts = served.stop().counts();
    assert!(counts.writes >= 4096 && counts.reads >= 4096, "{counts:?}");
}

#[test]
fn errors_of_the_disk_reach_the_client_as_they_are() {
    if !have(
        "errors_of_the_disk_reach_the_client_as_they_are",
        &["qemu-io"],
    ) {
        return;
    }
    let blocks = memory(GEOMETRY, 6).failing(100..101);
    let served = Served::start("errors", blocks);
    let read = |range: &str| {
        run(
            "qemu-io",
            &["-f", "raw", "-c", &format!("read {range}"), &served.uri()],
        )
    };
    let failed = read("51100 200");
    let text = String::from_utf8_lossy(&failed.stdout).into_owned()
        + &String::from_utf8_lossy(&failed.stderr);
    assert!(text.contains("Input/output error"), "{text}");
    assert!(read("0 51200").status.success());
    assert!(read("51712 4096").status.success());
    served.stop();
}

#[test]
fn a_read_only_disk_is_offered_as_one() {
    if !have(
        "a_read_only_disk_is_offered_as_one",
        &["nbdinfo", "qemu-io"],
    ) {
        return;
    }
    let geometry = Geometry {
        read_only: true,
        ..GEOMETRY
    };
    let served = Served::start("ro", memory(geometry, 7));
    assert!(succeed("nbdinfo", &[&served.uri()]).contains("is_read_only: true"));
    succeed(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 0 5 5000", &served.uri()],
    );
    let refused = run(
        "qemu-io",
        &["-f", "raw", "-c", "write 0 512", &served.uri()],
    );
    let text = String::from_utf8_lossy(&refused.stdout).into_owned()
        + &String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() || text.contains("read-only") || text.contains("not permitted"),
        "{text}"
    );
    assert_eq!(served.stop().counts().writes, 0);
}

#[test]
fn a_socket_in_use_is_refused_and_a_stale_one_replaced() {
    let served = Served::start("stale", memory(GEOMETRY, 8));
    let path = served.socket();
    let error = Listener::bind(&path).expect_err("it is in use");
    assert_eq!(error.to_string(), format!("{} is in use", path.display()));
    let stale = served.file("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bound"));
    drop(Listener::bind(&stale).expect("replaces it"));
    let precious = served.file("precious");
    std::fs::write(&precious, "text").expect("written");
    Listener::bind(&precious).expect_err("it is a file");
    assert_eq!(std::fs::read(&precious).expect("kept"), b"text");
    assert!(Listener::bind(Path::new("/nonexistent/sock")).is_err());
    served.stop();
}

#[test]
fn one_thread_serves_several_disks() {
    if !have("one_thread_serves_several_disks", &["qemu-io"]) {
        return;
    }
    let dir = std::env::temp_dir().join(format!("ringfence-several-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let sockets = ["a", "b"].map(|name| dir.join(name));
    let listeners = sockets
        .each_ref()
        .map(|path| Listener::bind(path).expect("a socket"));
    let (stop, stopped) = UnixStream::pair().expect("a pair");
    let thread = thread::spawn(move || {
        let mut servers =
            listeners.map(|listener| Server::new(listener, "disk", memory(GEOMETRY, 9)));
        serve(&mut servers, stopped.as_fd()).expect("serves");
        servers.map(Server::into_blocks)
    });
    for (socket, pattern) in sockets.iter().zip(["0x0a", "0x0b"]) {
        let uri = format!("nbd+unix:///disk?socket={}", socket.display());
        let write = format!("write -P {pattern} 1 1000");
        succeed("qemu-io", &["-f", "raw", "-c", &write, &uri]);
    }
    drop(stop);
    let disks = thread.join().expect("the servers end well");
    assert_eq!(disks.map(|disk| disk.bytes()[1000]), [0x0a, 0x0b]);
    std::fs::remove_dir_all(&dir).expect("the directory goes");
}
