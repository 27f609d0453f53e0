//! What a guest does with its disks, also with those that come and go while it runs.

#[expect(dead_code, reason = "uses a part of it")]
mod domains;

use domains::{Host, Loop, Running, have, json_u64, noise, output_text, succeed};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const IMAGE: usize = 4 << 20;

fn disk(vdev: &str, access: &str, target: &Path) -> String {
    format!(
        "format=raw,vdev={vdev},access={access},backend=blk0,target={}",
        target.display()
    )
}

/// A host with a driver domain and images of these names, zeroed.
fn host(images: &[&str]) -> (Host, Running) {
    let host = Host::start();
    for name in images {
        std::fs::write(host.path(name), vec![0; IMAGE]).expect("written");
    }
    let backend = host.driver_domain("blk0");
    (host, backend)
}

fn start(host: &Host, arguments: &[&str]) -> Running {
    Running::start(&host.path("run"), arguments)
}

/// The line of a verification that has ended.
fn verified(text: &str) -> Value {
    let line = text.lines().find(|line| line.contains("\"verified\""));
    let line: Value = serde_json::from_str(line.expect(text)).expect("JSON");
    line["verified"].clone()
}

#[test]
fn a_disk_verifies_and_the_image_is_what_was_written() {
    let (host, _backend) = host(&["image"]);
    let disk = disk("xvda", "rw", &host.path("image"));
    let arguments = ["guest", "g1", "--disk", &disk, "--verify", "xvda,8M"];
    let first = host.ringfence(&[&arguments[..], &["--seed", "5"]].concat());
    let text = output_text(&first);
    assert!(first.status.success(), "{text}");
    let report = verified(&text);
    assert_eq!(report["good"], true);
    assert_eq!(json_u64(&report, "seed"), 5);
    assert!(json_u64(&report, "bytes_written") >= 8 << 20);
    assert!(json_u64(&report, "flushes") > 1);
    assert_eq!(json_u64(&report, "in_flight"), 32);
    let image = std::fs::read(host.path("image")).expect("read");
    let written = image
        .chunks(512)
        .filter(|block| block.iter().any(|b| *b != 0));
    assert!(written.count() > IMAGE / 512 / 2);
    // It takes what is there as it is.
    let second = host.ringfence(&[&arguments[..], &["--depth", "3"]].concat());
    assert!(second.status.success(), "{}", output_text(&second));
    assert_eq!(json_u64(&verified(&output_text(&second)), "in_flight"), 3);
}

#[test]
fn a_guest_may_follow_another_on_its_disk_at_once() {
    let (host, _backend) = host(&["image"]);
    let disk = disk("xvda", "rw", &host.path("image"));
    for round in 0..20 {
        let arguments = ["guest", "g1", "--disk", &disk, "--verify", "xvda,1M"];
        let output = host.ringfence(&arguments);
        assert!(output.status.success(), "{round}: {}", output_text(&output));
    }
}

#[test]
fn a_disk_has_as_many_queues_as_its_backend_offers() {
    let (host, _backend) = host(&["image"]);
    let disk = disk("xvda", "rw", &host.path("image"));
    for (asked, queues) in [("1", 1), ("3", 3), ("16", 4)] {
        let arguments = ["guest", "g1", "--disk", &disk, "--verify", "xvda,1M"];
        let output = host.ringfence(&[&arguments[..], &["--queues", asked]].concat());
        let text = output_text(&output);
        assert!(output.status.success(), "{text}");
        assert_eq!(json_u64(&verified(&text), "queues"), queues, "{asked}");
    }
    for none in ["0", "17"] {
        let output = host.ringfence(&["guest", "g1", "--queues", none]);
        assert!(output_text(&output).contains("1..=16"), "{none}");
    }
}

#[test]
fn what_somebody_else_writes_is_a_mismatch_and_status_1() {
    let (host, _backend) = host(&["image"]);
    let disk = disk("xvda", "rw", &host.path("image"));
    let arguments = ["guest", "g1", "--disk", &disk, "--verify", "xvda,16M"];
    let mut guest = start(&host, &arguments);
    let image = File::options().write(true).open(host.path("image"));
    let image = image.expect("ours");
    let noise = noise(IMAGE);
    // Every block is written several times over by it and by us.
    let ended = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                image.write_all_at(&noise, 0).expect("written");
            }
        });
        let report = guest.said("verified");
        ended.store(true, Ordering::Relaxed);
        report.expect("it says so")
    });
    assert_eq!(report["good"], false, "{report}");
    assert!(json_u64(&report, "mismatches") > 0);
    assert!(report["first_mismatch"].is_string());
    assert_eq!(guest.wait().code(), Some(1));
}

