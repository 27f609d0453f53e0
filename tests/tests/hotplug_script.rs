//! `packaging/xen/block-ringfence` under every POSIX shell there is, with a directory in the place of xenstore.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../packaging/xen/block-ringfence"
);
const DEVICE: &str = "backend/vbd/1/51712";

/// A store whose nodes are files, its tools, and images.
struct Host {
    dir: PathBuf,
    shell: &'static str,
}

impl Host {
    fn new(shell: &'static str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("script {}-{number}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let host = Self { dir, shell };
        fs::create_dir_all(host.path("bin")).expect("a directory");
        fs::create_dir_all(host.store("")).expect("a directory");
        host.tool("xenstore-read", r#"cat "$STORE/$1" 2>/dev/null"#);
        // Whole when it appears, as in a store.
        host.tool(
            "xenstore-write",
            r#"while [ $# -gt 1 ]; do printf %s "$2" >"$STORE/$1.new" && mv "$STORE/$1.new" "$STORE/$1"; shift 2; done"#,
        );
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn store(&self, node: &str) -> PathBuf {
        self.path(&format!("store/{DEVICE}/{node}"))
    }

    fn tool(&self, name: &str, body: &str) {
        let path = self.path(&format!("bin/{name}"));
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our file");
    }

    fn node(&self, name: &str) -> String {
        fs::read_to_string(self.store(name)).unwrap_or_default()
    }

    fn run(&self, action: &str, patience: u32) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.path("bin").display());
        Command::new(self.shell)
            .args([SCRIPT, action])
            .env("PATH", path)
            .env("STORE", self.path("store"))
            .env("XENBUS_PATH", DEVICE)
            .env("BLOCK_RINGFENCE_PATIENCE", patience.to_string())
            .output()
            .expect("a shell")
    }

    /// Adds a disk; nobody serves it.
    fn add(&self, params: &Path) -> (bool, String) {
        fs::write(self.store("params"), params.as_os_str().as_encoded_bytes()).expect("a file");
        let output = self.run("add", 0);
        let words = String::from_utf8(output.stderr).expect("text");
        assert_eq!(
            words,
            format!("block-ringfence: {}\n", self.node("hotplug-error"))
        );
        assert_eq!(self.node("hotplug-status"), "error");
        (output.status.success(), self.node("hotplug-error"))
    }

    /// Adds a disk; a driver domain answers with these nodes when it has the path.
    fn answered(&self, params: &Path, nodes: &[(&str, &str)]) -> Output {
        fs::write(self.store("params"), params.as_os_str().as_encoded_bytes()).expect("a file");
        thread::scope(|scope| {
            let script = scope.spawn(|| self.run("add", 60));
            while self.node("physical-device-path").is_empty() && !script.is_finished() {
                thread::yield_now();
            }
            for (node, value) in nodes {
                let new = self.store(&format!("{node}.new"));
                fs::write(&new, value).expect("a file");
                fs::rename(&new, self.store(node)).expect("a file");
            }
            script.join().expect("no panic")
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn shells() -> impl Iterator<Item = Host> {
    let all = ["sh", "dash", "bash", "ksh", "yash"];
    let there = |shell: &&str| Command::new(shell).args(["-c", ":"]).status().is_ok();
    all.into_iter().filter(there).map(Host::new)
}

#[test]
fn a_target_that_cannot_be_a_disk_is_refused_in_words() {
    for host in shells() {
        let missing = host.path("no such");
        for (target, words) in [
            (
                Path::new("a.img"),
                "target 'a.img' is not an absolute path".to_owned(),
            ),
            (
                &missing,
                format!("target '{}' does not exist", missing.display()),
            ),
            (
                Path::new("/dev/null"),
                "target '/dev/null' is neither a file nor a block device".into(),
            ),
            (
                Path::new("/"),
                "target '/' is neither a file nor a block device".into(),
            ),
        ] {
            assert_eq!(host.add(target), (false, words), "{}", host.shell);
            assert_eq!(host.node("physical-device-path"), "");
        }
    }
}

#[test]
fn the_image_behind_a_link_is_named_and_the_answer_waited_for() {
    for host in shells() {
        let (image, link) = (host.path("an image"), host.path("link"));
        fs::write(&image, "").expect("a file");
        symlink(&image, &link).expect("a link");
        let output = host.answered(&link, &[("hotplug-status", "connected")]);
        assert!(output.status.success(), "{}: {output:?}", host.shell);
        assert!(output.stderr.is_empty(), "{}: {output:?}", host.shell);
        let real = image.canonicalize().expect("it is there");
        assert_eq!(Path::new(&host.node("physical-device-path")), real);
    }
}

#[test]
fn a_disk_that_the_driver_domain_cannot_open_fails_with_its_words() {
    for host in shells() {
        let image = host.path("image");
        fs::write(&image, "").expect("a file");
        let nodes = [
            ("hotplug-error", "in use by another"),
            ("hotplug-status", "error"),
        ];
        let output = host.answered(&image, &nodes);
        assert_eq!(output.status.code(), Some(1), "{}", host.shell);
        assert_eq!(output.stderr, b"block-ringfence: in use by another\n");
    }
}

#[test]
fn nobody_answers() {
    for host in shells() {
        let image = host.path("image");
        fs::write(&image, "").expect("a file");
        let words = "no ringfence driver domain is running in this domain";
        assert_eq!(host.add(&image), (false, words.into()), "{}", host.shell);
    }
}

#[test]
fn remove_keeps_nothing_and_other_words_are_refused() {
    for host in shells() {
        assert!(host.run("remove", 0).status.success());
        assert_eq!(host.run("online", 0).status.code(), Some(1));
        let output = host.run("add", 0);
        assert_eq!(output.status.code(), Some(1), "no params");
        let entries = fs::read_dir(host.store("")).expect("a directory");
        let names: Vec<_> = entries
            .map(|entry| entry.expect("a name").file_name())
            .collect();
        assert_eq!(names.len(), 2, "what went wrong, {names:?}");
    }
}
