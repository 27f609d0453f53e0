//! Connections to servers, which nobody waits for: whoever asks for one asks again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use crate::nbd::{Address, PATIENCE, Server};

/// After so long nobody asks for a connection any more.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// The connections that are being made.
#[derive(Debug, Default)]
pub(super) struct Connections(Vec<Connecting>);

#[derive(Debug)]
struct Connecting {
    address: Address,
    since: Instant,
    asked: Instant,
    /// Where a thread puts it; for a Unix socket there is none.
    made: Receiver<io::Result<OwnedFd>>,
}

impl Connections {
    /// A connection to this server, or why there is none; `None` while neither is known.
    pub(super) fn to(&mut self, address: &Address) -> Option<io::Result<OwnedFd>> {
        let now = Instant::now();
        self.0.retain(|it| now - it.asked < FORGOTTEN);
        let known = self.0.iter().position(|it| it.address == *address);
        let at = known.unwrap_or(self.0.len());
        if known.is_none() {
            match Connecting::begin(address, now) {
                Ok(begun) => self.0.push(begun),
                Err(error) => return Some(Err(error)),
            }
        }
        let made = self.0.get_mut(at)?.made(now)?;
        self.0.remove(at);
        Some(made)
    }
}

impl Connecting {
    fn begin(address: &Address, now: Instant) -> io::Result<Self> {
        let (made, receiver) = sync_channel(1);
        // A Unix socket says at once whether it takes us.
        if let Server::Tcp { .. } = address.server {
            in_a_thread(address.clone(), made)?;
        }
        Ok(Self {
            address: address.clone(),
            since: now,
            asked: now,
            made: receiver,
        })
    }

    fn made(&mut self, now: Instant) -> Option<io::Result<OwnedFd>> {
        self.asked = now;
        if let Server::Unix(_) = self.address.server {
            return match self.address.connect() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (now - self.since >= PATIENCE).then_some(Err(error))
                }
                made => Some(made),
            };
        }
        match self.made.try_recv() {
            Ok(made) => Some(made),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(io::ErrorKind::Other.into())),
        }
    }
}

/// Finds the host and connects.
fn in_a_thread(address: Address, made: SyncSender<io::Result<OwnedFd>>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("connect".to_owned());
    // Nobody may wait for it any more.
    let connect = move || drop(made.send(address.connect()));
    thread.spawn(connect).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

    use super::*;

    #[test]
    fn a_server_that_takes_nobody_in_is_given_up_and_one_that_does_later_is_reached() {
        let path = std::env::temp_dir().join(format!("ringfence-full-{}", std::process::id()));
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let name = SocketAddrUnix::new(&path).unwrap();
        rustix::net::bind(&listener, &name).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let waiting = UnixStream::connect(&path).unwrap();
        let address: Address = format!("nbd:unix:{}", path.display()).parse().unwrap();
        let mut connections = Connections::default();
        assert!(connections.to(&address).is_none(), "it has no room");
        assert!(connections.to(&address).is_none(), "and has none still");
        connections.0[0].since -= PATIENCE;
        let error = connections.to(&address).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(connections.to(&address).is_none());
        drop(waiting);
        let _taken = rustix::net::accept(&listener).unwrap();
        connections.to(&address).unwrap().unwrap();
        assert!(connections.0.is_empty());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_a_thread_connects_is_given_to_who_asks_or_forgotten() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let [one, other] =
            ["one", "other"].map(|name| format!("nbd://127.0.0.1:{port}/{name}").parse().unwrap());
        let mut connections = Connections::default();
        let mut ask = || connections.to(&one);
        let made = std::iter::repeat_with(&mut ask).find_map(|made| made);
        made.unwrap().unwrap();
        let _ = connections.to(&other);
        assert!(connections.0.len() <= 1);
        for forgotten in &mut connections.0 {
            forgotten.asked -= FORGOTTEN;
        }
        let _ = connections.to(&"nbd:unix:/nowhere".parse().unwrap());
        assert!(connections.0.is_empty());
    }
}
