//! Where a server of the NBD protocol is, and the connection to it. What is said on it is the business of the process that the
//! connection is for, which is sandboxed.
//!
//! | address | |
//! |---|---|
//! | `nbd:unix:/path`, `nbd:unix:/path:name`, `nbd:unix:/path:exportname=name` | as QEMU writes it |
//! | `nbd+unix:///name?socket=/path` | the NBD project's URI |
//! | `nbd://host/name`, `nbd://host:port/name` | the same over TCP; port 10809, an IPv6 address in brackets |

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fnv::fnv;

/// The port of the protocol.
const PORT: u16 = 10809;

/// How long each of a server's addresses may take to let a connection be made.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// The longest name of an export, in bytes.
const NAME_MAX: usize = 4096;

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Server {
    /// On a Unix socket.
    Unix(PathBuf),
    /// On TCP.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Which export of which server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The server.
    pub server: Server,
    /// The export's name; the empty one is the server's default.
    pub export: String,
}

/// Why a text is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AddressError {
    /// None of the forms.
    #[error(
        "expected nbd:unix:/path[:export], nbd+unix:///export?socket=/path or nbd://host[:port]/export"
    )]
    Form,
    /// A socket's path that is relative.
    #[error("the socket's path is not absolute")]
    Relative,
    /// A port that is no number from 1 to 65535.
    #[error("the port is no number from 1 to 65535")]
    Port,
    /// No host.
    #[error("no host is named")]
    Host,
    /// A name that is too long for the protocol.
    #[error("the export's name is longer than 4096 bytes")]
    Name,
}

impl Address {
    /// Whether a target is meant to be an address, right or wrong.
    pub fn is_meant(target: &str) -> bool {
        ["nbd:", "nbd+unix:"]
            .iter()
            .any(|scheme| target.starts_with(scheme))
    }

    /// What tells this export from others, however its address is written: journals keep it, so it must be the same in every
    /// version of the program.
    pub(crate) fn identity(&self) -> (u64, u64) {
        let export = self.export.as_bytes();
        let hash = match &self.server {
            Server::Unix(path) => fnv(&[b"unix", path.as_os_str().as_bytes(), export]),
            Server::Tcp { host, port } => {
                fnv(&[b"tcp", host.as_bytes(), &port.to_le_bytes(), export])
            }
        };
        ((hash >> 64) as u64, hash as u64)
    }

    /// Connects. That to a host may take some time; a Unix socket that has no room just now refuses.
    ///
    /// # Errors
    /// As `connect(2)`; no such host.
    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        match &self.server {
            Server::Unix(path) => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
                let socket = rustix::net::socket_with(family, kind, flags, None)?;
                rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
                rustix::fs::fcntl_setfl(&socket, OFlags::empty())?;
                Ok(socket)
            }
            Server::Tcp { host, port } => {
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, PATIENCE) {
                        Ok(stream) => {
                            // Requests are small and many, and gathered before they are sent.
                            stream.set_nodelay(true)?;
                            return Ok(stream.into());
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = if let Some(rest) = text.strip_prefix("nbd:unix:") {
            let (path, name) = rest.split_once(':').unwrap_or((rest, ""));
            let name = name.strip_prefix("exportname=").unwrap_or(name);
            unix(path, name)?
        } else if let Some(rest) = text.strip_prefix("nbd+unix://") {
            let (name, path) = rest.split_once("?socket=").ok_or(AddressError::Form)?;
            let name = name.strip_prefix('/').unwrap_or(name);
            unix(path, name)?
        } else if let Some(rest) = text.strip_prefix("nbd://") {
            tcp(rest)?
        } else {
            return Err(AddressError::Form);
        };
        if address.export.len() > NAME_MAX {
            return Err(AddressError::Name);
        }
        Ok(address)
    }
}

fn unix(path: &str, name: &str) -> Result<Address, AddressError> {
    if !Path::new(path).is_absolute() {
        return Err(AddressError::Relative);
    }
    Ok(Address {
        server: Server::Unix(path.into()),
        export: name.to_owned(),
    })
}

fn tcp(text: &str) -> Result<Address, AddressError> {
    let (place, name) = text.split_once('/').unwrap_or((text, ""));
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(AddressError::Host)?;
            (host, after.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err(AddressError::Host);
    }
    let port = match port {
        None => PORT,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(AddressError::Port),
            Ok(port) => port,
        },
    };
    Ok(Address {
        server: Server::Tcp {
            host: host.to_owned(),
            port,
        },
        export: name.to_owned(),
    })
}

