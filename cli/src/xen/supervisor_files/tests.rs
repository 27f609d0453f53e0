//! The supervisor's half against a store in this process, with files for disks and devices.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ringfence_core::Words as _;
use ringfence_core::store::StoreExt as _;
use ringfence_process::ImageFormat;
use ringfence_process::records::Record;
use ringfence_sim::{SimStore, World};

use super::*;

/// Devices that are all the same.
pub(crate) struct Null;

impl DeviceFiles for Null {
    fn evtchn(&self) -> io::Result<OwnedFd> {
        File::open("/dev/null").map(OwnedFd::from)
    }
    fn gntdev(&self) -> io::Result<OwnedFd> {
        Err(io::Error::from_raw_os_error(ENODEV))
    }
    fn gntalloc(&self) -> io::Result<OwnedFd> {
        self.evtchn()
    }
    fn xenbus(&self) -> io::Result<OwnedFd> {
        self.evtchn()
    }
}

const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// A directory of its own, removed with the value.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ringfence-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn image(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, [0; 4096]).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const OWN: DomId = DomId::new(3);

struct Desk {
    toolstack: SimStore,
    files: Files<SimStore, Null>,
    _world: World,
}

impl Desk {
    fn new(domid: DomId, toolstack: Toolstack) -> Self {
        let world = World::new();
        if domid != DomId::DOM0 {
            world.create(domid);
        }
        Self {
            toolstack: world.store(DomId::DOM0),
            files: Files::new(domid, toolstack, world.store(DomId::DOM0), Null),
            _world: world,
        }
    }

    fn write(&mut self, dir: &str, nodes: &[(&str, &str)]) {
        for (node, value) in nodes {
            let written = self.toolstack.write_str(Tx::NONE, dir, node, value);
            written.unwrap();
        }
    }

    /// The same image for a disk of each of two guests, domains 7 and 8, with this mode.
    fn two_disks(&mut self, image: &Path, mode: &str) -> [&'static str; 2] {
        let disks = [
            "/local/domain/3/backend/vbd/7/51712",
            "/local/domain/3/backend/vbd/8/51712",
        ];
        for disk in disks {
            self.write(disk, &[("params", text(image)), ("mode", mode)]);
        }
        disks
    }

    /// What is answered at once.
    fn ask(&mut self, dir: &str) -> Result<(bool, OwnedFd), String> {
        match self.files.image(dir) {
            (Answer::Image { spec }, mut fds) => Ok((spec.read_only, fds.remove(0))),
            (Answer::Refused { words, errno: 0 }, fds) if fds.is_empty() => Err(words),
            other => panic!("{other:?}"),
        }
    }

    /// Asks a few times for what somebody is in the way of.
    fn is_kept_waiting(&mut self, dir: &str) {
        for _ in 0..3 {
            assert_eq!(self.files.image(dir).0, Answer::Later);
        }
    }

    /// Asks until nobody is in the way: a process that another test is just starting may have what was dropped for a moment.
    fn wait(&mut self, dir: &str) {
        let mut given = || self.files.image(dir).0;
        let answer = std::iter::repeat_with(&mut given).find(|answer| *answer != Answer::Later);
        assert!(matches!(answer, Some(Answer::Image { .. })), "{answer:?}");
    }
}

#[repr(align(4096))]
struct Page([u8; 4096]);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_the_directory_names_is_opened_as_it_says() {
    let dir = Dir::new("named");
    let (a, b) = (dir.image("a"), dir.image("b"));
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let (vbd, qdisk) = (
        "/local/domain/3/backend/vbd/7/51712",
        "/local/domain/3/backend/qdisk/7/51728",
    );
    desk.write(vbd, &[("params", text(&a)), ("mode", "w")]);
    let aio = format!("aio:{}", text(&b));
    desk.write(qdisk, &[("params", &aio), ("mode", "r")]);
    let (read_only, writable) = desk.ask(vbd).unwrap();
    assert!(!read_only);
    // Past the page cache, which would die with this domain: whole sectors from where they belong.
    let flags = rustix::fs::fcntl_getfl(&writable).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::DIRECT));
    rustix::io::pwrite(&writable, &Page([7; 4096]).0, 0).unwrap();
    assert_eq!(fs::read(&a).unwrap(), [7; 4096]);
    let (read_only, readable) = desk.ask(qdisk).unwrap();
    assert!(read_only);
    rustix::io::pwrite(&readable, b"x", 0).unwrap_err();
}