#[test]
fn a_read_only_disk_is_not_verified() {
    let (host, _backend) = host(&["image"]);
    let disk = disk("xvda", "ro", &host.path("image"));
    let output = host.ringfence(&["guest", "g1", "--disk", &disk, "--verify", "xvda"]);
    let text = output_text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("read-only"), "{text}");
}

#[test]
fn a_name_alone_is_no_disk_of_a_hosted_guest() {
    let host = Host::start();
    let output = host.ringfence(&["guest", "g1", "--disk", "xvda"]);
    assert!(!output.status.success());
    assert!(output_text(&output).contains("no target"));
    let output = host.ringfence(&["guest"]);
    assert!(!output.status.success());
    assert!(output_text(&output).contains("NAME"));
}

#[test]
fn a_guest_on_xen_has_no_name_and_attaches_nothing() {
    let host = Host::start();
    for (arguments, why) in [
        (&["g1"][..], "the toolstack names domains"),
        (&["--disk", "vdev=xvda,target=/x"], "the toolstack attaches"),
    ] {
        let output = host.ringfence(&[&["guest", "--platform", "xen"], arguments].concat());
        let text = output_text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn a_busy_guest_connects_disks_that_come_and_lets_go_of_those_that_go() {
    let (host, _backend) = host(&["a", "b", "c", "d"]);
    let disk_a = disk("xvda", "rw", &host.path("a"));
    let arguments = ["guest", "g1", "--disk", &disk_a, "--verify", "xvda,3600s"];
    let mut guest = start(&host, &arguments);
    for image in ["b", "c", "d"] {
        let disk_b = disk("xvdb", "rw", &host.path(image));
        // Both return when the other side has done its part.
        let attached = host.ringfence(&["block-attach", "g1", &disk_b]);
        assert!(attached.status.success(), "{}", output_text(&attached));
        let detached = host.ringfence(&["block-detach", "g1", "xvdb"]);
        assert!(detached.status.success(), "{}", output_text(&detached));
    }
    guest.ask_to_end();
    let report = guest.said("verified").expect("it says so");
    assert_eq!(report["good"], true, "{report}");
    assert!(guest.wait().success());
}

#[test]
fn larger_sectors_are_counted_as_both_sides_are_told() {
    let (host, _backend) = host(&["image"]);
    let image = host.path("image");
    let Some(device) = Loop::new(&image, 4096) else {
        return;
    };
    let verify = |front: &str, back: &str, until: &str| {
        let disk = disk("xvda", "rw", Path::new(device.name()));
        let disk = format!("sectors={back},{disk}");
        let sectors = format!("--sectors={front}");
        let arguments = ["guest", "g1", "--disk", &disk, &sectors];
        let load = format!("xvda,{until}");
        host.ringfence(&[&arguments[..], &["--verify", &load]].concat())
    };
    // No request of one fits the other.
    let output = verify("linux", "qemu", "1s");
    let text = output_text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(json_u64(&verified(&text), "writes"), 0, "{text}");
    let clean = |bytes: Vec<u8>| bytes.iter().all(|byte| *byte == 0);
    assert!(clean(std::fs::read(device.name()).expect("read")));
    for convention in ["linux", "freebsd", "qemu", "mini-os"] {
        let output = verify(convention, convention, "4M");
        let text = output_text(&output);
        assert!(output.status.success(), "{convention}: {text}");
        let report = verified(&text);
        assert_eq!(report["good"], true, "{convention}: {report}");
        assert!(json_u64(&report, "bytes_written") >= 4 << 20);
    }
    assert!(!clean(std::fs::read(device.name()).expect("read")));
}

#[test]
fn a_disk_detached_while_busy_goes_at_once_and_the_load_fails() {
    let (host, _backend) = host(&["a", "b"]);
    for (image, depth) in [("a", "1"), ("b", "32")] {
        let disk_a = disk("xvda", "rw", &host.path(image));
        let arguments = ["guest", "g1", "--disk", &disk_a, "--depth", depth];
        let load = ["--verify", "xvda,3600s"];
        let mut guest = start(&host, &[&arguments[..], &load].concat());
        let detached = host.ringfence(&["block-detach", "g1", "xvda"]);
        assert!(detached.status.success(), "{}", output_text(&detached));
        let report = guest.said("verified").expect("it says so");
        assert_eq!(report["good"], false, "{report}");
        assert_eq!(report["error"], "the disk is gone");
        assert_eq!(json_u64(&report, "mismatches"), 0);
        assert_eq!(guest.wait().code(), Some(1));
    }
}

#[test]
fn one_guest_exports_several_disks_and_those_that_come_later() {
    const TEST: &str = "one_guest_exports_several_disks_and_those_that_come_later";
    if !have(TEST, &["qemu-io"]) {
        return;
    }
    let (host, _backend) = host(&["a", "b", "c", "d"]);
    let exports = ["xvda", "xvdb", "xvdc"].map(|vdev| {
        let socket = host.path(&format!("{vdev}.sock"));
        (
            format!("{vdev}={}", socket.display()),
            format!("nbd+unix:///{vdev}?socket={}", socket.display()),
            socket,
        )
    });
    let disk_a = disk("xvda", "rw", &host.path("a"));
    let disk_b = disk("xvdb", "rw", &host.path("b"));
    let mut arguments = vec!["guest", "g1", "--disk", &disk_a, "--disk", &disk_b];
    arguments.extend(["--queues", "4"]);
    for (export, _, _) in &exports {
        arguments.extend(["--nbd-export", export]);
    }
    let mut guest = start(&host, &arguments);
    let write = |at: usize, pattern: &str| {
        let command = format!("write -P {pattern} 0 64k");
        succeed("qemu-io", &["-f", "raw", "-c", &command, &exports[at].1]);
    };
    write(0, "0x11");
    write(1, "0x22");
    for (image, pattern) in [("c", "0x33"), ("d", "0x44")] {
        let disk_c = disk("xvdc", "rw", &host.path(image));
        assert!(!exports[2].2.exists());
        let attached = host.ringfence(&["block-attach", "g1", &disk_c]);
        assert!(attached.status.success(), "{}", output_text(&attached));
        assert_eq!(guest.said("exported").expect("it says so"), "xvdc");
        write(2, pattern);
        write(0, "0x55");
        let detached = host.ringfence(&["block-detach", "g1", "xvdc"]);
        assert!(detached.status.success(), "{}", output_text(&detached));
        assert_eq!(guest.said("unexported").expect("it says so"), "xvdc");
    }
    assert!(guest.terminate().success());
    for (name, byte) in [("a", 0x55), ("b", 0x22), ("c", 0x33), ("d", 0x44)] {
        let content = std::fs::read(host.path(name)).expect("read");
        assert!(content[..65536].iter().all(|b| *b == byte), "{name}");
        assert!(content[65536..].iter().all(|b| *b == 0), "{name}");
    }
}

#[test]
fn a_disk_that_nobody_uses_lets_all_sleep_and_may_grow() {
    let (host, backend) = host(&["image"]);
    let (guest, _uri) = host.export("g1", "blk0", &host.path("image"));
    let (front, back) = (
        json_u64(guest.ready(), "domid"),
        json_u64(backend.ready(), "domid"),
    );
    let node = format!("/local/domain/{back}/backend/vbd/{front}/51712/sectors");
    let sectors = || output_text(&host.ringfence(&["xenstore", "read", &node]));
    assert_eq!(sectors().trim(), (IMAGE / 512).to_string());
    std::thread::sleep(Duration::from_secs(3));
    let image = File::options().write(true).open(host.path("image"));
    image
        .and_then(|image| image.set_len(2 * IMAGE as u64))
        .expect("ours");
    let end = Instant::now() + Duration::from_secs(20);
    while sectors().trim() != (2 * IMAGE / 512).to_string() {
        assert!(Instant::now() < end, "still {}", sectors());
        std::thread::sleep(Duration::from_millis(50));
    }
    let waits = json_u64(&backend.finish("served"), "sys_wait");
    // It would wait for the driver domain's next process.
    guest.kill();
    // One a second, and a few for each connection and node: who does not sleep waits 100,000 times.
    assert!(waits < 500, "{waits} times");
}
