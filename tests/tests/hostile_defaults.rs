//! THREATS I: what nobody asked for is not there (XSA-119), and nothing that serves a guest asks the hypervisor as the control
//! domain does (XSA-482).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringfence_core::platform::{Access, GrantCopy, Platform as _};
use ringfence_core::store::{Store as _, StoreError, StoreExt as _, Tx};
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_hosted::admin::{DomainKind, NewDisk};
use ringfence_hosted::{ImageError, ImageSpec, OpenImageError};
use ringfence_linux::{DeviceFiles, Linux};
use ringfence_tests::blkback_rig::Rig;
use ringfence_tests::hosted::{Host, Peer};

fn host() -> Host {
    Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")))
}

/// Sockets of this process, by inode.
fn sockets() -> BTreeSet<String> {
    let fds = fs::read_dir("/proc/self/fd").expect("ours");
    let targets = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let inodes = targets.filter_map(|target| {
        let target = target.to_str()?;
        Some(
            target
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .to_owned(),
        )
    });
    inodes.collect()
}

#[test]
fn xsa_119_a_broker_that_was_told_nothing_serves_nobody() {
    let host = host();
    let guest = host.peer("guest", DomainKind::Guest);
    let blk = host.peer("blk0", DomainKind::DriverDomain);
    assert!(host.client().disks().unwrap().is_empty());
    let names = fs::read_dir(host.run_dir().path()).unwrap();
    let names: BTreeSet<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    let expected = ["control.sock", "lock", "xenstored.sock"].map(Into::into);
    assert_eq!(names, BTreeSet::from(expected));
    // Nothing of it is on the network.
    let ours = sockets();
    assert!(!ours.is_empty());
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let Ok(table) = fs::read_to_string(format!("/proc/self/net/{table}")) else {
            println!("SKIP {table}: this kernel has none");
            continue;
        };
        for line in table.lines().skip(1) {
            let inode = line.split_whitespace().nth(9).unwrap_or_default();
            assert!(!ours.contains(inode), "{line}");
        }
    }
    // Nor does a driver domain get anything by asking.
    let (guest_id, blk_id) = (guest.domid, blk.domid);
    for path in [
        format!("/local/domain/{blk_id}/backend/vbd/{guest_id}/51712"),
        format!("/local/domain/{guest_id}/device/vbd/51712"),
        "/etc/passwd".to_owned(),
        "../../../etc/passwd".to_owned(),
        String::new(),
    ] {
        let error = blk.platform.open_image(&path).unwrap_err();
        let expected = ImageError::NoDisk {
            backend_path: path.clone(),
        };
        assert_eq!(error, OpenImageError::Image(expected));
        assert!(blk.platform.record(&path, 4096).is_err(), "{path}");
    }
}

/// Attaches a disk whose backend says that it is connected.
fn attach(host: &Host, guest: &Peer, blk: &mut Peer) -> String {
    let image = host.path("image");
    let file = fs::File::create(&image).unwrap();
    file.set_len(1 << 20).unwrap();
    let disk = NewDisk {
        guest: guest.domid.to_string(),
        backend: blk.domid.to_string(),
        image: ImageSpec::raw(&image, false),
        vdev: 51712,
        dev: "xvda".into(),
        cdrom: false,
        discard: true,
    };
    let (front, back) = (guest.domid, blk.domid);
    let path = format!("/local/domain/{back}/backend/vbd/{front}/51712");
    let client = host.client();
    std::thread::scope(|scope| {
        let attached = scope.spawn(|| client.attach_disk(disk));
        blk.store.watch(&path, "new").unwrap();
        while !attached.is_finished() {
            while blk.store.next_watch().unwrap().is_some() {}
            if blk.store.read_state(Tx::NONE, &path) == Ok(1) {
                let written = blk.store.write_u32(Tx::NONE, &path, "state", 4);
                written.unwrap();
            }
            let patience = Duration::from_millis(20);
            blk.store.wait(Some(patience)).unwrap();
        }
        attached.join().unwrap().unwrap();
    });
    path
}

