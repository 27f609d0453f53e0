//! The whole path of a disk, each domain its own process: programs that none of us wrote on NBD, the guest's frontend, the
//! driver domain's backend, an image file.

#[expect(dead_code, reason = "ends nothing by halves")]
mod domains;

use domains::{Host, have, json_u64, noise, output_text, run, succeed};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

const IMAGE: usize = 16 << 20;

#[test]
fn an_image_copied_both_ways_is_bit_identical() {
    if !have("an_image_copied_both_ways_is_bit_identical", &["nbdcopy"]) {
        return;
    }
    let host = Host::start();
    let content = noise(IMAGE);
    let (image, source, back) = (host.path("image"), host.path("source"), host.path("back"));
    std::fs::write(&image, vec![0; IMAGE]).expect("written");
    std::fs::write(&source, &content).expect("written");
    let backend = host.driver_domain("blk0");
    let (guest, uri) = host.export("g1", "blk0", &image);
    succeed("nbdcopy", &["--flush", &source.to_string_lossy(), &uri]);
    assert_eq!(std::fs::read(&image).expect("read"), content);
    succeed("nbdcopy", &[&uri, &back.to_string_lossy()]);
    assert_eq!(std::fs::read(&back).expect("read"), content);
    assert!(guest.terminate().success());
    assert!(backend.terminate().success());
    assert_eq!(std::fs::read(&image).expect("read"), content);
}

#[test]
fn qemu_io_patterns_hold_at_odd_offsets() {
    if !have("qemu_io_patterns_hold_at_odd_offsets", &["qemu-io"]) {
        return;
    }
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; IMAGE]).expect("written");
    let _backend = host.driver_domain("blk0");
    let (_guest, uri) = host.export("g1", "blk0", &image);
    let commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 513 1",
        "write -P 0x33 700 4000",
        "write -P 0x44 65537 131071",
        "aio_write -P 0x61 2097152 777",
        "aio_write -P 0x62 2097929 777",
        "aio_write -P 0x63 2098706 45056",
        "aio_flush",
        "read -P 0x11 0 513",
        "read -P 0x22 513 1",
        "read -P 0x11 514 186",
        "read -P 0x33 700 4000",
        "read -P 0x11 4700 60837",
        "read -P 0x44 65537 131071",
        "read -P 0x61 2097152 777",
        "read -P 0x62 2097929 777",
        "read -P 0x63 2098706 45056",
        "read -P 0x00 2143762 1000",
        "flush",
    ];
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(&uri);
    let text = succeed("qemu-io", &arguments);
    assert!(!text.contains("verification failed"), "{text}");
    let bytes = std::fs::read(&image).expect("read");
    assert_eq!((bytes[512], bytes[513], bytes[514]), (0x11, 0x22, 0x11));
    assert!(bytes[2_098_706..2_143_762].iter().all(|byte| *byte == 0x63));
}

#[test]
fn fio_verifies_what_it_wrote_at_random() {
    if !have("fio_verifies_what_it_wrote_at_random", &["fio"]) {
        return;
    }
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; IMAGE]).expect("written");
    let _backend = host.driver_domain("blk0");
    let (_guest, uri) = host.export("g1", "blk0", &image);
    let output = Command::new("fio")
        .current_dir(host.dir())
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--iodepth=32",
            "--size=16m",
        ])
        .args([
            "--bsrange=4k-64k",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--fsync=64",
        ])
        .arg(format!("--uri={uri}"))
        .output()
        .expect("fio starts");
    assert!(output.status.success(), "{}", output_text(&output));
}

#[test]
fn broker_driver_domain_and_guest_are_processes_of_their_own() {
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; 4096]).expect("written");
    let backend = host.driver_domain("blk0");
    let (guest, _) = host.export("g1", "blk0", &image);
    let pids = [
        host.pid(),
        json_u64(backend.ready(), "pid"),
        json_u64(guest.ready(), "pid"),
    ];
    assert_eq!(BTreeSet::from(pids).len(), 3, "{pids:?}");
    // Unlike `exe`, this can be read of a process that may not be traced.
    let words =
        pids.map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it lives"));
    for (line, word) in words.iter().zip(["host", "driver-domain", "guest"]) {
        assert!(
            line.split('\0').any(|argument| argument == word),
            "{word}: {line}"
        );
    }
    // Neither the guest nor the broker has the image open. Into the sandboxed process an ordinary user cannot look.
    let opens = |pid: u64| {
        let open = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
            open => open.expect("ours"),
        };
        let mut targets = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        Some(targets.any(|target| target == image))
    };
    let [broker, backend, guest] = pids.map(opens);
    assert_eq!((broker, guest), (Some(false), Some(false)));
    assert_ne!(backend, Some(false));
}

