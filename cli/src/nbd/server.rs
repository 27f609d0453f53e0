//! The loop around the export: a listening socket, clients, the disk's descriptors, and one that says when to stop.

use super::blocks::Blocks;
use super::client::Client;
use super::export::{ClientId, Export};
use super::handshake::Offer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Further clients wait in the socket's backlog.
const CLIENTS_MAX: usize = 16;

/// How long a listener is left alone on which nobody could be let in.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the end waits for requests that are on their way: a disk whose backend is away answers none of them.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Why an export is not served, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody listens there.
    #[error("{} is in use", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("cannot listen on {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("cannot serve: {0}")]
    Io(#[from] io::Error),
}

/// A listening Unix socket that only its owner may connect to; dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens on `path`, in place of a socket that nobody listens on any more.
    ///
    /// # Errors
    /// Somebody listens there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source: io::Error| ServeError::Listen {
            path: path.to_owned(),
            source,
        };
        match UnixStream::connect(path) {
            Ok(_) => {
                return Err(ServeError::InUse {
                    path: path.to_owned(),
                });
            }
            // What is not a socket refuses as well, and stays.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket(path) => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(_) => {}
        }
        let make = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // The file that `bind` makes takes over the mode of the socket.
            rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
            bind(&fd, &SocketAddrUnix::new(path)?)?;
            listen(&fd, 16)?;
            Ok::<_, rustix::io::Errno>(fd)
        };
        let fd = make().map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            socket: UnixListener::from(fd),
            path: path.to_owned(),
        })
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A server of one disk.
#[derive(Debug)]
pub struct Server<B> {
    listener: Listener,
    offer: Offer,
    export: Export<B>,
    clients: Vec<Client>,
    next_client: u64,
    accepts: bool,
    /// Nobody could be let in, which is tried again then.
    pause: Option<Instant>,
}

/// Servers that share one thread, and whoever brings and takes them while the others run.
pub trait Hall<B> {
    /// Those there are.
    fn servers(&self) -> &[Server<B>];

    /// Those there are.
    fn servers_mut(&mut self) -> &mut [Server<B>];

    /// Called before every sleep: adds and takes away. `true` if it did, or if a disk may have something to say.
    ///
    /// # Errors
    /// Whatever is a reason to serve no longer.
    fn look(&mut self) -> io::Result<bool>;

    /// What becomes readable when there is a reason to [`look`](Self::look).
    fn wake(&self) -> Vec<BorrowedFd<'_>>;
}

/// Servers that stay as they are.
struct Fixed<'a, B>(&'a mut [Server<B>]);

impl<B> Hall<B> for Fixed<'_, B> {
    fn servers(&self) -> &[Server<B>] {
        self.0
    }
    fn servers_mut(&mut self) -> &mut [Server<B>] {
        self.0
    }
    fn look(&mut self) -> io::Result<bool> {
        Ok(false)
    }
    fn wake(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

/// Serves all of `servers`, which share this thread, until `stop` becomes readable; then finishes what is on its way
/// if that takes no longer than 5 seconds.
///
/// # Errors
/// Waiting fails. A client's failure ends that client only, and who cannot be let in waits.
pub fn serve<B: Blocks>(servers: &mut [Server<B>], stop: BorrowedFd<'_>) -> Result<(), ServeError> {
    serve_hall(&mut Fixed(servers), stop)
}

/// As [`serve`], with servers that come and go.
///
/// # Errors
/// As [`serve`], and what [`Hall::look`] says.
pub fn serve_hall<B: Blocks, H: Hall<B>>(
    hall: &mut H,
    stop: BorrowedFd<'_>,
) -> Result<(), ServeError> {
    let mut deadline: Option<Instant> = None;
    loop {
        let stopping = deadline.is_some();
        hall.servers_mut().iter_mut().for_each(Server::turn);
        if stopping && hall.servers().iter().all(|server| server.export.is_idle()) {
            return Ok(());
        }
        // Looking after one disk may bring news of another.
        if hall.look()?
            || !hall
                .servers_mut()
                .iter_mut()
                .all(|server| server.export.arm())
        {
            if stopping {
                hall.servers_mut().iter_mut().for_each(Server::close);
            }
            continue;
        }
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        let ready = wait(hall, (!stopping).then_some(stop), left)?;
        if ready.contains(&Source::Stop) {
            deadline = Instant::now().checked_add(STOP_MAX);
            hall.servers_mut().iter_mut().for_each(Server::close);
        }
        for source in ready {
            match source {
                Source::Stop => {}
                Source::Listener(at) => {
                    if let Some(server) = hall.servers_mut().get_mut(at) {
                        server.accept();
                    }
                }
                Source::Client(at, id) => {
                    if let Some(server) = hall.servers_mut().get_mut(at) {
                        server
                            .clients
                            .iter_mut()
                            .filter(|client| client.id() == id)
                            .for_each(Client::set_readable);
                    }
                }
            }
        }
    }
}

/// Something to wait for; servers by their index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Stop,
    Listener(usize),
    Client(usize, ClientId),
}

