//! Disks of other kinds than raw files, through guest, ring and sandboxed driver domain.

#[expect(dead_code, reason = "uses a part of it")]
mod domains;

use domains::{Host, PROGRAM, Running, have, json_u64, noise, output_text, succeed};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::os::unix::net::UnixListener;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// A guest that exports its only disk, and the URI of that.
fn export(host: &Host, disk: &str) -> (Running, String) {
    let socket = host.path("guest.sock");
    let export = format!("xvda={}", socket.display());
    let disk = format!("vdev=xvda,backend=blk0,{disk}");
    let arguments = ["guest", "g1", "--disk", &disk, "--nbd-export", &export];
    let guest = Running::start(&host.path("run"), &arguments);
    let uri = format!("nbd+unix:///xvda?socket={}", socket.display());
    (guest, uri)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn qemu_io(uri: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(uri);
    let said = succeed("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
}

#[test]
fn a_qcow2_image_over_two_others_is_written_to_and_they_are_not() {
    let test = "a_qcow2_image_over_two_others_is_written_to_and_they_are_not";
    if !have(test, &["qemu-img", "qemu-io"]) {
        return;
    }
    let host = Host::start();
    let [base, middle, top] = ["base.raw", "middle", "top"].map(|name| host.path(name));
    let content = noise(8 << 20);
    std::fs::write(&base, &content).expect("written");
    let create = ["create", "-q", "-f", "qcow2"];
    let over_base = ["-b", "base.raw", "-F", "raw", text(&middle)];
    succeed("qemu-img", &[&create[..], &over_base].concat());
    let over_middle = ["-b", "middle", "-F", "qcow2", text(&top)];
    succeed("qemu-img", &[&create[..], &over_middle].concat());
    let below = std::fs::read(&middle).expect("reads");

    let backend = host.driver_domain("blk0");
    let disk = format!(
        "format=qcow2,backing=qcow2:{},backing=raw:{},target={}",
        text(&middle),
        text(&base),
        text(&top)
    );
    let (guest, uri) = export(&host, &disk);
    let back = host.path("back");
    let convert = ["convert", "-f", "raw", "-O", "raw", &uri, text(&back)];
    succeed("qemu-img", &convert);
    assert!(std::fs::read(&back).expect("reads") == content);
    qemu_io(
        &uri,
        &[
            "write -P 0x11 513 70001",
            "write -P 0x22 4M 1M",
            "flush",
            "read -P 0x11 513 70001",
            "read -P 0x22 4M 1M",
        ],
    );
    succeed("qemu-img", &convert);
    let seen = std::fs::read(&back).expect("reads");
    let mut expected = content.clone();
    expected[513..513 + 70001].fill(0x11);
    expected[4 << 20..5 << 20].fill(0x22);
    assert!(seen == expected);
    assert!(guest.terminate().success());
    assert!(backend.terminate().success());
    succeed("qemu-img", &["check", "-q", "-f", "qcow2", text(&top)]);
    succeed(
        "qemu-img",
        &[
            "compare",
            "-q",
            text(&top),
            "-f",
            "qcow2",
            "-F",
            "raw",
            text(&back),
        ],
    );
    assert!(std::fs::read(&base).expect("reads") == content);
    assert!(std::fs::read(&middle).expect("reads") == below);
}

#[test]
fn what_was_answered_is_in_a_qcow2_image_whose_backend_was_killed() {
    let test = "what_was_answered_is_in_a_qcow2_image_whose_backend_was_killed";
    if !have(test, &["qemu-img", "qemu-io"]) {
        return;
    }
    let host = Host::start();
    let image = host.path("image");
    let size = (64 * MIB).to_string();
    succeed(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&image), &size],
    );
    let backend = host.driver_domain("blk0");
    let (guest, uri) = export(&host, &format!("format=qcow2,target={}", text(&image)));
    qemu_io(&uri, &["write -P 0x33 1M 3M", "write -P 0x44 60M 100k"]);
    let pid = i32::try_from(json_u64(backend.ready(), "pid")).expect("a pid");
    let pid = Pid::from_raw(pid).expect("a pid");
    let dead = pidfd_open(pid, PidfdFlags::empty()).expect("it lives");
    kill_process(pid, Signal::KILL).expect("it lives");
    poll(&mut [PollFd::new(&dead, PollFlags::IN)], None).expect("it dies");
    guest.kill();
    succeed("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
    let read = ["read -P 0x33 1M 3M", "read -P 0x44 60M 100k"];
    let mut arguments = vec!["-f", "qcow2"];
    arguments.extend(read.iter().flat_map(|command| ["-c", command]));
    arguments.push(text(&image));
    let said = succeed("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
}

#[test]
fn a_server_of_nbd_has_the_data() {
    if !have("a_server_of_nbd_has_the_data", &["qemu-nbd", "qemu-io"]) {
        return;
    }
    let host = Host::start();
    let (image, socket) = (host.path("image"), host.path("server.sock"));
    std::fs::write(&image, vec![0; 4 << 20]).expect("written");
    let server = std::process::Command::new("qemu-nbd")
        .args([
            "-f",
            "raw",
            "-t",
            "-e",
            "4",
            "-x",
            "disk",
            "-k",
            text(&socket),
            text(&image),
        ])
        .spawn();
    let mut server = server.expect("it starts");
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::yield_now();
    }
    let backend = host.driver_domain("blk0");
    let disk = format!("target=nbd:unix:{}:exportname=disk", text(&socket));
    let (guest, uri) = export(&host, &disk);
    qemu_io(
        &uri,
        &["write -P 0x66 513 70001", "flush", "read -P 0x66 513 70001"],
    );
    let bytes = std::fs::read(&image).expect("reads");
    assert!(bytes[513..513 + 70001].iter().all(|byte| *byte == 0x66));
    assert!(guest.terminate().success());
    assert!(backend.terminate().success());
    server.kill().expect("it lives");
    server.wait().expect("it ends");
    // Nobody is there any more.
    let _backend = host.driver_domain("blk1");
    let _guest = Running::start(&host.path("run"), &["guest", "g2"]);
    let disk = format!("vdev=xvda,backend=blk1,target=nbd:unix:{}", text(&socket));
    let said = output_text(&host.ringfence(&["block-attach", "g2", &disk]));
    assert!(said.contains("server.sock: connect: "), "{said}");
}

#[test]
fn a_server_of_nbd_that_says_nothing_holds_up_no_other_disk() {
    let host = Host::start();
    let (image, socket) = (host.path("image"), host.path("server.sock"));
    std::fs::write(&image, vec![0; 4 << 20]).expect("written");
    let server = UnixListener::bind(&socket).expect("a socket");
    let _backend = host.driver_domain("blk0");
    let _waiting = Running::start(&host.path("run"), &["guest", "g1"]);
    let silent = format!("vdev=xvda,backend=blk0,target=nbd:unix:{}", text(&socket));
    let mut attach = std::process::Command::new(PROGRAM)
        .arg("--run-dir")
        .arg(host.path("run"))
        .args(["block-attach", "g1", &silent])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    // The broker's own, and that of the process that serves.
    let said_nothing_on = [(); 2].map(|()| server.accept().expect("a connection"));
    let other = format!(
        "format=raw,vdev=xvda,backend=blk0,target={}",
        image.display()
    );
    let verify = ["guest", "g2", "--disk", &other, "--verify", "xvda,1M"];
    let verified = host.ringfence(&verify);
    let waits = attach.try_wait().expect("a child").is_none();
    assert!(verified.status.success(), "{}", output_text(&verified));
    assert!(waits, "the other one had to wait for it");
    drop(said_nothing_on);
    let attached = attach.wait_with_output().expect("it ends");
    let said = output_text(&attached);
    assert!(
        !attached.status.success() && said.contains("closed the connection"),
        "{said}"
    );
}

#[test]
fn an_export_trims_writes_zeros_and_writes_durably() {
    let test = "an_export_trims_writes_zeros_and_writes_durably";
    if !have(test, &["qemu-io", "nbdinfo"]) {
        return;
    }
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0x77; 4 << 20]).expect("written");
    let _backend = host.driver_domain("blk0");
    let (_guest, uri) = export(&host, &format!("target={}", text(&image)));
    let told = succeed("nbdinfo", &[&uri]);
    for line in ["can_fua: true", "can_trim: true", "can_zero: true"] {
        assert!(told.contains(line), "no `{line}` in\n{told}");
    }
    let room = || {
        let meta = std::fs::metadata(&image).expect("it is there");
        std::os::unix::fs::MetadataExt::blocks(&meta)
    };
    let before = room();
    let arguments = ["-f", "raw", "-d", "unmap", "-c", "discard 1M 1M", &uri];
    let said = output_text(&domains::run("qemu-io", &arguments));
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(before - room(), 2048, "the file has a hole");
    qemu_io(
        &uri,
        &[
            "write -z 2M 1000001",
            "write -f -P 0x99 513 4000",
            "read -P 0x77 0 513",
            "read -P 0x99 513 4000",
            "read -P 0x00 1M 1M",
            "read -P 0x00 2M 1000001",
            "read -P 0x77 3097153 1000",
        ],
    );
}

