//! qcow2 images whose process is killed while it writes to them: whatever it had got to, the next one finds no cluster in use that
//! counts as free, which it would give to somebody else.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringfence_blkback::sink::Qcow2;
use tempfile::TempDir;

/// Images, and how often each is killed at.
const IMAGES: u64 = 12;
const KILLS: u64 = 8;

/// Opens it as the next process does, and closes it.
fn open(path: &Path) {
    let image = File::options().read(true).write(true).open(path);
    Qcow2::new(image.expect("opens").into(), Vec::new(), false).expect("a disk");
}

/// Room that is lost is no damage.
fn check(path: &Path) {
    let mut command = Command::new("qemu-img");
    let output = command.args(["check", "-f", "qcow2"]).arg(path).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
}

#[test]
fn no_cluster_in_use_counts_as_free_whenever_its_process_is_killed() {
    if let Err(error) = Command::new("qemu-img").arg("--version").output() {
        println!("SKIP qemu-img: {error}");
        return;
    }
    let dir = TempDir::with_prefix_in("qcow2-", env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    for number in 0..IMAGES {
        let path = dir.path().join(format!("image-{number}"));
        // Small clusters have many tables, which come and go in the cache.
        let cluster = ["cluster_size=64k", "cluster_size=4k", "cluster_size=512"];
        let options = cluster[(number % 3) as usize];
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-o", options]);
        assert!(
            create
                .arg(&path)
                .arg("48M")
                .status()
                .expect("runs")
                .success()
        );
        for kill in 0..KILLS {
            let seed = number * KILLS + kill;
            let mut writer = Command::new(env!("CARGO_BIN_EXE_qcow2_writer"));
            let writer = writer.arg(&path).arg(seed.to_string());
            let mut writer = writer.stdout(Stdio::piped()).spawn().expect("starts");
            let mut ready = [0; 6];
            let said = writer.stdout.as_mut().expect("piped");
            said.read_exact(&mut ready).expect("it opens the image");
            // Sooner than the first tables, later, and in between.
            std::thread::sleep(Duration::from_micros(seed * 997 % 6000));
            writer.kill().expect("it lives");
            writer.wait().expect("ours");
            open(&path);
            check(&path);
        }
    }
}
