//! The `ringfence` command as a user runs it, each process ended with its value.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ringfence");

/// A process in the foreground that said it is ready.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    ready: Value,
    ended: bool,
}

impl Running {
    pub(crate) fn start(run_dir: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("--run-dir")
            .arg(run_dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let mut running = Self {
            child,
            lines: BufReader::new(stdout).lines(),
            ready: Value::Null,
            ended: false,
        };
        running.ready = running
            .said("ready")
            .unwrap_or_else(|| panic!("{arguments:?} ended before it was ready"));
        running
    }

    /// The next line with this key: what it says.
    pub(crate) fn said(&mut self, key: &str) -> Option<Value> {
        self.lines.by_ref().find_map(|line| {
            let line: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            line.get(key).cloned()
        })
    }

    /// What it said when it was ready.
    pub(crate) fn ready(&self) -> &Value {
        &self.ready
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("it lives");
    }

    /// Asks it to end and waits for that.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.lines.by_ref().for_each(drop);
        self.ended = true;
        self.child.wait().expect("it ends")
    }

    /// Ends it at once; what runs on its behalf is left to the broker.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it lives");
        self.ended = true;
        self.child.wait().expect("it ends");
    }

    /// Asks it to end, and goes on.
    pub(crate) fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.lines.by_ref().for_each(drop);
        self.ended = true;
        self.child.wait().expect("it ends")
    }

    /// Asks it to end: what it says under this key.
    pub(crate) fn finish(mut self, key: &str) -> Value {
        self.signal(Signal::TERM);
        let value = self.said(key).expect("it says so");
        self.ended = true;
        assert!(self.child.wait().expect("it ends").success());
        value
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            // What it says at its end has to be read, or it could not end.
            self.lines.by_ref().for_each(drop);
            let _ = self.child.wait();
        }
    }
}

/// A broker with a run directory of its own; ended, with all domains, and removed with the value.
pub(crate) struct Host {
    dir: TempDir,
    broker: Option<Running>,
}

impl Host {
    pub(crate) fn start() -> Self {
        let dir = TempDir::with_prefix("ringfence-cli-").expect("a directory");
        let broker = Some(Running::start(&dir.path().join("run"), &["host"]));
        Self { dir, broker }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The broker's process.
    pub(crate) fn pid(&self) -> u64 {
        self.broker
            .as_ref()
            .map_or(0, |broker| json_u64(broker.ready(), "pid"))
    }

    /// Runs the command to its end.
    pub(crate) fn ringfence(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .arg("--run-dir")
            .arg(self.path("run"))
            .args(arguments)
            .output()
            .expect("it starts")
    }

    pub(crate) fn driver_domain(&self, name: &str) -> Running {
        Running::start(&self.path("run"), &["driver-domain", name])
    }

    /// One whose process is followed by another when it dies.
    pub(crate) fn restarted(&self, name: &str) -> Running {
        self.restarted_with(name, &[])
    }

    /// The same with more options.
    pub(crate) fn restarted_with(&self, name: &str, more: &[&str]) -> Running {
        let arguments = ["driver-domain", name, "--restart=on-failure"];
        Running::start(&self.path("run"), &[&arguments, more].concat())
    }

    /// A guest that exports its only disk, and the URI of that.
    pub(crate) fn export(&self, name: &str, backend: &str, image: &Path) -> (Running, String) {
        let socket = self.path(&format!("{name}.sock"));
        let disk = format!(
            "format=raw,vdev=xvda,access=rw,backend={backend},target={}",
            image.display()
        );
        let export = format!("xvda={}", socket.display());
        let arguments = ["guest", name, "--disk", &disk, "--nbd-export", &export];
        let guest = Running::start(&self.path("run"), &arguments);
        let uri = format!("nbd+unix:///xvda?socket={}", socket.display());
        (guest, uri)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.terminate();
        }
    }
}

/// A loop device, gone with the value.
pub(crate) struct Loop(String);

impl Loop {
    /// With sectors of so many bytes. `None`, with the reason printed, where none can be made.
    pub(crate) fn new(file: &Path, sector: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP loop device: not root");
            return None;
        }
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector.to_string()])
            .arg(file)
            .output();
        match made {
            Ok(made) if made.status.success() => {
                let device = String::from_utf8_lossy(&made.stdout);
                Some(Self(device.trim().to_owned()))
            }
            Ok(made) => {
                let why = String::from_utf8_lossy(&made.stderr);
                println!("SKIP loop device: {}", why.trim());
                None
            }
            Err(error) => {
                println!("SKIP loop device: {error}");
                None
            }
        }
    }

    /// Its path.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

pub(crate) fn json_u64(value: &Value, key: &str) -> u64 {
    value
        .get(key)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Whether the tools are there; says so if not.
pub(crate) fn have(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIP {test}: {tool} is not installed");
            return false;
        }
    }
    true
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .expect("it starts")
}

pub(crate) fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub(crate) fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = output_text(&output);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}",
        output.status
    );
    text
}

/// Content in which no two blocks are alike.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend(state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}