#[test]
fn the_journal_of_a_device_that_is_gone_is_not_for_the_next_one_in_its_place() {
    let dir = Dir::new("gone");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let journals = Journals::new(&dir.path("journal")).unwrap();
    desk.files = desk.files.with_journals(journals);
    let [disk, other] = desk.two_disks(&image, "r");
    let map = |desk: &mut Desk, disk| {
        desk.ask(disk).unwrap();
        let (_, mut fds) = desk.files.journal(disk);
        Record::map(fds.remove(0)).unwrap()
    };
    map(&mut desk, disk).store(9, 1);
    map(&mut desk, other).store(9, 2);
    assert_eq!(map(&mut desk, disk).load(9), 1);
    desk.files.gone(disk);
    assert_eq!(map(&mut desk, disk).load(9), 0);
    assert_eq!(map(&mut desk, other).load(9), 2);
    desk.files.gone("/local/domain/4/backend/vbd/8/51712");
    assert_eq!(map(&mut desk, other).load(9), 2);
}

#[test]
fn in_dom0_the_script_says_what_to_open_and_params_do_not() {
    let dir = Dir::new("script");
    let image = dir.image("a");
    let mut desk = Desk::new(DomId::DOM0, Toolstack::DOM0);
    let vbd = "/local/domain/0/backend/vbd/7/51712";
    desk.write(vbd, &[("params", text(&image)), ("mode", "w")]);
    let words = desk.ask(vbd).unwrap_err();
    assert!(words.ends_with("names no image"), "{words}");
    desk.write(vbd, &[("physical-device-path", text(&image))]);
    desk.ask(vbd).unwrap();
}

#[test]
fn a_disk_without_a_mode_is_not_written() {
    let dir = Dir::new("mode");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let vbd = "/local/domain/3/backend/vbd/7/51712";
    desk.write(vbd, &[("params", text(&image))]);
    assert!(desk.ask(vbd).unwrap().0);
    desk.write(vbd, &[("mode", "x")]);
    let words = desk.ask(vbd).unwrap_err();
    assert!(words.contains("mode"), "{words}");
}

#[test]
fn nothing_but_backend_directories_of_this_domain_is_looked_at() {
    let dir = Dir::new("foreign");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let nodes = [
        ("params", text(&image)),
        ("physical-device-path", text(&image)),
        ("mode", "w"),
    ];
    for foreign in [
        "/local/domain/4/backend/vbd/7/51712",
        "/local/domain/3/backend/vif/7/51712",
        "/local/domain/3/backend/vbd/7/51712/x",
        "/local/domain/3/data",
    ] {
        desk.write(foreign, &nodes);
        let words = desk.ask(foreign).unwrap_err();
        assert!(
            words.ends_with("is no backend directory of this domain"),
            "{words}"
        );
    }
    // Of dom0's only what it serves: the other type is somebody else's there.
    let mut dom0 = Desk::new(DomId::DOM0, Toolstack::DOM0);
    let qdisk = "/local/domain/0/backend/qdisk/7/51712";
    dom0.write(qdisk, &nodes);
    dom0.ask(qdisk).unwrap_err();
}

#[test]
fn a_drive_that_names_nothing_is_empty_and_a_disk_is_refused() {
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let vbd = "/local/domain/3/backend/vbd/7/51712";
    desk.write(vbd, &[("params", ""), ("mode", "r")]);
    let words = desk.ask(vbd).unwrap_err();
    assert!(words.ends_with("names no image"), "{words}");
    desk.write(vbd, &[("device-type", "cdrom")]);
    let (answer, _fds) = desk.files.image(vbd);
    let Answer::Image { spec } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((spec.format, spec.read_only), (ImageFormat::Empty, true));
    // As of a drive with a medium, a journal is kept.
    assert_eq!(desk.files.images.identity(vbd), Some([0, 0]));
}

