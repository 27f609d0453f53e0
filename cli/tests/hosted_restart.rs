//! A driver domain whose process is killed while its disks are in use, again and again: nobody but its supervisor notices.

#[expect(dead_code, reason = "only what restarts need")]
mod domains;

use domains::{Host, Running, json_u64, noise, output_text};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const IMAGE: usize = 24 << 20;
/// How often the process is killed.
const KILLS: usize = 20;
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

/// Kills the present process of a driver domain each time that it has written something, until it was often enough or the guest
/// is done. Says how often.
fn kill_at_work(backend: &mut Running, image: &Path, done: &dyn Fn() -> bool) -> usize {
    let mut said = backend.ready().clone();
    let mut kills = 0;
    while kills < KILLS {
        let (before, since) = (written(image), Instant::now());
        while written(image) == before {
            if done() {
                return kills;
            }
            assert!(since.elapsed() < PATIENCE, "nothing is written any more");
            std::thread::yield_now();
        }
        kill(&said, Signal::KILL);
        kills += 1;
        said = backend.said("ready").expect("another process");
    }
    kills
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

    fn copy(&self) -> std::process::Output {
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
        ])
    }
}

#[test]
fn a_copy_goes_on_through_twenty_kills() {
    let images = Images::new();
    let mut backend = images.host.restarted("blk0");
    let kills = std::thread::scope(|scope| {
        let copying = scope.spawn(|| images.copy());
        let kills = kill_at_work(&mut backend, &images.to, &|| copying.is_finished());
        let output = copying.join().expect("no panic");
        assert!(output.status.success(), "{}", output_text(&output));
        kills
    });
    assert!(kills >= KILLS / 2, "{kills} kills are no test");
    let copied = std::fs::read(&images.to).expect("read");
    assert!(copied == images.content, "the copy differs");
}
