//! The socket that the tools of dom0 connect to.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::SocketFlags;
use thiserror::Error;

/// Why there is no socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody answers there.
    #[error("{}: a store is running already", .0.display())]
    Running(PathBuf),
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Refused {
        /// Where the socket was to be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A listening socket that only its owner may connect to. Its name goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. What a dead store left there is replaced; a missing folder is made.
    ///
    /// # Errors
    /// A store answers there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        match UnixStream::connect(path) {
            Ok(_) => return Err(SocketError::Running(path.to_owned())),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                drop(fs::remove_file(path))
            }
            Err(_) => {}
        }
        let bound = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| {
                // Not even for a moment is it open to others. No other thread makes files meanwhile.
                let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
                let socket = UnixListener::bind(path);
                rustix::process::umask(before);
                socket
            })
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        match bound {
            Ok(socket) => Ok(Self {
                socket,
                path: path.to_owned(),
            }),
            Err(source) => Err(SocketError::Refused {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The next client that waits; `None` when there is none.
    ///
    /// # Errors
    /// No descriptors or memory are left; the client goes on waiting.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.socket, flags) {
                Ok(client) => return Ok(Some(client)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_running_store_is_left_alone_and_a_dead_one_is_replaced() {
        let dir = std::env::temp_dir().join(format!("ringfence-xssock-{}", std::process::id()));
        let path = dir.join("run/socket");
        let first = Listener::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(
            Listener::bind(&path),
            Err(SocketError::Running(_))
        ));
        assert!(path.exists());
        // Killed, it has no time to take the name away.
        let name = path.with_extension("kept");
        fs::hard_link(&path, &name).unwrap();
        drop(first);
        fs::rename(&name, &path).unwrap();
        let second = Listener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        assert!(second.accept().unwrap().is_some());
        assert!(second.accept().unwrap().is_none());
        drop((client, second));
        assert!(!path.exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