#[test]
fn a_guest_copies_one_disk_to_another() {
    let host = Host::start();
    let (from, to) = (host.path("from"), host.path("to"));
    let content = noise(IMAGE);
    std::fs::write(&from, &content).expect("written");
    std::fs::write(&to, vec![0; IMAGE]).expect("written");
    let _backend = host.driver_domain("blk0");
    let disk = |vdev: &str, access: &str, target: &std::path::Path| {
        format!(
            "format=raw,vdev={vdev},access={access},backend=blk0,target={}",
            target.display()
        )
    };
    let output = host.ringfence(&[
        "guest",
        "g1",
        "--disk",
        &disk("xvda", "ro", &from),
        "--disk",
        &disk("xvdb", "rw", &to),
        "--copy",
        "xvda=xvdb",
        "--depth",
        "32",
    ]);
    assert!(output.status.success(), "{}", output_text(&output));
    assert!(
        std::fs::read(&to).expect("read") == content,
        "the copy differs"
    );
    assert!(
        std::fs::read(&from).expect("read") == content,
        "the source was written"
    );
}

#[test]
fn an_attach_that_fails_says_why_and_leaves_nothing() {
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; 4096]).expect("written");
    std::fs::write(host.path("odd"), vec![0; 4097]).expect("written");
    let _backend = host.driver_domain("blk0");
    let (_guest, _) = host.export("g1", "blk0", &image);
    for (target, why) in [
        ("missing", "no such file"),
        ("odd", "512"),
        (".", "directory"),
    ] {
        let target = host.path(target);
        let disk = format!(
            "format=raw,vdev=xvdb,access=rw,backend=blk0,target={}",
            target.display()
        );
        let output = host.ringfence(&["block-attach", "g1", &disk]);
        let text = output_text(&output);
        assert!(!output.status.success(), "{text}");
        assert!(text.contains(why), "no `{why}` in {text}");
    }
    let list = host.ringfence(&["block-list", "g1"]);
    let text = output_text(&list);
    assert!(
        list.status.success() && text.contains("xvda") && !text.contains("xvdb"),
        "{text}"
    );
}

#[test]
fn an_image_in_use_is_refused_both_ways() {
    if !have(
        "an_image_in_use_is_refused_both_ways",
        &["qemu-nbd", "qemu-io"],
    ) {
        return;
    }
    let host = Host::start();
    let (image, taken) = (host.path("image"), host.path("taken"));
    std::fs::write(&image, vec![0; 1 << 20]).expect("written");
    std::fs::write(&taken, vec![0; 1 << 20]).expect("written");
    let _backend = host.driver_domain("blk0");
    let (_guest, uri) = host.export("g1", "blk0", &image);
    let ours = run(
        "qemu-io",
        &["-f", "raw", "-c", "write 0 512", &image.to_string_lossy()],
    );
    assert!(!ours.status.success(), "QEMU opens what we serve");
    assert!(
        output_text(&ours).contains("lock"),
        "{}",
        output_text(&ours)
    );
    // It returns once it serves.
    let (pid_file, socket) = (host.path("pid"), host.path("qemu"));
    let arguments = [
        "--fork",
        "--persistent",
        "-f",
        "raw",
        "--pid-file",
        &pid_file.to_string_lossy(),
        "-k",
        &socket.to_string_lossy(),
        &taken.to_string_lossy(),
    ];
    // Its streams must not be pipes that it holds open.
    let status = Command::new("qemu-nbd")
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .expect("qemu-nbd starts");
    assert!(status.success());
    // It forgets a signal that comes before it answers.
    let theirs = format!("nbd+unix:///?socket={}", socket.display());
    succeed("qemu-io", &["-r", "-f", "raw", "-c", "read 0 512", &theirs]);
    let pid = std::fs::read_to_string(&pid_file)
        .expect("a pid")
        .trim()
        .parse()
        .ok();
    let disk = format!(
        "format=raw,vdev=xvdb,access=rw,backend=blk0,target={}",
        taken.display()
    );
    let refused = host.ringfence(&["block-attach", "g1", &disk]);
    kill_process(pid.and_then(Pid::from_raw).expect("a pid"), Signal::TERM).expect("qemu-nbd ends");
    let text = output_text(&refused);
    assert!(!refused.status.success(), "{text}");
    assert!(text.contains("in use"), "{text}");
    succeed("qemu-io", &["-f", "raw", "-c", "read -P 0 0 4096", &uri]);
}

