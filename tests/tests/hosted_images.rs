//! Images are opened for one process at a time, and QEMU's tools and we refuse each other.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ringfence_core::store::{Store as _, StoreExt as _, Tx};
use ringfence_hosted::admin::{AdminError, ClientError, DomainKind, NewDisk};
use ringfence_hosted::{ImageError, ImageSpec, OpenImageError, OpenedImage};
use ringfence_tests::hosted::{Host, Peer};

/// A host with a guest and a driver domain that the test speaks for; the guest's process never looks at its disks.
struct Rig {
    host: Host,
    guest: Peer,
    blk: Peer,
}

const MIB: u64 = 1 << 20;

impl Rig {
    fn new() -> Self {
        let host = Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")));
        let guest = host.peer("guest", DomainKind::Guest);
        let blk = host.peer("blk0", DomainKind::DriverDomain);
        Self { host, guest, blk }
    }

    fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.host.path(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        path
    }

    fn disk(&self, target: &Path, read_only: bool, number: u32) -> NewDisk {
        NewDisk {
            guest: "guest".into(),
            backend: "blk0".into(),
            image: ImageSpec::raw(target, read_only),
            vdev: 51712 + 16 * number,
            dev: format!("xvd{}", char::from(b'a' + number as u8)),
            cdrom: false,
            discard: true,
        }
    }

    fn path(&self, number: u32) -> String {
        let (guest, blk) = (self.guest.domid, self.blk.domid);
        format!(
            "/local/domain/{blk}/backend/vbd/{guest}/{}",
            51712 + 16 * number
        )
    }

    fn attach(&mut self, target: &Path, read_only: bool, number: u32) -> Result<(), ClientError> {
        self.offer(self.disk(target, read_only, number), number)
    }

    /// Attaches a disk that may be written to, maybe by others too.
    fn attach_to(&mut self, target: &Path, shared: bool, number: u32) -> Result<(), ClientError> {
        let mut disk = self.disk(target, false, number);
        disk.image.shared = shared;
        self.offer(disk, number)
    }

    /// Attaches a disk whose backend offers it at once.
    fn offer(&mut self, disk: NewDisk, number: u32) -> Result<(), ClientError> {
        let client = self.host.client();
        let path = self.path(number);
        std::thread::scope(|scope| {
            let attached = scope.spawn(|| client.attach_disk(disk));
            self.blk.store.watch(&path, "new").unwrap();
            while !attached.is_finished() {
                while self.blk.store.next_watch().unwrap().is_some() {}
                if self.blk.store.read_state(Tx::NONE, &path) == Ok(1) {
                    self.blk
                        .store
                        .write_u32(Tx::NONE, &path, "state", 4)
                        .unwrap();
                }
                self.blk
                    .store
                    .wait(Some(std::time::Duration::from_millis(20)))
                    .unwrap();
            }
            self.blk.store.unwatch(&path, "new").unwrap();
            attached.join().unwrap()
        })
    }

    fn open(&self, number: u32) -> Result<OpenedImage, OpenImageError> {
        let opened = self.blk.platform.open_image(&self.path(number))?;
        Ok(opened.expect("nobody has it"))
    }
}

fn why(result: Result<(), ClientError>) -> ImageError {
    match result {
        Err(ClientError::Refused(AdminError::Image(error))) => error,
        other => panic!("{other:?}"),
    }
}

fn has(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("SKIP {tool}: not installed");
    }
    found
}

fn qemu_io(path: &Path, command: &str, more: &[&str]) -> Output {
    Command::new("qemu-io")
        .args(more)
        .args(["-f", "raw", "-c", command])
        .arg(path)
        .output()
        .unwrap()
}

