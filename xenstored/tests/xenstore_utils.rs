//! The unmodified tools of Debian's `xenstore-utils` against the store on a Unix socket.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use ringfence_core::DomId;
use ringfence_xenstored::{ConnId, Store};

/// The store and its clients; every thread flushes for all, since one client's request is another's event.
#[derive(Default)]
struct Served {
    store: Store,
    clients: BTreeMap<ConnId, UnixStream>,
}

impl Served {
    fn flush(&mut self) {
        let waiting: Vec<_> = self.store.writable().collect();
        for conn in waiting {
            loop {
                let bytes = self.store.outgoing(conn).to_vec();
                if bytes.is_empty() {
                    break;
                }
                match self
                    .clients
                    .get_mut(&conn)
                    .map(|socket| socket.write_all(&bytes))
                {
                    Some(Ok(())) => self.store.sent(conn, bytes.len()),
                    _ => {
                        self.store.disconnect(conn);
                        break;
                    }
                }
            }
        }
    }
}

fn serve(socket: &Path) -> Arc<Mutex<Served>> {
    let listener = UnixListener::bind(socket).unwrap();
    let served = Arc::new(Mutex::new(Served::default()));
    let all = Arc::clone(&served);
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let served = Arc::clone(&all);
            let conn = {
                let mut served = served.lock().unwrap();
                let conn = served.store.connect(DomId::DOM0);
                served.clients.insert(conn, client.try_clone().unwrap());
                conn
            };
            thread::spawn(move || {
                let mut buf = [0; 4096];
                loop {
                    let len = match client.read(&mut buf) {
                        Ok(0) => break,
                        Ok(len) => len,
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        Err(_) => break,
                    };
                    let mut served = served.lock().unwrap();
                    let mut rest = &buf[..len];
                    while !rest.is_empty() && served.store.is_connected(conn) {
                        let taken = served.store.feed(conn, rest);
                        rest = &rest[taken..];
                        served.flush();
                    }
                }
                let mut served = served.lock().unwrap();
                served.store.disconnect(conn);
                served.clients.remove(&conn);
            });
        }
    });
    served
}

struct Tools {
    socket: PathBuf,
    dir: PathBuf,
}

impl Tools {
    fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool);
        command
            .args(arguments)
            .env("XENSTORED_PATH", &self.socket)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        self.command(tool, arguments).output().unwrap()
    }

    fn ok(&self, tool: &str, arguments: &[&str]) -> String {
        let output = self.run(tool, arguments);
        assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn start(name: &str) -> Option<(Tools, Arc<Mutex<Served>>)> {
    if Command::new("xenstore-ls").arg("--help").output().is_err() {
        println!("SKIP xenstore-utils: xenstore-ls is not installed");
        return None;
    }
    let dir = std::env::temp_dir().join(format!("ringfence-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("socket");
    let served = serve(&socket);
    Some((Tools { socket, dir }, served))
}

#[test]
fn the_tools_read_and_write() {
    let Some((tools, served)) = start("tools") else {
        return;
    };
    tools.ok(
        "xenstore-write",
        &[
            "/local/domain/3/name",
            "guest",
            "/local/domain/3/data/x",
            "1",
        ],
    );
    assert_eq!(
        tools.ok("xenstore-read", &["/local/domain/3/name"]),
        "guest\n"
    );
    assert_eq!(
        tools.ok("xenstore-list", &["/local/domain/3"]),
        "data\nname\n"
    );
    assert_eq!(
        tools.ok("xenstore-ls", &["/local"]),
        "domain = \"\"\n 3 = \"\"\n  data = \"\"\n   x = \"1\"\n  name = \"guest\"\n"
    );
    tools.ok("xenstore-chmod", &["/local/domain/3/data", "n3", "r4"]);
    let listed = tools.ok("xenstore-ls", &["-fp", "/local/domain/3"]);
    let data = listed
        .lines()
        .find(|line| line.starts_with("/local/domain/3/data "))
        .unwrap();
    assert!(data.ends_with("(n3,r4)"), "{data}");
    assert!(
        tools
            .run("xenstore-exists", &["/local/domain/3/name"])
            .status
            .success()
    );
    tools.ok("xenstore-rm", &["/local/domain/3/data"]);
    assert!(
        !tools
            .run("xenstore-exists", &["/local/domain/3/data/x"])
            .status
            .success()
    );
    let missing = tools.run("xenstore-read", &["/no/such"]);
    assert!(!missing.status.success());
    assert_eq!(tools.ok("xenstore-list", &["/local/domain/3"]), "name\n");
    served.lock().unwrap().store.check().unwrap();
}

#[test]
fn a_listing_longer_than_a_message_comes_in_parts() {
    let Some((tools, _)) = start("parts") else {
        return;
    };
    let names: Vec<_> = (0..700).map(|n| format!("/big/{n:09}")).collect();
    for chunk in names.chunks(100) {
        let arguments: Vec<_> = chunk.iter().flat_map(|path| [path.as_str(), "v"]).collect();
        tools.ok("xenstore-write", &arguments);
    }
    let listed = tools.ok("xenstore-list", &["/big"]);
    let expected: Vec<_> = (0..700).map(|n| format!("{n:09}")).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn xenstore_watch_hears_of_a_write() {
    let Some((tools, _)) = start("watch") else {
        return;
    };
    let mut watch = tools
        .command("xenstore-watch", &["-n", "2", "/w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "/w");
    tools.ok("xenstore-write", &["/w/below", "1"]);
    assert_eq!(lines.next().unwrap().unwrap(), "/w/below");
    assert!(watch.wait().unwrap().success());
}
