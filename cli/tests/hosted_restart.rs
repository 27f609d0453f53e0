//! A driver domain whose process is killed while its disks are in use, again and again, or replaced by another version: nobody but its
//! supervisor notices.

#[expect(dead_code, reason = "only what restarts need")]
mod domains;

use domains::{Host, Running, json_u64, noise, output_text};
use ringfence_cli::args::Platform;
use ringfence_cli::statistics::sources;
use ringfence_hosted::RunDir;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const IMAGE: usize = 24 << 20;
/// How often the process is killed.
const KILLS: usize = 20;
/// How often it is followed by another version.
const UPGRADES: usize = 8;
/// How often the image is copied at most: a copy may be done before there is time to disturb it often.
const COPIES: usize = 40;
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn disk(vdev: &str, access: &str, target: &Path) -> String {
    let target = target.display();
    format!("format=raw,vdev={vdev},access={access},backend=blk0,target={target}")
}

fn written(image: &Path) -> SystemTime {
    let modified = std::fs::metadata(image).and_then(|meta| meta.modified());
    modified.expect("an image")
}

fn kill(backend: &serde_json::Value, signal: Signal) {
    let pid = i32::try_from(json_u64(backend, "pid")).ok();
    kill_process(pid.and_then(Pid::from_raw).expect("a pid"), signal).expect("it lives");
}

/// Does something each time that the image was written to, until it was often enough or the guest is done. Says how often.
fn at_work(image: &Path, most: usize, done: &dyn Fn() -> bool, mut act: impl FnMut()) -> usize {
    for times in 0..most {
        let (before, since) = (written(image), Instant::now());
        while written(image) == before {
            if done() {
                return times;
            }
            assert!(since.elapsed() < PATIENCE, "nothing is written any more");
            std::thread::yield_now();
        }
        act();
    }
    most
}

struct Images {
    host: Host,
    from: PathBuf,
    to: PathBuf,
    content: Vec<u8>,
}

impl Images {
    fn new() -> Self {
        let host = Host::start();
        let (from, to) = (host.path("from"), host.path("to"));
        let content = noise(IMAGE);
        std::fs::write(&from, &content).expect("written");
        std::fs::write(&to, vec![0; IMAGE]).expect("written");
        Self {
            host,
            from,
            to,
            content,
        }
    }

    /// Copies, again and again, until something was done so often in the middle of a copy; looks at each, and at the queues that
    /// it used.
    fn copy_until(&self, queues: u64, times: usize, mut act: impl FnMut()) {
        let mut done = 0;
        for _ in 0..COPIES {
            std::fs::write(&self.to, vec![0; IMAGE]).expect("written");
            done += std::thread::scope(|scope| {
                let copying = scope.spawn(|| self.copy(queues));
                let done = at_work(&self.to, times - done, &|| copying.is_finished(), &mut act);
                let output = copying.join().expect("no panic");
                let text = output_text(&output);
                assert!(output.status.success(), "{text}");
                assert_eq!(json_u64(&said(&text, "copied"), "queues"), queues, "{text}");
                done
            });
            let copied = std::fs::read(&self.to).expect("read");
            assert!(copied == self.content, "the copy differs");
            if done >= times {
                return;
            }
        }
        panic!("{done} of {times} times in {COPIES} copies");
    }

    fn copy(&self, queues: u64) -> std::process::Output {
        self.host.ringfence(&[
            "guest",
            "g1",
            "--disk",
            &disk("xvda", "ro", &self.from),
            "--disk",
            &disk("xvdb", "rw", &self.to),
            "--copy",
            "xvda=xvdb",
            "--depth",
            "32",
            "--queues",
            &queues.to_string(),
        ])
    }
}

/// What a guest said under this key before it ended.
fn said(text: &str, key: &str) -> serde_json::Value {
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut values = lines.map(|line: serde_json::Value| line[key].clone());
    values.find(|value| !value.is_null()).expect(text)
}