#[test]
fn xsa_119_a_driver_domain_opens_its_own_images_and_no_others() {
    let host = host();
    let guest = host.peer("guest", DomainKind::Guest);
    let mut blk = host.peer("blk0", DomainKind::DriverDomain);
    let other = host.peer("blk1", DomainKind::DriverDomain);
    let path = attach(&host, &guest, &mut blk);
    for stranger in [&other, &guest] {
        let error = stranger.platform.open_image(&path).unwrap_err();
        let backend_path = path.clone();
        let expected = ImageError::NoDisk { backend_path };
        assert_eq!(error, OpenImageError::Image(expected));
    }
    blk.platform.open_image(&path).expect("its own");
    // Nor what others keep about it.
    assert!(other.platform.record(&path, 4096).is_err());
    blk.platform.record(&path, 4096).expect("its own");
}

#[test]
fn xsa_119_a_guest_cannot_make_itself_a_backend() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(7, 51712);
    let dir = guest.back_dir.clone();
    for (node, value) in [("frontend-id", "7"), ("state", "1"), ("params", "/dev/sda")] {
        let written = guest.store.write_str(Tx::NONE, &dir, node, value);
        assert_eq!(written, Err(StoreError::Denied));
    }
    // What it may write is nobody's business but its own.
    let own = "/local/domain/7/data/backend/vbd/7/51712";
    let _ = guest.store.write_str(Tx::NONE, own, "state", "1");
    rig.settle();
    assert_eq!(rig.service.devices(), 0);
    let usage = rig.usage();
    assert_eq!((usage.mapped, usage.ports), (0, 0));
}

/// Says which devices were asked for, and gives out one that is none.
#[derive(Default)]
struct Asked(Mutex<BTreeSet<&'static str>>);

impl Asked {
    fn open(&self, name: &'static str) -> io::Result<OwnedFd> {
        self.0.lock().expect("no panic").insert(name);
        Ok(fs::File::open("/dev/null")?.into())
    }
}

impl DeviceFiles for Asked {
    fn evtchn(&self) -> io::Result<OwnedFd> {
        self.open("evtchn")
    }
    fn gntdev(&self) -> io::Result<OwnedFd> {
        self.open("gntdev")
    }
    fn gntalloc(&self) -> io::Result<OwnedFd> {
        self.open("gntalloc")
    }
    fn xenbus(&self) -> io::Result<OwnedFd> {
        self.open("xenbus")
    }
}

#[test]
fn xsa_482_a_backend_asks_for_its_own_devices_only_when_it_needs_them() {
    let files = Arc::new(Asked::default());
    let platform = Linux::with_files(DomId::new(1), files.clone());
    assert!(files.0.lock().expect("no panic").is_empty());
    let (peer, gref) = (DomId::new(2), GrantRef::new(8));
    // All that a backend does; none of it works on what is no device of Xen's.
    assert!(platform.map(peer, &[gref], Access::ReadWrite).is_err());
    let mut ops = [GrantCopy::to_peer(gref, 0, b"x")];
    assert!(platform.copy(peer, &mut ops).is_err());
    assert!(platform.bind(peer, EvtchnPort::new(1)).is_err());
    let asked = files.0.lock().expect("no panic").clone();
    assert_eq!(asked, BTreeSet::from(["evtchn", "gntdev"]));
}

/// Files that speak of the ways to the hypervisor that are the control domain's.
const CONTROL: &[&str] = &[
    // The way itself, and who exists, which dom0's store must know.
    "platform/linux/src/privcmd.rs",
    "platform/linux/src/domains.rs",
    "platform/linux/src/files.rs",
    "platform/linux/src/lib.rs",
    "cli/src/xenstored/xen.rs",
    // Tries that it cannot be opened.
    "cli/src/xen/backend.rs",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn xsa_482_who_serves_guests_knows_neither_privcmd_nor_sys_hypervisor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for room in [
        "core",
        "ring",
        "blkback",
        "blkfront",
        "nbd",
        "xenstored",
        "platform",
        "cli",
    ] {
        sources(&root.join(room), &mut found);
    }
    assert!(found.len() > 200, "only {} files", found.len());
    let mut speak = BTreeSet::new();
    for path in found {
        let text = fs::read_to_string(&path).expect("readable");
        let relative = path.strip_prefix(&root).expect("below it").to_owned();
        let is_example = relative
            .components()
            .any(|part| part.as_os_str() == "examples");
        if !is_example && (text.contains("privcmd") || text.contains("/sys/hypervisor")) {
            speak.insert(relative);
        }
    }
    let control: BTreeSet<PathBuf> = CONTROL.iter().map(PathBuf::from).collect();
    assert_eq!(speak, control);
}
