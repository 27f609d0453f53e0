//! Lives of processes, with a shell in place of a backend.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

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

#[test]
fn how_a_process_ends_is_how_its_supervisor_ends() {
    let (_quiet, stop) = UnixStream::pair().unwrap();
    for (script, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 3", Exit::Code(3)),
        ("kill -9 $$", Exit::Signal(9)),
    ] {
        let ended = supervisor(script, RestartPolicy::Never).run(stop.as_fd());
        assert_eq!(ended.unwrap(), exit, "{script}");
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
    let ended = supervisor(&script, RestartPolicy::OnFailure).run(stop.as_fd());
    assert_eq!(ended.unwrap(), Exit::Code(0));
    assert_eq!(fs::read_to_string(lives).unwrap(), "x\nx\nx\n");
}

#[test]
fn who_is_told_to_end_ends_its_process_and_starts_no_other() {
    let dir = Dir::new("stop");
    let up = dir.path("up");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &up, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let script = format!("echo up >{}; exec sleep 1000", up.display());
    let (mut quiet, stop) = UnixStream::pair().unwrap();
    let ended = std::thread::scope(|scope| {
        let supervisor = supervisor(&script, RestartPolicy::OnFailure);
        let running = scope.spawn(|| supervisor.run(stop.as_fd()));
        assert_eq!(fs::read_to_string(&up).unwrap(), "up\n");
        quiet.write_all(b"x").unwrap();
        running.join().unwrap()
    });
    assert_eq!(ended.unwrap(), Exit::Code(0));
}