fn a_copy_goes_on_through_twenty_kills(queues: u64) {
    let images = Images::new();
    let mut backend = images.host.restarted("blk0");
    let mut said = backend.ready().clone();
    images.copy_until(queues, KILLS, || {
        kill(&said, Signal::KILL);
        said = backend.said("ready").expect("another process");
    });
}

#[test]
fn threads_share_the_disks_and_lose_nothing() {
    let images = Images::new();
    let mut backend = images.host.restarted_with("blk0", &["--threads=2"]);
    let mut said = backend.ready().clone();
    let named = |pid| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
        let names = tasks.map(|task| {
            let path = task.expect("a task").path().join("comm");
            std::fs::read_to_string(path).expect("its name")
        });
        names.filter(|name| name.starts_with("disks-")).count()
    };
    assert_eq!(named(json_u64(&said, "pid")), 1, "beside the first");
    images.copy_until(4, KILLS, || {
        kill(&said, Signal::KILL);
        said = backend.said("ready").expect("another process");
    });
    let served = backend.finish("served");
    assert!(json_u64(&served, "requests") > 0, "{served}");
    let none = images
        .host
        .ringfence(&["driver-domain", "blk1", "--threads=0"]);
    let text = output_text(&none);
    assert!(!none.status.success() && text.contains("1..=64"), "{text}");
}

#[test]
fn a_copy_on_one_queue_goes_on_through_twenty_kills() {
    a_copy_goes_on_through_twenty_kills(1);
}

#[test]
fn a_copy_on_four_queues_goes_on_through_twenty_kills() {
    a_copy_goes_on_through_twenty_kills(4);
}

/// The load flushes, excludes what overlaps on whichever queue, and knows of each block what must come back.
#[test]
fn a_load_on_two_queues_finds_everything_after_twenty_kills() {
    let host = Host::start();
    let mut backend = host.restarted("blk0");
    let image = host.path("image");
    std::fs::write(&image, vec![0; 4 << 20]).expect("written");
    let disk = disk("xvda", "rw", &image);
    let arguments = ["guest", "g1", "--disk", &disk, "--queues", "2"];
    let load = ["--verify", "xvda,3600s"];
    let mut guest = Running::start(&host.path("run"), &[&arguments[..], &load].concat());
    let mut serves = backend.ready().clone();
    let done = at_work(&image, KILLS, &|| false, || {
        kill(&serves, Signal::KILL);
        serves = backend.said("ready").expect("another process");
    });
    assert_eq!(done, KILLS);
    // It goes on, long enough for a few flushes.
    at_work(&image, 100, &|| false, || {});
    guest.ask_to_end();
    let report = guest.said("verified").expect("it says so");
    assert_eq!(report["good"], true, "{report}");
    assert_eq!(json_u64(&report, "queues"), 2);
    assert_eq!(json_u64(&report, "aborted"), 0, "nobody noticed");
    assert!(json_u64(&report, "flushes") > 1);
    assert!(guest.wait().success());
}

#[test]
fn a_copy_goes_on_through_new_versions_of_the_program() {
    let images = Images::new();
    let mut backend = images.host.restarted("blk0");
    let next = images.host.path("next");
    std::fs::copy(domains::PROGRAM, &next).expect("copied");
    let run_dir = images.host.path("run");
    images.copy_until(1, UPGRADES, || {
        let upgrade = std::process::Command::new(&next)
            .arg("--run-dir")
            .arg(&run_dir)
            .args(["upgrade", "blk0"])
            .output();
        let output = upgrade.expect("it starts");
        assert!(output.status.success(), "{}", output_text(&output));
        // The last word of the one before: it had finished.
        backend.said("served").expect("it ends well");
        let ready = backend.said("ready").expect("another process");
        let of = |file| format!("/proc/{}/{file}", json_u64(&ready, "pid"));
        match std::fs::read_link(of("exe")) {
            Ok(exe) => assert_eq!(exe, next),
            // No user sees that of a process that confined itself, but how it was started: not as the first one was.
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
                let words = std::fs::read(of("cmdline")).expect("it lives");
                let program = words.split(|byte| *byte == 0).next();
                assert_ne!(program, Some(domains::PROGRAM.as_bytes()));
            }
        }
    });
    let refused = images.host.ringfence(&["upgrade", "blk1"]);
    let text = output_text(&refused);
    assert!(
        !refused.status.success() && text.contains("no domain blk1"),
        "{text}"
    );
}