#[test]
fn what_cannot_be_served_is_said_at_once() {
    let mut rig = Rig::new();
    let missing = rig.host.path("missing.img");
    assert_eq!(
        why(rig.attach(&missing, false, 0)),
        ImageError::Missing { target: missing }
    );
    let dir = rig.host.path("directory");
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(
        why(rig.attach(&dir, false, 0)),
        ImageError::Directory {
            target: dir.clone()
        }
    );
    assert_eq!(
        why(rig.attach(&dir, true, 0)),
        ImageError::Directory { target: dir }
    );
    let odd = rig.image("odd.img", MIB + 1);
    let misaligned = ImageError::Misaligned {
        target: odd.clone(),
        bytes: MIB + 1,
    };
    assert_eq!(why(rig.attach(&odd, true, 0)), misaligned);
    let fifo = rig.host.path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        why(rig.attach(&fifo, true, 0)),
        ImageError::WrongKind { target: fifo }
    );
    assert!(matches!(
        why(rig.attach(Path::new("x.img"), true, 0)),
        ImageError::Relative { .. }
    ));
    // Nothing is left of the failed ones.
    assert_eq!(rig.host.client().disks().unwrap(), []);
    let image = rig.image("fine.img", MIB);
    rig.attach(&image, false, 0).unwrap();
}

#[test]
fn two_writers_are_refused_and_two_readers_are_not() {
    let mut rig = Rig::new();
    let image = rig.image("disk.img", MIB);
    rig.attach(&image, false, 0).unwrap();
    let writer = rig.open(0).unwrap();
    assert_eq!((writer.bytes, writer.spec.read_only), (MIB, false));
    for read_only in [true, false] {
        match why(rig.attach(&image, read_only, 1)) {
            ImageError::InUse { by, .. } => assert!(by.contains("disk xvda of domain 1"), "{by}"),
            other => panic!("{other:?}"),
        }
    }
    drop(writer);
    let shared = rig.image("shared.img", MIB);
    rig.attach(&shared, true, 2).unwrap();
    rig.attach(&shared, true, 3).unwrap();
    let readers = (rig.open(2).unwrap(), rig.open(3).unwrap());
    assert!(std::io::Write::write(&mut &readers.0.file, b"x").is_err());
    assert!(matches!(
        why(rig.attach(&shared, false, 4)),
        ImageError::InUse { .. }
    ));
}

#[test]
fn only_the_domain_that_serves_a_disk_gets_its_image() {
    let mut rig = Rig::new();
    let image = rig.image("disk.img", MIB);
    rig.attach(&image, false, 0).unwrap();
    let other = rig.host.peer("blk1", DomainKind::DriverDomain);
    let path = rig.path(0);
    let refused = OpenImageError::Image(ImageError::NoDisk {
        backend_path: path.clone(),
    });
    assert_eq!(other.platform.open_image(&path).unwrap_err(), refused);
    assert_eq!(rig.guest.platform.open_image(&path).unwrap_err(), refused);
    rig.open(0).unwrap();
}

