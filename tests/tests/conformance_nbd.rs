//! Disks of NBD servers, QEMU's and our own, against the suite of disks.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ringfence_blkback::error::IoError;
use ringfence_blkback::sink::{Disk, IoOp, Nbd};
use ringfence_cli::nbd::{Geometry, Listener, MemoryBlocks, Offers, Server};
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_tests::disk_conformance::{self as suite, SECTORS, io, one};
use tempfile::TempDir;

/// A place for sockets and images, removed with the value.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(TempDir::with_prefix("ringfence-nbd-").expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// `qemu-nbd` on an image of zeros.
struct QemuNbd {
    child: Child,
    dir: Dir,
}

impl QemuNbd {
    fn start(bytes: u64) -> Option<Self> {
        let dir = Dir::new();
        let image = dir.path("image");
        let file = std::fs::File::create(&image).expect("a file");
        file.set_len(bytes).expect("a size");
        let child = Command::new("qemu-nbd")
            .args(["-f", "raw", "-t", "--discard=unmap", "-x", "disk", "-k"])
            .arg(dir.path("sock"))
            .arg(&image)
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Self { child, dir }),
            Err(error) => {
                println!("SKIP qemu-nbd: {error}");
                None
            }
        }
    }

    fn connect(&self) -> UnixStream {
        connect(&self.dir.path("sock"))
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a server that has just been started.
fn connect(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[test]
fn qemu_nbd() {
    let mut servers = Vec::new();
    let Some(first) = QemuNbd::start(SECTORS * 512) else {
        return;
    };
    servers.push(first);
    suite::run(&mut || {
        let server = QemuNbd::start(SECTORS * 512).expect("it started before");
        let disk = Nbd::new(server.connect().into(), "disk", false).expect("a disk");
        servers.push(server);
        Box::new(disk)
    });
}

#[test]
fn our_own_server() {
    let dir = Dir::new();
    let geometry = Geometry {
        sectors: SECTORS,
        block_bytes: 512,
        request_bytes: 64 << 10,
        read_only: false,
        flush: true,
        offers: Offers {
            trim: true,
            zeroes: true,
            durable: true,
        },
    };
    let (stop, stopped) = UnixStream::pair().expect("a pair");
    std::thread::scope(|scope| {
        let mut made = 0;
        suite::run(&mut || {
            made += 1;
            let path = dir.path(&format!("sock-{made}"));
            let listener = Listener::bind(&path).expect("listens");
            let stopped = stopped.try_clone().expect("a duplicate");
            scope.spawn(move || {
                use std::os::fd::AsFd as _;
                let disk = MemoryBlocks::new(geometry, 32, made).expect("an eventfd");
                let served = Server::new(listener, "disk", disk).run(stopped.as_fd());
                served.expect("served");
            });
            Box::new(Nbd::new(connect(&path).into(), "", false).expect("a disk"))
        });
        drop(stop);
    });
}

#[test]
fn a_discard_longer_than_a_request_can_say_is_several() {
    let bytes = 5 << 30;
    let Some(server) = QemuNbd::start(bytes) else {
        return;
    };
    let disk = Nbd::new(server.connect().into(), "disk", false).expect("a disk");
    let mut disk = Disk::new(Box::new(disk));
    let write = io(1, IoOp::Write(Sector::new(9_000_000)), 8, 1);
    assert_eq!(one(&mut disk, write).result, Ok(()));
    let op = IoOp::Discard {
        sector: Sector::new(0),
        count: SectorCount::new(bytes / 512),
        secure: false,
    };
    assert_eq!(one(&mut disk, io(2, op, 0, 0)).result, Ok(()));
    let read = one(&mut disk, io(3, IoOp::Read(Sector::new(9_000_000)), 8, 1));
    assert!(read.io.buffer.bytes().iter().all(|byte| *byte == 0));
}

#[test]
fn an_export_that_is_not_there_is_named() {
    let Some(server) = QemuNbd::start(4096) else {
        return;
    };
    let refused = Nbd::new(server.connect().into(), "other", false).err();
    let said = refused.expect("refused").to_string();
    assert!(said.contains("no export \"other\""), "{said}");
}

#[test]
fn a_server_that_dies_fails_what_it_was_asked_for() {
    let Some(mut server) = QemuNbd::start(1 << 20) else {
        return;
    };
    let disk = Nbd::new(server.connect().into(), "disk", false).expect("a disk");
    let mut disk = Disk::new(Box::new(disk));
    let read = || io(1, IoOp::Read(Sector::new(0)), 8, 0);
    assert_eq!(one(&mut disk, read()).result, Ok(()));
    server.child.kill().expect("it lives");
    server.child.wait().expect("it ends");
    for _ in 0..2 {
        let failed = one(&mut disk, read()).result.expect_err("nobody answers");
        assert!(matches!(failed, IoError::System { .. }), "{failed}");
    }
}