#[test]
fn what_is_no_image_is_refused_in_words() {
    let dir = Dir::new("refused");
    let fifo = dir.path("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let odd = dir.path("odd");
    fs::write(&odd, [0; 513]).unwrap();
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let vbd = "/local/domain/3/backend/vbd/7/51712";
    desk.write(vbd, &[("mode", "w")]);
    let missing = dir.path("missing");
    for (params, expected) in [
        (text(&missing), "no such file"),
        (text(&fifo), "neither a regular file nor a block device"),
        (text(&odd), "size of 513 bytes is no multiple of 512"),
        (text(&dir.path("")), "is a directory"),
        ("relative.img", "no absolute path"),
    ] {
        desk.write(vbd, &[("params", params)]);
        let words = desk.ask(vbd).unwrap_err();
        assert!(words.contains(expected), "{params}: {words}");
    }
}

#[test]
fn an_image_whose_user_died_is_waited_for_and_one_in_use_is_refused() {
    let dir = Dir::new("fence");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let [first, second] = desk.two_disks(&image, "w");
    let (_, held) = desk.ask(first).unwrap();
    let words = desk.ask(second).unwrap_err();
    assert!(words.contains("in use by vbd 7/51712"), "{words}");
    // The process that asks again has nothing in flight.
    let words = desk.ask(first).unwrap_err();
    assert!(words.contains("in use"), "{words}");
    drop(held);
    let (_, held) = desk.ask(first).unwrap();
    desk.files.process_died(Exit::Signal(9));
    // Its I/O goes on: what it had open is still there.
    desk.is_kept_waiting(first);
    drop(held);
    desk.wait(first);
}

#[test]
fn an_image_that_others_write_to_as_well_is_waited_for_by_its_own_disk_only() {
    let dir = Dir::new("shared-fence");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let [first, second] = desk.two_disks(&image, "w!");
    let (_, held) = desk.ask(first).unwrap();
    desk.ask(second).unwrap();
    desk.files.process_died(Exit::Signal(9));
    desk.is_kept_waiting(first);
    desk.ask(second).unwrap();
    // So it is for another supervisor of this domain.
    let mut next = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    next.two_disks(&image, "w!");
    let words = next.ask(first).unwrap_err();
    assert!(words.contains("an earlier process"), "{words}");
    drop(held);
    desk.wait(first);
}

/// As `xl migrate` to the same host has it: both domains have the disk for a moment.
#[test]
fn an_image_moves_from_one_domain_of_a_machine_to_the_next() {
    let dir = Dir::new("moving");
    let image = dir.image("a");
    for mode in ["w", "w!"] {
        let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
        for domain in ["/local/domain/7", "/local/domain/8"] {
            desk.write(domain, &[("vm", "/vm/some-uuid")]);
        }
        let [old, new] = desk.two_disks(&image, mode);
        let (_, held) = desk.ask(old).unwrap();
        for _ in 0..2 {
            assert_eq!(desk.files.image(new).0, Answer::Moving, "{mode}");
        }
        // The old domain is gone, and the process has yet to notice.
        desk.toolstack.rm(Tx::NONE, old).unwrap();
        assert_eq!(desk.files.image(new).0, Answer::Later, "{mode}");
        drop(held);
        desk.wait(new);
    }
}

#[test]
fn a_guest_does_not_get_one_image_as_two_disks() {
    let dir = Dir::new("twice");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    desk.write("/local/domain/7", &[("vm", "/vm/a")]);
    let [first, second] =
        [51712, 51728].map(|vdev| format!("/local/domain/3/backend/vbd/7/{vdev}"));
    for disk in [&first, &second] {
        desk.write(disk, &[("params", text(&image)), ("mode", "w")]);
    }
    let _held = desk.ask(&first).unwrap();
    let words = desk.ask(&second).unwrap_err();
    assert!(words.contains("in use by vbd 7/51712"), "{words}");
}

#[test]
fn domains_of_two_machines_keep_each_other_out() {
    let dir = Dir::new("machines");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    for (domain, vm) in [("/local/domain/7", "/vm/a"), ("/local/domain/8", "/vm/b")] {
        desk.write(domain, &[("vm", vm)]);
    }
    let [first, second] = desk.two_disks(&image, "w");
    let _held = desk.ask(first).unwrap();
    let words = desk.ask(second).unwrap_err();
    assert!(words.contains("in use by vbd 7/51712"), "{words}");
}

#[test]
fn an_image_is_waited_for_until_the_process_notices_that_its_disk_is_gone() {
    let dir = Dir::new("parted");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let [first, second] = desk.two_disks(&image, "w");
    let (_, held) = desk.ask(first).unwrap();
    assert!(desk.ask(second).is_err());
    desk.toolstack.rm(Tx::NONE, first).unwrap();
    assert_eq!(desk.files.image(second).0, Answer::Later);
    drop(held);
    desk.ask(second).unwrap();
}

#[test]
fn a_disk_that_is_made_again_waits_for_what_the_one_before_it_still_writes() {
    let dir = Dir::new("again");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let vbd = "/local/domain/3/backend/vbd/7/51712";
    desk.write(vbd, &[("params", text(&image)), ("mode", "w")]);
    let (_, held) = desk.ask(vbd).unwrap();
    desk.files.gone(vbd);
    desk.is_kept_waiting(vbd);
    drop(held);
    desk.wait(vbd);
}

#[test]
fn nobody_asks_for_ever_for_what_a_dead_process_still_uses() {
    let dir = Dir::new("patience");
    let image = dir.image("a");
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    desk.files.images = Images::of_kernel().with_patience(std::time::Duration::ZERO);
    let vbd = "/local/domain/3/backend/vbd/7/51712";
    desk.write(vbd, &[("params", text(&image)), ("mode", "w")]);
    let (_, held) = desk.ask(vbd).unwrap();
    desk.files.process_died(Exit::Signal(9));
    let words = desk.ask(vbd).unwrap_err();
    assert!(words.contains("in use"), "{words}");
    drop(held);
    desk.ask(vbd).unwrap();
}

#[test]
fn what_cannot_be_had_for_a_moment_is_waited_for_where_a_guest_is_connected() {
    let dir = Dir::new("moment");
    let (image, away, socket) = (dir.image("a"), dir.path("away"), dir.path("socket"));
    let mut desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let disks = ["51712", "51728"].map(|vdev| format!("/local/domain/3/backend/vbd/7/{vdev}"));
    let address = format!("nbd:unix:{}", text(&socket));
    for (disk, params) in disks.iter().zip([text(&image), &address]) {
        desk.write(disk, &[("params", params), ("mode", "w"), ("state", "1")]);
    }
    let [file, server] = disks.each_ref().map(String::as_str);
    // Of a disk that nobody uses yet it is said at once.
    fs::rename(&image, &away).unwrap();
    let words = disks.each_ref().map(|disk| desk.ask(disk).unwrap_err());
    assert!(words[0].contains("no such file"), "{words:?}");
    assert!(words[1].contains("No such file"), "{words:?}");
    fs::rename(&away, &image).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    for disk in &disks {
        desk.ask(disk).unwrap();
        desk.write(disk, &[("state", "4")]);
    }
    // The process that has it, as when the medium of a drive is changed, hears it at once too.
    fs::rename(&image, &away).unwrap();
    desk.ask(file).unwrap_err();
    desk.files.process_died(Exit::Signal(9));
    drop(listener);
    for _ in 0..3 {
        assert_eq!(desk.files.image(file).0, Answer::Later);
        assert_eq!(desk.files.image(server).0, Answer::Later, "refused");
    }
    // Of a supervisor that tries it for the first time, not one that lets it rest since it was refused.
    fs::remove_file(&socket).unwrap();
    desk.files.images = Images::of_kernel();
    desk.files.process_died(Exit::Signal(9));
    assert_eq!(desk.files.image(server).0, Answer::Later, "missing");
    fs::rename(&away, &image).unwrap();
    let _listener = UnixListener::bind(&socket).unwrap();
    for disk in [file, server] {
        desk.wait(disk);
    }

    desk.files.images = Images::of_kernel().with_patience(std::time::Duration::ZERO);
    desk.files.process_died(Exit::Signal(9));
    fs::remove_file(&image).unwrap();
    let words = desk.ask(file).unwrap_err();
    assert!(words.contains("no such file"), "{words}");
}

#[test]
fn devices_are_given_or_refused_with_their_error() {
    let desk = Desk::new(OWN, Toolstack::DRIVER_DOMAIN);
    let (answer, fd) = desk.files.device(Device::Evtchn);
    assert_eq!((answer, fd.len() == 1), (Answer::Device, true));
    let (answer, fd) = desk.files.device(Device::Gntdev);
    assert!(fd.is_empty());
    let Answer::Refused { errno, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(errno, ENODEV);
}