#[test]
fn qemu_is_refused_what_we_use() {
    if !has("qemu-io") || !has("qemu-img") {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("disk.img", MIB);
    assert!(qemu_io(&image, "write 0 4k", &[]).status.success());
    rig.attach(&image, false, 0).unwrap();
    let opened = rig.open(0).unwrap();
    let write = qemu_io(&image, "write 0 4k", &[]);
    let text = String::from_utf8_lossy(&write.stderr).into_owned();
    assert!(
        !write.status.success() && text.contains("Failed to get"),
        "{text}"
    );
    let resize = Command::new("qemu-img")
        .args(["resize", "-f", "raw"])
        .arg(&image)
        .arg("2M")
        .output();
    let resize = resize.unwrap();
    let text = String::from_utf8_lossy(&resize.stderr).into_owned();
    assert!(!resize.status.success() && text.contains("lock"), "{text}");
    // The lock lives exactly as long as the description.
    drop(opened);
    assert!(qemu_io(&image, "write 0 4k", &[]).status.success());
    let shared = rig.image("shared.img", MIB);
    rig.attach(&shared, true, 1).unwrap();
    let _reader = rig.open(1).unwrap();
    assert!(qemu_io(&shared, "read 0 4k", &["-r"]).status.success());
    assert!(!qemu_io(&shared, "write 0 4k", &[]).status.success());
}

#[test]
fn we_are_refused_what_qemu_nbd_uses() {
    if !has("qemu-nbd") {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("disk.img", MIB);
    let pid = rig.host.path("nbd.pid");
    let nbd = |more: &[&str]| {
        let _ = std::fs::remove_file(&pid);
        // It returns when it serves, and leaves a process behind.
        let socket = rig.host.path("nbd.sock");
        let started = Command::new("qemu-nbd")
            .args(["--fork", "-f", "raw", "-t", "-k"])
            .arg(&socket)
            .arg("--pid-file")
            .arg(&pid)
            .args(more)
            .arg(&image)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(started.success());
        std::fs::read_to_string(&pid)
            .unwrap()
            .trim()
            .parse::<i32>()
            .unwrap()
    };
    // KILL: a TERM that comes before its main loop is lost in it.
    let end = |number: i32| {
        let process = rustix::process::Pid::from_raw(number).unwrap();
        let flags = rustix::process::PidfdFlags::empty();
        let pidfd = rustix::process::pidfd_open(process, flags).unwrap();
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &pidfd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
    };
    let writer = nbd(&[]);
    let refused = [rig.disk(&image, false, 0), rig.disk(&image, true, 0)]
        .map(|disk| why(rig.host.client().attach_disk(disk)));
    end(writer);
    for error in refused {
        assert!(
            matches!(&error, ImageError::InUse { by, .. } if by.contains("another process")),
            "{error}"
        );
    }
    let reader = nbd(&["-r"]);
    let write = why(rig.host.client().attach_disk(rig.disk(&image, false, 0)));
    assert!(matches!(write, ImageError::InUse { .. }), "{write}");
    let read = rig.attach(&image, true, 1);
    end(reader);
    read.unwrap();
    rig.attach(&image, false, 0).unwrap();
}

fn the_next_process_waits(shared: bool) {
    let mut rig = Rig::new();
    let image = rig.image("disk.img", MIB);
    rig.attach_to(&image, shared, 0).unwrap();
    // Stands for I/O of the dead process that the kernel still does: it keeps the description open.
    let in_flight = rig.open(0).unwrap();
    let domid = rig.blk.domid;
    let path = rig.path(0);
    rig.host.kill(rig.blk);
    let blk = rig.host.restart("blk0", domid);
    for _ in 0..50 {
        assert!(blk.platform.open_image(&path).unwrap().is_none());
        // Nobody is kept waiting, neither the process nor others.
        rig.host.client().domains().unwrap();
    }
    drop(in_flight);
    // A process that another test is just starting may have it for a moment.
    let opened = std::iter::repeat_with(|| blk.platform.open_image(&path).unwrap());
    assert_eq!(opened.flatten().next().unwrap().bytes, MIB);
}

#[test]
fn the_next_process_waits_for_the_lock_of_the_last() {
    the_next_process_waits(false);
}

#[test]
fn the_next_process_waits_also_where_others_may_write() {
    the_next_process_waits(true);
}

#[test]
fn who_shares_an_image_for_writing_keeps_out_only_itself_and_who_does_not() {
    let mut rig = Rig::new();
    let image = rig.image("disk.img", MIB);
    rig.attach_to(&image, true, 0).unwrap();
    let first = rig.open(0).unwrap();
    rig.attach_to(&image, true, 1).unwrap();
    let second = rig.open(1).unwrap();
    for read_only in [true, false] {
        let refused = why(rig.attach(&image, read_only, 2));
        assert!(matches!(refused, ImageError::InUse { .. }), "{refused}");
    }
    // Another host has domains and disks of the same numbers.
    let mut other = Rig::new();
    other.attach_to(&image, true, 0).unwrap();
    drop((first, second, other.open(0).unwrap()));
}

#[test]
fn a_guest_keeps_its_disk_while_the_image_is_not_to_be_had() {
    let mut rig = Rig::new();
    let image = rig.image("disk.img", MIB);
    rig.attach(&image, false, 0).unwrap();
    drop(rig.open(0).unwrap());
    let (domid, path, away) = (rig.blk.domid, rig.path(0), rig.host.path("away"));
    rig.host.kill(rig.blk);
    std::fs::rename(&image, &away).unwrap();
    let blk = rig.host.restart("blk0", domid);
    for _ in 0..50 {
        assert!(blk.platform.open_image(&path).unwrap().is_none());
    }
    std::fs::rename(&away, &image).unwrap();
    assert_eq!(blk.platform.open_image(&path).unwrap().unwrap().bytes, MIB);
}