/// The supervisor's duplicate of the connection that a process had: by it the server is told that nothing more comes, and says
/// that it has finished what came before.
#[derive(Debug)]
pub(crate) struct Fence {
    socket: OwnedFd,
    shut: bool,
}

impl Fence {
    pub(crate) fn new(connection: &impl AsFd) -> io::Result<Self> {
        Ok(Self {
            socket: rustix::io::fcntl_dupfd_cloexec(connection, 3)?,
            shut: false,
        })
    }

    /// Ends the connection; `true` once the server has closed it too: what it was asked for is done, or never will be.
    pub(crate) fn is_over(&mut self) -> bool {
        if !self.shut {
            // An error says that the connection is gone already.
            let how = rustix::net::Shutdown::Write;
            let _ = rustix::net::shutdown(&self.socket, how);
            self.shut = true;
        }
        let mut bytes = [0; 1 << 16];
        loop {
            let flags = rustix::net::RecvFlags::DONTWAIT;
            match rustix::net::recv(&self.socket, &mut bytes, flags) {
                Ok((0, _)) => return true,
                // Answers that nobody waits for any more.
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn at(text: &str) -> Address {
        text.parse().expect(text)
    }

    #[test]
    fn every_form() {
        let unix = |path: &str, export: &str| Address {
            server: Server::Unix(path.into()),
            export: export.into(),
        };
        assert_eq!(at("nbd:unix:/run/a.sock"), unix("/run/a.sock", ""));
        assert_eq!(at("nbd:unix:/run/a.sock:disk"), unix("/run/a.sock", "disk"));
        assert_eq!(
            at("nbd:unix:/run/a.sock:exportname=disk"),
            unix("/run/a.sock", "disk")
        );
        assert_eq!(
            at("nbd+unix:///disk?socket=/run/a.sock"),
            unix("/run/a.sock", "disk")
        );
        let tcp = |host: &str, port, export: &str| Address {
            server: Server::Tcp {
                host: host.into(),
                port,
            },
            export: export.into(),
        };
        assert_eq!(at("nbd://host/a/b"), tcp("host", 10809, "a/b"));
        assert_eq!(at("nbd://host:7"), tcp("host", 7, ""));
        assert_eq!(at("nbd://[::1]:7/x"), tcp("::1", 7, "x"));
    }

    #[test]
    fn an_export_is_the_same_however_it_is_written_and_in_every_version() {
        let identity = |text: &str| at(text).identity();
        let unix = identity("nbd:unix:/run/a.sock:disk");
        assert_eq!(unix, identity("nbd+unix:///disk?socket=/run/a.sock"));
        assert_eq!(unix, (0xb874_9b1b_df49_9d9b, 0x01c2_e0a4_ae5e_8dbb));
        assert_eq!(identity("nbd://host/x"), identity("nbd://host:10809/x"));
        let others = [
            "nbd:unix:/run/a.sock:disk",
            "nbd:unix:/run/a.sock",
            "nbd:unix:/run/b.sock:disk",
            "nbd://host/disk",
            "nbd://host:7/disk",
            "nbd://host/x",
            "nbd://other/x",
            "nbd://host:7/x",
            "nbd://host/y",
        ];
        for (number, one) in others.iter().enumerate() {
            for other in &others[..number] {
                assert_ne!(identity(one), identity(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn what_is_none_says_why() {
        for (text, why) in [
            ("nbd:host:7", AddressError::Form),
            ("nbd+unix:///disk", AddressError::Form),
            ("nbd:unix:a.sock", AddressError::Relative),
            ("nbd://host:0/x", AddressError::Port),
            ("nbd://host:65536/x", AddressError::Port),
            ("nbd:///x", AddressError::Host),
            ("nbd://[::1/x", AddressError::Host),
        ] {
            assert!(Address::is_meant(text));
            assert_eq!(text.parse::<Address>(), Err(why), "{text}");
        }
        let long = format!("nbd://host/{}", "x".repeat(NAME_MAX + 1));
        assert_eq!(long.parse::<Address>(), Err(AddressError::Name));
    }

    #[test]
    fn a_connection_is_over_when_the_server_has_closed_it_too() {
        let (ours, servers) = UnixStream::pair().unwrap();
        let mut fence = Fence::new(&ours).unwrap();
        drop(ours);
        rustix::io::write(&servers, b"an answer").unwrap();
        assert!(!fence.is_over());
        assert_eq!(rustix::io::read(&servers, &mut [0; 8]), Ok(0), "told");
        assert!(!fence.is_over(), "it is at work still");
        drop(servers);
        assert!(fence.is_over());
    }
}
