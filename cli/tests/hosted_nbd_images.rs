//! File systems and patterns through guest, ring and sandboxed driver domain, on raw and qcow2 images, by others' programs.

#[expect(dead_code, reason = "uses a part of it")]
mod domains;

use domains::{Host, Running, have, noise, succeed};
use std::path::Path;

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// What kind of image, made empty at a path.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Raw,
    Qcow2,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    fn create(self, image: &Path, bytes: u64) {
        let size = bytes.to_string();
        let arguments = ["create", "-q", "-f", self.name(), text(image), &size];
        succeed("qemu-img", &arguments);
    }
}

/// A guest that exports its only disk, and the URI of that.
fn export(host: &Host, kind: Kind, image: &Path) -> (Running, String) {
    let socket = host.path("guest.sock");
    let export = format!("xvda={}", socket.display());
    let disk = format!(
        "format={},vdev=xvda,backend=blk0,target={}",
        kind.name(),
        image.display()
    );
    let arguments = ["guest", "g1", "--disk", &disk, "--nbd-export", &export];
    let guest = Running::start(&host.path("run"), &arguments);
    let uri = format!("nbd+unix:///xvda?socket={}", socket.display());
    (guest, uri)
}

/// An ext4 image with a tree of files in it: large and small, empty, sparse, linked.
fn ext4(host: &Host) -> std::path::PathBuf {
    let tree = host.path("tree");
    let content = noise(3 << 20);
    for directory in 0..8 {
        let directory = tree.join(format!("directory-{directory}"));
        std::fs::create_dir_all(&directory).expect("a directory");
        for (number, size) in [0, 1, 4095, 4096, 70_001, 400_000].iter().enumerate() {
            let name = directory.join(format!("file-{number}"));
            std::fs::write(name, &content[number * 1000..][..*size]).expect("written");
        }
    }
    let sparse = std::fs::File::create(tree.join("sparse")).expect("a file");
    sparse.set_len(16 * MIB).expect("a size");
    std::os::unix::fs::symlink("directory-0/file-5", tree.join("link")).expect("a link");
    std::fs::write(tree.join("large"), &content).expect("written");
    let image = host.path("ext4");
    let made = ["-q", "-F", "-t", "ext4", "-b", "4096", "-d", text(&tree)];
    succeed("mke2fs", &[&made[..], &[text(&image), "48m"]].concat());
    image
}

#[test]
fn a_file_system_goes_both_ways_bit_identical() {
    let test = "a_file_system_goes_both_ways_bit_identical";
    if !have(test, &["mke2fs", "nbdcopy", "nbdinfo", "qemu-img"]) {
        return;
    }
    for kind in [Kind::Raw, Kind::Qcow2] {
        let host = Host::start();
        let made = ext4(&host);
        let content = std::fs::read(&made).expect("reads");
        let (image, back) = (host.path("image"), host.path("back"));
        kind.create(&image, content.len() as u64);
        let backend = host.driver_domain("blk0");
        let (guest, uri) = export(&host, kind, &image);
        let told = succeed("nbdinfo", &[&uri]);
        for line in ["using structured packets", "can_multi_conn: true"] {
            assert!(told.contains(line), "no `{line}` in\n{told}");
        }
        succeed("nbdcopy", &["--flush", text(&made), &uri]);
        succeed("nbdcopy", &[&uri, text(&back)]);
        assert!(
            std::fs::read(&back).expect("reads") == content,
            "{kind:?}: the copy differs"
        );
        succeed("e2fsck", &["-f", "-n", text(&back)]);
        assert!(guest.terminate().success());
        assert!(backend.terminate().success());
        let same = ["compare", "-q", "-f", "raw", "-F", kind.name()];
        succeed(
            "qemu-img",
            &[&same[..], &[text(&made), text(&image)]].concat(),
        );
    }
}

#[test]
fn patterns_hold_at_odd_offsets_on_raw_and_qcow2() {
    let test = "patterns_hold_at_odd_offsets_on_raw_and_qcow2";
    if !have(test, &["qemu-io", "qemu-img"]) {
        return;
    }
    for kind in [Kind::Raw, Kind::Qcow2] {
        let host = Host::start();
        let image = host.path("image");
        // Not a multiple of a qcow2 cluster, nor of a page.
        kind.create(&image, 16 * MIB + 1536);
        let backend = host.driver_domain("blk0");
        let (guest, uri) = export(&host, kind, &image);
        let written = [
            "read -P 0x00 0 16M",
            "write -P 0x11 0 1M",
            "write -P 0x22 513 1",
            "write -P 0x33 700 4000",
            "write -P 0x44 65537 131071",
            "write -f -P 0x55 1048575 3",
            "aio_write -P 0x61 2097152 777",
            "aio_write -P 0x62 2097929 777",
            "aio_write -P 0x63 2098706 300001",
            "aio_write -P 0x64 2398707 1",
            "aio_flush",
            "write -P 0x77 4M 4M",
            "write -z 5000001 333333",
            "discard 6M 1M",
            "discard 7340033 1000",
            "write -P 0x88 16777216 1536",
            "flush",
        ];
        let seen = [
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
            "read -P 0x63 2098706 300001",
            "read -P 0x64 2398707 1",
            "read -P 0x00 2398708 1795596",
            "read -P 0x77 4M 805697",
            "read -P 0x00 5000001 333333",
            "read -P 0x77 5333334 958122",
            // What is no longer needed reads as zeros; of a block only in part nothing was said.
            "read -P 0x00 6M 1M",
            "read -P 0x77 7341056 1047552",
            "read -P 0x88 16777216 1536",
        ];
        qemu_io(
            &["-d", "unmap", "-f", "raw"],
            &[&written[..], &seen].concat(),
            &uri,
        );
        assert!(guest.terminate().success());
        assert!(backend.terminate().success());
        // And so without us.
        qemu_io(&["-f", kind.name()], &seen, text(&image));
        if let Kind::Qcow2 = kind {
            succeed("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
        }
    }
}

fn qemu_io(options: &[&str], commands: &[&str], target: &str) {
    let mut arguments = options.to_vec();
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(target);
    let said = succeed("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
}
