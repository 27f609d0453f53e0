//! Lives of processes, with a shell in place of a backend.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ringfence_blkback::service::Toolstack;
use ringfence_core::DomId;
use ringfence_sim::{SimStore, World};

use super::super::supervisor_files::tests::{Dir, Null};
use super::*;

fn supervisor(script: &str, policy: RestartPolicy) -> Supervisor<SimStore, Null> {
    let identity = Identity {
        domid: 0,
        name: "Domain-0".into(),
        supervisor: std::process::id(),
    };
    let store = World::new().store(DomId::DOM0);
    let files = Files::new(DomId::DOM0, Toolstack::DOM0, store, Null);
    let arguments = vec!["-c".to_owned(), script.to_owned()];
    Supervisor::new(identity, files, "/bin/sh".into(), arguments, policy)
}

/// What is on disk, where nobody asks for it.
const NEXT: &str = "/nowhere";

/// Nobody ever asks.
fn quiet_reload() -> Reload {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Left open: an end would be a question.
    std::mem::forget(theirs);
    Reload::of(ours).unwrap()
}

#[test]
fn how_a_process_ends_is_how_its_supervisor_ends() {
    let (_quiet, stop) = UnixStream::pair().unwrap();
    let reload = quiet_reload();
    for (script, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 3", Exit::Code(3)),
        ("kill -9 $$", Exit::Signal(9)),
    ] {
        let ended =
            supervisor(script, RestartPolicy::Never).run(stop.as_fd(), &reload, NEXT.as_ref());
        assert_eq!(ended.unwrap(), Ended::Exit(exit), "{script}");
    }
}

#[test]
fn a_failed_process_is_followed_by_another_until_one_ends_well() {
    let dir = Dir::new("restart");
    let lives = dir.path("lives");
    let script = format!(
        "echo x >>{0}; test $(wc -l <{0}) -ge 3 || kill -9 $$",
        lives.display()
    );
    let (_quiet, stop) = UnixStream::pair().unwrap();
    let ended = supervisor(&script, RestartPolicy::OnFailure).run(
        stop.as_fd(),
        &quiet_reload(),
        NEXT.as_ref(),
    );
    assert_eq!(ended.unwrap(), Ended::Exit(Exit::Code(0)));
    assert_eq!(fs::read_to_string(lives).unwrap(), "x\nx\nx\n");
}

/// A file to which a process of the name writes when it is up, which is when it is read.
fn up(dir: &Dir) -> PathBuf {
    let up = dir.path("up");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &up, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    up
}

/// A script of a process that is up, which it says there, until it is told to end.
fn until_told(up: &Path) -> String {
    format!(
        "sleep 1000 & trap 'kill $!; exit 0' TERM; echo up >{}; wait",
        up.display()
    )
}

/// Runs a supervisor, which `stop` tells to end and `asked` to go on with `next`, and does something when its process is up.
fn run(
    [script, next]: [&str; 2],
    up: &Path,
    [stop, asked]: [UnixStream; 2],
    then: impl FnOnce(),
) -> Ended {
    let reload = Reload::of(asked).unwrap();
    let ended = std::thread::scope(|scope| {
        let supervisor = supervisor(script, RestartPolicy::OnFailure);
        let running = scope.spawn(|| supervisor.run(stop.as_fd(), &reload, next.as_ref()));
        assert_eq!(fs::read_to_string(up).unwrap(), "up\n");
        then();
        running.join().unwrap()
    });
    ended.unwrap()
}

#[test]
fn who_is_told_to_end_ends_its_process_and_starts_no_other() {
    let dir = Dir::new("stop");
    let up = up(&dir);
    let script = format!("echo up >{}; exec sleep 1000", up.display());
    let (mut end, stop) = UnixStream::pair().unwrap();
    let (_quiet, asked) = UnixStream::pair().unwrap();
    let ended = run([&script, NEXT], &up, [stop, asked], || {
        end.write_all(b"x").unwrap();
    });
    assert_eq!(ended, Ended::Exit(Exit::Code(0)));
}

/// Runs a supervisor of a process that ends well when told to, and asks it to go on with `next`, and then maybe to end.
fn replaced(name: &str, next: &str, then_stop: bool) -> Ended {
    let dir = Dir::new(name);
    let up = up(&dir);
    let (mut end, stop) = UnixStream::pair().unwrap();
    let (mut ask, asked) = UnixStream::pair().unwrap();
    run([&until_told(&up), next], &up, [stop, asked], || {
        ask.write_all(b"xx").unwrap();
        if then_stop {
            end.write_all(b"x").unwrap();
        }
    })
}

#[test]
fn what_knows_the_journals_follows_when_the_process_has_finished() {
    let ended = replaced("next", "/bin/true", false);
    assert_eq!(ended, Ended::Next("/bin/true".into()));
}

#[test]
fn what_does_not_know_the_journals_is_refused_before_anything_ends() {
    // Only the request to end ends it.
    let ended = replaced("unfit", "/bin/false", true);
    assert_eq!(ended, Ended::Exit(Exit::Code(0)));
}

#[test]
fn who_is_told_to_end_while_its_process_finishes_for_another_ends() {
    let dir = Dir::new("end-next");
    let up = up(&dir);
    // Says each time that it was told to end, and ends the second time.
    let script = format!(
        "trap 'n=$((n+1)); echo told $n >{0}' TERM; echo up >{0}; while [ \"$n\" != 2 ]; do sleep 0.1; done; exit 0",
        up.display()
    );
    let (mut end, stop) = UnixStream::pair().unwrap();
    let (mut ask, asked) = UnixStream::pair().unwrap();
    let says = || fs::read_to_string(&up).unwrap();
    let ended = run([&script, "/bin/true"], &up, [stop, asked], || {
        ask.write_all(b"x").unwrap();
        assert_eq!(says(), "told 1\n");
        end.write_all(b"x").unwrap();
        assert_eq!(says(), "told 2\n");
    });
    assert_eq!(ended, Ended::Exit(Exit::Code(0)));
}

#[test]
fn who_is_asked_for_another_and_told_to_end_at_once_ends() {
    let dir = Dir::new("both");
    let up = up(&dir);
    let (mut both, asked) = UnixStream::pair().unwrap();
    let stop = asked.try_clone().unwrap();
    let ended = run([&until_told(&up), "/bin/true"], &up, [stop, asked], || {
        both.write_all(b"x").unwrap();
    });
    assert_eq!(ended, Ended::Exit(Exit::Code(0)));
}