#[test]
fn a_request_that_kills_every_process_fails_alone() {
    let test = "a_request_that_kills_every_process_fails_alone";
    if !domains::have(test, &["qemu-io"]) {
        return;
    }
    let host = Host::start();
    let mut backend = host.restarted("blk0");
    let image = host.path("image");
    std::fs::write(&image, noise(4 << 20)).expect("written");
    // Sectors 4096 to 4103: what is at 2 MiB.
    let deadly = "fault.crash=on,fault.ops=write,fault.sectors=4096-4103,access=rw";
    let target = image.display();
    let disk = format!("format=raw,vdev=xvda,backend=blk0,{deadly},target={target}");
    let socket = host.path("sock");
    let export = format!("xvda={}", socket.display());
    let arguments = ["guest", "g1", "--disk", &disk, "--nbd-export", &export];
    let guest = Running::start(&host.path("run"), &arguments);
    let uri = format!("nbd+unix:///xvda?socket={}", socket.display());
    let io = |commands: &[&str]| {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        let arguments: Vec<&str> = ["-f", "raw", &uri].into_iter().chain(commands).collect();
        output_text(&domains::run("qemu-io", &arguments))
    };
    let said = io(&["write -P 1 0 64k", "write -P 2 2M 4k", "write -P 3 3M 64k"]);
    let wrote = said.matches("wrote ").count();
    assert_eq!(
        (wrote, said.matches("Input/output error").count()),
        (2, 1),
        "{said}"
    );
    let died = || backend.said("ready").expect("another process");
    let pids: Vec<_> = std::iter::repeat_with(died).take(3).collect();
    let said = io(&["read -P 1 0 64k", "read 2M 4k", "read -P 3 3M 64k", "flush"]);
    assert!(!said.contains("rror") && !said.contains("ailed"), "{said}");
    drop(guest);
    let last = pids.last().map(|ready| json_u64(ready, "pid"));
    let alive = Some(json_u64(&backend.finish("served"), "pid"));
    assert_eq!(last, alive, "the third process after the first lives");
}

#[test]
fn what_a_driver_domain_counts_is_seen_without_asking_it() {
    let images = Images::new();
    let mut backend = images.host.restarted("blk0");
    let run_dir = RunDir::resolve(Some(&images.host.path("run"))).expect("a folder");
    let look = || {
        let mut all = sources(Platform::Hosted, &run_dir).expect("a broker");
        assert_eq!(all.len(), 1);
        all.remove(0)
    };
    let source = look();
    assert_eq!((source.name.as_str(), source.restarts), ("blk0", 0));
    let output = images.copy(1);
    assert!(output.status.success(), "{}", output_text(&output));
    let report = source.report().expect("it counts");
    let mut done = report.gone;
    for device in &report.devices {
        done.add(&device.counters);
    }
    let least = IMAGE as u64;
    assert!(
        done.read_bytes >= least && done.write_bytes >= least,
        "{done:?}"
    );

    kill(backend.ready(), Signal::KILL);
    let next = backend.said("ready").expect("another process");
    let followed = look();
    assert_eq!(followed.restarts, 1);
    assert_eq!(followed.pid.map(u64::from), Some(json_u64(&next, "pid")));
    // The same memory, in which the next process began anew.
    let fresh = source.report().expect("it counts");
    assert_ne!(fresh.process, report.process);
    assert_eq!(fresh.gone.read_bytes, 0);
}