#[test]
fn layers_are_as_the_configuration_says() {
    if !have("layers_are_as_the_configuration_says", &["qemu-io"]) {
        return;
    }
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; 4 << 20]).expect("written");
    let _backend = host.driver_domain("blk0");
    let disk = format!(
        "throttle.iops=500,throttle.iops-burst=1,fault.ops=write,fault.sectors=2048-2055,fault.count=1,cache=none,target={}",
        text(&image)
    );
    let (_guest, uri) = export(&host, &disk);
    let arguments = ["-f", "raw", "-c", "write -P 1 1M 4k", &uri];
    let said = output_text(&domains::run("qemu-io", &arguments));
    assert!(said.contains("Input/output error"), "{said}");
    let start = std::time::Instant::now();
    // Once more the same, and a hundred more.
    let mut commands = vec!["write -P 2 1M 4k".to_owned()];
    commands.extend((0..100).map(|at| format!("write -P 3 {}k 4k", 4 * at)));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    qemu_io(&uri, &commands);
    assert!(start.elapsed() >= std::time::Duration::from_millis(180));
    let listed = output_text(&host.ringfence(&["block-list", "--json"]));
    for said in ["\"cache\":\"none\"", "throttle.iops=500"] {
        assert!(listed.contains(said), "{said}: {listed}");
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; 4096]).expect("written");
    let _backend = host.driver_domain("blk0");
    let _guest = Running::start(&host.path("run"), &["guest", "g1"]);
    for (words, why) in [
        ("format=qcow2", "no magic number of the format"),
        (
            "format=qcow2,backing=raw:/nowhere",
            "/nowhere: no such file",
        ),
        ("format=nbd", "does not go with format nbd"),
        ("backing=raw:/nowhere", "only a qcow2 image has backing="),
        ("throttle.bps=fast", "expected a number"),
    ] {
        let disk = format!("vdev=xvda,{words},target={}", text(&image));
        let output = host.ringfence(&["block-attach", "g1", &disk]);
        let said = output_text(&output);
        assert!(
            !output.status.success() && said.contains(why),
            "{words}: {said}"
        );
    }
}

#[test]
fn several_guests_write_to_one_image_if_all_of_them_say_so() {
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; 4096]).expect("written");
    let _backend = host.driver_domain("blk0");
    let guests: Vec<Running> = ["g1", "g2", "g3"]
        .iter()
        .map(|name| Running::start(&host.path("run"), &["guest", name]))
        .collect();
    let attach = |guest: &str, access: &str| {
        let disk = format!("vdev=xvda,access={access},target={}", text(&image));
        host.ringfence(&["block-attach", guest, &disk])
    };
    for guest in ["g1", "g2"] {
        let output = attach(guest, "w!");
        assert!(output.status.success(), "{}", output_text(&output));
    }
    for access in ["w", "r"] {
        let said = output_text(&attach("g3", access));
        assert!(said.contains("in use by disk xvda"), "{access}: {said}");
    }
    drop(guests);
}