#[test]
fn system_calls_are_counted_as_strace_counts_them() {
    const TEST: &str = "system_calls_are_counted_as_strace_counts_them";
    if !have(TEST, &["strace", "fio"]) {
        return;
    }
    let host = Host::start();
    let image = host.path("image");
    std::fs::write(&image, vec![0; IMAGE]).expect("written");
    let backend = host.driver_domain("blk0");
    let (guest, uri) = host.export("g1", "blk0", &image);
    let summary = host.path("strace");
    let pid = json_u64(backend.ready(), "pid").to_string();
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-o", &summary.to_string_lossy(), "-p", &pid])
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace starts");
    let mut said = String::new();
    let mut lines = BufReader::new(strace.stderr.take().expect("piped"));
    while !said.contains("attached") {
        if lines.read_line(&mut said).expect("it speaks") == 0 {
            let _ = strace.wait();
            println!("SKIP {TEST}: strace cannot attach: {}", said.trim());
            guest.kill();
            return;
        }
    }
    let output = Command::new("fio")
        .current_dir(host.dir())
        .args([
            "--name=load",
            "--ioengine=nbd",
            "--rw=randrw",
            "--iodepth=32",
            "--size=16m",
            "--bs=4k",
        ])
        .arg(format!("--uri={uri}"))
        .output()
        .expect("fio starts");
    assert!(output.status.success(), "{}", output_text(&output));
    let served = backend.finish("served");
    // It would wait for the driver domain's next process.
    guest.kill();
    assert!(strace.wait().expect("strace ends").success());
    let text = std::fs::read_to_string(&summary).expect("a summary");
    println!("{served}\n{text}");
    assert!(json_u64(&served, "requests") >= 4096);
    for (counters, calls) in [
        (&["sys_io_uring_enter"][..], &["io_uring_enter"][..]),
        (&["sys_rw"], &["preadv", "pwritev", "pread64", "pwrite64"]),
        (&["sys_sync"], &["fdatasync", "fsync"]),
        (
            &["sys_wait"],
            &["epoll_wait", "epoll_pwait", "epoll_pwait2"],
        ),
        // Taking an event reads a pipe, ringing writes one.
        (&["sys_evtchn", "notifications_sent"], &["read", "write"]),
    ] {
        let counted: u64 = counters.iter().map(|name| json_u64(&served, name)).sum();
        let traced: u64 = calls.iter().map(|name| calls_of(&text, name)).sum();
        // Connecting came before strace, and at the end there is a line to print.
        assert!(
            counted.abs_diff(traced) <= 20,
            "{counters:?}: {counted} counted, {traced} traced\n{text}"
        );
    }
}

/// How often `strace -c` saw a system call.
fn calls_of(summary: &str, name: &str) -> u64 {
    let line = summary
        .lines()
        .find(|line| line.split_whitespace().next_back() == Some(name));
    // % time, seconds, usecs/call, calls, errors (if any), the name.
    let calls = line.map(|line| {
        line.split_whitespace()
            .nth(3)
            .and_then(|calls| calls.parse().ok())
    });
    calls.map_or(0, |calls| calls.expect("a number of calls"))
}

/// A guest whose disk of these words is exported, and the URI of that.
fn exported(host: &Host, guest: &str, words: &str) -> (domains::Running, String) {
    let socket = host.path(guest);
    let export = format!("xvda={}", socket.display());
    let arguments = ["guest", guest, "--disk", words, "--nbd-export", &export];
    let running = domains::Running::start(&host.path("run"), &arguments);
    let uri = format!("nbd+unix:///xvda?socket={}", socket.display());
    (running, uri)
}

#[test]
fn a_drive_is_only_read_and_discards_are_a_matter_of_words() {
    let test = "a_drive_is_only_read_and_discards_are_a_matter_of_words";
    if !have(test, &["nbdcopy", "nbdinfo"]) {
        return;
    }
    let host = Host::start();
    let (image, back) = (host.path("image"), host.path("back"));
    let content = noise(1 << 20);
    std::fs::write(&image, &content).expect("written");
    let _backend = host.driver_domain("blk0");
    let target = image.display();
    let is = |what: &str, uri: &str| run("nbdinfo", &["--is", what, uri]).status.success();
    let can = |what: &str, uri: &str| run("nbdinfo", &["--can", what, uri]).status.success();

    let words = format!("cdrom,vdev=xvda,access=rw,backend=blk0,target={target}");
    let (drive, uri) = exported(&host, "g1", &words);
    succeed("nbdcopy", &[&uri, &back.to_string_lossy()]);
    assert_eq!(std::fs::read(&back).expect("read"), content);
    assert!(is("read-only", &uri) && !can("trim", &uri));
    let nodes = output_text(&host.ringfence(&["xenstore", "ls", "/local/domain"]));
    assert_eq!(
        nodes.matches("device-type = \"cdrom\"").count(),
        2,
        "{nodes}"
    );
    assert!(nodes.contains("info = \"5\""), "{nodes}");
    assert!(drive.terminate().success());

    let (drive, uri) = exported(&host, "g0", "cdrom,vdev=xvda,backend=blk0");
    assert_eq!(succeed("nbdinfo", &["--size", &uri]).trim(), "0");
    assert!(drive.terminate().success());

    for (guest, word, discards) in [("g2", "discard", true), ("g3", "no-discard", false)] {
        let words = format!("vdev=xvda,{word},backend=blk0,target={target}");
        let (disk, uri) = exported(&host, guest, &words);
        assert!(!is("read-only", &uri));
        assert_eq!(can("trim", &uri), discards, "{word}");
        assert!(disk.terminate().success());
    }
}
