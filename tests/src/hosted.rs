//! A broker in a thread, and domains with real processes whose control sockets the test holds.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ringfence_core::DomId;
use ringfence_hosted::admin::{Client, DomainKind, NewDomain, RestartPolicy};
use ringfence_hosted::broker::{Broker, StopHandle};
use ringfence_hosted::{Hosted, HostedStore, RunDir};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tempfile::TempDir;

/// A broker with a run directory of its own; gone with the value.
#[derive(Debug)]
pub struct Host {
    dir: TempDir,
    run: RunDir,
    stop: StopHandle,
    broker: Option<JoinHandle<std::io::Result<()>>>,
}

/// A living process of a domain, and the socket that the broker gave it.
#[derive(Debug)]
pub struct Peer {
    /// The domain.
    pub domid: DomId,
    /// What speaks for it.
    pub platform: Hosted,
    /// Its store.
    pub store: HostedStore,
    /// Held open: the process ends with it.
    pub process: UnixStream,
}

impl Host {
    /// Starts a broker whose domains run `program`.
    pub fn start(program: &Path) -> Self {
        let dir = TempDir::with_prefix("ringfence-test-").unwrap();
        let run = RunDir::resolve(Some(&dir.path().join("run"))).unwrap();
        let mut broker = Broker::with_program(run.clone(), program.to_owned()).unwrap();
        let stop = broker.stop_handle();
        let broker = Some(std::thread::spawn(move || broker.run()));
        Self {
            dir,
            run,
            stop,
            broker,
        }
    }

    /// The run directory.
    pub const fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// A place for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A connection to the broker.
    pub fn client(&self) -> Client {
        Client::connect(&self.run).unwrap()
    }

    /// A description of a domain whose process does `argv`.
    pub fn domain(name: &str, kind: DomainKind, argv: &[&str]) -> NewDomain {
        NewDomain {
            name: name.into(),
            kind,
            argv: argv.iter().map(Into::into).collect(),
            env: Vec::new(),
            restart: RestartPolicy::Never,
            destroy_on_exit: false,
        }
    }

    /// Makes a domain with the test's own standard streams.
    pub fn create(&self, new: NewDomain) -> DomId {
        let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
        self.client().create_domain(new, streams).unwrap()
    }

    /// Makes a domain whose process leaves the talking to the test.
    pub fn peer(&self, name: &str, kind: DomainKind) -> Peer {
        let path = self.path(name);
        let listener = UnixListener::bind(&path).unwrap();
        let domid = self.create(Self::domain(name, kind, &["hold", path.to_str().unwrap()]));
        Self::meet(&listener, domid)
    }

    /// Kills the process of a domain and waits until the broker knows. What the test held for it is forgotten, as the process
    /// would have: nothing of it is dropped.
    pub fn kill(&self, peer: Peer) {
        let name = peer.domid.to_string();
        self.client().signal(&name, 9).unwrap();
        self.client().wait_exit(&name).unwrap();
        std::mem::forget(peer);
    }

    /// Starts the next process of a domain made by [`peer`](Self::peer).
    pub fn restart(&self, name: &str, domid: DomId) -> Peer {
        let path = self.path(name);
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        self.client().start_domain(&domid.to_string()).unwrap();
        Self::meet(&listener, domid)
    }

    fn meet(listener: &UnixListener, domid: DomId) -> Peer {
        let (process, _) = listener.accept().unwrap();
        let (platform, store) = Hosted::from_socket(receive_fd(&process)).unwrap();
        Peer {
            domid,
            platform,
            store,
            process,
        }
    }
}

fn receive_fd(from: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(from, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.unwrap()
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(broker) = self.broker.take() {
            let ended = broker.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}
