use super::*;
use std::process::Output;

const EPOCH: u64 = 1_700_000_000;

/// A package with a small program of this system in it; `None`: no tools here.
fn built(name: &str) -> Option<(PathBuf, PathBuf)> {
    for tool in ["dpkg-deb", "gzip"] {
        if !found(tool) {
            println!("SKIP {tool}: not installed");
            return None;
        }
    }
    let dir = std::env::temp_dir().join(format!("ringfence-deb-{name}-{}", std::process::id()));
    let program = std::fs::canonicalize("/bin/sh").unwrap();
    let package = package(&program, &dir.join("tree"), &dir.join("out"), EPOCH).unwrap();
    Some((dir, package))
}

fn ask(program: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, .. } = Command::new(program).args(arguments).output().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
    String::from_utf8(stdout).unwrap()
}

#[test]
fn everything_is_in_its_place() {
    let Some((dir, package)) = built("contents") else {
        return;
    };
    let package = package.to_str().unwrap();
    let list = ask("dpkg-deb", &["--contents", package]);
    let files: Vec<(&str, &str, &str)> = list
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words[0].starts_with('-'))
        .map(|words| (words[5], words[0], words[1]))
        .collect();
    let expected = [
        ("./etc/modprobe.d/ringfence.conf", "-rw-r--r--"),
        ("./etc/xen/scripts/block-ringfence", "-rwxr-xr-x"),
        (
            "./lib/systemd/system/ringfence-driver-domain.service",
            "-rw-r--r--",
        ),
        (
            "./lib/systemd/system/ringfence-xenstored.service",
            "-rw-r--r--",
        ),
        ("./usr/bin/ringfence", "-rwxr-xr-x"),
        ("./usr/share/doc/ringfence/README.md", "-rw-r--r--"),
        ("./usr/share/doc/ringfence/changelog.gz", "-rw-r--r--"),
        ("./usr/share/doc/ringfence/copyright", "-rw-r--r--"),
    ];
    let mut sorted = files.clone();
    sorted.sort_unstable();
    let wanted: Vec<_> = expected
        .into_iter()
        .map(|(path, mode)| (path, mode, "root/root"))
        .collect();
    assert_eq!(sorted, wanted, "{list}");
    assert!(
        list.lines()
            .all(|line| !line.starts_with('d') || line.starts_with("drwxr-xr-x"))
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_control_files_are_complete() {
    let Some((dir, package)) = built("control") else {
        return;
    };
    let package = package.to_str().unwrap();
    let field = |name| {
        ask("dpkg-deb", &["--field", package, name])
            .trim()
            .to_owned()
    };
    assert_eq!(field("Package"), "ringfence");
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    // The shell is linked against the system's libraries.
    assert_eq!(field("Depends"), "kmod, libc6");
    assert!(field("Installed-Size").parse::<u64>().unwrap() > 100);
    let info = ask("dpkg-deb", &["--info", package]);
    let left = |rest: &str| rest.starts_with(|c: char| c.is_ascii_uppercase());
    assert!(!info.split('@').skip(1).any(left), "{info}");
    let conffiles = ask("dpkg-deb", &["--info", package, "conffiles"]);
    assert_eq!(
        conffiles,
        "/etc/xen/scripts/block-ringfence\n/etc/modprobe.d/ringfence.conf\n"
    );

    let tree = dir.join("unpacked");
    ask(
        "dpkg-deb",
        &["--raw-extract", package, tree.to_str().unwrap()],
    );
    for script in [
        "DEBIAN/postinst",
        "DEBIAN/prerm",
        "DEBIAN/postrm",
        "etc/xen/scripts/block-ringfence",
    ] {
        ask("sh", &["-n", tree.join(script).to_str().unwrap()]);
    }
    let copyright = std::fs::read_to_string(tree.join("usr/share/doc/ringfence/copyright"));
    let copyright = copyright.unwrap();
    assert!(
        copyright.contains("\n .\n Permission is hereby granted"),
        "{copyright}"
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_installed_can_be_had_as_files() {
    let Some((dir, _)) = built("unpacked") else {
        return;
    };
    let program = std::fs::canonicalize("/bin/sh").unwrap();
    let files = unpacked(&program, &dir).unwrap();
    assert_eq!(files.len(), 8, "{files:?}");
    let (_, script) = &files[1];
    assert_eq!(files[1].0, "etc/xen/scripts/block-ringfence");
    let source = root().join("packaging/xen/block-ringfence");
    assert!(std::fs::read(script).unwrap() == std::fs::read(source).unwrap());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (Some((one, a)), Some((other, b))) = (built("first"), built("second")) else {
        return;
    };
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap());
    for dir in [one, other] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn systemd_understands_the_units() {
    if !found("systemd-analyze") {
        println!("SKIP systemd-analyze: not installed");
        return;
    }
    let dir = std::env::temp_dir().join(format!("ringfence-units-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for name in [
        "ringfence-driver-domain.service",
        "ringfence-xenstored.service",
    ] {
        let unit = std::fs::read_to_string(root().join("packaging/systemd").join(name)).unwrap();
        assert!(unit.contains("ExecStart=/usr/bin/ringfence "), "{name}");
        // It wants to see the program and the manual.
        let unit = unit
            .replace("/usr/bin/ringfence", "/bin/true")
            .replace("/sbin/modprobe", "/bin/true");
        let path = dir.join(name);
        std::fs::write(&path, unit).unwrap();
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // What is wrong with other units of this machine is none of ours.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
        assert!(output.status.success() && ours.is_empty(), "{said}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