/// Sleeps. A client that we want nothing of is not polled: its hang-up would be reported over and over.
fn wait<B: Blocks, H: Hall<B>>(
    hall: &H,
    stop: Option<BorrowedFd<'_>>,
    mut timeout: Option<Duration>,
) -> io::Result<Vec<Source>> {
    let servers = hall.servers();
    let now = Instant::now();
    let mut fds = Vec::new();
    let mut sources = Vec::new();
    if let Some(stop) = stop {
        sources.push(Source::Stop);
        fds.push(PollFd::from_borrowed_fd(stop, PollFlags::IN));
    }
    for (at, server) in servers.iter().enumerate() {
        let pause = server.pause.map(|end| end.saturating_duration_since(now));
        match pause.filter(|pause| !pause.is_zero()) {
            _ if !server.accepts || server.clients.len() >= CLIENTS_MAX => {}
            Some(pause) => timeout = Some(timeout.map_or(pause, |timeout| timeout.min(pause))),
            None => {
                sources.push(Source::Listener(at));
                fds.push(PollFd::from_borrowed_fd(
                    server.listener.socket.as_fd(),
                    PollFlags::IN,
                ));
            }
        }
        for client in &server.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, client.wants_input());
            flags.set(PollFlags::OUT, client.wants_output());
            if !flags.is_empty() {
                sources.push(Source::Client(at, client.id()));
                fds.push(PollFd::from_borrowed_fd(client.as_fd(), flags));
            }
        }
    }
    // Disks and hall are looked at after every sleep, so it does not matter which of them woke us.
    let wake = servers
        .iter()
        .flat_map(|server| server.export.wake())
        .chain(hall.wake());
    fds.extend(wake.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let timeout = timeout.map(Timespec::try_from).and_then(Result::ok);
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    }
    let ready = sources
        .into_iter()
        .zip(&fds)
        .filter(|(_, fd)| !fd.revents().is_empty());
    Ok(ready.map(|(source, _)| source).collect())
}

impl<B: Blocks> Server<B> {
    /// Serves `blocks` under `name`, once [`serve`] is called.
    pub fn new(listener: Listener, name: &str, blocks: B) -> Self {
        let export = Export::new(blocks);
        let offer = Offer {
            name: name.to_owned(),
            geometry: export.geometry(),
        };
        Self {
            listener,
            offer,
            export,
            clients: Vec::new(),
            next_client: 0,
            accepts: true,
            pause: None,
        }
    }

    /// Serves this one alone: see [`serve`].
    ///
    /// # Errors
    /// As [`serve`].
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<(), ServeError> {
        serve(std::slice::from_mut(self), stop)
    }

    /// The disk.
    pub fn blocks(&self) -> &B {
        self.export.blocks()
    }

    /// Takes no more clients and no more of what they ask for; what is on its way is answered.
    fn close(&mut self) {
        self.accepts = false;
        self.clients.iter_mut().for_each(Client::close);
    }

    /// The disk, with its clients' connections closed.
    pub fn into_blocks(self) -> B {
        self.export.into_blocks()
    }

    /// Works until nothing moves and the disk will wake us.
    fn turn(&mut self) {
        let mut replies = Vec::new();
        loop {
            let mut progressed = false;
            for client in &mut self.clients {
                progressed |= client.take(&mut self.export);
            }
            progressed |= self.export.pump(&mut replies);
            for reply in replies.drain(..) {
                // A client that left gets no answer.
                if let Some(client) = self
                    .clients
                    .iter_mut()
                    .find(|client| client.id() == reply.client)
                {
                    client.reply(reply);
                }
            }
            for client in &mut self.clients {
                progressed |= client.send();
            }
            self.clients.retain(|client| !client.is_done());
            if !progressed && self.export.arm() {
                return;
            }
        }
    }

    /// Lets a client in, or, where the system has no room for one, tries that again in a while.
    fn accept(&mut self) {
        let accepted = self.listener.socket.accept();
        match accepted.and_then(|(socket, _)| socket.set_nonblocking(true).map(|()| socket)) {
            Ok(socket) => {
                self.pause = None;
                let id = ClientId::new(self.next_client);
                self.next_client = self.next_client.wrapping_add(1);
                self.clients
                    .push(Client::new(id, socket, self.offer.clone()));
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                _ => {
                    if self.pause.is_none() {
                        let path = self.listener.path.display();
                        tracing::warn!(%error, "{path}: cannot let clients in, trying again");
                    }
                    self.pause = Instant::now().checked_add(PAUSE);
                }
            },
        }
    }
}
