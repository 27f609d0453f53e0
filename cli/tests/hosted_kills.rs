//! Each kind of disk under a load that verifies what it reads, while the process that serves it is killed again and again.
//!
//! Disks in memory are not among them: they are their process's own memory and end with it, so no configuration names one.

#[expect(dead_code, reason = "uses a part of it")]
mod domains;

use domains::{Host, Loop, Running, have, json_u64, output_text, succeed};
use ringfence_cli::nbd::wire::{Command as Ask, Request, SIMPLE_REPLY_BYTES, parse_simple_reply};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const BYTES: u64 = 4 << 20;
/// How often the process is killed.
const KILLS: usize = 20;
/// What a process answers one after the other before it is killed, besides its load.
const ANSWERS: usize = 12;
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// An empty raw image.
fn image(host: &Host) -> PathBuf {
    let image = host.path("image");
    let file = std::fs::File::create(&image).expect("a file");
    file.set_len(BYTES).expect("a size");
    image
}

/// A client of the guest's export that asks for one block after the other.
struct Client(UnixStream);

impl Client {
    /// Negotiates: fixed newstyle, the export without a name.
    fn connect(socket: &Path) -> Self {
        let mut client = Self(UnixStream::connect(socket).expect("it listens"));
        client.0.set_read_timeout(Some(PATIENCE)).expect("a limit");
        client.take(18);
        client.send(&[0, 0, 0, 3]);
        client.send(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
        client.take(20 + 12 + 20 + 14 + 20);
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it reads");
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("an answer in time");
        bytes
    }

    /// Reads a block.
    fn read(&mut self) {
        let request = Request {
            flags: 0,
            command: Ask::READ,
            cookie: 7,
            offset: 0,
            length: 4096,
        };
        self.send(&request.to_bytes());
        let header = self.take(SIMPLE_REPLY_BYTES);
        let header = header.first_chunk().expect("its length");
        assert_eq!(parse_simple_reply(header), Some((7, 0)));
        self.take(4096);
    }
}

/// Kills the process that serves and those that follow it, each in the middle of the load once it has done some of it: what one
/// left was answered by then, so that no request is suspected of having killed three of them.
fn kill_at_work(backend: &mut Running, client: &mut Client) {
    let mut said = backend.ready().clone();
    for _ in 0..KILLS {
        (0..ANSWERS).for_each(|_| client.read());
        let pid = i32::try_from(json_u64(&said, "pid")).ok();
        let pid = pid.and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::KILL).expect("it lives");
        said = backend.said("ready").expect("another process");
    }
}

/// One round: 4 to 64 KiB at random places, each read back and compared with its checksum.
fn load(host: &Host, uri: &str) -> std::process::Output {
    Command::new("fio")
        .current_dir(host.dir())
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--bsrange=4k-64k",
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=32",
            "--verify_state_save=0",
            "--randrepeat=0",
            &format!("--size={BYTES}"),
            &format!("--uri={uri}"),
        ])
        .output()
        .expect("fio starts")
}

/// Serves a disk to a guest under load through twenty kills; then both sides end well.
fn survives(host: &Host, disk: &str) {
    survives_with(host, disk, &[]);
}

/// The same with more options of the guest.
fn survives_with(host: &Host, disk: &str, more: &[&str]) {
    let mut backend = host.restarted("blk0");
    let socket = host.path("guest.sock");
    let disk = format!("vdev=xvda,backend=blk0,{disk}");
    let export = format!("xvda={}", socket.display());
    let arguments = ["guest", "g1", "--disk", &disk, "--nbd-export", &export];
    let guest = Running::start(&host.path("run"), &[&arguments, more].concat());
    let uri = format!("nbd+unix:///xvda?socket={}", socket.display());
    let mut client = Client::connect(&socket);
    let killed = AtomicBool::new(false);
    thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let mut rounds = 0;
            while !killed.load(Ordering::Acquire) || rounds == 0 {
                let output = load(host, &uri);
                assert!(output.status.success(), "{}", output_text(&output));
                rounds += 1;
            }
        });
        kill_at_work(&mut backend, &mut client);
        killed.store(true, Ordering::Release);
        loaded.join().expect("everything was as it was written");
    });
    assert!(guest.terminate().success());
    assert!(backend.terminate().success());
}

#[test]
fn a_raw_image_in_the_page_cache() {
    if !have("a_raw_image_in_the_page_cache", &["fio"]) {
        return;
    }
    let host = Host::start();
    survives(&host, &format!("target={}", text(&image(&host))));
}

#[test]
fn a_raw_image_over_several_queues() {
    if !have("a_raw_image_over_several_queues", &["fio"]) {
        return;
    }
    let host = Host::start();
    let disk = format!("target={}", text(&image(&host)));
    survives_with(&host, &disk, &["--queues", "3"]);
}

#[test]
fn a_raw_image_past_the_page_cache() {
    if !have("a_raw_image_past_the_page_cache", &["fio"]) {
        return;
    }
    let host = Host::start();
    let target = image(&host);
    survives(&host, &format!("cache=none,target={}", text(&target)));
}

#[test]
fn a_block_device() {
    if !have("a_block_device", &["fio"]) {
        return;
    }
    let host = Host::start();
    if let Some(device) = Loop::new(&image(&host), 512) {
        survives(&host, &format!("target={}", device.name()));
    }
}

#[test]
fn a_qcow2_image() {
    if !have("a_qcow2_image", &["fio", "qemu-img"]) {
        return;
    }
    let host = Host::start();
    let image = host.path("image");
    let size = BYTES.to_string();
    let create = ["create", "-q", "-f", "qcow2", text(&image), &size];
    succeed("qemu-img", &create);
    survives(&host, &format!("format=qcow2,target={}", text(&image)));
    // Clusters that nobody refers to are room lost, and no damage.
    let check = Command::new("qemu-img")
        .args(["check", "-q", "-f", "qcow2", text(&image)])
        .output()
        .expect("it starts");
    let code = check.status.code();
    assert!(matches!(code, Some(0 | 3)), "{}", output_text(&check));
}

/// `qemu-nbd` on an image.
struct QemuNbd(Child);

impl QemuNbd {
    fn start(image: &Path, socket: &Path) -> Self {
        let child = Command::new("qemu-nbd")
            .args(["-f", "raw", "-t", "-e", "4", "-x", "disk", "-k"])
            .args([socket, image])
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts");
        while UnixStream::connect(socket).is_err() {
            thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_disk_of_an_nbd_server() {
    if !have("a_disk_of_an_nbd_server", &["fio", "qemu-nbd"]) {
        return;
    }
    let host = Host::start();
    let socket = host.path("server.sock");
    let _server = QemuNbd::start(&image(&host), &socket);
    survives(
        &host,
        &format!("target=nbd:unix:{}:exportname=disk", text(&socket)),
    );
}
